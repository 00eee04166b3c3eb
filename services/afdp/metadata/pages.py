"""Page tokens: where a list goes on, bound to the query that it belongs to.

A token is opaque to callers: base64url of a version, the position, a total and a checksum over all of it and the query.
It grants nothing, because each query is confined to its tenant whatever the token says; the checksum tells a mistake.
"""

from __future__ import annotations

import struct
from base64 import b64decode, urlsafe_b64encode
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from afdp.errors import InvalidArgument
from afdp.metadata.values import Position, Search, WorkflowQuery

MAX_TOKEN_LENGTH = 128  # characters

_VERSION = 1
_BODY = struct.Struct(">Bq16sQ")  # version, microseconds since 1970, ID, total
_CHECK_SIZE = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where the next page begins; `total` is how many match in all, where the list says so."""

    position: Position
    total: int = 0


def encode(token: PageToken, query: Search | WorkflowQuery) -> str:
    """The token in its opaque form, good for this query only."""
    micros = (token.position.time - _EPOCH) // timedelta(microseconds=1)
    body = _BODY.pack(_VERSION, micros, token.position.id.bytes, token.total)
    return _text(body + _check(body, query))


def decode(text: str, query: Search | WorkflowQuery) -> PageToken | None:
    """The token that `encode` made for the same query; None for the empty text of the first page.

    Raises:
        InvalidArgument: naming `page_token`: it is damaged, or belongs to another query.
    """
    if not text:
        return None
    try:
        data = b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True) if len(text) <= MAX_TOKEN_LENGTH else b""
    except ValueError:  # binascii.Error is one
        data = b""
    body, check = data[: _BODY.size], data[_BODY.size :]
    if len(body) != _BODY.size or check != _check(body, query) or text != _text(data):
        raise _not_ours()
    _, micros, id_bytes, total = _BODY.unpack(body)
    try:
        time = _EPOCH + timedelta(microseconds=micros)
    except OverflowError:  # the checksum is no secret
        raise _not_ours() from None
    return PageToken(Position(time, UUID(bytes=id_bytes)), total)


def _not_ours() -> InvalidArgument:
    return InvalidArgument.field(
        "page_token", "is not one that this list gave for these filters: begin with the first page"
    )


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _check(body: bytes, query: Search | WorkflowQuery) -> bytes:
    filters = repr((type(query).__name__, *map(_plain, astuple(query))))
    return sha256(b"afdp page token\0" + body + filters.encode()).digest()[:_CHECK_SIZE]


def _plain(value: object) -> object:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
