"""Sealing: AES-256-GCM over what a record says, bound to the record, the column and the tenant.

What is sealed is a fresh nonce of 12 bytes, the ciphertext and the tag of 16 bytes. A nonce is random: a data key seals
no more than `MAX_USES` records, far from where two could be the same (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from afdp.errors import DataLoss

NONCE_BYTES = 12
OVERHEAD = NONCE_BYTES + 16
MAX_USES = 2**20  # records; each takes three nonces, of 2**32 that a key may have

_LENGTHS = struct.Struct(">HHH")
_HASH = 32


class Column(Enum):
    """What is sealed of a record, one by one: what is not asked for is not opened."""

    HEAD = b"head"
    EVIDENCE = b"evidence"
    STATEMENT = b"statement"
    HOLD = b"hold"  # what a legal hold asks for, by its own ID


@dataclass(frozen=True, slots=True)
class Head:
    """What a record has in the place of blind indexes. Hashes are 32 bytes."""

    evidence_hash: bytes
    artifact_hashes: tuple[bytes, ...]
    actor_id: str
    issuer: str
    subject: str

    def to_bytes(self) -> bytes:
        """Three lengths, three texts, and the hashes."""
        texts = self.actor_id.encode(), self.issuer.encode(), self.subject.encode()
        return b"".join((_LENGTHS.pack(*map(len, texts)), *texts, self.evidence_hash, *self.artifact_hashes))

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """What `to_bytes` gave."""
        actor, issuer, subject = _LENGTHS.unpack_from(data)
        at = _LENGTHS.size
        texts = []
        for size in (actor, issuer, subject):
            texts.append(data[at : at + size].decode())
            at += size
        hashes = tuple(data[start : start + _HASH] for start in range(at, len(data), _HASH))
        return cls(hashes[0], hashes[1:], *texts)


def seal(cipher: AESGCM, nonce: bytes, plain: bytes, receipt_id: UUID, tenant: bytes, column: Column) -> bytes:
    """The sealed bytes, `OVERHEAD` more than the plain ones. `nonce` must never have been used with this key."""
    return nonce + cipher.encrypt(nonce, plain, _about(receipt_id, tenant, column))


def unseal(cipher: AESGCM, sealed: bytes, receipt_id: UUID, tenant: bytes, column: Column) -> bytes:
    """What was sealed.

    Raises:
        DataLoss: it was altered, or is of another record, column or tenant.
    """
    try:
        if len(sealed) < OVERHEAD:
            raise InvalidTag
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _about(receipt_id, tenant, column))
    except InvalidTag:
        raise DataLoss(
            f"the {column.value.decode()} of {receipt_id} does not open: it was altered, or is another's"
        ) from None


def _about(receipt_id: UUID, tenant: bytes, column: Column) -> bytes:
    return column.value + b"\0" + receipt_id.bytes + tenant
