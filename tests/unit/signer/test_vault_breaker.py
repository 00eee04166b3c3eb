"""The circuit breaker, without what it protects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from afdp.errors import Unavailable
from afdp.signer.vault.breaker import Breaker


@asynccontextmanager
async def watched(breaker: Breaker, probe: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """The breaker with its probes running."""
    task = asyncio.create_task(breaker.watch(probe))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_closed(breaker: Breaker) -> None:
    async with asyncio.timeout(5):
        while True:
            if not breaker.is_open:
                return
            await asyncio.sleep(0.01)


class Patient:
    """What a probe asks: away until it is told otherwise."""

    def __init__(self) -> None:
        self.away = True
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.answered = asyncio.Event()

    async def probe(self) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.01)
            if self.away:
                raise Unavailable("still away")
        finally:
            self.at_once -= 1
            self.answered.set()


def test_it_opens_after_three_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker.failed("away")
        breaker.admit()
    breaker.failed("away")
    with pytest.raises(Unavailable, match="away") as refused:
        breaker.admit()
    assert 0 < (refused.value.retry_after or 0) <= 0.25


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed("away")
        breaker.failed("away")
        breaker.succeeded()
    breaker.admit()


def test_a_call_that_was_waited_for_opens_it_at_once() -> None:
    breaker = Breaker()
    breaker.failed("too slow", at_once=True)
    with pytest.raises(Unavailable, match="too slow"):
        breaker.admit()


async def test_one_probe_at_a_time_asks_until_it_closes_and_tells_both_changes() -> None:
    changes: list[bool] = []
    breaker, patient = Breaker(changes.append), Patient()
    async with watched(breaker, patient.probe):
        breaker.failed("away", at_once=True)
        async with asyncio.timeout(5):
            await patient.answered.wait()
        with pytest.raises(Unavailable, match="still away"):
            breaker.admit()

        patient.away = False
        await until_closed(breaker)
        breaker.admit()

    assert patient.asked == 2
    assert patient.most_at_once == 1
    assert changes == [True, False]


async def test_nothing_is_probed_while_it_is_closed() -> None:
    breaker, patient = Breaker(), Patient()
    async with watched(breaker, patient.probe):
        breaker.failed("away")
        await asyncio.sleep(0.3)
    assert patient.asked == 0


async def test_after_a_probe_one_failure_opens_it_again_until_a_call_has_succeeded() -> None:
    breaker, patient = Breaker(), Patient()
    patient.away = False
    async with watched(breaker, patient.probe):
        for _ in range(2):
            breaker.failed("away", at_once=True)
            await until_closed(breaker)
            breaker.failed("away again")
            assert breaker.is_open
            await until_closed(breaker)
            breaker.succeeded()
        breaker.failed("once")
        assert not breaker.is_open
