"""The queue before the pipeline."""

import asyncio

import pytest

from afdp.errors import ResourceExhausted
from afdp.formats.evidence import EvidencePackage
from afdp.formats.statement import ANONYMOUS
from afdp.notary.model import CheckedEvidence, Order, Principal, Submission
from afdp.notary.queue import FairQueue


def submission(tenant: str = "acme", size: int = 10) -> Submission:
    evidence = CheckedEvidence(EvidencePackage(), b"x" * size, bytes(32))
    return Submission(Order(evidence, Principal(tenant, ANONYMOUS)))


def tenants(taken: list[Submission]) -> list[str]:
    return [each.order.principal.tenant for each in taken]


async def test_a_batch_is_filled_round_robin_by_tenant() -> None:
    queue = FairQueue(100, 10_000)
    for _ in range(5):
        await queue.put(submission("flood"), wait=False)
    await queue.put(submission("quiet"), wait=False)
    await queue.put(submission("calm"), wait=False)

    assert tenants(await queue.take(4, 10_000)) == ["flood", "quiet", "calm", "flood"]
    assert tenants(await queue.take(4, 10_000)) == ["flood", "flood", "flood"]


async def test_a_batch_is_capped_by_bytes_and_has_at_least_one_item() -> None:
    queue = FairQueue(100, 10_000)
    for size in (900, 200, 200):
        await queue.put(submission(size=size), wait=False)

    assert [each.size for each in await queue.take(10, 500)] == [900]
    assert [each.size for each in await queue.take(10, 500)] == [200, 200]


async def test_a_full_queue_refuses_at_once_with_a_hint() -> None:
    queue = FairQueue(2, 10_000)
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
    queue = FairQueue(1, 10_000)
    await queue.put(submission("first"), wait=False)
    waiting = asyncio.create_task(queue.put(submission("second"), wait=True))
    await asyncio.sleep(0)
    assert not waiting.done()

    assert tenants(await queue.take(1, 10_000)) == ["first"]
    async with asyncio.timeout(1):
        await waiting
        assert tenants(await queue.take(1, 10_000)) == ["second"]


async def test_what_its_caller_gave_up_is_dropped() -> None:
    queue = FairQueue(10, 10_000)
    given_up, wanted = submission("gone"), submission("here")
    await queue.put(given_up, wait=False)
    await queue.put(wanted, wait=False)
    given_up.outcome.cancel()

    assert await queue.take(10, 10_000) == [wanted]


async def test_an_empty_queue_waits() -> None:
    queue = FairQueue(10, 10_000)
    taking = asyncio.create_task(queue.take(10, 10_000))
    await asyncio.sleep(0)
    assert not taking.done()
    only = submission()
    await queue.put(only, wait=False)

    async with asyncio.timeout(1):
        assert await taking == [only]


async def test_who_gives_up_waiting_for_room_leaves_it_to_the_next() -> None:
    queue = FairQueue(1, 10_000)
    await queue.put(submission("first"), wait=False)
    impatient = asyncio.create_task(queue.put(submission("impatient"), wait=True))
    patient = asyncio.create_task(queue.put(submission("patient"), wait=True))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)

    assert tenants(await queue.take(1, 10_000)) == ["first"]
    async with asyncio.timeout(1):
        await patient
        assert tenants(await queue.take(1, 10_000)) == ["patient"]


async def test_a_turn_that_comes_too_late_goes_to_the_next() -> None:
    queue = FairQueue(1, 10_000)
    await queue.put(submission("first"), wait=False)
    late = asyncio.create_task(queue.put(submission("late"), wait=True))
    next_one = asyncio.create_task(queue.put(submission("next"), wait=True))
    await asyncio.sleep(0)

    await queue.take(1, 10_000)  # gives the turn to the first who waits
    late.cancel()

    async with asyncio.timeout(1):
        await next_one
        assert tenants(await queue.take(1, 10_000)) == ["next"]
