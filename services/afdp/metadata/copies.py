"""Copies of records for a store that nobody need trust, sealed so that a false one does not open.

Each record has a key of its own, which is HMAC-SHA-256 over its tenant and receipt ID under a secret (a KDF of SP
800-108): a copy of another record, of another tenant or of another release's records opens as little as one that was
altered. When it ends stands inside, so that an old one that is put back ends as well. A nonce is random, and a key
seals one record: there are never so many that two could be the same.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from typing import Any, get_args, get_type_hints
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from afdp.metadata.values import Record

_NONCE_BYTES = 12
_TAG_BYTES = 16
_ENDS = struct.Struct(">Q")
OVERHEAD = _NONCE_BYTES + _ENDS.size + _TAG_BYTES

_to_bytes = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_to_record = msgspec.msgpack.Decoder(Record).decode


class FalseCopy(Exception):
    """It is no copy of this record that was ever sealed here, or was altered."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a copy is found by: nothing in it says whose record it is to who has not the secret."""

    tenant: str
    receipt_id: UUID
    text: str


class Copies:
    """Seals and opens copies."""

    def __init__(self, secret: str) -> None:
        """Whoever shares the secret, and has records of the same shape, can open each other's copies."""
        root = hmac.digest(secret.encode(), b"afdp copies of records\0" + _shape(Record), "sha256")
        self._sealing = hmac.digest(root, b"sealing", "sha256")
        self._naming = hmac.digest(root, b"naming", "sha256")
        # Those under another secret, or of another shape, are not found, rather than found to be false.
        self._prefix = f"afdp:record:{hmac.digest(root, b'name', 'sha256')[:8].hex()}"

    def name(self, tenant: str, receipt_id: UUID) -> Name:
        """Where the copy of a record is."""
        whose = hmac.digest(self._naming, tenant.encode(), "sha256")[:16].hex()
        return Name(tenant, receipt_id, f"{self._prefix}:{whose}:{receipt_id}")

    def seal(self, name: Name, record: Record, ends: int) -> bytes:
        """A copy of the record of this name that holds until `ends`, in Unix seconds."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(name).encrypt(nonce, _ENDS.pack(ends) + _to_bytes(record), None)

    def open(self, name: Name, copy: bytes, now: float) -> Record | None:
        """The record; None where the copy has ended.

        Raises:
            FalseCopy: it does not open.
        """
        try:
            if len(copy) < OVERHEAD:
                raise InvalidTag
            plain = self._cipher(name).decrypt(copy[:_NONCE_BYTES], copy[_NONCE_BYTES:], None)
        except InvalidTag:
            raise FalseCopy from None
        (ends,) = _ENDS.unpack_from(plain)
        return _to_record(memoryview(plain)[_ENDS.size :]) if now < ends else None

    def _cipher(self, name: Name) -> AESGCM:
        return AESGCM(hmac.digest(self._sealing, name.receipt_id.bytes + name.tenant.encode(), "sha256"))


def _shape(kind: Any) -> bytes:
    """SHA-256 of what a dataclass is made of: of which fields, in which order, and what those are made of."""
    told = kind.__qualname__.encode()
    hints = get_type_hints(kind)
    for field in fields(kind):
        told += f"\0{field.name}\0{field.type}".encode()
        told += b"".join(_shape(each) for each in _parts(hints[field.name]) if is_dataclass(each))
    return sha256(told).digest()


def _parts(hint: Any) -> list[Any]:
    return [hint, *(part for each in get_args(hint) for part in _parts(each))]
