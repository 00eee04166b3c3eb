"""Redis, asked only while it answers: who may do without it waits for it once, and then not until it is back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from afdp.redis.following import CONNECT_SECONDS, FollowingRedis

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RedisAway(Exception):
    """Redis did not answer, or said what it should not."""


class Breaker:
    """Redis for questions that can go without an answer.

    Args:
        redis: is followed where its URL leads.
        timeout: seconds that a question waits at most; after one that did, and after each error, none is asked.
        retry_seconds: how often it is looked whether Redis is back.
        probe: a question that tells whether Redis can serve again.
        serving: is 1 while it serves, and 0 while it is away.
        purpose: what for, as in "redis is away: {purpose}" and "redis is back: …".
    """

    def __init__(
        self,
        redis: FollowingRedis,
        timeout: float,
        retry_seconds: float,
        *,
        probe: Callable[[Redis], Awaitable[object]],
        serving: Gauge,
        purpose: tuple[str, str],
    ) -> None:
        self._redis = redis
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._probe = probe
        self._serving = serving
        self._purpose = purpose
        self._away = asyncio.Event()
        serving.set(1)

    @property
    def away(self) -> bool:
        """Whether it is of no use to ask."""
        return self._away.is_set()

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer. Raises RedisAway where there is none; whatever the question raises is such an error."""
        try:
            async with asyncio.timeout(self._timeout):
                return await question(self._redis.client)
        except Exception as error:
            self._gone(error)
            raise RedisAway from error

    async def run(self) -> None:
        """Looks whether Redis is back, for as long as it is away, also where its URL leads now.

        The first look is at once, unless it was back a moment ago: when this process was busy, that is over by then.
        """
        back = -math.inf
        while True:
            await self._away.wait()
            await asyncio.sleep(max(0.0, min(self._retry_seconds, back + self._retry_seconds - monotonic())))
            while not await self._is_back():
                await asyncio.sleep(self._retry_seconds)
                await self._redis.renew()
            back = monotonic()
            self._away.clear()
            self._serving.set(1)
            logger.info("redis is back: %s", self._purpose[1])

    async def _is_back(self) -> bool:
        try:
            async with asyncio.timeout(max(self._timeout, CONNECT_SECONDS)):  # nobody waits for it
                await self._probe(self._redis.client)
            async with asyncio.timeout(self._timeout):  # it is no use where each question would wait in vain
                await self._probe(self._redis.client)
        except Exception as error:  # whatever it is, Redis cannot serve
            logger.debug("redis is still away", extra={"fields": {"error": type(error).__name__}})
            return False
        return True

    def _gone(self, error: Exception) -> None:
        if not self._away.is_set():
            self._away.set()
            self._serving.set(0)
            fields = {"error": type(error).__name__}  # not its text: that may hold the URL with its password
            logger.warning("redis is away: %s", self._purpose[0], extra={"fields": fields})
