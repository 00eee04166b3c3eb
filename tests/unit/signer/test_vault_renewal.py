"""When a token is renewed, without Vault."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from afdp.errors import Unavailable
from afdp.signer.vault.renewal import keep_alive, seconds_until_due
from afdp.vault.login import Lease


def lease(ttl: float | None, age: float = 0.0) -> Lease:
    return Lease("token", ttl, renewable=True, made=True, since=time.monotonic() - age)


class Held:
    """Holds a token; renewing it gives the next of some lifetimes, or fails."""

    def __init__(self, *answers: float | Exception) -> None:
        self.entered = asyncio.Event()
        self.lease: Lease | None = None
        self.renewals: list[float] = []
        self._answers = list(answers)
        self.done = asyncio.Event()

    async def renew(self) -> None:
        self.renewals.append(time.monotonic())
        answer = self._answers.pop(0)
        if not self._answers:
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        self.lease = lease(answer)
        self.entered.set()


async def run_until_done(held: Held) -> None:
    task = asyncio.create_task(keep_alive(held))
    try:
        async with asyncio.timeout(10):
            await held.done.wait()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("held", "seconds"),
    [
        (lambda: None, 0.0),
        (lambda: lease(None), None),
        (lambda: lease(3600), 2400.0),
        (lambda: lease(3600, age=2000), 400.0),
        (lambda: lease(3600, age=3000), 1.0),
        (lambda: lease(0.5), 1.0),
    ],
)
def test_a_token_is_due_at_two_thirds_of_its_time_and_never_in_a_tight_loop(
    held: Callable[[], Lease | None], seconds: float | None
) -> None:
    due = seconds_until_due(held())
    if seconds is None:
        assert due is None
    else:
        assert due == pytest.approx(seconds, abs=0.1)


async def test_it_logs_in_at_the_start_and_renews_in_time() -> None:
    held = Held(3.0, 3600.0)
    began = time.monotonic()
    await run_until_done(held)
    first, second = (moment - began for moment in held.renewals)
    assert first < 1.5
    assert 1.9 < second < 4.5


async def test_a_renewal_that_failed_is_tried_again_when_vault_said() -> None:
    held = Held(Unavailable("away", retry_after=0.2), Unavailable("away", retry_after=0.2), 3600.0)
    began = time.monotonic()
    await run_until_done(held)
    assert len(held.renewals) == 3
    assert 0.4 <= held.renewals[-1] - began < 3.0


async def test_a_login_by_another_sets_the_time_anew() -> None:
    held = Held(3600.0, 3600.0)
    task = asyncio.create_task(keep_alive(held))
    async with asyncio.timeout(5):
        await held.entered.wait()
        await asyncio.sleep(0)  # the loop waits for 2,400 s now
        held.lease = lease(1.2)
        held.entered.set()
        await held.done.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert len(held.renewals) == 2


def test_a_lease_does_not_show_its_token() -> None:
    assert "secret-token" not in repr(Lease("secret-token", 1.0, renewable=True, made=True))
