"""What a Rekor v1 keeps of a DSSE envelope (its type `dsse` 0.0.1), and what it promises about it.

An entry is canonical JSON (RFC 8785) with the hashes of envelope and payload, and each signature with its key. The
promise is the log's ECDSA signature over the entry, its time and its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from afdp.errors import InvalidArgument
from afdp.formats.canonical import canonical_json, strict_json
from afdp.formats.encoding import b64
from afdp.formats.members import Members
from afdp.formats.note import Checkpoint, Note, NoteError, VerifierKey, verify
from afdp.formats.spki import from_pem

KIND, API_VERSION = "dsse", "0.0.1"

_TREE = re.compile(r" - [0-9]+")


@dataclass(frozen=True, slots=True)
class DsseEntry:
    """An entry, read.

    Attributes:
        payload_hash: SHA-256 of the payload.
        signature: DER.
        spki: of the key that it names, DER.
    """

    payload_hash: bytes
    signature: bytes
    spki: bytes

    @classmethod
    def parse(cls, body: bytes) -> DsseEntry:
        """Reads an entry with one signature.

        Raises:
            InvalidArgument: it is not exactly one; the member is named.
        """
        members = Members(strict_json(body))
        members.one_of("kind", (KIND,))
        members.one_of("apiVersion", (API_VERSION,))
        spec = members.object("spec")
        signatures = spec.objects("signatures")
        if len(signatures) != 1:
            spec.refuse("signatures", f"must be one, not {len(signatures)}")
        signature = signatures[0]
        _hash(spec, "envelopeHash")
        entry = cls(_hash(spec, "payloadHash"), signature.base64("signature"), _key(signature))
        for each in (signature, spec, members):
            each.end()
        return entry


def promised(body: bytes, integrated_time: int, log_id: bytes, log_index: int) -> bytes:
    """What the log signs to promise that an entry is or will be in it (the signed entry timestamp)."""
    said = {"body": b64(body), "integratedTime": integrated_time, "logID": log_id.hex(), "logIndex": log_index}
    return canonical_json(said)


def signed_tree(note: str, vkey: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that the log's key has signed.

    Its origin is the name of the key and, where the log has several trees, ` - ` and the tree's number. Lines after the
    third are allowed, as older releases wrote the time there.

    Raises:
        NoteError: it is not one, or not signed by this key.
    """
    parsed = Note.parse(note)
    verify(parsed, [vkey])
    lines = parsed.text.split("\n")
    checkpoint = Checkpoint.parse("\n".join([*lines[:3], ""]))
    tree = checkpoint.origin.removeprefix(vkey.name)
    if tree == checkpoint.origin or (tree and not _TREE.fullmatch(tree)):
        raise NoteError(f"the checkpoint is of {checkpoint.origin}, not of a tree of {vkey.name}")
    return checkpoint


def envelope_json(payload: bytes, payload_type: str, signature: bytes) -> bytes:
    """The envelope as it is handed to a Rekor v1."""
    signed = {"payload": b64(payload), "payloadType": payload_type, "signatures": [{"sig": b64(signature)}]}
    return canonical_json(signed)


def names_payload(entry: DsseEntry, payload: bytes) -> bool:
    """Whether an entry is of this payload."""
    return entry.payload_hash == sha256(payload).digest()


def _hash(spec: Members, name: str) -> bytes:
    member = spec.object(name)
    member.one_of("algorithm", ("sha256",))
    value = bytes.fromhex(member.sha256_hex("value"))
    member.end()
    return value


def _key(signature: Members) -> bytes:
    pem = signature.base64("verifier")
    try:
        return from_pem(pem.decode("ascii", "replace"))
    except ValueError as error:
        raise InvalidArgument.field(signature.path("verifier"), str(error)) from error
