"""An answer's head and body leave in one write, and neither is ever lost for it."""

from __future__ import annotations

import asyncio

import pytest

from afdp.bounded_http import _InOnePiece

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Wire(asyncio.Transport):
    """Remembers what is written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_a_head_and_its_body_are_one_write(wire: Wire) -> None:
    answer = _InOnePiece(wire, wire.close)
    answer.write(HEAD)
    assert not wire.writes
    answer.write(BODY)
    answer.write(BODY)

    assert wire.writes == [HEAD + BODY, BODY]


def test_a_large_body_is_not_copied(wire: Wire) -> None:
    answer, large = _InOnePiece(wire, wire.close), bytes(1_000_000)
    answer.write(HEAD)
    answer.write(large)

    assert wire.writes == [HEAD, large]
    assert wire.writes[1] is large


def test_a_head_that_nothing_follows_is_sent_before_the_end(wire: Wire) -> None:
    answer = _InOnePiece(wire, wire.close)
    answer.write(HEAD)
    answer.close()

    assert wire.writes == [HEAD]
    assert answer.is_closing()


def test_who_waits_for_leave_to_send_a_body_gets_it_at_once(wire: Wire) -> None:
    answer = _InOnePiece(wire, wire.close)
    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(wire.writes) == 1
    answer.write(HEAD)
    answer.write(BODY)

    assert wire.writes[1:] == [HEAD + BODY]
