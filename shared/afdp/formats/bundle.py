"""The Sigstore bundle v0.3 (`dev.sigstore.bundle.v1.Bundle`): an envelope with what is needed to verify it offline.

The narrow kind that a notary makes: signed by a key that the trust root knows (`publicKey.hint`), at most one log
entry, and RFC 3161 timestamps. The entry has the shape of Rekor v2 (an inclusion proof, no promise, no time of its
own), or, where the notary writes to a Rekor v1, that of its `dsse` entries: with a promise and a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from afdp.formats import rekor1
from afdp.formats.canonical import strict_json
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import API_VERSION, KIND
from afdp.formats.members import Members
from afdp.formats.merkle import HASH_SIZE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One `tlogEntries` item: an entry, its place in a log, and the proof of it.

    Attributes:
        log_index: zero-based place in the log.
        log_id: the untruncated checkpoint key ID of the log, 32 bytes.
        body: the entry itself (`canonicalizedBody`).
        tree_size: of the tree that the proof is for.
        root_hash: of that tree, 32 bytes.
        hashes: the inclusion proof, from the leaf upwards, 32 bytes each.
        checkpoint: the signed note over that tree.
        proof_index, kind, version, integrated_time: as a foreign bundle has them; a notary's have these values, except
            for an entry of Rekor v1.
        promise: Rekor v1's signed entry timestamp; empty in all others.
    """

    log_index: int
    log_id: bytes
    body: bytes
    tree_size: int
    root_hash: bytes
    hashes: Sequence[bytes]
    checkpoint: str
    proof_index: int | None = None
    kind: str = KIND
    version: str = API_VERSION
    integrated_time: int = 0
    promise: bytes = b""

    @property
    def is_rekor1(self) -> bool:
        """Whether it is an envelope in a Rekor v1."""
        return (self.kind, self.version) == (rekor1.KIND, rekor1.API_VERSION)

    @property
    def place(self) -> int:
        """Its place in the tree that the proof is for: another one than `log_index` in a Rekor v1 of several trees."""
        return self.log_index if self.proof_index is None else self.proof_index


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read. `entry` is None for what is signed and not yet in a log."""

    hint: str
    envelope: Envelope
    entry: LogEntry | None = None
    timestamps: tuple[bytes, ...] = ()

    def to_json(self) -> bytes:
        """The bundle as JSON, with the same bytes as `bundle_json`."""
        return _json(self.hint, self.envelope.to_object(), self.entry, self.timestamps)

    @classmethod
    def from_json(cls, data: bytes | str) -> Bundle:
        """Reads a bundle; see `from_object`."""
        return cls.from_object(strict_json(data))

    @classmethod
    def from_object(cls, value: object, *, path: str = "") -> Bundle:
        """Reads a bundle of the kind that a notary makes from a JSON object.

        Raises:
            InvalidArgument: names the member that is missing, unknown or of another form; `path` stands before it.
        """
        members = Members(value, path)
        media_type = members.string("mediaType")
        if media_type != MEDIA_TYPE:
            members.refuse("mediaType", f"must be {MEDIA_TYPE}")
        material = members.object("verificationMaterial")
        hint, entry, timestamps = _material(material)
        envelope = Envelope.from_object(members.take("dsseEnvelope"), path=members.path("dsseEnvelope"))
        members.end()
        return cls(hint, envelope, entry, timestamps)


def bundle_json(
    *,
    hint: str,
    payload: bytes,
    signature: bytes,
    entry: LogEntry | None = None,
    timestamps: Sequence[bytes] = (),
    payload_type: str = IN_TOTO_PAYLOAD_TYPE,
) -> bytes:
    """A bundle as JSON, from the plain values of one signature.

    Args:
        hint: base64 of the SHA-256 of the key's SubjectPublicKeyInfo; `hashedrekord.key_hint` makes it.
        payload: what was signed: the statement.
        signature: ECDSA, DER.
        entry: where it is in the log, if it is.
        timestamps: RFC 3161 TimeStampResp over the signature, DER.
    """
    envelope: dict[str, object] = {
        "payload": b64(payload),
        "payloadType": payload_type,
        "signatures": [{"sig": b64(signature)}],
    }
    return _json(hint, envelope, entry, timestamps)


def _json(hint: str, envelope: dict[str, object], entry: LogEntry | None, timestamps: Sequence[bytes]) -> bytes:
    return orjson.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": hint},
                "tlogEntries": [] if entry is None else [entry_object(entry)],
                "timestampVerificationData": {
                    "rfc3161Timestamps": [{"signedTimestamp": b64(each)} for each in timestamps]
                },
            },
            "dsseEnvelope": envelope,
        }
    )


def entry_object(entry: LogEntry) -> dict[str, object]:
    """A `dev.sigstore.rekor.v1.TransparencyLogEntry` as protobuf's JSON has it."""
    # A reader must find each of these: sigstore-go and sigstore-js want `hashes` also where it is empty.
    return {
        "logIndex": str(entry.log_index),
        "logId": {"keyId": b64(entry.log_id)},
        "kindVersion": {"kind": entry.kind, "version": entry.version},
        "integratedTime": str(entry.integrated_time),
        **({"inclusionPromise": {"signedEntryTimestamp": b64(entry.promise)}} if entry.promise else {}),
        "inclusionProof": {
            "logIndex": str(entry.place),
            "rootHash": b64(entry.root_hash),
            "treeSize": str(entry.tree_size),
            "hashes": [b64(each) for each in entry.hashes],
            "checkpoint": {"envelope": entry.checkpoint},
        },
        "canonicalizedBody": b64(entry.body),
    }


def _material(members: Members) -> tuple[str, LogEntry | None, tuple[bytes, ...]]:
    for other in ("certificate", "x509CertificateChain"):
        if members.has(other):
            members.refuse(other, "is not the kind of bundle a notary makes: keys stand in the trust root, not in it")
    key = members.object("publicKey")
    hint = key.string("hint")
    key.end()
    entries = members.objects("tlogEntries")
    if len(entries) > 1:
        members.refuse("tlogEntries", f"must have one entry at most, not {len(entries)}")
    entry = _entry(entries[0]) if entries else None
    timestamps: tuple[bytes, ...] = ()
    if members.has("timestampVerificationData"):
        data = members.object("timestampVerificationData")
        timestamps = tuple(map(_timestamp, data.objects("rfc3161Timestamps"))) if data.has("rfc3161Timestamps") else ()
        data.end()
    members.end()
    return hint, entry, timestamps


def _timestamp(members: Members) -> bytes:
    data = members.base64("signedTimestamp")
    members.end()
    return data


def _entry(members: Members) -> LogEntry:
    log_id, kind, proof = members.object("logId"), members.object("kindVersion"), members.object("inclusionProof")
    checkpoint = proof.object("checkpoint")
    entry = LogEntry(
        log_index=members.decimal("logIndex"),
        log_id=log_id.base64("keyId", size=32),
        body=members.base64("canonicalizedBody"),
        tree_size=proof.decimal("treeSize"),
        root_hash=proof.base64("rootHash", size=HASH_SIZE),
        hashes=proof.base64_items("hashes", size=HASH_SIZE),
        checkpoint=checkpoint.string("envelope"),
        proof_index=proof.decimal("logIndex"),
        kind=kind.string("kind"),
        version=kind.string("version"),
        integrated_time=members.decimal("integratedTime"),
        promise=_promise(members),
    )
    if entry.promise and not entry.is_rekor1:
        members.refuse("inclusionPromise", "is of Rekor v1; an entry of Rekor v2 has a proof only")
    for each in (members, log_id, kind, proof, checkpoint):
        each.end()
    return entry


def _promise(members: Members) -> bytes:
    if not members.has("inclusionPromise"):
        members.skip_null("inclusionPromise")
        return b""
    promise = members.object("inclusionPromise")
    signed = promise.base64("signedEntryTimestamp")
    promise.end()
    return signed
