"""Fresh timestamps are read by the form of one that was read whole, with the same result as if each was read whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.rfc3161 import Imprint, Info, Token
from afdp.notary import fresh_stamps
from afdp.notary.fresh_stamps import FreshStamps
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import Stamp, UnknownAuthorityError, read_stamp
from tests.local_authority import POLICY, LocalAuthority

STAMPED_AT = datetime(2026, 11, 4, 5, 6, 7, 890_000, UTC)
AUTHORITY = LocalAuthority()
KNOWN = (AUTHORITY.trusted,)
PREFIX = 0x4D << 120


def stamped(data: bytes, serial: int, length: int = 0, time: datetime = STAMPED_AT) -> bytes:
    """A response over data, of this length where one is given: signatures differ in theirs."""
    info = Info(POLICY, Imprint(sha256(data).digest()), PREFIX + serial, time, timedelta(seconds=1))
    while True:
        response = AUTHORITY.respond(info)
        if len(response) == length or not length:
            return response


def outcome(read: object, response: bytes, data: bytes) -> object:
    """What reading gives: the stamp, or the kind of refusal."""
    try:
        found = read(response, data, KNOWN)  # type: ignore[operator]
    except (NotVerifiedError, ValueError) as error:
        return type(error)
    return found[1] if isinstance(found, tuple) else found


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The responses that were read whole."""
    seen: list[bytes] = []

    def counted(response: bytes, data: bytes, authorities: Sequence[TimestampAuthority]) -> tuple[Token, Stamp]:
        seen.append(response)
        return read_stamp(response, data, authorities)

    monkeypatch.setattr(fresh_stamps, "read_stamp", counted)
    return seen


def test_of_the_responses_of_one_moment_and_length_one_is_read_whole(read_whole: list[bytes]) -> None:
    stamps, first = FreshStamps(), stamped(b"0", 0)
    responses = [first, *(stamped(str(n).encode(), n, len(first)) for n in range(1, 9))]

    found = [stamps.read(response, str(n).encode(), KNOWN) for n, response in enumerate(responses)]

    assert found == [read_stamp(first, b"0", KNOWN)[1]] * 9
    assert read_whole == [first]


def test_another_moment_is_read_whole(read_whole: list[bytes]) -> None:
    stamps, first = FreshStamps(), stamped(b"0", 0)
    later = stamped(b"1", 1, len(first), STAMPED_AT + timedelta(milliseconds=1))

    assert stamps.read(first, b"0", KNOWN).time == STAMPED_AT
    assert stamps.read(later, b"1", KNOWN).time == STAMPED_AT + timedelta(milliseconds=1)
    assert read_whole == [first, later]


def test_a_changed_bit_anywhere_is_judged_as_by_reading_the_whole() -> None:
    first = stamped(b"first", 0)
    stamps, response = FreshStamps(), stamped(b"second", 1, len(first))

    for at in range(len(response)):
        for bit in (0x01, 0x80):
            stamps.read(first, b"first", KNOWN)  # what is in memory is the form of this one
            changed = response[:at] + bytes((response[at] ^ bit,)) + response[at + 1 :]
            assert outcome(stamps.read, changed, b"second") == outcome(read_stamp, changed, b"second"), at


def test_a_form_counts_only_for_the_authorities_it_was_read_with() -> None:
    first = stamped(b"0", 0)
    stamps, second = FreshStamps(), stamped(b"1", 1, len(first))
    stamps.read(first, b"0", KNOWN)

    with pytest.raises(UnknownAuthorityError):
        stamps.read(second, b"1", (LocalAuthority().trusted,))


def test_a_response_of_the_moment_before_is_still_read_by_its_form(read_whole: list[bytes]) -> None:
    stamps, first = FreshStamps(), stamped(b"0", 0)
    later = stamped(b"1", 1, len(first), STAMPED_AT + timedelta(milliseconds=1))

    times = [
        stamps.read(response, data, KNOWN).time for response, data in [(first, b"0"), (later, b"1"), (first, b"0")]
    ]

    assert times == [STAMPED_AT, STAMPED_AT + timedelta(milliseconds=1), STAMPED_AT]
    assert read_whole == [first, later]
