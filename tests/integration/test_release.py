"""What `make sbom`, `make audit` and `make release` give, from this tree and with a notary of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from afdp.embedded.process import free_port
from tests.container_files import ROOT, SERVICES
from tests.image_packages import pinned

VERSION = "0.1.0"
SUMS = "SHA256SUMS"


def run(tool: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / f"{tool}.py", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the commit that is checked out."""
    folder = tmp_path_factory.mktemp("release")
    folder.parent.chmod(0o711)  # an unprivileged PostgreSQL, when this runs as root, must be able to walk through
    folder.chmod(0o711)
    environment = {} if (ROOT / ".git").exists() else {"SOURCE_DATE_EPOCH": "1795545797"}
    done = run("release", "--output", folder / "out", "--data-dir", folder / "data", **environment)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def files(release: Path) -> list[Path]:
    return [file for file in release.iterdir() if file.is_file() and not file.name.endswith(".receipt.json")]


def verify(release: Path, receipt: Path, artifact: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "afdp.cli",
        "verify",
        receipt,
        "--artifact",
        artifact,
        "--trust",
        release / "trust",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# The release


def test_every_file_of_a_release_has_a_receipt_and_its_checksum(released: Path) -> None:
    summed = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files(released)}
    del summed[SUMS]
    listed = dict(reversed(line.split("  ")) for line in (released / SUMS).read_text().splitlines())
    assert listed == summed
    assert {f"afdp_notary-{VERSION}-py3-none-any.whl", f"afdp_notary-{VERSION}.tar.gz"} < summed.keys()
    for file in files(released):
        receipt = json.loads((released / f"{file.name}.receipt.json").read_text())
        assert receipt["state"] == "logged"


def test_a_receipt_of_a_release_verifies_offline_and_not_for_another_file(released: Path) -> None:
    wheel, sums = released / f"afdp_notary-{VERSION}-py3-none-any.whl", released / SUMS
    good = verify(released, released / f"{wheel.name}.receipt.json", wheel)
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "VERIFIED"), good.stdout
    assert verify(released, released / f"{wheel.name}.receipt.json", sums).returncode == 1


def test_a_release_is_not_made_over_one_that_is_there(released: Path) -> None:
    done = run("release", "--output", released)
    assert done.returncode == 1
    assert "is there already" in done.stderr


def test_a_release_that_cannot_be_notarised_leaves_nothing_that_looks_like_one(tmp_path: Path) -> None:
    done = run("release", "--output", tmp_path / "out", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "not released: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_built_twice_is_the_same_to_the_byte_and_is_what_is_committed(released: Path, tmp_path: Path) -> None:
    [archive] = released.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
        times = {member.mtime for member in tar.getmembers()}
    with zipfile.ZipFile(next(released.glob("*.whl"))) as wheel:
        assert len({entry.date_time for entry in wheel.infolist()}) == 1
    assert len(times) == 1
    # From the source archive alone, as anybody who doubts would: the same wheel.
    [source] = tmp_path.iterdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(int(times.pop()))}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path / "again"]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, timeout=120)
    [built], [shipped] = (tmp_path / "again").iterdir(), released.glob("*.whl")
    assert built.read_bytes() == shipped.read_bytes()


# The SBOM


@pytest.mark.parametrize("service", SERVICES)
def test_an_sbom_lists_what_the_image_installs_with_the_hashes_that_it_is_held_to(released: Path, service: str) -> None:
    document = sbom(released, service)
    components = {each["name"]: each for each in document["components"]}
    # Where the tests run an older patch of Python than the image has, they install what that one needs beside.
    lock = (ROOT / "requirements" / f"{service}.txt").read_text()
    older = set(re.findall(r"^(\S+)==\S+ ; python_full_version < '3\.11\.", lock, re.MULTILINE))
    expected = {name: version for name, version in pinned(service).items() if name not in older}
    assert {name: each["version"] for name, each in components.items()} == expected
    for each in components.values():
        hashes = {entry["content"] for reference in each["externalReferences"] for entry in reference["hashes"]}
        assert hashes == locked_hashes(service, each["name"])
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("afdp-notary", VERSION)
    assert [each["license"]["id"] for each in root["licenses"]] == ["Apache-2.0"]


def test_an_sbom_is_valid_cyclonedx_and_whole_from_the_root_to_every_package(released: Path) -> None:
    """Of one service: each is held against the schema when it is made, and that takes seconds."""
    document = sbom(released, "metadata")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    seen, ahead = set[str](), [document["metadata"]["component"]["bom-ref"]]
    while ahead:
        if (ref := ahead.pop()) not in seen:
            seen.add(ref)
            ahead += needs[ref]
    assert seen - {document["metadata"]["component"]["bom-ref"]} == {each["bom-ref"] for each in document["components"]}


def sbom(release: Path, service: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((release / f"afdp-notary-{service}-{VERSION}.cdx.json").read_text())
    return document


def locked_hashes(service: str, name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{service}.txt").read_text()
    [entry] = [entry for entry in text.split("\n    # via") if f"\n{name}==" in f"\n{entry}"]
    lines = f"\n{entry}".split(f"\n{name}==", 1)[1].splitlines()
    return {line.strip().removeprefix("--hash=sha256:").removesuffix(" \\") for line in lines if "--hash" in line}


# The audit


class Advisories(BaseHTTPRequestHandler):
    """OSV's query API as far as pip-audit asks it; knows of what stands in `known`."""

    known: ClassVar[dict[str, dict[str, Any]]] = {}
    broken = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.known.get(asked["package"]["name"])
        body = json.dumps({"vulns": [found]} if found else {}).encode()
        self.send_response(503 if self.broken and asked["package"]["name"] != "uv" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def advisories() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        Advisories.known, Advisories.broken = {}, False
        server.shutdown()
        thread.join()
        server.server_close()


def audit(url: str) -> tuple[int, str]:
    done = run("audit", "--osv-url", url, ROOT / "requirements" / "build.txt")
    return done.returncode, done.stdout.splitlines()[-1]


def test_an_audit_that_could_not_ask_is_never_taken_for_a_clean_one() -> None:
    code, summary = audit(f"http://127.0.0.1:{free_port()}/v1/query")
    assert code == 3
    assert summary.startswith("NOT AUDITED: the advisory service cannot be asked")


def test_an_audit_that_was_answered_in_part_is_not_a_clean_one(advisories: str) -> None:
    Advisories.broken = True
    code, summary = audit(advisories)
    assert code == 3
    assert summary.startswith("NOT AUDITED: ")


def test_an_audit_that_was_answered_says_how_many_packages_it_is_about(advisories: str) -> None:
    code, summary = audit(advisories)
    assert code == 0
    assert summary == f"CLEAN: no advisory is known for {len(pinned('build')) + 1} packages"


def test_a_known_vulnerability_of_a_locked_version_is_named(advisories: str) -> None:
    version = pinned("build")["pluggy"]
    events = [{"introduced": "0"}, {"fixed": "99.0"}]
    affected = {"package": {"name": "pluggy", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    Advisories.known = {"pluggy": {"id": "PYSEC-2026-1", "summary": "a flaw", "affected": [affected]}}
    done = run("audit", "--osv-url", advisories, ROOT / "requirements" / "build.txt")
    assert done.returncode == 1
    assert f"pluggy {version}: PYSEC-2026-1, fixed in 99.0" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("VULNERABLE: 1 advisories")
