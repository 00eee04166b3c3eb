"""PostgreSQL stops, dies and comes back: calls say so at once, nothing is lost, and the service heals alone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from afdp.embedded.postgres import Postgres
from afdp.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore, idempotency, open_store
from afdp.metadata.values import Draft, Prepared

Make = Callable[..., Draft]
SettingsOf = Callable[..., MetadataSettings]


async def _refused_at_once(store: PostgresStore) -> Unavailable:
    started = time.monotonic()
    with pytest.raises(Unavailable) as away:
        await store.list_pending(1, None, None)
    assert time.monotonic() - started < 10
    assert away.value.retry_after
    return away.value


async def test_the_service_starts_without_postgresql_and_heals_when_it_comes_goes_and_comes(
    data_folder: Path, settings_of: SettingsOf, make_draft: Make
) -> None:
    server = await Postgres.start(data_folder)
    dsn, port = server.dsn, server.port
    await server.stop()
    drafts = [make_draft() for _ in range(3)]
    async with open_store(settings_of(dsn)) as store:
        await _refused_at_once(store)
        with pytest.raises(Unavailable):
            await store.check()

        server = await Postgres.start(data_folder, port)
        async with asyncio.timeout(60):
            await store.until_reachable()
        await store.check()
        assert await store.prepare(drafts) == [Prepared()] * 3

        server.kill()
        await server.wait()
        away = await _refused_at_once(store)
        assert dsn not in str(away)
        with pytest.raises(Unavailable):
            await store.check()

        server = await Postgres.start(data_folder, port)
        try:
            async with asyncio.timeout(60):
                await store.until_reachable()
            assert len(await store.list_pending(10, None, None)) == 3
            # A retry after an answer that never came.
            assert await store.prepare(drafts) == [Prepared()] * 3
        finally:
            await server.stop()


async def test_a_server_that_accepts_and_never_answers_is_away_too(settings_of: SettingsOf) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings = settings_of(f"postgresql://u:p@127.0.0.1:{port}/d", database_connect_timeout_seconds=0.2)
        async with asyncio.timeout(60), open_store(settings) as store:
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await store.list_pending(1, None, None)
            assert time.monotonic() - started < 10


async def test_a_connection_that_the_server_ended_is_replaced_without_a_word(
    own_store: PostgresStore, database: str, make_draft: Make
) -> None:
    assert await own_store.prepare([make_draft()]) == [Prepared()]
    connection = await asyncpg.connect(database)
    await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'afdp-metadata' "
        "AND datname = current_database()"
    )
    await connection.close()

    assert await own_store.prepare([make_draft()]) == [Prepared()]


async def test_what_finds_no_free_connection_or_waits_for_a_lock_too_long_says_so(
    database: str, settings_of: SettingsOf, make_draft: Make
) -> None:
    settings = settings_of(
        database, database_pool_max=1, database_connect_timeout_seconds=0.3, database_statement_timeout_seconds=1
    )
    draft = make_draft(key="k")
    assert draft.idempotency is not None
    async with open_store(settings_of(database)) as earlier:  # so that there is nothing left to be made
        await earlier.prepare([make_draft()])
    async with open_store(settings) as store:
        blocker = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
        try:
            async with blocker.transaction():
                await blocker.execute(
                    "INSERT INTO idempotency_key VALUES ($1, $2, $3, false)",
                    idempotency.digest(draft.submitter, draft.idempotency),
                    draft.idempotency.fingerprint,
                    draft.receipt_id,
                )
                waiting = asyncio.create_task(store.prepare([draft]))
                await _until_somebody_waits(blocker)
                with pytest.raises(ResourceExhausted) as busy:
                    await store.list_pending(1, None, None)
                with pytest.raises(DeadlineExceeded):
                    await waiting
        finally:
            await blocker.close()
        assert busy.value.retry_after
        await store.check()


async def _until_somebody_waits(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(60):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
