"""Exports as a client receives them: whole lines however they are cut, and on behind the last one where they break."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdp.client import NotaryClient, Retry
from afdp.client.calls import Call, Form
from afdp.client.errors import UnexpectedAnswer, Unreachable
from afdp.client.exports import Received
from afdp.errors import InvalidArgument, NotaryError
from afdp.formats.csv_lines import csv_line

HEAD = csv_line(("receipt_id", "actor_id"))
CSV = [csv_line((f"r-{at}", f'a "\r\n{at}\n"')) for at in range(5)]
NDJSON = [
    json.dumps({"receipt_id": f"r-{at}", "said": "\u2028\r"}, ensure_ascii=False).encode() + b"\n" for at in range(5)
]


class Broken:
    """A transport that breaks off after so many bytes each time, in the midst of whatever line."""

    def __init__(self, most: list[int], error: type[NotaryError] = Unreachable) -> None:
        self._most, self._error = most, error
        self.asked: list[str] = []

    def perform(self, call: Call[Any]) -> Any:
        raise AssertionError("an export is a stream")

    def stream(self, call: Call[bytes]) -> Generator[bytes, None, None]:
        after = str(call.fields.get("after", ""))
        self.asked.append(after)
        form, begin = call.fields["format"], int(after[2:]) + 1 if after else 0
        lines = NDJSON[begin:] if form == "ndjson" else [*([] if after else [HEAD]), *CSV[begin:]]
        whole, most = b"".join(lines), self._most.pop(0) if self._most else None
        yield whole[:most]
        if most is not None:
            raise self._error("the connection broke", retry_after=0.001)

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(("form", "lines"), [("ndjson", NDJSON), ("csv", [HEAD, *CSV])])
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=50))
def test_lines_come_whole_however_chunks_are_cut(form: Form, lines: list[bytes], sizes: list[int]) -> None:
    received, data, found = Received(form), b"".join(lines), []
    while data:
        size = sizes[len(data) % len(sizes)]
        found += received.feed(data[:size])
        data = data[size:]
    received.end()

    assert found == lines
    assert received.after == "r-4"


@pytest.mark.parametrize(("form", "lines"), [("ndjson", NDJSON), ("csv", [HEAD, *CSV])])
@given(most=st.lists(st.integers(0, 90), max_size=3))
def test_an_export_that_breaks_gives_every_line_once_and_in_order(
    form: Form, lines: list[bytes], most: list[int]
) -> None:
    transport = Broken(list(most))
    client = NotaryClient(transport=transport, retry=Retry(attempts=4, first_delay=0.0))  # type: ignore[arg-type]  # as a transport

    assert list(client.export_evidence(form)) == lines
    assert len(transport.asked) == len(most) + 1


def test_an_export_that_makes_no_way_or_is_refused_ends_with_the_error() -> None:
    client = NotaryClient(transport=Broken([3] * 9), retry=Retry(attempts=3, first_delay=0.0))  # type: ignore[arg-type]  # as a transport
    with pytest.raises(Unreachable):
        list(client.export_evidence())
    refused = Broken([3] * 9, InvalidArgument)
    with pytest.raises(InvalidArgument):
        list(NotaryClient(transport=refused).export_evidence())  # type: ignore[arg-type]  # as a transport
    assert refused.asked == [""]


def test_an_end_in_the_midst_of_a_line_is_not_taken_for_the_end() -> None:
    received = Received("ndjson")
    assert list(received.feed(NDJSON[0] + NDJSON[1][:5])) == [NDJSON[0]]
    with pytest.raises(UnexpectedAnswer):
        received.end()
