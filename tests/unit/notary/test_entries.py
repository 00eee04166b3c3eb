"""Entries that callers sign themselves: verified, gathered without a timer, answered with a proof that was checked."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from afdp.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotaryError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from afdp.formats.entry_request import EntryAlgorithm
from afdp.formats.merkle import leaf_hash
from afdp.formats.statement import ANONYMOUS
from afdp.items import to_item
from afdp.messages.notary import AddLogEntriesRequest, AddLogEntryRequest
from afdp.messages.transparency import (
    AppendRequest,
    AppendResponse,
    AppendResult,
    Checkpoint,
    Inclusion,
    ListLogsRequest,
    ListLogsResponse,
    Log,
    LogState,
)
from afdp.notary.entries import MAX_REQUESTS, BatchLimits, EntryDesk
from afdp.notary.entry_rules import EntryRules
from afdp.notary.keys import LogIdentity
from afdp.notary.logs import LogDirectory
from afdp.notary.model import Principal
from afdp.notary.queue import FairQueue
from afdp.notary.servicer import NotaryServicer
from tests.local_entries import fresh_request
from tests.local_log import LocalLog

CALLER = Principal("default", ANONYMOUS)
RULES = EntryRules(accepted=True, algorithms=frozenset(EntryAlgorithm), certificates=False)


class Transparency:
    """The service over a log in memory; each call waits for `free`."""

    def __init__(self) -> None:
        self.log = LocalLog()
        self.log.append([b"an entry of before"])
        self.calls: list[int] = []
        self.origins: set[str] = set()
        self.called = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.failure: NotaryError | None = None
        self.refused: NotaryError | None = None
        self.wrong_proof = False
        self.of_tenant = False

    async def list_logs(self, request: ListLogsRequest, timeout: float) -> ListLogsResponse:
        other = Log(origin="tenants.example", tenants=[CALLER.tenant], state=LogState.OPEN)
        return ListLogsResponse(
            [Log(origin=self.log.origin, state=LogState.OPEN), *([other] if self.of_tenant else [])]
        )

    async def append(self, request: AppendRequest, timeout: float) -> AppendResponse:
        self.calls.append(len(request.entries))
        self.origins.add(request.origin)
        self.called.set()
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        if self.refused is not None:
            return AppendResponse(results=[AppendResult(error=to_item(self.refused)) for _ in request.entries])
        known = set(self.log.entries)
        self.log.append([entry for entry in request.entries if entry not in known])
        size, root = len(self.log.entries), self.log.frontier.root()
        results = []
        for entry in request.entries:
            at = self.log.entries.index(entry)
            proof = b"".join(self.log.proven(at).hashes)
            proof = bytes(len(proof)) if self.wrong_proof else proof
            results.append(AppendResult(inclusion=Inclusion(at, leaf_hash(entry), proof), existing=entry in known))
        return AppendResponse(Checkpoint(str(self.log.checkpoint()), size, root), results)


class Keys:
    def __init__(self, log: LocalLog, peer: Any) -> None:
        self._log = log
        self.logs = LogDirectory(peer)

    async def log(self, origin: str) -> LogIdentity:
        assert origin == self._log.origin
        return LogIdentity(self._log.log, self._log.log.vkey, "http://127.0.0.1:8053")


@pytest.fixture
def transparency() -> Transparency:
    return Transparency()


@pytest.fixture
def start(transparency: Transparency) -> Any:
    running: list[asyncio.Task[None]] = []

    def begin(rules: EntryRules = RULES, queue_items: int = 100) -> EntryDesk:
        queue = FairQueue[Any](queue_items, 1_000_000)
        keys: Any = Keys(transparency.log, transparency)
        desk = EntryDesk(rules, queue, keys, BatchLimits(64, 1_000_000), 5)
        running.append(asyncio.create_task(desk.run()))
        return desk

    return begin


@pytest_asyncio.fixture(autouse=True)
async def ended() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for task in asyncio.all_tasks() - before:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def request(key_details: str = "PKIX_ECDSA_P256_SHA_256") -> bytes:
    return json.dumps(fresh_request(key_details)).encode()


async def test_an_entry_is_answered_with_its_place(start: Any, transparency: Transparency) -> None:
    answer = json.loads(await start().add(CALLER, request()))

    assert answer["logIndex"] == "1"
    assert answer["inclusionProof"]["treeSize"] == "2"
    assert answer["inclusionPromise"] is None
    assert b64decode(answer["canonicalizedBody"]) == transparency.log.entries[1]


async def test_all_that_come_while_one_is_appended_share_the_next_append(
    start: Any, transparency: Transparency
) -> None:
    transparency.free.clear()
    desk = start()
    first = asyncio.create_task(desk.add(CALLER, request()))
    await transparency.called.wait()
    later = [asyncio.create_task(desk.add(CALLER, request())) for _ in range(20)]
    await asyncio.sleep(0)

    transparency.free.set()

    await asyncio.gather(first, *later)
    assert transparency.calls == [1, 20]


async def test_one_entry_of_many_callers_is_appended_once_and_only_one_is_told_that_it_was_logged(
    start: Any, transparency: Transparency
) -> None:
    same = request()

    results = await start().add_many(CALLER, [same, same, request(), same])

    assert [isinstance(each, AlreadyExists) for each in results] == [False, True, False, True]
    assert results[1].metadata == results[3].metadata == {"log_index": json.loads(results[0])["logIndex"]}
    assert len(transparency.log.entries) == 3


async def test_an_entry_that_the_log_has_is_said_to_exist_and_where(start: Any) -> None:
    desk, same = start(), request()
    await desk.add(CALLER, same)

    with pytest.raises(AlreadyExists, match="already exists in the transparency log with index 1") as exists:
        await desk.add(CALLER, same)

    assert exists.value.metadata == {"log_index": "1"}


async def test_of_many_each_fails_alone_and_what_is_refused_reaches_no_log(
    start: Any, transparency: Transparency
) -> None:
    spoilt = request().replace(b"PKIX_ECDSA_P256_SHA_256", b"PKIX_ECDSA_P384_SHA_384")

    good, bad, none = await start().add_many(CALLER, [request(), spoilt, b""])

    assert isinstance(good, bytes)
    assert isinstance(bad, InvalidArgument)
    assert isinstance(none, InvalidArgument)
    assert transparency.calls == [1]


@pytest.mark.parametrize("count", [0, 1025])
async def test_none_and_too_many_are_refused(start: Any, count: int) -> None:
    with pytest.raises(InvalidArgument, match="requests: must be 1 to 1024 entries"):
        await start().add_many(CALLER, [b"{}"] * count)


async def test_what_the_rules_do_not_take_is_named(start: Any, transparency: Transparency) -> None:
    only_p256 = start(replace(RULES, algorithms=frozenset({EntryAlgorithm.ECDSA_P256_SHA256})))

    with pytest.raises(InvalidArgument, match=r"verifier\.keyDetails: must be one of PKIX_ECDSA_P256_SHA_256$"):
        await only_p256.add(CALLER, request("PKIX_ECDSA_P384_SHA_384"))
    with pytest.raises(PermissionDenied):
        await start(replace(RULES, accepted=False)).add(CALLER, request())
    assert transparency.calls == []


async def test_the_log_that_is_told_takes_them_whoever_the_caller_is(start: Any, transparency: Transparency) -> None:
    transparency.of_tenant = True
    told = start(replace(RULES, log=transparency.log.origin))

    await told.add(CALLER, request())

    assert transparency.origins == {transparency.log.origin}


async def test_a_full_queue_refuses_and_says_when_to_come_again(start: Any, transparency: Transparency) -> None:
    transparency.free.clear()
    desk = start(queue_items=1)
    under_way = asyncio.create_task(desk.add(CALLER, request()))
    await transparency.called.wait()
    waiting = asyncio.create_task(desk.add(CALLER, request()))
    await asyncio.sleep(0)

    with pytest.raises(ResourceExhausted) as full:
        await desk.add(CALLER, request())

    assert full.value.retry_after
    transparency.free.set()
    assert all(await asyncio.gather(under_way, waiting))


async def test_a_log_that_is_away_fails_who_waits_and_nobody_who_comes_later(
    start: Any, transparency: Transparency
) -> None:
    desk = start()
    transparency.failure = Unavailable("the log is away", retry_after=1.0)
    with pytest.raises(Unavailable):
        await desk.add(CALLER, request())
    transparency.failure = None

    assert await desk.add(CALLER, request())


async def test_what_the_log_refuses_is_passed_on(start: Any, transparency: Transparency) -> None:
    transparency.refused = FailedPrecondition("the log is frozen")

    with pytest.raises(FailedPrecondition, match="the log is frozen"):
        await start().add(CALLER, request())


async def test_a_proof_that_does_not_hold_is_withheld(start: Any, transparency: Transparency) -> None:
    transparency.wrong_proof = True

    with pytest.raises(DataLoss, match="the inclusion proof does not hold"):
        await start().add(CALLER, request())


async def test_of_too_many_entries_none_is_charged_or_put_on_record_and_of_others_each_is(start: Any) -> None:
    charged: list[int] = []
    heard: list[list[bytes]] = []

    class Charges:
        def charge(self, principal: Principal, permission: str, count: int) -> None:
            charged.append(count)

    class Heard:
        def hear_entries(self, principal: Principal, bodies: list[bytes]) -> None:
            heard.append(bodies)

    unused: Any = None
    notary: Any = Heard()
    charges: Any = Charges()
    servicer = NotaryServicer(notary, unused, start(), *[unused] * 5, 1, charges, *[unused] * 3)
    for count in (0, MAX_REQUESTS + 1, 10_001):
        with pytest.raises(InvalidArgument, match="requests: must be 1 to 1024"):
            await servicer.add_log_entries(AddLogEntriesRequest([AddLogEntryRequest()] * count))
    assert (charged, heard) == ([], [])

    await servicer.add_log_entries(AddLogEntriesRequest([AddLogEntryRequest(b"{}")] * MAX_REQUESTS))
    assert (charged, heard) == ([MAX_REQUESTS - 1], [[b"{}"] * MAX_REQUESTS])
