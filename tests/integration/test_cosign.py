"""Receipts verified by cosign, which we did not write, beside `afdp verify`: both offline, on the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore_models.bundle.v1 import Bundle as SigstoreBundle

from afdp.formats.statement import EVIDENCE_PREDICATE_TYPE
from tests.local_notary import MODEL, LocalNotary
from tests.tampering import CLASSIC, REFUSED_BY_ALL, REFUSED_BY_OURS, Tampering


class Verifiers:
    """The two programs, over one folder."""

    def __init__(self, cosign: Path, folder: Path) -> None:
        self.cosign_program = cosign
        self.folder = folder

    def write(self, receipt: dict[str, Any]) -> None:
        """The receipt, and the bundle in it as the file that cosign reads."""
        (self.folder / "receipt.json").write_text(json.dumps(receipt))
        (self.folder / "bundle.json").write_text(json.dumps(receipt["bundle"]))

    def cosign(self, *arguments: str, key: str = "afdp-notary-key:3", trust: str = "trust") -> bool:
        """Whether cosign verifies the bundle for the artifact."""
        return self._run(
            os.fspath(self.cosign_program),
            "verify-blob-attestation",
            "--key", f"{trust}/keys/{key}.pem",
            "--trusted-root", f"{trust}/trusted_root.json",
            "--bundle", "bundle.json",
            "--type", EVIDENCE_PREDICATE_TYPE,
            *(arguments or ("model.bin",)),
        )  # fmt: skip

    def afdp(self, *arguments: str, trust: str = "trust") -> bool:
        """Whether ours verifies the receipt for the artifact."""
        files = ("--trust", trust, "--artifact", "model.bin")
        return self._run(sys.executable, "-m", "afdp.cli", "verify", "receipt.json", *files, *arguments)

    def _run(self, *command: str) -> bool:
        # No name resolves to a server here: a verifier that asked the network would fail.
        offline = {"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        environment = {**os.environ, **offline, "HOME": os.fspath(self.folder)}
        run = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode in (0, 1), run.stderr
        return run.returncode == 0


@pytest.fixture(scope="module")
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture(scope="module")
def receipt(notary: LocalNotary) -> dict[str, Any]:
    return notary.notarise().to_object()


@pytest.fixture
def verifiers(notary: LocalNotary, tool: Callable[[str], Path], tmp_path: Path) -> Verifiers:
    (tmp_path / "model.bin").write_bytes(MODEL)
    notary.write_trust(tmp_path / "trust")
    return Verifiers(tool("cosign"), tmp_path)


def copied(receipt: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(receipt))
    return copy


def test_both_verify_an_untouched_receipt(verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    verifiers.write(receipt)

    assert verifiers.cosign()
    assert verifiers.afdp()


def test_cosign_verifies_by_the_digest_of_an_artifact_that_is_elsewhere(
    verifiers: Verifiers, receipt: dict[str, Any]
) -> None:
    verifiers.write(receipt)
    statement = json.loads(LocalNotary().notarise().bundle.envelope.payload)
    digest = statement["subject"][1]["digest"]["sha256"]

    assert verifiers.cosign("--digest", digest, "--digestAlg", "sha256")
    assert not verifiers.cosign("--digest", "ab" * 32, "--digestAlg", "sha256")


def test_both_verify_the_only_entry_of_a_log(tool: Callable[[str], Path], tmp_path: Path) -> None:
    notary = LocalNotary()
    verifiers = Verifiers(tool("cosign"), notary.write_trust(tmp_path / "trust").parent)
    (tmp_path / "model.bin").write_bytes(MODEL)
    verifiers.write(notary.notarise(crowd=0).to_object())

    assert verifiers.cosign()
    assert verifiers.afdp()


@pytest.mark.parametrize("tampering", REFUSED_BY_ALL, ids=lambda each: each.name)
def test_both_refuse_a_changed(tampering: Tampering, verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    changed = copied(receipt)
    tampering.change(changed)
    verifiers.write(changed)

    assert not verifiers.cosign()
    assert not verifiers.afdp()


@pytest.mark.parametrize("tampering", [*REFUSED_BY_OURS, *CLASSIC], ids=lambda each: each.name)
def test_ours_refuses_what_cosign_does_not_look_at(
    tampering: Tampering, verifiers: Verifiers, receipt: dict[str, Any]
) -> None:
    changed = copied(receipt)
    tampering.change(changed)
    verifiers.write(changed)

    assert verifiers.cosign()
    assert not verifiers.afdp()


def test_both_refuse_a_changed_artifact(verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    verifiers.write(receipt)
    (verifiers.folder / "model.bin").write_bytes(b"other weights")

    assert not verifiers.cosign()
    assert not verifiers.afdp()


def test_ours_refuses_changed_evidence(verifiers: Verifiers, receipt: dict[str, Any], notary: LocalNotary) -> None:
    verifiers.write(receipt)
    statement = json.loads(notary.notarise().bundle.envelope.payload)
    evidence = statement["predicate"]["evidence"]
    (verifiers.folder / "evidence.json").write_text(json.dumps(evidence))
    assert verifiers.afdp("--evidence", "evidence.json")

    evidence["metadata"]["build"] = 8
    (verifiers.folder / "evidence.json").write_text(json.dumps(evidence))
    assert not verifiers.afdp("--evidence", "evidence.json")


def test_both_refuse_the_wrong_key(verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    verifiers.write(receipt)
    LocalNotary().write_trust(verifiers.folder / "other")

    assert not verifiers.cosign(trust="other")
    assert not verifiers.afdp(trust="other")


def test_both_refuse_a_log_that_is_not_trusted(
    verifiers: Verifiers, receipt: dict[str, Any], notary: LocalNotary
) -> None:
    verifiers.write(receipt)
    stranger = LocalNotary()
    stranger.key = notary.key
    stranger.write_trust(verifiers.folder / "other")

    assert not verifiers.cosign(trust="other")
    assert not verifiers.afdp(trust="other")


def test_both_verify_p384_if_cosign_is_told_the_digest(tool: Callable[[str], Path], tmp_path: Path) -> None:
    notary = LocalNotary(curve=ec.SECP384R1())
    verifiers = Verifiers(tool("cosign"), notary.write_trust(tmp_path / "trust").parent)
    (tmp_path / "model.bin").write_bytes(MODEL)
    verifiers.write(notary.notarise().to_object())

    assert verifiers.afdp()
    assert verifiers.cosign("--signature-digest-algorithm", "sha384", "model.bin")


def test_sigstores_python_models_read_the_bundle(receipt: dict[str, Any]) -> None:
    bundle = SigstoreBundle.from_dict(receipt["bundle"])

    assert bundle.verification_material.tlog_entries[0].inclusion_proof.hashes
