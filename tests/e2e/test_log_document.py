"""The commands of docs/log.md, executed as they stand, against a stack that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, blocks
from tests.local_log import LocalLog

DOCUMENT = "docs/log.md"
TEN, BUILD_READER, WATCH = blocks(DOCUMENT, "sh")


@pytest.fixture
def auditor(
    newcomer: Callable[[str], str], tool: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """A newcomer with what the document says that one needs."""
    newcomer("afdp trust export -o trust\nafdp sign LICENSE --event-type ai.model.deployed -o receipt.json")
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(receipt["bundle"]))
    others = {str(tool(name).parent) for name in ("cosign", "fsck", "tlog-reader")}
    return lambda script: newcomer(f'PATH="{":".join(sorted(others))}:$PATH"\n{script}')


def test_ten_commands_audit_the_log_and_each_refuses_one_with_another_key(
    auditor: Callable[[str], str], tmp_path: Path
) -> None:
    assert all(f"# {number}. " in TEN for number in range(1, 11))

    printed = auditor(TEN.replace("--ui=false ", "--ui=false 2>&1 "))

    assert printed.count("SOUND") == 1
    assert printed.count("GOOD") == 1
    assert printed.count("PROVEN") == 2
    assert printed.count("HOLDS") == 2
    assert "Successfully fsck'd" in printed
    assert "verified " in printed
    assert "NOT" not in printed

    (tmp_path / "trust" / "log.vkey").write_text(f"{LocalLog().log.vkey}\n")
    commands = [line for line in TEN.splitlines() if "afdp log" in line or line.startswith("tlog-reader")]
    assert len(commands) == 7
    for command in commands:
        stateless = command.replace("audit.json", "new.json").replace("seen.json", "newer.json")
        with pytest.raises(AssertionError, match=r"not signed by a known key|not signed by this key|no verifiable sig"):
            auditor(f"LOG=http://127.0.0.1:3030/log\n{stateless}")


def test_the_reader_on_gos_own_library_is_built_as_the_document_says(
    newcomer: Callable[[str], str], tool: Callable[[str], Path], tmp_path: Path
) -> None:
    go = tool("go")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "tlog-reader.go", tmp_path / "docs")
    asked = ("GOCACHE", "GOMODCACHE", "GOPROXY", "GONOSUMDB", "GOFLAGS", "GOSUMDB")
    found = subprocess.run([go, "env", *asked], capture_output=True, text=True, check=True).stdout.splitlines()
    settings = "".join(f"export {name}={value}\n" for name, value in zip(asked, found, strict=True))

    newcomer(settings + BUILD_READER)

    assert os.access(tmp_path / "tlog-reader", os.X_OK)


def test_the_monitor_runs_with_the_options_that_are_shown(auditor: Callable[[str], str], tmp_path: Path) -> None:
    assert "--webhook https://alerts.example.org/log" in WATCH
    script = WATCH.replace("/var/lib/node_exporter/log.prom", "log.prom").replace("--interval 60", "--once")

    printed = auditor(f"LOG=http://127.0.0.1:3030/log\n{script}")

    assert printed.splitlines()[-1] == "GOOD"
    assert "afdp_monitor_good" in (tmp_path / "log.prom").read_text()
