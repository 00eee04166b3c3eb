"""Who watches: until when, of what, and beside how many others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from afdp.errors import DataLoss, NotaryError, Unauthenticated, Unavailable
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.messages.notary import NotarizationReceipt
from afdp.notary.access.given import Given, Listed
from afdp.notary.feed import Feed
from afdp.notary.model import Attributes, Principal
from afdp.notary.watching import Event, Watching


class Records:
    """The metadata service: changes by number, which are their cursors; `away` is what it answers instead."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []  # tenant, receipt ID, event type
        self.asked: list[str] = []
        self.failed = asyncio.Semaphore(0)
        self.away: NotaryError | None = None
        self.size = 0  # bytes of evidence

    async def get_news(self, request: store.GetNewsRequest, *, timeout: float | None = None) -> store.GetNewsResponse:
        self._answer("news")
        after = int(request.cursor or len(self.changes))
        return store.GetNewsResponse(sorted({tenant for tenant, _, _ in self.changes[after:]}), str(len(self.changes)))

    async def list_changes(
        self, request: store.ListChangesRequest, *, timeout: float | None = None
    ) -> store.ListChangesResponse:
        self._answer("changes")
        after = int(request.cursor)
        found = [
            store.RecordChange(receipt_id, str(number))
            for number, (tenant, receipt_id, _) in enumerate(self.changes[after:], after + 1)
            if tenant == request.tenant
        ]
        return store.ListChangesResponse(found, found[-1].cursor if found else request.cursor, False)

    async def get_records(
        self, request: store.GetRecordsRequest, *, timeout: float | None = None
    ) -> store.GetRecordsResponse:
        self._answer("records")
        types = {receipt_id: event_type for _, receipt_id, event_type in self.changes}
        return store.GetRecordsResponse(
            [
                store.Record(
                    store.Draft(
                        receipt_id=each, terms=store.SearchTerms(event_type=types[each]), evidence=b"x" * self.size
                    )
                )
                for each in request.receipt_ids
            ]
        )

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.away is not None:
            self.failed.release()
            raise self.away


class Office:
    """Makes receipts; none of those that are `broken`."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.broken: set[str] = set()

    async def later_receipt(self, record: store.Record) -> NotarizationReceipt:
        assert record.draft is not None
        self.made.append(record.draft.receipt_id)
        if record.draft.receipt_id in self.broken:
            raise DataLoss("it does not hold")
        return NotarizationReceipt(receipt_id=record.draft.receipt_id)


class Rules:
    """Nobody sees what is secret."""

    asks_for_labels = False

    def __init__(self) -> None:
        self.left_out = 0
        self.given: list[Given] = []

    def may_list(self, principal: Principal, many: Sequence[Listed]) -> list[bool]:
        seen = [each.event_type != "secret" for each in many]
        self.left_out += seen.count(False)
        return seen

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        self.given.append(given)

    def require_unexpired(self, principal: Principal, permission: str) -> None:
        ends = principal.attributes.expires_at
        if ends is not None and datetime.now(UTC) >= ends:
            raise Unauthenticated("the credentials are missing or not valid")


ALICE = Principal("acme", Submitter("", "alice", "none"))


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def rules() -> Rules:
    return Rules()


@pytest.fixture
async def feed(records: Records, office: Office) -> AsyncGenerator[Feed, None]:
    service: Any = records
    made = Feed(service, office, 0.001)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()


Watch = Callable[..., AsyncGenerator[Event, None]]


@pytest.fixture
def watch(feed: Feed, rules: Rules) -> Watch:
    """`watch(principal, cursor, heartbeat=…)`"""

    def begin(principal: Principal = ALICE, cursor: str = "", heartbeat: float = 60.0) -> AsyncGenerator[Event, None]:
        return Watching(feed, rules, heartbeat).watch(principal, cursor)

    return begin


async def receipts(events: AsyncGenerator[Event, None], count: int) -> list[str]:
    """The IDs of the next receipts."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            _, receipt_id, receipt = await anext(events)
            if receipt is not None:
                found.append(receipt_id)
    return found


async def to_the_end(events: AsyncGenerator[Event, None]) -> None:
    async for _ in events:
        pass


async def test_what_one_may_not_see_is_left_out_and_counted(records: Records, rules: Rules, watch: Watch) -> None:
    async with aclosing(watch()) as events:
        await anext(events)
        records.changes += [("acme", "1", "a"), ("acme", "2", "secret"), ("other", "3", "a"), ("acme", "4", "a")]
        assert await receipts(events, 2) == ["1", "4"]
    assert rules.left_out == 1
    assert [(each.count, each.first, each.last) for each in rules.given] == [(2, "1", "4")]


async def test_all_who_have_come_to_the_same_place_share_what_is_read(
    records: Records, office: Office, watch: Watch
) -> None:
    watchers = [watch() for _ in range(200)]
    for each in watchers:
        await anext(each)
    before = records.asked.count("changes")
    for number in range(3):
        records.changes.append(("acme", str(number), "a"))
        async with asyncio.timeout(30):
            assert await asyncio.gather(*(receipts(each, 1) for each in watchers)) == [[str(number)]] * 200
    assert office.made == ["0", "1", "2"]
    assert records.asked.count("changes") - before <= 6
    for each in watchers:
        await each.aclose()


async def test_a_receipt_that_is_withheld_is_said_to_be_and_holds_up_none_after_it(
    records: Records, office: Office, watch: Watch
) -> None:
    office.broken = {"1"}
    async with aclosing(watch()) as events:
        await anext(events)
        records.changes += [("acme", "1", "a"), ("acme", "2", "a")]
        _, first, error = await anext(events)
        assert (first, type(error)) == ("1", DataLoss)
        assert await receipts(events, 1) == ["2"]


async def test_who_watches_need_not_know_that_something_was_away(records: Records, watch: Watch) -> None:
    async with aclosing(watch()) as events:
        await anext(events)
        records.away = Unavailable("PostgreSQL cannot be reached")
        records.changes.append(("acme", "1", "a"))
        coming = asyncio.create_task(receipts(events, 1))
        async with asyncio.timeout(30):
            for _ in range(2):
                await records.failed.acquire()
        assert not coming.done()
        records.away = None
        assert await coming == ["1"]


async def test_at_the_start_one_is_told_that_nothing_can_be_read(records: Records, watch: Watch) -> None:
    records.away = Unavailable("PostgreSQL cannot be reached")
    with pytest.raises(Unavailable):
        await anext(watch())


async def test_where_nothing_happens_the_cursor_moves_on_past_what_is_others(records: Records, watch: Watch) -> None:
    async with aclosing(watch(heartbeat=0.01)) as events:
        await anext(events)
        records.changes += [("other", str(number), "a") for number in range(5)]
        async with asyncio.timeout(30):
            while (event := await anext(events))[0] != "5":
                assert event[1:] == ("", None)
    records.changes.append(("acme", "6", "a"))
    async with aclosing(watch(cursor="5")) as events:
        assert await receipts(events, 1) == ["6"]


async def test_a_stream_ends_with_the_credential(watch: Watch) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    caller = Principal("acme", ALICE.submitter, attributes=Attributes("token", expires_at=soon))
    async with asyncio.timeout(30):
        with pytest.raises(Unauthenticated):
            await to_the_end(watch(caller))


async def test_a_page_of_large_records_ends_early_and_the_next_goes_on(
    records: Records, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.notary.feed._PAGE_BYTES", 10_000)
    records.size = 1_000
    events = watch()
    await anext(events)
    records.changes += [("acme", f"r{number}", "a.b") for number in range(50)]

    assert await receipts(events, 50) == [f"r{number}" for number in range(50)]
    assert records.asked.count("changes") > 50 // 16


async def test_who_takes_long_over_a_page_is_let_go_with_the_credential(records: Records, watch: Watch) -> None:
    caller = Principal("acme", ALICE.submitter, attributes=Attributes("token", expires_at=None))
    events = watch(caller)
    await anext(events)
    records.changes += [("acme", f"r{number}", "a.b") for number in range(3)]
    assert await receipts(events, 1) == ["r0"]

    object.__setattr__(caller.attributes, "expires_at", datetime.now(UTC))

    async with asyncio.timeout(30):
        with pytest.raises(Unauthenticated):
            await anext(events)


async def test_a_notary_that_stops_sends_those_who_watch_elsewhere(feed: Feed, watch: Watch) -> None:
    events = watch()
    await anext(events)
    coming = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    feed.leave()
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="watch on from your last cursor"):
            await coming
        with pytest.raises(Unavailable):
            await to_the_end(watch())


@pytest.mark.parametrize(("asked_for", "held"), [(True, 1000), (False, 0)])
async def test_pages_hold_evidence_only_where_policies_ask_for_it(
    records: Records, office: Office, asked_for: bool, held: int
) -> None:
    service: Any = records
    feed = Feed(service, office, 60.0, with_evidence=asked_for)
    records.size = 1000
    records.changes.append(("acme", "1", "a"))
    with feed.watched("acme") as tenant:
        [told] = (await feed.page(tenant, "0")).told

    assert (told.receipt_id, told.event_type, len(told.evidence)) == ("1", "a", held)
