"""Cursors: how far somebody has read in the changes of records.

A cursor is opaque to callers: base64url of a version, the line of the database's history, the position, the time and a
checksum. It grants nothing, because each read is confined to its tenant whatever the cursor says; the checksum tells a
mistake.
"""

from __future__ import annotations

import struct
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from afdp.errors import InvalidArgument

WHOLE = 2**31 - 1
"""How much of a row was read, where that is all of it."""

MAX_LENGTH = 128  # characters

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No change is older."""

_VERSION = 1
_BODY = struct.Struct(">B8sQQIq")
_CHECK_SIZE = 6
_LARGEST = 2**63 - 1
_LATEST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two changes.

    Attributes:
        history: 8 bytes that are others once the database goes on from another copy of itself, whose transactions may
            have the numbers of lost ones.
        xid, seq: of the row that was read last.
        read: how many of its records were; `WHOLE`: all.
        time: when the row was written, by the database's clock.
    """

    history: bytes
    xid: int
    seq: int
    read: int
    time: datetime

    def text(self) -> str:
        """Its opaque form."""
        micros = (self.time - EPOCH) // timedelta(microseconds=1)
        body = _BODY.pack(_VERSION, self.history, self.xid, self.seq, self.read, micros)
        return _text(body + _check(body))

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that `text` gave.

        Raises:
            InvalidArgument: naming `cursor`: it is damaged.
        """
        try:
            data = b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True) if len(text) <= MAX_LENGTH else b""
        except ValueError:  # binascii.Error is one
            data = b""
        body, check = data[: _BODY.size], data[_BODY.size :]
        if len(body) != _BODY.size or check != _check(body) or text != _text(data) or body[0] != _VERSION:
            raise not_ours()
        _, history, xid, seq, read, micros = _BODY.unpack(body)
        if max(xid, seq) > _LARGEST or not 0 <= micros <= _LATEST:  # the checksum is no secret
            raise not_ours()
        return cls(history, xid, seq, read, EPOCH + timedelta(microseconds=micros))


def not_ours() -> InvalidArgument:
    """The refusal of a cursor that was never given."""
    return InvalidArgument.field("cursor", "is not one that this service gave: leave it out to begin from now on")


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _check(body: bytes) -> bytes:
    return sha256(b"afdp change cursor\0" + body).digest()[:_CHECK_SIZE]
