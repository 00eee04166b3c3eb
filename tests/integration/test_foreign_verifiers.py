"""Receipts verified by programs that we did not write, beside `afdp verify`: all offline, on the same files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from sigstore_models.bundle.v1 import Bundle as SigstoreBundle

from afdp.formats.note import (
    Checkpoint,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    format_cosignature,
    ml_dsa_cosignature_message,
    verify,
)
from tests.foreign_verifiers import Verifiers
from tests.local_authority import LocalAuthority
from tests.local_notary import MODEL, LocalNotary
from tests.tampering import CLASSIC, REFUSED_BY_ALL, REFUSED_BY_OURS, STAMPS, Tampering


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
    return Verifiers(tool, tmp_path)


def copied(receipt: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(receipt))
    return copy


def test_all_verify_an_untouched_receipt(verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    verifiers.write(receipt)

    assert verifiers.cosign()
    assert verifiers.cosign_with_timestamps()
    assert verifiers.sigstore_js()
    assert verifiers.openssl()
    assert verifiers.afdp()


def test_cosign_verifies_by_the_digest_of_an_artifact_that_is_elsewhere(
    verifiers: Verifiers, receipt: dict[str, Any]
) -> None:
    verifiers.write(receipt)
    statement = json.loads(LocalNotary().notarise().bundle.envelope.payload)
    digest = statement["subject"][1]["digest"]["sha256"]

    assert verifiers.cosign("--digest", digest, "--digestAlg", "sha256")
    assert not verifiers.cosign("--digest", "ab" * 32, "--digestAlg", "sha256")


def test_all_verify_the_only_entry_of_a_log(tool: Callable[[str], Path], tmp_path: Path) -> None:
    notary = LocalNotary()
    verifiers = Verifiers(tool, notary.write_trust(tmp_path / "trust").parent)
    (tmp_path / "model.bin").write_bytes(MODEL)
    verifiers.write(notary.notarise(crowd=0).to_object())

    assert verifiers.cosign_with_timestamps()
    assert verifiers.sigstore_js()
    assert verifiers.afdp()


def test_all_leave_alone_a_further_line_of_the_log_by_ml_dsa_and_a_further_file_of_the_trust_root(
    verifiers: Verifiers, receipt: dict[str, Any]
) -> None:
    # Where a second signature will go one day: docs/adr/0018.
    changed = copied(receipt)
    checkpoint = changed["bundle"]["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = str(
        Note.parse(checkpoint["envelope"]).with_signatures([ml_dsa_line(checkpoint["envelope"])])
    )
    verifiers.write(changed)
    (verifiers.folder / "trust" / "keys-mldsa.json").write_text('{"keys": []}')

    assert verifiers.cosign_with_timestamps()
    assert verifiers.sigstore_js()
    assert verifiers.afdp()


def ml_dsa_line(envelope: str) -> NoteSignature:
    """The log's own line by a key for ML-DSA-44, with a time of 0: it says nothing of time (tlog-cosignature)."""
    checkpoint = Checkpoint.parse(Note.parse(envelope).text)
    private = MLDSA44PrivateKey.generate()
    kind, public = SignatureType.COSIGNATURE_ML_DSA_44, private.public_key().public_bytes_raw()
    signature = private.sign(ml_dsa_cosignature_message(checkpoint.origin, 0, checkpoint))
    key = VerifierKey(checkpoint.origin, public, kind)
    line = NoteSignature.by(key, format_cosignature(0, signature))
    assert verify(Note(Note.parse(envelope).text, (line,)), [key])
    return line


@pytest.mark.parametrize("tampering", REFUSED_BY_ALL, ids=lambda each: each.name)
def test_cosign_and_ours_refuse_a_changed(tampering: Tampering, verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    changed = copied(receipt)
    tampering.change(changed)
    verifiers.write(changed)

    assert not verifiers.cosign()
    assert not verifiers.afdp()


@pytest.mark.parametrize("tampering", STAMPS, ids=lambda each: each.name)
def test_all_refuse_a_changed(tampering: Tampering, verifiers: Verifiers, receipt: dict[str, Any]) -> None:
    changed = copied(receipt)
    tampering.change(changed)
    verifiers.write(changed)

    assert not verifiers.cosign_with_timestamps()
    assert not verifiers.sigstore_js()
    assert not verifiers.openssl()
    assert not verifiers.afdp()


def test_all_refuse_the_timestamp_of_another_receipt(
    verifiers: Verifiers, receipt: dict[str, Any], notary: LocalNotary
) -> None:
    material = "verificationMaterial"
    changed, other = copied(receipt), notary.notarise().to_object()
    changed["bundle"][material]["timestampVerificationData"] = other["bundle"][material]["timestampVerificationData"]
    verifiers.write(changed)

    assert not verifiers.cosign_with_timestamps()
    assert not verifiers.sigstore_js()
    assert not verifiers.openssl()
    assert not verifiers.afdp()


def test_all_refuse_a_timestamp_of_an_authority_that_is_not_trusted(
    verifiers: Verifiers, receipt: dict[str, Any], notary: LocalNotary
) -> None:
    verifiers.write(receipt)
    stranger = replace(notary.trust, timestamp_authorities=(LocalAuthority(notary.authority.uri).trusted,))
    notary.write_trust(verifiers.folder / "other", stranger)

    assert not verifiers.cosign_with_timestamps(trust="other")
    assert not verifiers.sigstore_js(trust="other")
    assert not verifiers.openssl(trust="other")
    assert not verifiers.afdp(trust="other")


def test_ours_takes_a_receipt_without_a_timestamp_and_those_that_want_one_do_not(
    verifiers: Verifiers, notary: LocalNotary
) -> None:
    verifiers.write(notary.notarise(stamped_at=None).to_object())

    assert verifiers.afdp()
    assert verifiers.cosign()
    assert not verifiers.cosign_with_timestamps()
    assert not verifiers.sigstore_js()


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


def test_cosign_verifies_p384_if_it_is_told_the_digest_and_sigstore_js_knows_sha256_only(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    notary = LocalNotary(curve=ec.SECP384R1())
    verifiers = Verifiers(tool, notary.write_trust(tmp_path / "trust").parent)
    (tmp_path / "model.bin").write_bytes(MODEL)
    verifiers.write(notary.notarise().to_object())

    assert verifiers.afdp()
    assert verifiers.cosign_with_timestamps("--signature-digest-algorithm", "sha384")
    assert verifiers.openssl()
    assert not verifiers.cosign_with_timestamps()
    assert not verifiers.sigstore_js()


def test_sigstores_python_models_read_the_bundle(receipt: dict[str, Any]) -> None:
    bundle = SigstoreBundle.from_dict(receipt["bundle"])

    assert bundle.verification_material.tlog_entries[0].inclusion_proof.hashes
