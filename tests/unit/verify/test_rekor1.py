"""Entries of a Rekor v1 in receipts: its promise, its tree, and the envelope that it names."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.errors import InvalidArgument
from afdp.formats import rekor1
from afdp.formats.bundle import Bundle, LogEntry
from afdp.formats.canonical import canonical_json
from afdp.formats.encoding import b64
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Checkpoint, Note, NoteSignature
from afdp.formats.receipt import Receipt
from afdp.formats.spki import to_pem
from afdp.formats.trust import Log, TrustRoot, read_trust_files, trust_files
from afdp.verify.receipts import verify_receipt
from afdp.verify.result import Status
from tests.local_log import FOUNDED, LocalLog
from tests.local_notary import LocalNotary

TREE = "rekor1.example - 4143907407517552886"
INTEGRATED = 1_795_529_489


class LocalRekor1:
    """A Rekor v1 in memory: an ECDSA key, a tree, and another tree before it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.log = Log.of("rekor1.example", spki, FOUNDED)
        self.tree = LocalLog()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def take(self, receipt: Receipt, *, before: int = 1000) -> LogEntry:
        """A receipt's envelope as an entry; `before` is how many entries its earlier trees have."""
        envelope = receipt.bundle.envelope
        given = rekor1.envelope_json(envelope.payload, envelope.payload_type, receipt.signature)
        body = canonical_json(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": sha256(given).hexdigest()},
                    "payloadHash": {"algorithm": "sha256", "value": sha256(envelope.payload).hexdigest()},
                    "signatures": [
                        {"signature": receipt.signature_b64, "verifier": b64(to_pem(receipt.public_key).encode())}
                    ],
                },
            }
        )
        self.tree.append([b"before", body, b"after"])
        index = len(self.tree.entries) - 2
        proven = self.tree.proven(index)
        text = Checkpoint(TREE, proven.tree_size, proven.root_hash).body()
        return LogEntry(
            log_index=before + index,
            log_id=self.log.log_id,
            body=body,
            tree_size=proven.tree_size,
            root_hash=proven.root_hash,
            hashes=proven.hashes,
            checkpoint=str(Note(text, (NoteSignature.by(self.log.vkey, self.sign(text.encode())),))),
            proof_index=index,
            kind="dsse",
            version="0.0.1",
            integrated_time=INTEGRATED,
            promise=self.sign(rekor1.promised(body, INTEGRATED, self.log.log_id, before + index)),
        )


@pytest.fixture
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture
def rekor() -> LocalRekor1:
    return LocalRekor1()


def with_entry(receipt: Receipt, entry: LogEntry) -> Receipt:
    """The receipt of a notary whose log is the Rekor."""
    return replace(
        receipt,
        rekor_log_id=leaf_hash(entry.body).hex(),
        integrated_time=entry.integrated_time,
        log_index=entry.log_index,
        state="logged",
        bundle=replace(receipt.bundle, entry=entry),
    )


def trusting(notary: LocalNotary, rekor: LocalRekor1) -> TrustRoot:
    root = replace(notary.trust, logs=(notary.log.log, rekor.log))
    return read_trust_files({name: text.encode() for name, text in trust_files(root).items()})


@pytest.mark.parametrize("stamped", [True, False])
def test_a_receipt_that_a_rekor_1_made_logged_verifies_as_it_is_written(
    notary: LocalNotary, rekor: LocalRekor1, stamped: bool
) -> None:
    stamps: dict[str, Any] = {} if stamped else {"stamped_at": None}
    receipt = notary.notarise(logged=False, **stamps)
    written = with_entry(receipt, rekor.take(receipt)).to_json()

    result = verify_receipt(Receipt.from_json(written), trusting(notary, rekor))

    assert result.verified, result.failures()
    assert "inclusionPromise" in json.loads(written)["bundle"]["verificationMaterial"]["tlogEntries"][0]


def test_a_rekor_1_beside_the_first_log_is_verified_as_well(notary: LocalNotary, rekor: LocalRekor1) -> None:
    receipt = notary.notarise()
    further = replace(receipt.bundle, entry=rekor.take(receipt))
    both = replace(receipt, more_bundles=(further,))

    assert verify_receipt(both, trusting(notary, rekor)).verified
    broken = replace(both, more_bundles=(replace(further, entry=replace(further.entry, promise=b"x")),))  # type: ignore[type-var]
    assert not verify_receipt(broken, trusting(notary, rekor)).verified


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        ({"promise": b"0"}, "checkpoint", "promise"),
        ({"promise": b""}, "checkpoint", "no inclusionPromise"),
        ({"integrated_time": INTEGRATED + 1}, "checkpoint", "promise"),
        ({"log_index": 7}, "checkpoint", "promise"),
        ({"proof_index": 0}, "log", "proof"),
        ({"hashes": ()}, "log", "proof"),
        ({"root_hash": bytes(32)}, "log", "proof"),
        ({"tree_size": 2}, "log", "proof"),
    ],
)
def test_what_was_changed_in_an_entry_of_a_rekor_1_is_found(
    notary: LocalNotary, rekor: LocalRekor1, change: dict[str, Any], check: str, reason: str
) -> None:
    receipt = notary.notarise(logged=False)
    changed = replace(with_entry(receipt, replace(rekor.take(receipt), **change)))

    result = verify_receipt(changed, trusting(notary, rekor))

    failed = {each.name: each.detail for each in result.checks if each.status is Status.FAILED}
    assert reason in failed[check]


def test_the_entry_of_another_envelope_is_not_that_of_this_one(notary: LocalNotary, rekor: LocalRekor1) -> None:
    receipt, other = notary.notarise(logged=False), notary.notarise(logged=False)

    result = verify_receipt(with_entry(receipt, rekor.take(other)), trusting(notary, rekor))

    assert "not that of this envelope" in str(result.failures())


def test_a_promise_is_of_rekor_1_only(notary: LocalNotary) -> None:
    document = json.loads(notary.notarise().bundle.to_json())
    document["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"] = {"signedEntryTimestamp": "AAAA"}
    with pytest.raises(InvalidArgument, match="inclusionPromise: is of Rekor v1"):
        Bundle.from_object(document)


@pytest.mark.parametrize("origin", ["rekor1.example", "rekor1.example - 1"])
def test_a_tree_is_named_by_the_key_and_a_number(rekor: LocalRekor1, origin: str) -> None:
    text = Checkpoint(origin, 1, bytes(32)).body() + "Timestamp: 1\n"
    note = Note(text, (NoteSignature.by(rekor.log.vkey, rekor.sign(text.encode())),))
    assert rekor1.signed_tree(str(note), rekor.log.vkey).origin == origin


@pytest.mark.parametrize("origin", ["rekor2.example - 1", "rekor1.example - x", "rekor1.example - 1 "])
def test_a_tree_of_another_name_is_not_this_logs(rekor: LocalRekor1, origin: str) -> None:
    text = Checkpoint(origin, 1, bytes(32)).body()
    note = Note(text, (NoteSignature.by(rekor.log.vkey, rekor.sign(text.encode())),))
    with pytest.raises(ValueError, match="not of a tree of"):
        rekor1.signed_tree(str(note), rekor.log.vkey)


def test_a_receipt_made_logged_by_rekor_1_has_its_time(notary: LocalNotary, rekor: LocalRekor1) -> None:
    receipt = notary.notarise(logged=False)
    other_time = replace(with_entry(receipt, rekor.take(receipt)), integrated_time=int(datetime.now(UTC).timestamp()))

    assert "not that of its log entry" in str(verify_receipt(other_time, trusting(notary, rekor)).failures())
