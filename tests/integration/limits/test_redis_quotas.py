"""Rate limits that several processes share, on a real Redis: exact while it is there, and never in the way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from afdp.errors import ResourceExhausted
from afdp.formats.statement import Submitter
from afdp.notary.access.limiter import RateLimiter
from afdp.notary.access.rates import RateLimits
from afdp.notary.access.redis_quotas import RedisQuotas
from afdp.notary.model import Principal
from afdp.redis import FollowingRedis, RedisSettings
from afdp.rpc import answer
from afdp.rpc.descriptors import service_methods
from afdp.secrets import resolved
from tests.local_tls import TlsAuthority
from tests.redis_server import RedisServer, redis_program, running_redis

SIGN = next(each for each in service_methods("afdp.notary.v1.NotaryService") if each.name == "SignEvidence")
TIMEOUT = 5.0  # seconds: on a busy machine a live Redis is not taken for one that is away
SLOW = {"client": {"create": "0.01/40"}, "tenant": {"create": "off"}}  # nothing comes back while a test runs


def principal(subject: str = "alice", tenant: str = "acme") -> Principal:
    return Principal(tenant, Submitter("https://issuer", subject, "oidc"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tool: Callable[[str], Any]) -> AsyncIterator[RedisServer]:
    async with running_redis(redis_program(lambda: tool("redis-server"))) as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> RedisServer:
    async with server.client() as client:
        await client.flushall()
    return server


@asynccontextmanager
async def limiter(redis: RedisServer, timeout: float = TIMEOUT, **limits: Any) -> AsyncIterator[RateLimiter]:
    """One notary's."""
    async with limiter_at(FollowingRedis(SecretStr(redis.url), timeout), timeout, **limits) as running:
        yield running


@asynccontextmanager
async def limiter_at(redis: FollowingRedis, timeout: float = TIMEOUT, **limits: Any) -> AsyncIterator[RateLimiter]:
    quotas = RedisQuotas(redis, timeout, retry_seconds=0.05)
    running = [asyncio.create_task(each) for each in (quotas.run(), redis.run())]
    try:
        yield RateLimiter(RateLimits.model_validate(limits or SLOW), quotas)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def calls(limiter: RateLimiter, count: int, who: Principal | None = None) -> int:
    """How many of so many calls at once are let in."""

    async def call() -> bool:
        with suppress(ResourceExhausted):
            await limiter.admit(who or principal(), SIGN)
            return True
        return False

    return sum(await asyncio.gather(*(call() for _ in range(count))))


async def test_several_notaries_together_let_in_no_more_than_one_may(redis: RedisServer) -> None:
    async with limiter(redis) as one, limiter(redis) as two, limiter(redis) as three:
        admitted = 0
        for _ in range(10):
            admitted += sum(await asyncio.gather(*(calls(each, 7) for each in (one, two, three))))

    assert 30 <= admitted <= 40  # a lease that another holds is not had


async def test_a_lone_notary_lets_in_exactly_the_burst_and_says_when_to_come_again(redis: RedisServer) -> None:
    async with limiter(redis) as one:
        assert await calls(one, 100) == 40
        with pytest.raises(ResourceExhausted) as refused:
            await one.admit(principal(), SIGN)

    assert 90 < (refused.value.retry_after or 0) <= 100
    assert dict(answer.told())["ratelimit"].startswith('"client";r=0;t=')


async def test_a_tenants_limit_holds_for_all_its_clients_and_for_no_other_tenant(redis: RedisServer) -> None:
    limits = {"client": {"create": "0.01/30"}, "tenant": {"create": "0.01/50"}}
    async with limiter(redis, **limits) as one:
        clients = [await calls(one, 40, principal(f"client {number}")) for number in range(3)]
        assert await calls(one, 40, principal(tenant="other")) == 30

    assert sum(clients) == 50
    assert max(clients) == 30


async def test_the_packages_of_a_batch_count_for_everybody(redis: RedisServer) -> None:
    async with limiter(redis) as one, limiter(redis) as two:
        await one.admit(principal(), SIGN)
        one.charge(principal(), "evidence.create", 200)
        await calls(one, 1)
        await asyncio.sleep(0)

        assert await calls(two, 10) == 0


async def test_few_calls_wait_for_redis(redis: RedisServer) -> None:
    async with limiter(redis, client={"create": "20000/20000"}) as one, redis.client() as client:
        for _ in range(50):
            assert await calls(one, 64) == 64
        used = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert used < 500  # of 3,200 calls


async def test_of_a_crowd_that_comes_at_once_those_beyond_the_burst_are_refused_by_one_question(
    redis: RedisServer,
) -> None:
    async with limiter(redis, client={"create": "1000/40"}, tenant={"create": "off"}) as one, redis.client() as client:
        before = (await client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
        admitted = await calls(one, 2000)
        asked = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before

    assert 40 <= admitted < 200
    assert asked < 10


async def test_keys_name_nobody_and_end(redis: RedisServer) -> None:
    async with limiter(redis) as one, redis.client() as client:
        await calls(one, 3)
        [key] = await client.keys("*")

        assert key.startswith(b"afdp:rate:{")
        assert not any(word in key for word in (b"acme", b"alice", b"issuer"))
        assert 0 < await client.pttl(key) < 5_000_000


@pytest.mark.parametrize("poison", ["list", "text", "nan", "far", "negative", "binary"])
async def test_what_somebody_else_wrote_over_a_key_refuses_nobody_for_ever_and_breaks_nothing(
    redis: RedisServer, poison: str
) -> None:
    limits = {"client": {"create": "1000/40"}, "tenant": {"create": "off"}}
    async with limiter(redis, **limits) as one, redis.client() as client:
        await calls(one, 1)
        [key] = await client.keys("*")
        await client.delete(key)
        if poison == "list":
            await client.rpush(key, "a", "b")
        else:
            values = {"text": "x", "nan": "nan", "far": "9" * 40, "negative": "-1e300", "binary": b"\xff\0\x80"}
            await client.set(key, values[poison])
        async with asyncio.timeout(20):  # a time far off is brought back to what a batch could owe: 1.04 s here
            while await calls(one, 1) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        began = monotonic()
        admitted = await calls(one, 1000)
        assert admitted <= 40 + 1000 * (monotonic() - began) + 1


async def test_flushed_or_without_its_script_redis_goes_on_counting(redis: RedisServer) -> None:
    async with limiter(redis) as one, limiter(redis) as two, redis.client() as client:
        assert await calls(one, 100) == 40
        await client.script_flush()
        assert await calls(two, 10) == 0
        await client.flushall()
        async with asyncio.timeout(20):  # a refusal is believed for a second
            while (admitted := await calls(two, 100)) == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert admitted == 40


async def test_a_redis_that_dies_under_load_fails_no_call_and_is_found_again(redis: RedisServer) -> None:
    rate = {"client": {"create": "100000/100000"}, "tenant": {"create": "off"}}
    async with limiter(redis, **rate) as one:
        stop = asyncio.Event()

        async def load() -> int:
            done = 0
            while not stop.is_set():
                done += await calls(one, 16)  # whatever but a refusal would end the test
                await asyncio.sleep(0)
            return done

        loading = asyncio.create_task(load())
        await redis.kill()
        try:
            await _until(lambda: _shared() == 0)
        finally:
            await redis.start()
        await _until(lambda: _shared() == 1)
        stop.set()
        assert await loading > 0


async def test_a_redis_that_hangs_costs_one_short_wait_and_limits_hold_per_process(redis: RedisServer) -> None:
    async with limiter(redis, timeout=5.0) as one, limiter(redis, timeout=5.0) as two:
        redis.freeze()
        try:
            admitted = await asyncio.gather(calls(one, 100), calls(two, 100))
            failed = _failed()
            later = await calls(one, 100)
            assert _failed() == failed  # nobody waits for it any more
        finally:
            redis.thaw()
        await _until(lambda: _shared() == 1)

    assert admitted == [40, 40]
    assert later == 0


async def test_a_redis_that_has_become_a_replica_is_left_alone_until_it_is_none(redis: RedisServer) -> None:
    async with limiter(redis) as one, redis.client() as client:
        assert await calls(one, 1) == 1
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            assert await calls(one, 100, principal("bob")) == 40
            assert _shared() == 0
        finally:
            await client.execute_command("REPLICAOF", "NO", "ONE")
        await _until(lambda: _shared() == 1)


async def test_without_redis_from_the_start_calls_are_served(redis: RedisServer) -> None:
    await redis.kill()
    try:
        async with limiter(redis) as one:
            assert await calls(one, 100) == 40
    finally:
        await redis.start()


async def test_a_password_that_is_changed_where_it_is_kept_is_taken_on_while_calls_are_served(
    redis: RedisServer, tmp_path: Path
) -> None:
    place = tmp_path / "redis"
    place.write_text(redis.url)
    place.chmod(0o600)
    following = FollowingRedis(_kept_in(place), TIMEOUT)
    async with limiter_at(following) as one, redis.client() as admin:
        assert await calls(one, 1) == 1
        before = following.client
        await admin.config_set("requirepass", "new")
        try:
            await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await calls(one, 1, principal("bob")) == 1
            await _until(lambda: _shared() == 0)
            place.write_text(redis.url.replace("redis://", "redis://:new@"))
            await _until(lambda: _shared() == 1)
            assert await calls(one, 1, principal("carol")) == 1
            assert following.client is not before
        finally:
            await admin.config_set("requirepass", "")


async def test_the_rights_in_redis_that_the_container_has_are_enough_and_no_more(
    redis: RedisServer, tmp_path: Path
) -> None:
    url = (await redis.container_urls(tmp_path))["notary"]
    async with limiter_at(FollowingRedis(SecretStr(url), TIMEOUT)) as one, limiter(redis) as two:
        assert [await calls(each, 100) for each in (one, two)] == [40, 0]

    async with Redis.from_url(url) as client:
        for forbidden in (["GET", "afdp:record:x"], ["KEYS", "*"], ["FLUSHALL"]):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*forbidden)


async def test_redis_over_tls_is_1_3_and_has_a_certificate_of_the_authority_that_is_named(
    redis: RedisServer, tmp_path: Path
) -> None:
    authority, stranger = TlsAuthority(tmp_path), TlsAuthority(tmp_path, "Stranger")
    async with _behind_tls(redis, *authority.issue("redis")) as (port, versions):
        url = SecretStr(f"rediss://127.0.0.1:{port}/0")
        async with limiter_at(FollowingRedis(url, TIMEOUT, authority.file)) as one:
            assert await calls(one, 1) == 1
            assert _shared() == 1
        async with limiter_at(FollowingRedis(url, TIMEOUT, stranger.file)) as one:
            assert await calls(one, 1) == 1
            assert _shared() == 0

    assert versions == ["TLSv1.3"]


def _kept_in(place: Path) -> SecretStr:
    fields = {"redis_url": RedisSettings.model_fields["redis_url"]}
    return resolved(fields, [{"redis_url_file": str(place)}], lambda: None)["redis_url"]


@asynccontextmanager
async def _behind_tls(redis: RedisServer, *pair: Path) -> AsyncIterator[tuple[int, list[str]]]:
    """Redis of the wheel speaks plain text: this speaks TLS for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    versions = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        versions.append(writer.get_extra_info("ssl_object").version())
        upstream = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(_pass_on(reader, upstream[1]), _pass_on(upstream[0], writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], versions


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def _failed() -> float:
    return REGISTRY.get_sample_value("afdp_rate_limit_leases_total", {"result": "failed"}) or 0.0


def _shared() -> float:
    return REGISTRY.get_sample_value("afdp_rate_limits_shared") or 0.0


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
