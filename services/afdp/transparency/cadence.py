"""What the log does beside appending, on a cadence: a task of its own, which a failure makes rarer and never ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, Protocol

from afdp.errors import Internal, NotaryError

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """What works until it is cancelled."""

    async def run(self) -> NoReturn:
        """Works until it is cancelled."""


async def repeat(
    turn: Callable[[], Awaitable[float]], failed: Callable[[NotaryError], None], retry: float, longest: float
) -> NoReturn:
    """Takes turns until it is cancelled.

    Args:
        turn: gives the seconds until the next.
        failed: is told what a turn has raised; a fault of ours, which ends nothing either, as Internal.
        retry: seconds after the first failure; twice as long after each further one.
        longest: bounds that.
    """
    pause = retry
    while True:
        try:
            wait = await turn()
            pause = retry
        except Exception as error:
            if not isinstance(error, NotaryError):
                logger.exception("a turn failed unexpectedly")
            failed(error if isinstance(error, NotaryError) else Internal("an internal fault; the log has it"))
            wait, pause = min(pause, longest), pause * 2
        await asyncio.sleep(wait)


@asynccontextmanager
async def beside(worker: Worker | None) -> AsyncIterator[None]:
    """A worker at work for the length of a block; None is none."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run()) if worker else None
        yield
        if running:
            running.cancel()
