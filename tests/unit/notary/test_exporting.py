"""An export goes on for as long as its caller's credential does, at no less than a pace, from what it may see."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from afdp.errors import InvalidArgument, NotFound, ResourceExhausted, Unauthenticated
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.messages.notary import ExportFormat
from afdp.notary.access.given import Listed
from afdp.notary.exporting import Exports, Lines
from afdp.notary.model import Principal

SEEN, HIDDEN, THERE_IS_NONE = (f"0199d3a0-0000-7000-8000-{number:012x}" for number in range(3))


class Records:
    """One page of three records."""

    async def read_records(
        self, request: store.ReadRecordsRequest, *, timeout: float | None = None
    ) -> store.ReadRecordsResponse:
        return store.ReadRecordsResponse([store.Record(store.Draft(receipt_id=f"r{number}")) for number in range(3)])

    async def get_record(self, request: store.GetRecordRequest, *, timeout: float) -> store.GetRecordResponse:
        if request.receipt_id == THERE_IS_NONE:
            raise NotFound("no record has this receipt ID")
        return store.GetRecordResponse(store.Record(store.Draft(receipt_id=request.receipt_id)))


class LargeLines:
    """Each fills a chunk."""

    head = b""

    async def line(self, record: store.Record) -> bytes:
        return b"x" * 64 * 1024


class Rules:
    """Lets everybody see everything until the credential has ended."""

    asks_for_labels = False

    def __init__(self) -> None:
        self.ended = False

    def about(self, *_: object) -> None:
        pass

    def may_list(self, _: Principal, many: Sequence[Listed]) -> list[bool]:
        return [each.receipt_id != HIDDEN for each in many]

    def gave(self, *_: object) -> None:
        pass

    def require_unexpired(self, *_: object) -> None:
        if self.ended:
            raise Unauthenticated("the credentials are missing or not valid")


async def test_who_takes_long_over_a_page_is_let_go_with_the_credential() -> None:
    metadata: Any = Records()
    rules: Any = Rules()
    forms: Any = {ExportFormat.NDJSON: LargeLines()}
    caller = Principal("acme", Submitter("", "alice", "none"))
    lines = Exports(metadata, rules, forms, 8).lines(caller, store.SearchRecordsRequest(), ExportFormat.NDJSON, "")

    assert [(await anext(lines)).last_receipt_id for _ in range(2)] == ["", "r0"]
    rules.ended = True

    with pytest.raises(Unauthenticated):
        await anext(lines)


def exports(clock: Callable[[], float] = lambda: 0.0) -> Exports:
    metadata: Any = Records()
    rules: Any = Rules()
    forms: Any = {ExportFormat.NDJSON: LargeLines()}
    return Exports(metadata, rules, forms, 8, clock)


def lines_of(some: Exports, after: str = "") -> AsyncGenerator[Lines, None]:
    caller = Principal("acme", Submitter("", "alice", "none"))
    return some.lines(caller, store.SearchRecordsRequest(), ExportFormat.NDJSON, after)


@pytest.mark.parametrize(("pause", "is_let_go"), [(7.0, False), (29.0, True)])
async def test_who_reads_at_a_trickle_is_let_go_and_told_to_come_back(pause: float, is_let_go: bool) -> None:
    """64 KiB each 7 seconds is slow; each 29 seconds, it is nobody who wants it."""
    now = 0.0
    some = exports(lambda: now)
    taken = []

    async def read() -> None:
        nonlocal now
        async for each in lines_of(some):
            taken.append(each.last_receipt_id)
            now += pause

    if not is_let_go:
        await read()
        assert taken == ["", "r0", "r1", "r2"]
        return
    with pytest.raises(ResourceExhausted, match="go on after"):
        await read()
    assert taken == ["", "r0", "r1"]
    others = [lines_of(some) for _ in range(4)]  # as many as one tenant may have
    assert [(await anext(each)).last_receipt_id for each in others] == [""] * 4, "its place is another's"


async def test_nobody_goes_on_after_a_receipt_that_is_hidden_and_learns_no_more_than_of_one_that_there_is_not() -> None:
    refused = []
    for after in (HIDDEN, THERE_IS_NONE):
        with pytest.raises(InvalidArgument) as error:
            await anext(lines_of(exports(), after))
        refused.append([(each.field, each.message) for each in error.value.fields])

    assert refused[0] == refused[1] == [("after", "is not the ID of a receipt")]
    assert (await anext(lines_of(exports(), SEEN))).data == b""
