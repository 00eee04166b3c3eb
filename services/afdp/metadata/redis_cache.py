"""Copies of records in Redis, which all replicas of this service share.

All that is asked, kept and dropped at one time goes in one round trip, over one connection. What comes back is believed
if it opens: whoever writes to Redis can make an answer slower, and never other than it is. Whatever is amiss there,
there is no copy, and the record is read where it is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from time import time
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from prometheus_client import Counter, Gauge
from redis.exceptions import ResponseError

from afdp.metadata.copies import Copies, FalseCopy, Name
from afdp.metadata.false_copies import FalseCopies
from afdp.metadata.values import Record
from afdp.redis import Breaker, FollowingRedis, RedisAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

_SERVING = Gauge("afdp_record_cache_serving", "1 while copies of records are read from Redis, 0 while it is away.")
_READS = Counter("afdp_record_cache_reads", "Reads that asked for a copy of a record, by what they found.", ["result"])
_hits, _misses, _ended, _away, _false = map(_READS.labels, ("hit", "miss", "ended", "away", "poisoned"))

T = TypeVar("T")

_PURPOSE = "records are read from the database", "copies of records are read there"
_MOST_WAITING = 256  # copies that wait to be kept; what comes then is not
_MOST_AT_ONCE = 16  # questions of one round trip, and copies: each may be large
_PROBE = "afdp:record:probe"


class RedisCache:
    """Copies of records that can no longer change.

    Args:
        redis: where they are.
        copies: seals and opens them.
        false_copies: is told of what does not open.
        seconds: how long each holds.
        max_bytes: the largest that is kept.
        timeout: seconds that a read waits at most; then none does until Redis is back.
        retry_seconds: how often it is looked whether it is.
    """

    def __init__(
        self,
        redis: FollowingRedis,
        copies: Copies,
        false_copies: FalseCopies,
        *,
        seconds: int,
        max_bytes: int,
        timeout: float,
        retry_seconds: float,
    ) -> None:
        self._copies = copies
        self._false_copies = false_copies
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._breaker = Breaker(redis, timeout, retry_seconds, probe=_probe, serving=_SERVING, purpose=_PURPOSE)
        self._asked: OrderedDict[str, asyncio.Future[object]] = OrderedDict()
        self._kept: OrderedDict[str, bytes | None] = OrderedDict()  # None: to be dropped
        self._work = asyncio.Event()

    async def find(self, tenant: str, receipt_id: UUID) -> Record | None:
        """A true copy of a record, if there is one."""
        if self._breaker.away:
            _away.inc()
            return None
        name = self._copies.name(tenant, receipt_id)
        return self._opened(name, await asyncio.shield(self._answer(name.text)))

    def keep(self, tenant: str, record: Record) -> None:
        """Has a copy of a record kept, soon, if there is room for it."""
        if self._breaker.away or len(self._kept) >= _MOST_WAITING:
            return
        name = self._copies.name(tenant, record.draft.receipt_id)
        copy = self._copies.seal(name, record, int(time()) + self._seconds)
        if len(copy) <= self._max_bytes:
            self._kept[name.text] = copy
            self._work.set()

    async def run(self) -> None:
        """Speaks with Redis, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._breaker.run())
            tasks.create_task(self._converse())

    def _answer(self, name: str) -> asyncio.Future[object]:
        """What stands under a name, as soon as it is known; who asks while others do waits for the same answer."""
        found = self._asked.get(name)
        if found is None:
            found = self._asked[name] = asyncio.get_running_loop().create_future()
            self._work.set()
        return found

    def _opened(self, name: Name, answer: object) -> Record | None:
        if isinstance(answer, RedisAway):
            _away.inc()
            return None
        if answer == b"":  # which GETRANGE says of a key that is not there
            _misses.inc()
            return None
        try:
            if not isinstance(answer, bytes):  # what stands there is no text
                raise FalseCopy
            record = self._copies.open(name, answer, time())
        except FalseCopy:
            self._drop(name)
            return None
        (_hits if record is not None else _ended).inc()
        return record

    def _drop(self, name: Name) -> None:
        _false.inc()
        self._false_copies.add(name.tenant, name.receipt_id)
        self._kept[name.text] = None
        self._work.set()

    async def _converse(self) -> None:
        try:
            while True:
                await self._work.wait()
                asked, kept = _first(self._asked), _first(self._kept)
                if not self._asked and not self._kept:
                    self._work.clear()
                await self._round_trip(asked, kept)
        finally:
            for waiting in self._asked.values():
                waiting.set_result(RedisAway())

    async def _round_trip(self, asked: dict[str, asyncio.Future[object]], kept: dict[str, bytes | None]) -> None:
        answers: Sequence[object] = [RedisAway()] * len(asked)
        try:
            answers = await self._breaker.ask(lambda redis: self._exchange(redis, list(asked), kept))
        except RedisAway:
            self._kept.clear()
        finally:
            for future, answer in zip(asked.values(), answers, strict=True):
                future.set_result(answer)

    async def _exchange(self, redis: Redis, asked: list[str], kept: dict[str, bytes | None]) -> list[object]:
        """What stands under names, up to what could be a copy; an error where it is no text."""
        pipeline = redis.pipeline(transaction=False)
        for name in asked:
            pipeline.getrange(name, 0, self._max_bytes)
        for name, copy in kept.items():
            if copy is None:
                pipeline.unlink(name)
            else:
                pipeline.set(name, copy, ex=self._seconds)
        answers: list[object] = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and not _says_wrong_type(answer):
                raise answer
        return answers[: len(asked)]


def _first(waiting: OrderedDict[str, T]) -> dict[str, T]:
    """Those that wait longest, taken out."""
    return dict(waiting.popitem(last=False) for _ in range(min(len(waiting), _MOST_AT_ONCE)))


def _says_wrong_type(error: Exception) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


async def _probe(redis: Redis) -> None:
    # It writes, which a replica would refuse.
    await redis.set(_PROBE, b"", ex=1)
