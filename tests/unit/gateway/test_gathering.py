"""Callers of one entry each share calls to the notary, and each gets what became of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from afdp.errors import AlreadyExists, DeadlineExceeded, Internal, InvalidArgument, NotaryError, Unavailable
from afdp.gateway.descriptors import Api
from afdp.gateway.gathering import MOST, UNDER_WAY, EntryCalls
from afdp.gateway.upstream import Metadata
from afdp.rpc.peers import FORWARDED_ADDRESS

ONE = "/afdp.notary.v1.NotaryService/AddLogEntry"
MANY = "/afdp.notary.v1.NotaryService/AddLogEntries"


class Notary:
    """Answers each entry with itself, once `free` is set; what is in `errors` is answered with that."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.calls: list[tuple[str, list[bytes], Metadata]] = []
        self.errors: dict[bytes, NotaryError] = {}
        self.failure: NotaryError | None = None
        self.forgets = 0
        self.free = asyncio.Event()

    def request(self, entry: bytes) -> bytes:
        message: bytes = self._message("AddLogEntryRequest", entry=entry).SerializeToString()
        return message

    def logged(self, answer: bytes) -> bytes:
        entry: bytes = self._api.message_class("afdp.notary.v1.AddLogEntryResponse").FromString(answer).log_entry
        return entry

    async def call(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        if path == ONE:
            entries = [self._api.message_class("afdp.notary.v1.AddLogEntryRequest").FromString(request).entry]
        else:
            many = self._api.message_class("afdp.notary.v1.AddLogEntriesRequest").FromString(request)
            entries = [each.entry for each in many.requests]
        self.calls.append((path, entries, metadata))
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        if path == ONE:
            if entries[0] in self.errors:
                raise self.errors[entries[0]]
            return bytes(self._message("AddLogEntryResponse", log_entry=entries[0]).SerializeToString())
        answer = self._message("AddLogEntriesResponse")
        for entry in entries[self.forgets :]:
            result = answer.results.add()
            if (error := self.errors.get(entry)) is None:
                result.response.log_entry = entry
                continue
            result.error.code, result.error.detail = error.code, error.message
            result.error.retry_after = error.retry_after or 0.0
            for fault in error.fields:
                result.error.errors.add(field=fault.field, message=fault.message)
            result.log_index = int(error.metadata.get("log_index", 0))
        return bytes(answer.SerializeToString())

    def _message(self, name: str, **fields: Any) -> Any:
        return self._api.message_class(f"afdp.notary.v1.{name}")(**fields)


@pytest.fixture
def notary(api: Api) -> Notary:
    return Notary(api)


@pytest.fixture
def calls(api: Api, notary: Notary) -> EntryCalls:
    return EntryCalls(api, notary)  # type: ignore[arg-type]


async def begin(
    calls: EntryCalls, notary: Notary, entry: bytes, credentials: str = "", timeout: float = 30
) -> asyncio.Task[bytes]:
    """One caller, up to where it waits."""
    metadata = [("x-request-id", entry.decode())] + ([("authorization", credentials)] if credentials else [])
    task = asyncio.create_task(calls.call(ONE, notary.request(entry), timeout, metadata))
    await asyncio.sleep(0)
    return task


async def begin_all(calls: EntryCalls, notary: Notary, count: int) -> list[asyncio.Task[bytes]]:
    return [await begin(calls, notary, b"e%d" % each) for each in range(count)]


async def test_a_lone_caller_is_called_for_at_once_and_as_it_is(calls: EntryCalls, notary: Notary) -> None:
    notary.free.set()

    answer = await calls.call(ONE, notary.request(b"e"), 30, [("x-request-id", "r"), ("traceparent", "t")])

    assert notary.logged(answer) == b"e"
    assert notary.calls == [(ONE, [b"e"], [("x-request-id", "r"), ("traceparent", "t")])]


async def test_all_who_come_meanwhile_share_the_next_call_and_each_gets_its_own_answer(
    calls: EntryCalls, notary: Notary
) -> None:
    callers = await begin_all(calls, notary, UNDER_WAY + 40)
    assert [path for path, _, _ in notary.calls] == [ONE] * UNDER_WAY

    notary.free.set()

    answers = await asyncio.gather(*callers)
    assert [notary.logged(answer) for answer in answers] == [b"e%d" % each for each in range(len(callers))]
    sizes = [len(entries) for _, entries, _ in notary.calls]
    assert sum(sizes) == len(callers)
    assert max(sizes) > 30
    assert len(sizes) <= 2 * UNDER_WAY


async def test_what_is_a_token_here_and_an_address_there_is_not_the_same_caller(
    calls: EntryCalls, notary: Notary
) -> None:
    first = [await begin(calls, notary, b"e%d" % each, credentials="192.0.2.1") for each in range(UNDER_WAY + 2)]
    told = [(FORWARDED_ADDRESS, "192.0.2.1")]
    other = asyncio.create_task(calls.call(ONE, notary.request(b"other"), 30, told))
    await asyncio.sleep(0)

    assert notary.calls[-1] == (ONE, [b"other"], told)
    notary.free.set()
    await asyncio.gather(*first, other)


async def test_no_call_has_more_than_it_may(calls: EntryCalls, notary: Notary) -> None:
    callers = await begin_all(calls, notary, UNDER_WAY + 2 * MOST)

    notary.free.set()

    await asyncio.gather(*callers)
    assert max(len(entries) for _, entries, _ in notary.calls) == MOST


async def test_who_is_refused_is_told_why_and_the_others_are_not(calls: EntryCalls, notary: Notary) -> None:
    notary.errors = {
        b"e4": AlreadyExists("it exists", metadata={"log_index": "77"}),
        b"e5": InvalidArgument.field("digest", "is missing"),
        b"e6": Unavailable("the log is away", retry_after=2.0),
    }
    callers = await begin_all(calls, notary, 9)

    notary.free.set()

    answers = await asyncio.gather(*callers, return_exceptions=True)
    exists, invalid, away = answers[4:7]
    assert isinstance(exists, AlreadyExists)
    assert exists.metadata == {"log_index": "77"}
    assert isinstance(invalid, InvalidArgument)
    assert str(invalid) == "the request is not valid: digest: is missing"
    assert isinstance(away, Unavailable)
    assert away.retry_after == 2.0
    assert [notary.logged(each) for each in answers if isinstance(each, bytes)] == [
        *(b"e0", b"e1", b"e2", b"e3", b"e7", b"e8"),
    ]


async def test_a_call_that_fails_fails_for_all_who_share_it_and_the_next_is_made(
    calls: EntryCalls, notary: Notary
) -> None:
    callers = await begin_all(calls, notary, UNDER_WAY + 5)
    notary.failure = Unavailable("notary cannot be reached", retry_after=1.0)

    notary.free.set()

    for answer in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    notary.failure = None
    assert notary.logged(await (await begin(calls, notary, b"later"))) == b"later"


async def test_an_answer_for_another_number_of_entries_is_believed_by_nobody(calls: EntryCalls, notary: Notary) -> None:
    callers = await begin_all(calls, notary, UNDER_WAY + 5)
    notary.forgets = 1

    notary.free.set()

    answers = await asyncio.gather(*callers, return_exceptions=True)
    shared = [entries for path, entries, _ in notary.calls if path == MANY]
    assert sum(isinstance(answer, Internal) for answer in answers) == sum(map(len, shared)) > 1


async def test_only_those_with_the_same_credentials_share_a_call(calls: EntryCalls, notary: Notary) -> None:
    ours = [await begin(calls, notary, b"a%d" % each, "Basic YQ==") for each in range(UNDER_WAY + 3)]
    theirs = [await begin(calls, notary, b"b%d" % each, "Basic Yg==") for each in range(UNDER_WAY + 3)]
    assert len(notary.calls) == 2 * UNDER_WAY

    notary.free.set()

    await asyncio.gather(*ours, *theirs)
    for _, entries, metadata in notary.calls:
        assert {entry[:1] for entry in entries} == {b"a" if ("authorization", "Basic YQ==") in metadata else b"b"}


async def test_who_waits_too_long_or_goes_away_holds_nobody_up(calls: EntryCalls, notary: Notary) -> None:
    leading = await begin_all(calls, notary, UNDER_WAY)
    late = await begin(calls, notary, b"late", timeout=0.01)
    gone = await begin(calls, notary, b"gone")
    patient = await begin(calls, notary, b"patient")
    with pytest.raises(DeadlineExceeded):
        await late
    gone.cancel()

    notary.free.set()

    assert notary.logged(await patient) == b"patient"
    await asyncio.gather(*leading)
    assert [b"patient"] in [entries for _, entries, _ in notary.calls]


async def test_a_turn_that_was_given_to_one_who_goes_away_goes_to_the_next(calls: EntryCalls, notary: Notary) -> None:
    leading = await begin_all(calls, notary, UNDER_WAY)
    first = await begin(calls, notary, b"first")
    second = await begin(calls, notary, b"second", timeout=5)
    leading[0].cancel()  # its call ends: the first who waits is given its turn, and has not taken it yet
    await asyncio.sleep(0)
    first.cancel()

    notary.free.set()

    assert notary.logged(await second) == b"second"
    await asyncio.gather(*leading[1:])
