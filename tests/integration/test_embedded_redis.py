"""The Redis of `afdp dev --redis`: on a socket that its owner alone reaches, and on no port."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from redis.asyncio import Redis

from afdp.embedded.redis import EmbeddedRedis
from afdp.errors import FailedPrecondition


async def test_it_answers_on_its_socket_keeps_nothing_and_is_started_once(data_folder: Path) -> None:
    server = await EmbeddedRedis.start(data_folder / "redis")
    try:
        async with Redis.from_url(server.url) as redis:
            await redis.set("a", "b")
            assert (await redis.config_get("port"))["port"] == "0"
        with pytest.raises(FailedPrecondition, match="in use"):
            await EmbeddedRedis.start(data_folder / "redis")
        assert stat.S_IMODE((data_folder / "redis").stat().st_mode) == 0o700
    finally:
        await server.stop()
    again = await EmbeddedRedis.start(data_folder / "redis")
    try:
        async with Redis.from_url(again.url) as redis:
            assert await redis.get("a") is None
    finally:
        await again.stop()


async def test_a_path_that_is_too_long_for_a_socket_is_said(data_folder: Path) -> None:
    with pytest.raises(FailedPrecondition, match="choose a data folder with a shorter path"):
        await EmbeddedRedis.start(data_folder / ("x" * 120))
