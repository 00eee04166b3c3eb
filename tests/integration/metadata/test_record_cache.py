"""Copies of records in a real Redis, before a real PostgreSQL: whatever Redis holds or does, answers are right."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, time
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from afdp.audit.rows import events_of
from afdp.metadata.audit_trail import AuditTrail, RowQuery
from afdp.metadata.caching import open_cache
from afdp.metadata.config import MetadataSettings
from afdp.metadata.copies import Copies
from afdp.metadata.false_copies import FalseCopies
from afdp.metadata.opening import sealed
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.retention import Period
from afdp.metadata.values import Draft, LogPosition, QueuedCompletion, Record
from tests.local_data_keys import LocalHolder
from tests.redis_server import RedisServer, redis_program, running_redis

Make = Callable[..., Draft]
SettingsOf = Callable[..., MetadataSettings]

SECRET = "a secret of the tests, long enough"
TIMEOUT = 5.0  # seconds: on a busy machine a live Redis is not taken for one that is away
COPIES = Copies(SECRET)


@dataclass
class Cached:
    """A store with a cache."""

    store: PostgresStore
    redis: RedisServer
    false_copies: FalseCopies

    async def read(self, draft: Draft) -> Record:
        found = await self.store.get_record(draft.submitter.tenant, draft.receipt_id)
        assert found is not None
        return found

    async def copied(self, draft: Draft) -> bytes:
        """Reads a record until there is a copy of it."""
        async with self.redis.client() as client, asyncio.timeout(60):
            while not (copy := await client.get(_name(draft))):
                await self.read(draft)
        return bytes(copy)

    async def put(self, draft: Draft, copy: bytes) -> None:
        async with self.redis.client() as client:
            await client.set(_name(draft), copy)


def _name(draft: Draft) -> str:
    return COPIES.name(draft.submitter.tenant, draft.receipt_id).text


def count(result: str) -> float:
    return REGISTRY.get_sample_value("afdp_record_cache_reads_total", {"result": result}) or 0.0


def serving() -> bool:
    return REGISTRY.get_sample_value("afdp_record_cache_serving") == 1.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - of another task there is no event
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tool: Callable[[str], Any]) -> AsyncIterator[RedisServer]:
    async with running_redis(redis_program(lambda: tool("redis-server"))) as running:
        yield running


@asynccontextmanager
async def opened(settings: MetadataSettings, redis: RedisServer) -> AsyncIterator[Cached]:
    false_copies = FalseCopies()
    async with open_cache(settings, false_copies) as cache, open_store(settings, cache) as store:
        await store.until_reachable()
        yield Cached(store, redis, false_copies)


@pytest.fixture
def settings(module_database: str, server: RedisServer, settings_of: SettingsOf) -> MetadataSettings:
    return settings_of(
        module_database,
        redis_url=server.url,
        cache_secret=SECRET,
        redis_timeout_seconds=TIMEOUT,
        redis_retry_seconds=0.05,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def cached(settings: MetadataSettings, server: RedisServer) -> AsyncIterator[Cached]:
    async with opened(settings, server) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def logged(cached: Cached, make_draft: Make, log_drafts: Any) -> Draft:
    """A record that can no longer change."""
    draft = make_draft(artifacts=(os.urandom(32),), timestamp=os.urandom(100))
    await log_drafts(cached.store, [draft])
    return draft


async def test_a_record_that_is_read_again_comes_from_its_copy_and_is_the_same(cached: Cached, logged: Draft) -> None:
    first = await cached.read(logged)
    await cached.copied(logged)
    hits = count("hit")

    assert await cached.read(logged) == first
    assert count("hit") == hits + 1
    assert first.log is not None


async def test_all_replicas_share_copies(
    cached: Cached, logged: Draft, settings: MetadataSettings, server: RedisServer
) -> None:
    await cached.copied(logged)
    hits = count("hit")

    async with opened(settings, server) as other:
        assert await other.read(logged) == await cached.read(logged)
    assert count("hit") == hits + 2


async def test_many_who_read_one_record_at_once_all_have_it(cached: Cached, logged: Draft) -> None:
    await cached.copied(logged)

    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(cached.read(logged)) for _ in range(50)]
        reads[7].cancel()

    assert len({each.result().draft.evidence for each in reads if not each.cancelled()}) == 1
    assert sum(each.cancelled() for each in reads) == 1


# --- what can still change --------------------------------------------------------------------------------------------


async def _nothing_is_copied(cached: Cached, draft: Draft, other: Draft) -> None:
    """`other` is copied after `draft` was read, and copies are kept in the order in which they come."""
    await cached.read(draft)
    await cached.copied(other)
    async with cached.redis.client() as client:
        assert await client.exists(_name(draft)) == 0


async def test_a_record_that_waits_for_its_log_is_read_where_it_is_kept(
    cached: Cached, make_draft: Make, log_drafts: Any, logged: Draft
) -> None:
    draft = make_draft()
    await cached.store.prepare([draft])
    await _nothing_is_copied(cached, draft, logged)

    await log_drafts(cached.store, [draft])

    assert (await cached.read(draft)).log is not None
    await cached.copied(draft)


async def test_a_stamp_that_comes_later_is_seen_at_once(
    cached: Cached, make_draft: Make, log_drafts: Any, logged: Draft
) -> None:
    draft = replace(make_draft(), external_stamp=True)
    await log_drafts(cached.store, [draft])
    await _nothing_is_copied(cached, draft, logged)

    await cached.store.keep_stamp(draft.receipt_id, b"stamp")

    assert (await cached.read(draft)).external_timestamp == b"stamp"
    await cached.copied(draft)
    assert (await cached.read(draft)).external_timestamp == b"stamp"


async def test_a_further_log_that_comes_later_is_seen_at_once(
    cached: Cached, make_draft: Make, log_drafts: Any, logged: Draft, checkpoint_of: Any
) -> None:
    draft = replace(make_draft(), more_logs=("others",))
    await log_drafts(cached.store, [draft])
    await _nothing_is_copied(cached, draft, logged)

    tree = checkpoint_of(origin="log.example.com")
    position = LogPosition(tree.origin, tree.tree_size - 1, tree.tree_size, os.urandom(64), tree.note)
    await cached.store.complete_queued("others", [QueuedCompletion(draft.receipt_id, position)])

    assert (await cached.read(draft)).more == (position,)
    await cached.copied(draft)
    assert (await cached.read(draft)).more == (position,)


async def test_what_may_expire_within_a_day_is_not_copied(
    cached: Cached, make_draft: Make, log_drafts: Any, logged: Draft
) -> None:
    await cached.store.retention.put_classes({"days": Period(days=1), "years": Period(years=7)})
    long_ago = datetime.now(UTC) - timedelta(days=70)
    due, kept, unknown = (
        replace(make_draft(notarized_at=long_ago), retention_class=name) for name in ("days", "years", "whatever")
    )
    await log_drafts(cached.store, [due, kept, unknown])

    await _nothing_is_copied(cached, due, logged)
    for draft in (kept, unknown):
        await cached.copied(draft)


async def test_a_record_that_is_too_large_is_read_where_it_is_kept(
    cached: Cached, make_draft: Make, log_drafts: Any, logged: Draft
) -> None:
    draft = make_draft(evidence=os.urandom(100_000))
    await log_drafts(cached.store, [draft])

    await _nothing_is_copied(cached, draft, logged)
    assert (await cached.read(draft)).draft.evidence == draft.evidence


async def test_a_copy_is_as_sealed_as_the_record_and_says_nothing_once_the_key_of_its_subject_is_destroyed(
    settings: MetadataSettings, server: RedisServer, make_draft: Make, log_drafts: Any, holder: LocalHolder
) -> None:
    draft = make_draft(actor_id="alice", evidence=b'{"planted":"in the evidence of alice"}')
    async with opened(settings, server) as cached:
        store = sealed(settings, cached.store, holder)
        await log_drafts(store, [draft])
        copy = COPIES.open(COPIES.name(draft.submitter.tenant, draft.receipt_id), await cached.copied(draft), time())
        record = await store.get_record(draft.submitter.tenant, draft.receipt_id)
        key = record_key(copy)
        [kept] = (await cached.store.shelf.data_keys([key])).values()
    assert record is not None
    assert record.draft.evidence == draft.evidence
    assert b"planted" not in repr(copy).encode()

    await holder.destroy(kept.scope)

    hits = count("hit")
    async with opened(settings, server) as cached:  # nobody who has the key in memory
        record = await sealed(settings, cached.store, holder).get_record(draft.submitter.tenant, draft.receipt_id)
    assert record is not None
    assert (record.erased is not None, record.draft.evidence, record.draft.terms.actor_id) == (True, b"", "")
    assert count("hit") == hits + 1


def record_key(copy: Record | None) -> UUID:
    """The data key that a record is sealed under."""
    assert copy is not None
    assert copy.draft.seal is not None
    return copy.draft.seal.data_key


# --- what somebody else wrote -----------------------------------------------------------------------------------------


async def _poisoned(cached: Cached, draft: Draft, copy: bytes) -> None:
    """What is put in the place of a copy is not believed, counted, and replaced."""
    before = count("poisoned")
    await cached.put(draft, copy)

    assert (await cached.read(draft)).draft == draft
    assert count("poisoned") == before + 1
    await cached.copied(draft)
    hits = count("hit")
    assert (await cached.read(draft)).draft == draft
    assert count("hit") == hits + 1
    assert count("poisoned") == before + 1


@pytest.mark.parametrize("harm", ["bit", "short", "long", "text", "huge"])
async def test_a_copy_that_was_altered_is_not_believed_and_dropped(cached: Cached, logged: Draft, harm: str) -> None:
    copy = await cached.copied(logged)
    flipped = bytes([*copy[:40], copy[40] ^ 1, *copy[41:]])
    altered = {"bit": flipped, "short": copy[:-1], "long": copy + b"x", "text": b"OK", "huge": copy + bytes(10**7)}

    await _poisoned(cached, logged, altered[harm])


async def test_a_copy_of_another_record_is_not_believed(
    cached: Cached, logged: Draft, make_draft: Make, log_drafts: Any
) -> None:
    other = make_draft()
    await log_drafts(cached.store, [other])

    await _poisoned(cached, logged, await cached.copied(other))


async def test_no_tenant_is_ever_told_what_is_another_s(
    cached: Cached, logged: Draft, make_draft: Make, log_drafts: Any
) -> None:
    theirs = make_draft(tenant="somebody-else")
    await log_drafts(cached.store, [theirs])
    copy = await cached.copied(theirs)
    tenant = logged.submitter.tenant

    await _poisoned(cached, logged, copy)
    async with cached.redis.client() as client:  # and in the place of a copy that this tenant asks for and has not
        await client.set(COPIES.name(tenant, theirs.receipt_id).text, copy)
    assert await cached.store.get_record(tenant, theirs.receipt_id) is None


async def test_an_old_copy_that_is_put_back_has_ended(cached: Cached, logged: Draft) -> None:
    name = COPIES.name(logged.submitter.tenant, logged.receipt_id)
    old = replace(await cached.read(logged), external_timestamp=b"what stood there then")
    ended = count("ended")
    await cached.put(logged, COPIES.seal(name, old, int(time()) - 1))

    assert (await cached.read(logged)).external_timestamp == b""
    assert count("ended") == ended + 1


@pytest.mark.parametrize("kind", ["list", "hash"])
async def test_what_is_no_text_is_dropped(cached: Cached, logged: Draft, kind: str) -> None:
    await cached.copied(logged)
    before = count("poisoned")
    async with cached.redis.client() as client:
        await client.delete(_name(logged))
        await (client.lpush(_name(logged), "x") if kind == "list" else client.hset(_name(logged), "x", "y"))

        assert (await cached.read(logged)).draft == logged
        assert count("poisoned") == before + 1
        assert serving()
        async with asyncio.timeout(60):
            while await client.type(_name(logged)) != b"string":
                await cached.read(logged)


async def test_false_copies_are_on_the_audit_trail_of_whose_record_it_is(cached: Cached, logged: Draft) -> None:
    trail, tenant = AuditTrail(cached.store.audit), logged.submitter.tenant
    copy = await cached.copied(logged)
    for _ in range(3):
        await _poisoned(cached, logged, copy[:-1])

    async with cached.false_copies.told(trail), asyncio.timeout(60):
        while not (rows := (await trail.of_tenant(RowQuery(tenant), 0, 10))[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    [event] = [event for row in rows for event in events_of(row.row)]
    assert (event.rpc, event.result, event.count) == ("DropFalseCopy", "error", 3)
    assert event.resource == f"receipt:{logged.receipt_id}"


# --- Redis that fails -------------------------------------------------------------------------------------------------


async def _under_load(cached: Cached, drafts: list[Draft], meanwhile: Callable[[], Awaitable[None]]) -> int:
    """Reads without a pause while something is done to Redis; each answer is right. Gives their number."""
    over, reads = asyncio.Event(), 0

    async def load(start: int) -> None:
        nonlocal reads
        while not over.is_set():
            for draft in drafts[start:] + drafts[:start]:
                assert (await cached.read(draft)).draft == draft
                reads += 1

    async with asyncio.TaskGroup() as tasks:
        for start in range(4):
            tasks.create_task(load(start))
        try:
            await meanwhile()
        finally:
            over.set()
    return reads


@pytest_asyncio.fixture(loop_scope="session")
async def drafts(cached: Cached, make_draft: Make, log_drafts: Any) -> list[Draft]:
    some = [make_draft() for _ in range(8)]
    await log_drafts(cached.store, some)
    for draft in some:
        await cached.copied(draft)
    return some


async def test_redis_flushed_again_and_again_under_load_only_makes_reads_slower(
    cached: Cached, drafts: list[Draft]
) -> None:
    hits, misses = count("hit"), count("miss")

    async def flush() -> None:
        async with cached.redis.client() as client, asyncio.timeout(60):
            for wanted in range(1, 11):
                await client.flushall()
                while count("miss") < misses + wanted or count("hit") < hits + wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    assert await _under_load(cached, drafts, flush) >= 20
    assert serving()


async def test_redis_killed_under_load_fails_no_read_and_is_used_again(cached: Cached, drafts: list[Draft]) -> None:
    async def kill() -> None:
        await cached.redis.kill()
        try:
            await until(lambda: not serving())
            away = count("away")
            await until(lambda: count("away") > away + 10)
        finally:
            await cached.redis.start()
        await until(serving)
        hits = count("hit")
        await until(lambda: count("hit") > hits + 10)

    assert await _under_load(cached, drafts, kill) > 20


async def test_redis_frozen_costs_one_wait_and_then_none(
    settings: MetadataSettings, server: RedisServer, make_draft: Make, log_drafts: Any
) -> None:
    async with opened(settings.model_copy(update={"redis_timeout_seconds": 1.0}), server) as cached:
        drafts = [make_draft() for _ in range(40)]
        await log_drafts(cached.store, drafts)
        await cached.read(drafts[0])
        server.freeze()
        try:
            away, began = count("away"), monotonic()
            await asyncio.gather(*(cached.read(draft) for draft in drafts))
            for draft in drafts:
                assert (await cached.read(draft)).draft == draft
            assert count("away") == away + 2 * len(drafts)
            assert monotonic() - began < len(drafts), "none but the first ones waited"
            assert not serving()
        finally:
            server.thaw()
        await until(serving)
        await cached.copied(drafts[1])


async def test_redis_that_takes_no_writes_is_left_alone(cached: Cached, logged: Draft) -> None:
    async with cached.redis.client() as client:
        await client.replicaof("127.0.0.1", "1")
        try:
            async with asyncio.timeout(60):
                while serving():
                    assert (await cached.read(logged)).draft == logged
            assert (await cached.read(logged)).draft == logged
        finally:
            await client.replicaof("NO", "ONE")
        await until(serving)


async def test_the_rights_in_redis_that_the_container_has_are_enough_and_no_more(
    settings: MetadataSettings, server: RedisServer, make_draft: Make, log_drafts: Any, tmp_path: Path
) -> None:
    draft = make_draft()
    url = (await server.container_urls(tmp_path))["metadata"]
    async with opened(settings.model_copy(update={"redis_url": SecretStr(url)}), server) as cached:
        await log_drafts(cached.store, [draft])
        await _poisoned(cached, draft, (await cached.copied(draft))[:-1])
        assert serving()

    async with Redis.from_url(url) as client:
        for forbidden in (["GETRANGE", "afdp:rate:x", 0, 1], ["KEYS", "*"], ["GET", _name(draft)], ["FLUSHALL"]):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*forbidden)


async def test_the_service_starts_without_redis_and_finds_it_later(
    settings: MetadataSettings, server: RedisServer, cached: Cached, logged: Draft
) -> None:
    await server.kill()
    try:
        async with opened(settings, server) as other:
            assert (await other.read(logged)).draft == logged
            assert not serving()
            await server.start()
            await until(serving)
            await other.copied(logged)
    finally:
        await server.stop()
        await server.start()
