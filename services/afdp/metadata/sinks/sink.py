"""What a sink is, and the thread that a blocking one works in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Protocol, TypeVar

from afdp.audit.event import RecordedEvent

T = TypeVar("T")


class SinkError(Exception):
    """A sink did not take events: why, in words that hold no secret and nothing of an event.

    Attributes:
        retry_after: seconds for which it asked to be left alone, if it did.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """A place that events are sent to."""

    async def deliver(self, events: Sequence[RecordedEvent]) -> None:
        """Sends events, and returns once it has them all. Takes no longer than its settings say.

        Raises:
            SinkError: it may have some, or all; they are to be sent again.
        """

    async def probe(self) -> str:
        """Looks whether it can be reached, and sends it nothing: what was found, in a few words.

        Raises:
            SinkError: it cannot.
        """


class OwnThread:
    """Runs blocking work, one piece at a time, in threads that no other work needs and that hold up no exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = False

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """What the work gives.

        Raises:
            SinkError: it takes longer than that. It may still go on; until it is over, nothing else is begun.
        """
        if self._busy:
            raise SinkError("an earlier attempt still hangs")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def told(value: T | None, error: BaseException | None) -> None:
            self._busy = False
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]  # what `work` gave

        def body() -> None:
            value, error = None, None
            try:
                value = work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(told, value, error)

        Thread(target=body, name=self._name, daemon=True).start()
        self._busy = True
        try:
            async with asyncio.timeout(seconds):
                return await result
        except TimeoutError:
            raise SinkError(f"it did not take them within {seconds:g} seconds") from None
