"""Comparing the clock with an external authority's, now and then."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Protocol

from afdp.errors import NotaryError
from afdp.signer.external_answers import ExternalStamp

logger = logging.getLogger(__name__)

_ACCURACY = 1.0  # seconds, where an authority does not say


class ComparedClock(Protocol):
    """The clock (`clock.py`)."""

    moved: asyncio.Event

    def compared(self, ahead: float, uncertainty: float) -> None:
        """Takes note that it was found this many seconds ahead of the reference, give or take."""


class Authorities(Protocol):
    """The external authorities (`external.py`)."""

    async def ask(self, url: str, data: bytes) -> ExternalStamp:
        """A verified stamp by the one with this URL."""


class Reference:
    """One authority whose time the clock is compared with, every so many seconds and whenever the clock was set."""

    def __init__(self, clock: ComparedClock, authorities: Authorities, url: str, every: float) -> None:
        self._clock = clock
        self._authorities = authorities
        self._url = url
        self._every = every

    async def watch(self) -> None:
        """Compares until it is cancelled. While the reference does not answer, the last comparison stands."""
        while True:
            self._clock.moved.clear()
            try:
                await self.compare()
            except NotaryError as error:
                logger.warning("the clock could not be compared", extra={"fields": {"reason": error.message}})
            try:
                async with asyncio.timeout(self._every):
                    await self._clock.moved.wait()
            except TimeoutError:
                continue

    async def compare(self) -> None:
        """Compares once.

        Raises:
            Unavailable: the reference gives no time that is verified.
        """
        asked, started = time.time(), time.monotonic()
        stamp = await self._authorities.ask(self._url, secrets.token_bytes(32))
        took = time.monotonic() - started
        # An authority that states whole seconds may have cut off anything below one.
        grain = 0.0 if stamp.time.microsecond else 1.0
        stated = stamp.time.timestamp() + grain / 2
        accuracy = _ACCURACY if stamp.accuracy is None else stamp.accuracy.total_seconds()
        self._clock.compared(asked + took / 2 - stated, took / 2 + grain / 2 + accuracy)
