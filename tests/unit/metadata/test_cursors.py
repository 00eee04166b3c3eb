"""A cursor is opaque, but its checksum is no secret: whatever it holds is a cursor of ours or refused by name."""

from __future__ import annotations

import pytest

from afdp.errors import InvalidArgument
from afdp.metadata import cursors
from afdp.metadata.cursors import WHOLE, Cursor


def forged(xid: int, seq: int, micros: int) -> str:
    body = cursors._BODY.pack(1, b"\0" * 8, xid, seq, WHOLE, micros)
    return cursors._text(body + cursors._check(body))


def test_what_was_given_is_read_again() -> None:
    cursor = Cursor.parse(forged(7, 2**63 - 1, 1_000_000))

    assert (cursor.xid, cursor.seq, cursor.time.timestamp()) == (7, 2**63 - 1, 1.0)
    assert Cursor.parse(cursor.text()) == cursor


@pytest.mark.parametrize(
    ("xid", "seq", "micros"),
    [(2**63, 0, 0), (0, 2**63, 0), (0, 0, 2**63 - 1), (0, 0, 2**62), (0, 0, -1), (0, 0, -(2**63))],
)
def test_places_and_times_that_no_database_has_are_refused(xid: int, seq: int, micros: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Cursor.parse(forged(xid, seq, micros))

    assert refused.value.fields[0].field == "cursor"
