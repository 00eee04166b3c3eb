from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.bundle import Bundle, bundle_json
from afdp.formats.encoding import b64
from afdp.formats.evidence import canonical_evidence
from afdp.formats.note import (
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    cosignature_message,
    format_cosignature,
)
from afdp.formats.receipt import Receipt
from afdp.formats.trust import Revocation, TrustRoot
from afdp.verify.policy import Policy
from afdp.verify.receipts import ArtifactDigest, verify_receipt
from afdp.verify.result import Check, Result, Status
from tests.local_authority import LocalAuthority
from tests.local_log import LocalLog
from tests.local_notary import CARD, MODEL, STAMPED_AT, LocalNotary, evidence_of
from tests.tampering import EVERY_TAMPERING, Tampering, entry, envelope

PASSED, FAILED, ABSENT = Status.PASSED, Status.FAILED, Status.ABSENT


def digest(name: str, data: bytes) -> ArtifactDigest:
    return ArtifactDigest(name, sha256(data).hexdigest())


def statuses(result: Result) -> dict[str, Status]:
    return {check.name: check.status for check in result.checks}


def found(result: Result, name: str) -> Check:
    [check] = [check for check in result.checks if check.name == name]
    return check


def tampered(receipt: Receipt, tampering: Tampering) -> Receipt:
    value: dict[str, Any] = receipt.to_object()
    tampering.change(value)
    return Receipt.from_object(value)


@pytest.fixture(scope="module")
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture(scope="module")
def receipt(notary: LocalNotary) -> Receipt:
    return notary.notarise()


def test_an_untouched_receipt_verifies_and_every_check_says_what_it_found(
    notary: LocalNotary, receipt: Receipt
) -> None:
    result = verify_receipt(receipt, notary.trust, artifacts=[digest("model.bin", MODEL), digest("model.md", CARD)])

    assert result.verified
    assert [(check.name, check.status) for check in result.checks] == [
        ("envelope", PASSED),
        ("signature", PASSED),
        ("time", PASSED),
        ("key", PASSED),
        ("evidence", PASSED),
        ("artifact", PASSED),
        ("artifact", PASSED),
        ("approvals", ABSENT),
        ("log", PASSED),
        ("checkpoint", PASSED),
        ("witnesses", ABSENT),
        ("anchors", ABSENT),
    ]
    assert found(result, "signature").detail == "ECDSA P-256, key afdp-notary-key:3"
    assert found(result, "time").detail == "2026-11-24T04:09:28Z by Clock, ±1 s"
    assert found(result, "key").detail == "valid since 2026-11-01, not revoked, tenant acme"
    assert found(result, "evidence").detail == "ai.model.deployment.completed, submitted by ci@acme"
    assert found(result, "log").detail == f"entry {receipt.log_index} of 7, notary.localhost"
    assert found(result, "checkpoint").detail == "signed by notary.localhost"


@pytest.mark.parametrize("tampering", EVERY_TAMPERING, ids=lambda each: each.name)
def test_a_receipt_in_which_anything_was_changed_is_refused(
    tampering: Tampering, notary: LocalNotary, receipt: Receipt
) -> None:
    result = verify_receipt(tampered(receipt, tampering), notary.trust)

    assert not result.verified
    assert found(result, tampering.check).status is FAILED
    assert found(result, tampering.check).detail


def test_p384_receipts_verify_too() -> None:
    notary = LocalNotary(curve=ec.SECP384R1())

    result = verify_receipt(notary.notarise(), notary.trust)

    assert result.verified
    assert found(result, "signature").detail == "ECDSA P-384, key afdp-notary-key:3"


def test_the_only_entry_of_a_log_verifies() -> None:
    notary = LocalNotary()

    assert verify_receipt(notary.notarise(crowd=0), notary.trust).verified


def test_a_receipt_of_another_notary_is_refused_and_says_how_to_get_newer_keys(receipt: Receipt) -> None:
    result = verify_receipt(receipt, LocalNotary().trust)

    assert not result.verified
    assert found(result, "signature").status is FAILED
    assert "afdp trust export" in found(result, "signature").advice
    assert found(result, "key").status is ABSENT


def test_a_key_that_is_trusted_under_another_hint_does_not_help(notary: LocalNotary, receipt: Receipt) -> None:
    other = replace(LocalNotary(key_id="other:1").evidence_key)
    value: dict[str, Any] = receipt.to_object()
    value["bundle"]["verificationMaterial"]["publicKey"]["hint"] = other.hint

    result = verify_receipt(Receipt.from_object(value), TrustRoot((notary.evidence_key, other), (notary.log.log,)))

    assert found(result, "signature").status is FAILED
    assert not result.verified


def test_a_log_that_is_not_trusted_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(receipt, TrustRoot((notary.evidence_key,), (LocalLog().log,)))

    assert not result.verified
    assert found(result, "log").status is FAILED
    assert found(result, "checkpoint").status is FAILED


def test_a_receipt_that_is_only_signed_passes_only_if_the_policy_allows_it(notary: LocalNotary) -> None:
    receipt = notary.notarise(logged=False)

    strict = verify_receipt(receipt, notary.trust)
    lenient = verify_receipt(receipt, notary.trust, Policy(require_log=False))

    assert found(strict, "log").status is FAILED
    assert receipt.receipt_id in found(strict, "log").advice
    assert lenient.verified
    assert found(lenient, "log").status is ABSENT
    assert found(lenient, "checkpoint").status is ABSENT


def test_evidence_that_was_given_must_be_what_was_notarised(notary: LocalNotary, receipt: Receipt) -> None:
    same = canonical_evidence(evidence_of({"model.bin": MODEL, "model.md": CARD}, build=7))
    changed = canonical_evidence(evidence_of({"model.bin": MODEL, "model.md": CARD}, build=8))

    assert verify_receipt(receipt, notary.trust, evidence=same).verified
    refused = verify_receipt(receipt, notary.trust, evidence=changed)
    assert found(refused, "evidence").status is FAILED
    assert not refused.verified


def test_an_artifact_that_changed_is_refused_with_both_hashes(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(receipt, notary.trust, artifacts=[digest("model.bin", b"other weights")])

    assert not result.verified
    assert sha256(b"other weights").hexdigest() in found(result, "artifact").detail
    assert sha256(MODEL).hexdigest() in found(result, "artifact").detail


def test_an_artifact_that_the_evidence_does_not_name_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(receipt, notary.trust, artifacts=[digest("other.bin", b"other")])

    assert "is not an artifact of this evidence" in found(result, "artifact").detail
    assert not result.verified


def test_an_artifact_under_another_file_name_is_found_by_its_hash(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(receipt, notary.trust, artifacts=[digest("download(1).bin", MODEL)])

    assert result.verified
    assert found(result, "artifact").detail.startswith("download(1).bin (model.bin in the evidence)  sha256 ")


def test_only_a_key_without_an_end_or_a_revocation_passes_without_a_timestamp(
    notary: LocalNotary,
) -> None:
    receipt = notary.notarise(stamped_at=None)
    now = datetime(2026, 12, 1, tzinfo=UTC)
    revocation = Revocation(now, now - timedelta(days=20), "laptop lost")
    ended = notary.trusting(valid_until=now + timedelta(days=9))
    revoked = notary.trusting(revoked=revocation)

    unstamped = verify_receipt(receipt, notary.trust, now=now)
    assert unstamped.verified
    assert found(unstamped, "time").status is ABSENT
    assert found(unstamped, "time").detail == "no trusted timestamp; the notary says 2026-11-24T04:09:28.250Z"
    for trust, word in ((ended, "valid until 2026-12-10"), (revoked, "revoked at 2026-12-01")):
        result = verify_receipt(receipt, trust, now=now)
        assert found(result, "key").status is FAILED
        assert word in found(result, "key").detail
        assert not result.verified
    assert "laptop lost" in found(verify_receipt(receipt, revoked, now=now), "key").advice


def test_a_key_that_is_not_valid_yet_is_refused(notary: LocalNotary) -> None:
    result = verify_receipt(notary.notarise(stamped_at=None), notary.trust, now=datetime(2026, 10, 1, tzinfo=UTC))

    assert "valid only since 2026-11-01" in found(result, "key").detail


def test_a_key_does_not_sign_for_a_tenant_that_the_trust_root_does_not_give_it(
    notary: LocalNotary, receipt: Receipt
) -> None:
    trust = notary.trusting(tenants=("initech",))

    assert "does not sign for tenant acme" in found(verify_receipt(receipt, trust), "key").detail


def test_the_tenant_that_was_asked_for_must_be_the_statements(notary: LocalNotary, receipt: Receipt) -> None:
    assert verify_receipt(receipt, notary.trust, tenant="acme").verified
    refused = verify_receipt(receipt, notary.trust, tenant="initech")
    assert found(refused, "key").detail == "the evidence belongs to tenant acme, not to initech"


def test_a_timestamp_of_an_authority_that_is_not_trusted_is_refused_and_says_how_to_get_newer_ones(
    notary: LocalNotary, receipt: Receipt
) -> None:
    result = verify_receipt(receipt, replace(notary.trust, timestamp_authorities=(LocalAuthority().trusted,)))

    assert not result.verified
    assert found(result, "time").status is FAILED
    assert "afdp trust export" in found(result, "time").advice
    assert found(result, "key").status is ABSENT


def test_a_timestamp_over_another_signature_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    other = notary.notarise()
    swapped = replace(receipt, bundle=replace(receipt.bundle, timestamps=other.bundle.timestamps))

    assert found(verify_receipt(swapped, notary.trust), "time").detail == "the timestamp is over other data"


def test_every_timestamp_of_a_receipt_must_hold(notary: LocalNotary, receipt: Receipt) -> None:
    theirs = LocalAuthority("https://tsa.example/tsr")
    both = (*receipt.bundle.timestamps, theirs.stamp(receipt.signature, STAMPED_AT + timedelta(seconds=1)))
    stamped = replace(receipt, bundle=replace(receipt.bundle, timestamps=both))
    trust = replace(notary.trust, timestamp_authorities=(notary.authority.trusted, theirs.trusted))

    assert found(verify_receipt(stamped, trust), "time").detail == (
        "2026-11-24T04:09:28Z by Clock, ±1 s; 2026-11-24T04:09:29Z by Clock, ±1 s"
    )
    torn = replace(receipt, bundle=replace(receipt.bundle, timestamps=(both[0], theirs.stamp(b"other", STAMPED_AT))))
    assert "over other data" in found(verify_receipt(torn, trust), "time").detail


def test_a_timestamp_of_an_authority_that_is_not_trusted_may_stand_beside_one_that_is(
    notary: LocalNotary, receipt: Receipt
) -> None:
    """A receipt does not cease to verify because an authority stamped it that this verifier has not heard of yet."""
    theirs = LocalAuthority("https://tsa.example/tsr").stamp(receipt.signature, STAMPED_AT + timedelta(seconds=1))
    own = receipt.bundle.timestamps
    result = verify_receipt(replace(receipt, bundle=replace(receipt.bundle, timestamps=(*own, theirs))), notary.trust)

    assert result.verified
    said = "2026-11-24T04:09:28Z by Clock, ±1 s; one more by an authority that the trust root does not know"
    assert found(result, "time").detail == said
    alone = replace(receipt, bundle=replace(receipt.bundle, timestamps=(theirs,)))
    assert not verify_receipt(replace(alone, integrated_time=receipt.integrated_time + 1), notary.trust).verified


def test_a_policy_that_asks_for_a_timestamp_refuses_what_has_none(notary: LocalNotary, receipt: Receipt) -> None:
    policy = Policy(require_timestamp=True)
    result = verify_receipt(notary.notarise(stamped_at=None), notary.trust, policy)

    assert verify_receipt(receipt, notary.trust, policy).verified
    assert found(result, "time").status is FAILED
    assert not result.verified


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        (Policy(tenant="initech"), "key"),
        (Policy(submitters=("someone@acme",)), "evidence"),
        (Policy(event_types=("ai.model.training.completed",)), "evidence"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused(
    policy: Policy, check: str, notary: LocalNotary, receipt: Receipt
) -> None:
    assert found(verify_receipt(receipt, notary.trust, policy), check).status is FAILED


def test_what_the_policy_allows_passes(notary: LocalNotary, receipt: Receipt) -> None:
    policy = Policy(tenant="acme", submitters=("ci@acme",), event_types=("ai.model.deployment.completed",))

    assert verify_receipt(receipt, notary.trust, policy).verified


WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS_KEY = VerifierKey("witness.example", WITNESS.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
WITNESSED = Policy(require_witnesses=1, witnesses=(WITNESS_KEY,))


def cosigned(receipt: Receipt, *, over: str | None = None) -> Receipt:
    proven = receipt.bundle.entry
    assert proven is not None
    note = Note.parse(proven.checkpoint)
    signature = format_cosignature(1_795_752_570, WITNESS.sign(cosignature_message(1_795_752_570, over or note.text)))
    note = note.with_signatures([NoteSignature.by(WITNESS_KEY, signature)])
    return replace(receipt, bundle=replace(receipt.bundle, entry=replace(proven, checkpoint=str(note))))


def test_a_policy_that_asks_for_witnesses_counts_those_that_signed(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(cosigned(receipt), notary.trust, WITNESSED)

    assert result.verified
    assert found(result, "witnesses").detail == "cosigned by witness.example"


def test_too_few_witnesses_are_refused(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(receipt, notary.trust, WITNESSED)

    assert found(result, "witnesses").detail == "the policy asks for 1 witnesses, and 0 signed"
    assert not result.verified


def test_a_cosignature_over_another_checkpoint_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    result = verify_receipt(cosigned(receipt, over="notary.localhost\n1\n"), notary.trust, WITNESSED)

    assert found(result, "witnesses").status is FAILED


def test_witnesses_of_a_receipt_without_a_log_entry_are_missing(notary: LocalNotary) -> None:
    receipt = notary.notarise(logged=False)

    result = verify_receipt(receipt, notary.trust, replace(WITNESSED, require_log=False))

    assert found(result, "witnesses").status is FAILED


def test_approvals_that_cannot_be_verified_are_refused_not_passed_over(notary: LocalNotary) -> None:
    receipt = notary.notarise(approvals=[{"approver": "alice"}])

    result = verify_receipt(receipt, notary.trust)

    assert found(result, "approvals").status is FAILED
    assert not result.verified


@pytest.mark.parametrize("payload", [b"not JSON", b"{}", b'{"_type":"https://in-toto.io/Statement/v0.1"}'])
def test_a_payload_that_is_no_statement_of_ours_is_refused_though_it_is_signed(
    payload: bytes, notary: LocalNotary
) -> None:
    result = verify_receipt(notary.notarise(payload=payload), notary.trust)

    assert found(result, "envelope").status is FAILED
    assert found(result, "signature").status is PASSED
    assert found(result, "evidence").status is ABSENT
    assert not result.verified


def test_a_statement_whose_subjects_are_not_its_evidence_is_refused_though_it_is_signed(
    notary: LocalNotary, receipt: Receipt
) -> None:
    statement = json.loads(receipt.bundle.envelope.payload)
    statement["subject"][1]["digest"]["sha256"] = "ab" * 32

    result = verify_receipt(notary.notarise(payload=json.dumps(statement).encode()), notary.trust)

    assert "subject[1] is not artifact 0 of the evidence" in found(result, "evidence").detail
    assert not result.verified


def test_an_envelope_of_another_payload_type_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    value: dict[str, Any] = receipt.to_object()
    envelope(value)["payloadType"] = "application/json"

    assert found(verify_receipt(Receipt.from_object(value), notary.trust), "envelope").status is FAILED


def test_a_second_signature_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    value: dict[str, Any] = receipt.to_object()
    envelope(value)["signatures"] *= 2

    assert found(verify_receipt(Receipt.from_object(value), notary.trust), "envelope").status is FAILED


@pytest.mark.parametrize(
    "kind_version", [{"kind": "dsse", "version": "0.0.1"}, {"kind": "hashedrekord", "version": "1"}]
)
def test_an_entry_that_says_it_is_of_another_kind_is_refused(
    kind_version: dict[str, str], notary: LocalNotary, receipt: Receipt
) -> None:
    value: dict[str, Any] = receipt.to_object()
    entry(value)["kindVersion"] = kind_version

    assert found(verify_receipt(Receipt.from_object(value), notary.trust), "log").status is FAILED


def test_a_checkpoint_of_a_larger_tree_does_not_stand_for_the_proofs(notary: LocalNotary) -> None:
    receipt = notary.notarise()
    notary.log.append([b"later"])
    value: dict[str, Any] = receipt.to_object()
    entry(value)["inclusionProof"]["checkpoint"]["envelope"] = str(notary.log.checkpoint())

    result = verify_receipt(Receipt.from_object(value), notary.trust)

    assert found(result, "checkpoint").status is FAILED
    assert not result.verified


def test_a_further_bundle_is_checked_too(notary: LocalNotary, receipt: Receipt) -> None:
    second = LocalLog(origin="second.localhost")
    assert receipt.bundle.entry is not None
    second.append([b"first", receipt.bundle.entry.body])
    trust = replace(notary.trust, logs=(notary.log.log, second.log))
    good = replace(receipt, more_bundles=(replace(receipt.bundle, entry=second.proven(1)),))
    bad = replace(receipt, more_bundles=(replace(receipt.bundle, entry=replace(second.proven(1), log_index=0)),))

    assert verify_receipt(good, trust).verified
    assert [check.detail for check in verify_receipt(good, trust).checks if check.name == "log"][1].endswith(
        "second.localhost"
    )
    assert not verify_receipt(bad, trust).verified
    unknown = verify_receipt(good, notary.trust)
    assert unknown.verified
    assert unknown.status("log") is ABSENT


def test_a_further_bundle_with_another_envelope_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    other = notary.notarise()

    assert not verify_receipt(replace(receipt, more_bundles=(other.bundle,)), notary.trust).verified


def test_nothing_passes_that_did_not_run() -> None:
    notary = LocalNotary()
    stranger = replace(
        notary.notarise(), bundle=Bundle.from_json(bundle_json(hint="aGludA==", payload=b"{}", signature=b"x"))
    )
    stranger = replace(stranger, signature_b64=b64(b"x"), state="signed")

    result = verify_receipt(stranger, notary.trust, Policy(require_log=False))

    assert not [check for check in result.checks if check.status is PASSED]
    assert not result.verified
