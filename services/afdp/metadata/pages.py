"""Page tokens: where a list goes on, sealed for the query that it belongs to.

A token is the position of the last record that was looked at, which its holder may not be allowed to see. So it is
sealed: AES-256-GCM under a key of the query's own, which is derived (HMAC-SHA-256) from the deployment's and the tenant
and filters. Nobody else can make one, or read it, and for another list or tenant it is none.
"""

from __future__ import annotations

import os
import struct
from base64 import b64decode, urlsafe_b64encode
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from hmac import digest
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from afdp.errors import InvalidArgument
from afdp.metadata.values import Position, Search, WorkflowQuery

MAX_TOKEN_LENGTH = 128  # characters

_VERSION = b"\2"
_BODY = struct.Struct(">q16sQ")  # microseconds since 1970, ID, total
_NONCE, _TAG = 12, 16  # bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where the next page begins; `total` is how many match in all, where the list says so."""

    position: Position
    total: int = 0


def encode(token: PageToken, query: Search | WorkflowQuery, key: bytes) -> str:
    """The token in its opaque form, good for this query only; `key` has 32 bytes."""
    micros = (token.position.time - _EPOCH) // timedelta(microseconds=1)
    nonce = os.urandom(_NONCE)
    body = _BODY.pack(micros, token.position.id.bytes, token.total)
    return _text(_VERSION + nonce + AESGCM(_key_of(query, key)).encrypt(nonce, body, _VERSION))


def decode(text: str, query: Search | WorkflowQuery, key: bytes) -> PageToken | None:
    """The token that `encode` made for the same query; None for the empty text of the first page.

    Raises:
        InvalidArgument: naming `page_token`: it is forged or damaged, or belongs to another query.
    """
    if not text:
        return None
    try:
        data = b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True) if len(text) <= MAX_TOKEN_LENGTH else b""
    except ValueError:  # binascii.Error is one
        data = b""
    if len(data) != 1 + _NONCE + _BODY.size + _TAG or data[:1] != _VERSION or text != _text(data):
        raise _not_ours()
    try:
        body = AESGCM(_key_of(query, key)).decrypt(data[1 : 1 + _NONCE], data[1 + _NONCE :], _VERSION)
    except InvalidTag:
        raise _not_ours() from None
    micros, id_bytes, total = _BODY.unpack(body)
    return PageToken(Position(_EPOCH + timedelta(microseconds=micros), UUID(bytes=id_bytes)), total)


def _not_ours() -> InvalidArgument:
    return InvalidArgument.field(
        "page_token", "is not one that this list gave for these filters: begin with the first page"
    )


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _key_of(query: Search | WorkflowQuery, key: bytes) -> bytes:
    filters = repr((type(query).__name__, *map(_plain, astuple(query))))
    return digest(key, b"afdp page token\0" + filters.encode(), "sha256")


def _plain(value: object) -> object:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
