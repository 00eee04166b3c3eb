"""The queue before the pipeline."""

import asyncio
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from afdp.errors import ResourceExhausted
from afdp.formats.evidence import Actor, Artifact, EvidencePackage, checked_evidence
from afdp.formats.statement import ANONYMOUS, statement_bytes
from afdp.messages.metadata import Draft, SearchTerms
from afdp.notary.model import CheckedEvidence, Order, Principal, Submission
from afdp.notary.queue import FairQueue
from afdp.rpc.codec import encoder
from afdp.rpc.descriptors import pool


def submission(tenant: str = "acme", size: int = 10) -> Submission:
    evidence = CheckedEvidence(EvidencePackage(), b"x" * size, bytes(32))
    return Submission(Order(evidence, Principal(tenant, ANONYMOUS)))


def tenants(taken: list[Submission]) -> list[str]:
    return [each.order.principal.tenant for each in taken]


async def test_a_batch_is_filled_round_robin_by_tenant() -> None:
    queue = FairQueue(100, 1_000_000)
    for _ in range(5):
        await queue.put(submission("flood"), wait=False)
    await queue.put(submission("quiet"), wait=False)
    await queue.put(submission("calm"), wait=False)

    assert tenants(await queue.take(4, 1_000_000)) == ["flood", "quiet", "calm", "flood"]
    assert tenants(await queue.take(4, 1_000_000)) == ["flood", "flood", "flood"]


async def test_a_batch_is_capped_by_bytes_and_has_at_least_one_item() -> None:
    queue = FairQueue(100, 1_000_000)
    large, *small = (submission(size=size) for size in (90_000, 20_000, 20_000))
    for each in (large, *small):
        await queue.put(each, wait=False)

    assert await queue.take(10, 150_000) == [large]
    assert await queue.take(10, 150_000) == small


async def test_an_item_weighs_what_its_draft_takes_in_a_message() -> None:
    artifacts = tuple(Artifact(f"a{number}", "5e" * 32) for number in range(1000))
    package = EvidencePackage("1.0.0", datetime(2026, 11, 1, tzinfo=UTC), "a.b", Actor("human", "me"), artifacts)
    canonical = checked_evidence(package, now=datetime(2026, 11, 1, tzinfo=UTC))
    evidence = CheckedEvidence(package, canonical, sha256(canonical).digest())
    weighed = Submission(Order(evidence, Principal("default", ANONYMOUS)))

    names = [(artifact.name, artifact.hash_sha256) for artifact in artifacts]
    workflow_id = "simple-signing-01a20c2c-4868-73b6-8ef3-25441beaa2fd"
    now = datetime(2026, 11, 1, tzinfo=UTC)
    statement = statement_bytes(
        canonical, evidence.hash.hex(), names, "default", ANONYMOUS, workflow_id, now, bytes(32)
    )
    terms = SearchTerms("a.b", "human", "me", package.timestamp_utc, [bytes(32)] * len(artifacts))
    draft = Draft(evidence=canonical, statement=statement, terms=terms, leaf_hash=bytes(32), signature=bytes(72))
    carried = len(encoder(pool().FindMessageTypeByName("afdp.metadata.v1.Draft"))(draft))
    assert carried <= weighed.size <= 2 * carried


async def test_a_full_queue_refuses_at_once_with_a_hint() -> None:
    queue = FairQueue(2, 1_000_000)
    for _ in range(2):
        await queue.put(submission(), wait=False)

    with pytest.raises(ResourceExhausted) as full:
        await queue.put(submission(), wait=False)

    assert full.value.retry_after == 1.0


async def test_bytes_fill_the_queue_too_but_one_huge_item_always_fits() -> None:
    queue = FairQueue(100, 100)
    await queue.put(submission(size=1000), wait=False)

    with pytest.raises(ResourceExhausted):
        await queue.put(submission(size=1), wait=False)


async def test_who_waits_for_room_gets_it_when_a_batch_is_taken() -> None:
    queue = FairQueue(1, 1_000_000)
    await queue.put(submission("first"), wait=False)
    waiting = asyncio.create_task(queue.put(submission("second"), wait=True))
    await asyncio.sleep(0)
    assert not waiting.done()

    assert tenants(await queue.take(1, 1_000_000)) == ["first"]
    async with asyncio.timeout(30):
        await waiting
        assert tenants(await queue.take(1, 1_000_000)) == ["second"]


async def test_what_its_caller_gave_up_is_dropped() -> None:
    queue = FairQueue(10, 1_000_000)
    given_up, wanted = submission("gone"), submission("here")
    await queue.put(given_up, wait=False)
    await queue.put(wanted, wait=False)
    given_up.outcome.cancel()

    assert await queue.take(10, 1_000_000) == [wanted]


async def test_an_empty_queue_waits() -> None:
    queue = FairQueue(10, 1_000_000)
    taking = asyncio.create_task(queue.take(10, 1_000_000))
    await asyncio.sleep(0)
    assert not taking.done()
    only = submission()
    await queue.put(only, wait=False)

    async with asyncio.timeout(30):
        assert await taking == [only]


async def test_who_gives_up_waiting_for_room_leaves_it_to_the_next() -> None:
    queue = FairQueue(1, 1_000_000)
    await queue.put(submission("first"), wait=False)
    impatient = asyncio.create_task(queue.put(submission("impatient"), wait=True))
    patient = asyncio.create_task(queue.put(submission("patient"), wait=True))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)

    assert tenants(await queue.take(1, 1_000_000)) == ["first"]
    async with asyncio.timeout(30):
        await patient
        assert tenants(await queue.take(1, 1_000_000)) == ["patient"]


async def test_a_turn_that_comes_too_late_goes_to_the_next() -> None:
    queue = FairQueue(1, 1_000_000)
    await queue.put(submission("first"), wait=False)
    late = asyncio.create_task(queue.put(submission("late"), wait=True))
    next_one = asyncio.create_task(queue.put(submission("next"), wait=True))
    await asyncio.sleep(0)

    await queue.take(1, 1_000_000)  # gives the turn to the first who waits
    late.cancel()

    async with asyncio.timeout(30):
        await next_one
        assert tenants(await queue.take(1, 1_000_000)) == ["next"]
