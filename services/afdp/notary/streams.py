"""Answering a stream: many requests at once, answers as they are ready, never more in hand than a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def answer_each(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], in_flight: int
) -> AsyncIterator[A]:
    """An answer to each request, in the order in which they are ready.

    No more than `in_flight` requests are read ahead of the answers that were taken: a reader who is slow slows the
    writer down. `answer` turns its own errors into answers; what it raises ends the stream.
    """
    room = asyncio.Semaphore(in_flight)
    ready: asyncio.Queue[A | None] = asyncio.Queue()

    async def work(request: Q) -> None:
        ready.put_nowait(await answer(request))

    async def read() -> None:
        async with asyncio.TaskGroup() as workers:
            await room.acquire()
            async for request in requests:
                workers.create_task(work(request))
                await room.acquire()
        ready.put_nowait(None)

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (found := await ready.get()) is not None:
            yield found
            room.release()
        try:
            await reader
        except ExceptionGroup as ended:
            raise ended.exceptions[0] from None  # one is what the caller can be told
    finally:
        reader.cancel()
        await asyncio.wait([reader])
