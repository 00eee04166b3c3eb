"""The cache of records, as the settings want it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from afdp.errors import FailedPrecondition
from afdp.metadata.config import MetadataSettings
from afdp.metadata.false_copies import FalseCopies
from afdp.metadata.record_cache import RecordCache
from afdp.redis import FollowingRedis


@asynccontextmanager
async def open_cache(settings: MetadataSettings, false_copies: FalseCopies) -> AsyncIterator[RecordCache | None]:
    """The cache, for the length of a block; None where the settings name no Redis.

    Raises:
        FailedPrecondition: the extra `redis` is not installed.
    """
    redis = FollowingRedis.of(settings)
    if redis is None or settings.cache_secret is None:
        yield None
        return
    try:
        from afdp.metadata.copies import Copies
        from afdp.metadata.redis_cache import RedisCache
    except ImportError:
        raise FailedPrecondition("AFDP_REDIS_URL needs the extra `redis`: pip install afdp-notary[redis]") from None
    cache = RedisCache(
        redis,
        Copies(settings.cache_secret.get_secret_value()),
        false_copies,
        seconds=settings.cache_seconds,
        max_bytes=settings.cache_max_bytes,
        timeout=settings.redis_timeout_seconds,
        retry_seconds=settings.redis_retry_seconds,
    )
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(cache.run()), tasks.create_task(redis.run())]
        try:
            yield cache
        finally:
            for task in running:
                task.cancel()
