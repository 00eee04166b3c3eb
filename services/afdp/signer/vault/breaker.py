"""A circuit breaker: while what we call is away, callers hear so at once, and one probe at a time looks after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from afdp.errors import NotaryError, Unavailable

_FAILURES = 3  # in a row
_FIRST_PROBE = 0.25  # seconds
_LAST_PROBE = 2.0


class Breaker:
    """Closed, calls pass. It opens after three failures in a row, or one that was waited for.

    Open, `admit` refuses with the last failure. It closes when a probe succeeds; the first failure after that opens it
    again, until a call has succeeded.
    """

    def __init__(self, changed: Callable[[bool], None] = lambda is_open: None) -> None:
        """`changed` hears whether it is open."""
        self._changed = changed
        self._failures = 0
        self._reason = ""
        self._next_probe = 0.0
        self._opened = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls are refused."""
        return self._opened.is_set()

    def admit(self) -> None:
        """Returns where a call may be made.

        Raises:
            Unavailable: it is open; `retry_after` is when it may have closed.
        """
        if self._opened.is_set():
            raise Unavailable(self._reason, retry_after=max(0.1, self._next_probe - time.monotonic()))

    def succeeded(self) -> None:
        """A call was answered."""
        self._failures = 0

    def failed(self, reason: str, *, at_once: bool = False) -> None:
        """A call was not answered. Nobody shall wait twice: `at_once` where this one took its full time."""
        self._failures += 1
        self._reason = reason
        if (at_once or self._failures >= _FAILURES) and not self._opened.is_set():
            self._next_probe = time.monotonic() + _FIRST_PROBE
            self._opened.set()
            self._changed(True)

    async def watch(self, probe: Callable[[], Awaitable[object]]) -> None:
        """Calls `probe` while it is open, at first after 0.25 s, later every 2 s. Runs until it is cancelled.

        `probe` raises a `NotaryError` where what we call is still away.
        """
        while True:
            await self._opened.wait()
            pause = _FIRST_PROBE
            while self._opened.is_set():
                self._next_probe = time.monotonic() + pause
                await asyncio.sleep(pause)
                await self._try(probe)
                pause = min(2 * pause, _LAST_PROBE)

    async def _try(self, probe: Callable[[], Awaitable[object]]) -> None:
        try:
            await probe()
        except NotaryError as error:
            self._reason = error.message
            return
        self._failures = _FAILURES - 1
        self._opened.clear()
        self._changed(False)
