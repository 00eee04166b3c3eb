"""The README's examples, executed as they stand, on the ports of this run's stack."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import ROOT, blocks

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The one fenced block of a language that has this text."""
    (found,) = [each for each in blocks("README.md", language) if containing in each]
    return found


def test_the_first_lines_are_the_two_commands() -> None:
    assert re.search(r"^# .*\n\n```sh\nmake demo .*\nmake test .*\n```\n", README)


def test_sign_and_verify(newcomer: Callable[[str], str]) -> None:
    printed = newcomer(block("sh", "afdp sign")).splitlines()
    shown = block("text", "✓ envelope").splitlines()

    # The same checks with the same outcome, and the same words where no time and no number stands between them.
    assert [line[:16] for line in printed[-len(shown) :]] == [line[:16] for line in shown]
    for part in ("by AFDP time-stamping ", "not revoked, tenant default", "ai.model.deployed, submitted by anonymous"):
        assert any(part in line for line in printed), printed
        assert any(part in line for line in shown)


def test_curl(newcomer: Callable[[str], str]) -> None:
    answer = json.loads(newcomer(block("sh", "curl -s")))

    assert answer["receipt"]["state"] == "logged"


def test_grpcurl(newcomer: Callable[[str], str], tool: Callable[[str], Path]) -> None:
    tool("grpcurl")

    printed = newcomer(block("sh", "grpcurl -plaintext"))

    assert "afdp.notary.v1.NotaryService" in printed
    assert "rpc SignEvidence" in printed
    assert "totalCount" in printed
    assert "SERVING" in printed


def test_python(newcomer: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(block("python", "NotaryClient"))

    newcomer("afdp trust export -o trust")
    script = (tmp_path / "example.py").read_text()
    newcomer(f"python - <<'EOF'\n{script}\nEOF\nafdp verify receipt-python.json --artifact LICENSE --trust trust")


def test_cosign(newcomer: Callable[[str], str], tool: Callable[[str], Path]) -> None:
    cosign = tool("cosign")
    newcomer(block("sh", "afdp sign"))

    newcomer(f'PATH="{cosign.parent}:$PATH"\n' + block("sh", "cosign verify-blob-attestation"))


def test_every_setting_of_the_table_exists(newcomer: Callable[[str], str]) -> None:
    shown = {
        service: json.loads(newcomer(f"afdp config show {service}"))
        for service in ("gateway", "notary", "signer", "transparency", "metadata")
    }
    known = {f"AFDP_{name.upper()}" for settings in shown.values() for name in settings}
    # Those of the command line and the SDK have no schema: their code names them.
    client = "".join(path.read_text() for path in (Path(__file__).parents[2] / "client").rglob("*.py"))
    known |= {*re.findall(r"\bAFDP_[A-Z0-9_]+", client), "AFDP_CONFIG", "AFDP_"}

    assert set(re.findall(r"\bAFDP_[A-Z0-9_]*", README)) <= known


def test_the_place_in_the_log_is_handed_on_and_verified(newcomer: Callable[[str], str]) -> None:
    newcomer(block("sh", "afdp sign"))

    printed = newcomer(block("sh", "afdp export receipt.json"))

    assert "EXPORTED" in printed
    assert printed.endswith("HOLDS\n")
