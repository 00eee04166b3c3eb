"""The queues for logs of others: what is refused by policy, how failures are waited out, who is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from afdp.errors import (
    DataLoss,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotaryError,
    ResourceExhausted,
    Unavailable,
)
from afdp.formats.evidence import EvidencePackage
from afdp.formats.statement import ANONYMOUS
from afdp.items import to_item
from afdp.messages import metadata as store
from afdp.messages import signer as keyring
from afdp.messages import transparency as log
from afdp.messages.notary import NotarizationReceipt, ReceiptState
from afdp.notary import external_queue, waiting
from afdp.notary.config import NotarySettings
from afdp.notary.external import Pace
from afdp.notary.external_directory import ExternalDirectory
from afdp.notary.external_queue import ExternalQueue
from afdp.notary.keys import KeyDirectory
from afdp.notary.model import CheckedEvidence, Order, Principal, Submission
from afdp.notary.pipeline import Prepared
from afdp.notary.service import Notary
from afdp.notary.waiting import Waiting
from tests.local_notary import LocalNotary

NOTE = "rekor.example\n9\nAAAA\n\n— rekor.example AAAA\n"


class Open:
    """Access and allowances where nothing is refused."""

    def require_create(self, principal: Principal, evidence: CheckedEvidence) -> None:
        pass

    def taking(self, tenant: str, size: int) -> Any:
        return nullcontext()


class Reached:
    """A pipeline that takes down whose orders came to it."""

    def __init__(self) -> None:
        self.tenants: list[str] = []

    async def notarise(self, order: Order, *, wait: bool) -> Any:
        self.tenants.append(order.principal.tenant)
        raise Unavailable("it came as far as here")


def receipt_id(number: int) -> str:
    return f"0199d3a0-0000-7000-8000-{number:012x}"


@dataclass
class Peers:
    """The store with a queue in memory, and a log that does as it is told."""

    notary: LocalNotary = field(default_factory=LocalNotary)
    due: deque[str] = field(default_factory=deque)
    attempts: dict[str, int] = field(default_factory=dict)
    deferred: dict[str, int] = field(default_factory=dict)  # milliseconds
    done: dict[str, store.LogPosition] = field(default_factory=dict)
    errors: deque[NotaryError] = field(default_factory=deque)
    unwritten: set[str] = field(default_factory=set)  # receipt IDs whose places the store refuses
    logs: list[log.Log] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def queue(self, *numbers: int) -> None:
        self.due.extend(map(receipt_id, numbers))

    async def until(self, good: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not good():
                self.changed.clear()
                await self.changed.wait()

    # --- the store

    async def lease_queued(self, request: store.LeaseQueuedRequest, *, timeout: float) -> store.LeaseQueuedResponse:
        taken = [self.due.popleft() for _ in range(min(request.limit, len(self.due)))]
        for each in taken:
            self.attempts[each] = self.attempts.get(each, 0) + 1
        return store.LeaseQueuedResponse(
            [store.QueuedRecord(each, b"{}", b"sig", self.notary.key_id, self.attempts[each]) for each in taken]
        )

    async def defer_queued(self, request: store.DeferQueuedRequest, *, timeout: float) -> store.DeferQueuedResponse:
        for each in request.deferrals:
            self.deferred[each.receipt_id] = each.milliseconds
            if not each.milliseconds:
                self.due.append(each.receipt_id)
        self.changed.set()
        return store.DeferQueuedResponse()

    async def complete_queued(
        self, request: store.CompleteQueuedRequest, *, timeout: float
    ) -> store.CompleteQueuedResponse:
        results = []
        for each in request.completions:
            if each.receipt_id in self.unwritten:
                results.append(store.CompleteResult(error=to_item(DataLoss("the record has another place"))))
                continue
            assert each.position is not None
            self.done[each.receipt_id] = each.position
            results.append(store.CompleteResult(log=each.position))
        self.changed.set()
        return store.CompleteQueuedResponse(results)

    async def get_queues(self, _: object, *, timeout: float) -> store.GetQueuesResponse:
        since = datetime.now(UTC) - timedelta(seconds=400)
        return store.GetQueuesResponse([store.LogQueue("rekor", len(self.due), since)] if self.due else [])

    async def get_record(self, request: store.GetRecordRequest, *, timeout: float) -> store.GetRecordResponse:
        position = self.done.get(request.receipt_id)
        return store.GetRecordResponse(store.Record(log=position) if position else None)

    # --- the log service and the signer

    async def log_externally(self, request: log.LogExternallyRequest, *, timeout: float) -> log.LogExternallyResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if self.errors:
            raise self.errors.popleft()
        entry = log.ExternalEntry(origin="rekor.example", tree_index=7, tree_size=9, checkpoint=NOTE)
        return log.LogExternallyResponse(entry)

    async def list_logs(self, _: object, *, timeout: float) -> log.ListLogsResponse:
        return log.ListLogsResponse(self.logs)

    async def list_external_logs(self, _: object, *, timeout: float) -> log.ListExternalLogsResponse:
        return log.ListExternalLogsResponse(
            [log.ExternalLog(name="rekor", api_version=2, origin="rekor.example", current=True)]
        )

    async def get_public_keys(self, _: object, *, timeout: float) -> Any:

        key = self.notary.evidence_key
        return keyring.GetPublicKeysResponse(
            [
                keyring.PublicKey(
                    key_id=key.key_id,
                    purpose=keyring.KeyPurpose.EVIDENCE,
                    algorithm=key.algorithm,
                    spki=key.spki,
                    valid_from=key.valid_from,
                )
            ]
        )

    async def get_timestamp_authorities(self, _: object, *, timeout: float) -> Any:

        return keyring.GetTimestampAuthoritiesResponse()


def queue_of(peers: Peers, *, away: Any = "continue", most: int = 100, in_flight: int = 8) -> ExternalQueue:
    anyone: Any = peers
    keys = KeyDirectory(anyone, anyone)
    return ExternalQueue(
        "rekor", (), away, most, anyone, anyone, keys, Pace(in_flight, 5.0), Waiting(anyone, longest=20.0)
    )


@asynccontextmanager
async def at_work(queue: ExternalQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def waiter(number: int) -> tuple[Prepared, Submission]:
    order: Any = Order(evidence=None, principal=None, wait_for=ReceiptState.LOGGED)  # type: ignore[arg-type]
    submission = Submission(order)
    draft = store.Draft(receipt_id=receipt_id(number), submitter=store.Principal("acme"), external_log="rekor")
    return Prepared(store.Record(draft, store.RecordState.PENDING), True, [submission]), submission


async def test_what_is_queued_is_brought_to_the_log_a_bounded_number_at_a_time_and_who_waits_is_told() -> None:
    peers = Peers()
    queue = queue_of(peers, in_flight=4)
    prepared, submission = waiter(3)
    peers.queue(*range(20))
    queue.wait([prepared])
    async with at_work(queue):
        outcome = await asyncio.wait_for(submission.outcome, 20)
        await peers.until(lambda: len(peers.done) == 20)

    assert (outcome.record.state, outcome.record.log) == (store.RecordState.LOGGED, peers.done[receipt_id(3)])
    assert peers.most_in_flight <= 4


async def test_what_another_notary_has_brought_there_is_noticed_by_who_waits() -> None:
    peers = Peers()
    queue = queue_of(peers)
    prepared, submission = waiter(1)
    peers.done[receipt_id(1)] = store.LogPosition("rekor.example", 5, 9, b"", NOTE)
    queue.wait([prepared])
    async with at_work(queue):
        outcome = await asyncio.wait_for(submission.outcome, 20)

    assert outcome.record.log == peers.done[receipt_id(1)]


async def test_who_has_waited_long_enough_gets_the_record_as_it_is() -> None:
    peers = Peers()
    anyone: Any = peers
    callers = Waiting(anyone, longest=0.0)
    prepared, submission = waiter(1)
    callers.add(receipt_id(1), prepared)
    task = asyncio.create_task(callers.run())
    outcome = await asyncio.wait_for(submission.outcome, 20)
    task.cancel()

    assert outcome.record.state == store.RecordState.PENDING


async def test_while_the_log_is_away_one_entry_at_a_time_is_tried_and_all_get_there_in_the_end() -> None:
    peers = Peers()
    peers.errors.extend([Unavailable("away")] * 3)
    peers.queue(1)
    queue = queue_of(peers)
    async with at_work(queue):
        await peers.until(lambda: bool(peers.deferred))
        peers.queue(*range(2, 9))
        peers.most_in_flight = 0
        await peers.until(lambda: not peers.errors)
        assert peers.most_in_flight == 1
        await peers.until(lambda: len(peers.done) == 8)

    assert peers.deferred == {receipt_id(1): 0, **dict.fromkeys(peers.deferred, 0)}


async def test_a_log_that_says_when_to_come_again_is_left_alone_until_then() -> None:
    peers = Peers()
    peers.errors.append(Unavailable("too much to do", retry_after=0.9))
    peers.queue(1)
    loop = asyncio.get_running_loop()
    async with at_work(queue_of(peers)):
        await peers.until(lambda: bool(peers.deferred))
        refused = loop.time()
        await peers.until(lambda: bool(peers.done))

    assert loop.time() - refused >= 0.85


@pytest.mark.parametrize("error", [InvalidArgument("the log refuses the entry"), DataLoss("the proof does not hold")])
async def test_what_is_wrong_with_one_entry_makes_that_one_wait_and_no_other(error: NotaryError) -> None:
    peers = Peers()
    peers.errors.append(error)
    peers.queue(*range(5))
    async with at_work(queue_of(peers, in_flight=1)):
        await peers.until(lambda: len(peers.done) == 4)

    assert set(peers.deferred) == {receipt_id(0)}
    assert 1000 <= peers.deferred[receipt_id(0)] <= 2000


async def test_an_entry_whose_place_the_store_refuses_waits_longer_each_time_and_no_other_does() -> None:
    peers = Peers(unwritten={receipt_id(0)})
    waits = []
    peers.queue(*range(4))
    async with at_work(queue_of(peers)):
        for _ in range(4):
            await peers.until(lambda: receipt_id(0) in peers.deferred)
            waits.append(peers.deferred.pop(receipt_id(0)))
            peers.queue(0)  # its time has come
        await peers.until(lambda: len(peers.done) == 3)

    assert [1000 * 2**at <= wait <= 1000 * 2 ** (at + 1) for at, wait in enumerate(waits)] == [True] * 4
    assert not peers.deferred or set(peers.deferred) == {receipt_id(0)}


async def test_the_policy_may_refuse_evidence_while_the_log_is_away() -> None:
    peers = Peers()
    peers.errors.extend([Unavailable("away")] * 100)
    peers.queue(1)
    going_on, refusing = queue_of(peers), queue_of(peers, away="refuse")
    for queue in (going_on, refusing):
        queue.require_open(to_main=True)
        async with at_work(queue):
            before = len(peers.errors)
            await peers.until(lambda before=before: len(peers.errors) < before and bool(peers.due))  # type: ignore[misc]

    going_on.require_open(to_main=True)
    refusing.require_open(to_main=False)  # of a tenant with a log of its own
    with pytest.raises(Unavailable, match="nothing is notarised without it"):
        refusing.require_open(to_main=True)
    [part] = await refusing.status()
    assert (part.good, part.public) == (False, True)
    assert part.detail.startswith("it takes no entries; 1 wait")


async def test_a_tenant_with_a_log_of_its_own_is_served_while_the_log_of_the_others_is_away() -> None:
    peers = Peers(logs=[log.Log(origin="first"), log.Log(origin="acme", tenants=["acme"], state=log.LogState.OPEN)])
    peers.errors.extend([Unavailable("away")] * 100)
    peers.queue(1)
    queue = queue_of(peers, away="refuse")
    async with at_work(queue):
        await peers.until(lambda: bool(peers.deferred))
    anyone: Any = peers
    pipeline: Any = Reached()
    keys, everything = KeyDirectory(anyone, anyone), Open()
    no: Any = None
    notary = Notary(pipeline, no, keys, anyone, anyone, queue, 1.0, everything, no, everything)
    evidence = CheckedEvidence(EvidencePackage("1.0.0"), b"{}", bytes(32))

    for tenant, said in (("acme", "it came as far as here"), ("somebody", "nothing is notarised without it")):
        with pytest.raises(Unavailable, match=said):
            await notary.sign(Order(evidence, Principal(tenant, ANONYMOUS)))

    assert pipeline.tenants == ["acme"]


async def test_a_retry_is_answered_while_the_log_is_away_and_nothing_new_is_taken() -> None:
    peers = Peers(logs=[log.Log(origin="first")])
    peers.errors.extend([Unavailable("away")] * 100)
    peers.queue(1)
    queue = queue_of(peers, away="refuse")
    async with at_work(queue):
        await peers.until(lambda: bool(peers.deferred))
    anyone: Any = peers
    no: Any = None
    records: Any = Answers()
    keys, everything = KeyDirectory(anyone, anyone), Open()
    notary = Notary(no, records, keys, records, anyone, queue, 1.0, everything, no, everything)
    evidence = CheckedEvidence(EvidencePackage("1.0.0"), b"{}", bytes(32))

    again = await notary.sign(Order(evidence, Principal("acme", ANONYMOUS), "a key"))

    assert again.workflow.id == receipt_id(7)
    for order in (Order(evidence, Principal("acme", ANONYMOUS), "new"), Order(evidence, Principal("acme", ANONYMOUS))):
        with pytest.raises(Unavailable, match="nothing is notarised without it"):
            await notary.sign(order)
    assert [each.idempotency.key for each in records.asked] == ["a key", "new"]


class Answers:
    """Knows the record of one idempotency key, and gives no more of a receipt than its ID."""

    def __init__(self) -> None:
        self.asked: list[store.FindAnswerRequest] = []

    async def find_answer(self, request: store.FindAnswerRequest, timeout: float) -> store.FindAnswerResponse:
        self.asked.append(request)
        if request.idempotency is None or request.idempotency.key != "a key":
            return store.FindAnswerResponse()
        return store.FindAnswerResponse(store.Record(store.Draft(receipt_id=receipt_id(7)), store.RecordState.PENDING))

    async def receipt(self, record: store.Record, **how: Any) -> NotarizationReceipt:
        return NotarizationReceipt(receipt_id=record.draft.receipt_id if record.draft else "")


async def test_a_refusing_policy_lets_evidence_in_again_once_another_notary_has_emptied_the_queue() -> None:
    peers = Peers()
    peers.errors.append(Unavailable("away"))
    peers.queue(1)
    queue = queue_of(peers, away="refuse")
    async with at_work(queue):
        await peers.until(lambda: bool(peers.deferred))
    with pytest.raises(Unavailable, match="nothing is notarised without it"):
        queue.require_open(to_main=True)

    peers.due.clear()
    [part] = await queue.status()

    queue.require_open(to_main=True)
    assert part.good


async def test_a_refusing_policy_lets_evidence_in_again_once_the_log_answers_that_it_refuses_an_entry() -> None:
    peers = Peers()
    peers.errors.extend([Unavailable("away"), InvalidArgument("the log refuses the entry")])
    peers.queue(1)
    queue = queue_of(peers, away="refuse")
    async with at_work(queue):
        await peers.until(lambda: peers.deferred.get(receipt_id(1)) == 0)
        with pytest.raises(Unavailable, match="nothing is notarised without it"):
            queue.require_open(to_main=True)
        await peers.until(lambda: peers.deferred[receipt_id(1)] > 0)
        queue.require_open(to_main=True)


@pytest.mark.parametrize("error", [DeadlineExceeded("no answer in time"), Internal("a fault of its own, late")])
async def test_callers_are_let_go_in_time_while_the_metadata_service_hangs(
    error: NotaryError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK", 0.01)
    looks = 0

    class Hanging:
        async def get_record(self, _: object, *, timeout: float) -> store.GetRecordResponse:
            nonlocal looks
            looks += 1
            await asyncio.sleep(0.2)
            raise error

    anyone: Any = Hanging()
    callers = Waiting(anyone, longest=0.1)
    submissions = []
    for number in range(waiting.MOST_AT_ONCE):
        prepared, submission = waiter(number)
        callers.add(receipt_id(number), prepared)
        submissions.append(submission)
    task = asyncio.create_task(callers.run())
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*(each.outcome for each in submissions))
    task.cancel()

    assert {each.record.state for each in outcomes} == {store.RecordState.PENDING}
    assert looks <= 1  # and not one by one for all who wait


async def test_logs_of_others_that_were_never_seen_are_not_taken_for_none() -> None:
    answers: deque[NotaryError | list[log.ExternalLog]] = deque([Unavailable("away")])

    class Service:
        async def list_external_logs(self, _: object, *, timeout: float) -> log.ListExternalLogsResponse:
            await asyncio.sleep(0)
            answer = answers.popleft()
            if isinstance(answer, NotaryError):
                raise answer
            return log.ListExternalLogsResponse(answer)

    service: Any = Service()
    directory = ExternalDirectory(service)
    for _ in range(3):  # the service is asked once only
        with pytest.raises(Unavailable) as refused:
            await directory.logs()
    assert refused.value.retry_after

    answers.append([])
    directory = ExternalDirectory(service)
    assert await asyncio.gather(directory.logs(), directory.logs()) == [[], []]


async def test_a_queue_that_is_full_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers()
    peers.queue(*range(10))
    queue = queue_of(peers, most=10)
    monkeypatch.setattr(external_queue, "LOOK", 0.01)

    [part] = await queue.status()

    assert "10 wait, the oldest for 40" in part.detail
    assert not part.good
    with pytest.raises(ResourceExhausted, match="as many records wait for the log rekor as may"):
        queue.require_open(to_main=True)
    queue.require_open(to_main=False)


@pytest.mark.parametrize(
    "settings",
    [{"log": "rekor", "more_logs": "rekor"}, {"more_logs": "embedded"}, {"more_logs": "a,a"}, {"log": "Rekor"}],
)
def test_settings_that_name_a_log_twice_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        NotarySettings.model_validate(settings)
