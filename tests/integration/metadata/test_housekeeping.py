"""What goes on beside the calls, and the commands of an operator."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client import REGISTRY

from afdp.errors import FailedPrecondition
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.postgres.lookup import lookup_key
from afdp.metadata.values import Draft, Prepared
from afdp.postgres import migrate, packaged

Make = Callable[..., Draft]
SettingsOf = Callable[..., MetadataSettings]

MIGRATIONS = packaged("afdp.metadata.postgres")


async def _run(*arguments: str, url: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AFDP_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.metadata", *arguments),
        env=environment | {"AFDP_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_migrate_brings_an_empty_database_to_this_release_once(database: str) -> None:
    code, out, _ = await _run("migrate", url=database)
    assert (code, out.splitlines()[:2]) == (0, ["applied 0001_records", "applied 0002_timestamps"])

    code, out, _ = await _run("migrate", url=database)
    assert (code, out) == (0, "the schema is up to date\n")


async def test_services_that_migrate_at_once_do_it_once(database: str, settings_of: SettingsOf) -> None:
    async def start() -> None:
        async with open_store(settings_of(database)) as store, asyncio.timeout(10):
            await store.until_reachable()
            await store.check()

    await asyncio.gather(*(start() for _ in range(4)))

    connection = await asyncpg.connect(database)
    applied = await connection.fetch("SELECT version FROM afdp_metadata.schema_migration ORDER BY version")
    assert [row["version"] for row in applied] == [each.version for each in MIGRATIONS]
    await connection.close()


async def test_records_of_the_first_schema_are_read_with_no_timestamp_after_the_upgrade(
    database: str, settings_of: SettingsOf, make_draft: Make
) -> None:
    old, new = make_draft(), make_draft(timestamp=os.urandom(600))
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE SCHEMA afdp_metadata; SET search_path = afdp_metadata")
    await migrate(connection, "afdp_metadata", MIGRATIONS[:1])
    await _write_by_the_first_schema(connection, old)

    async with open_store(settings_of(database)) as store:
        await store.prepare([new])
        found = [await store.get_record(each.submitter.tenant, each.receipt_id) for each in (old, new)]
        pending = await store.list_pending(10, None, None)

    assert [record.draft for record in found if record] == [old, new]
    assert [record.draft.timestamp for record in pending] == [b"", new.timestamp]
    await connection.close()


async def _write_by_the_first_schema(connection: asyncpg.Connection, draft: Draft) -> None:
    await connection.execute("SELECT make_months(ARRAY[$1::uuid])", draft.receipt_id)
    await connection.execute(
        "INSERT INTO record VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        *(draft.receipt_id, draft.submitter.tenant, draft.notarized_at, draft.evidence_hash),
        lookup_key(draft.submitter.tenant, draft.evidence_hash),
        *(draft.terms.event_type, draft.terms.actor_type, draft.terms.actor_id, draft.terms.timestamp_utc),
        *(b"".join(draft.terms.artifact_hashes), draft.key_id, int(draft.workflow_type), draft.batch_id),
    )
    submitter = draft.submitter
    await connection.execute(
        "INSERT INTO record_content VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        *(draft.receipt_id, submitter.tenant, submitter.issuer, submitter.subject, submitter.method),
        *(draft.evidence, draft.statement, draft.signature, draft.leaf_hash),
    )
    pending = draft.receipt_id, submitter.tenant, draft.notarized_at
    await connection.execute("INSERT INTO pending VALUES ($1, $2, $3)", *pending)


async def test_everything_lies_in_the_service_s_own_schema(own_store: PostgresStore, database: str) -> None:
    await own_store.check()
    connection = await asyncpg.connect(database)
    schemas = await connection.fetch(
        "SELECT DISTINCT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE nspname NOT LIKE 'pg%' AND nspname <> 'information_schema'"
    )
    await connection.close()

    assert [row["nspname"] for row in schemas] == ["afdp_metadata"]


async def test_a_migration_that_was_changed_after_it_was_applied_is_refused(
    database: str, settings_of: SettingsOf
) -> None:
    await _run("migrate", url=database)
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE afdp_metadata.schema_migration SET checksum = 'other'")
    await connection.close()

    code, _, err = await _run("migrate", url=database)
    assert code == 1
    assert "migration 0001_records was applied to this database with other contents" in err
    async with open_store(settings_of(database)) as store:
        with pytest.raises(FailedPrecondition, match="0001_records"):
            await store.check()


async def test_a_command_that_cannot_reach_the_database_fails_and_keeps_the_password(database: str) -> None:
    password = urlsplit(database).password
    assert password is not None
    wrong = database.replace(password, "hunter2")

    code, out, err = await _run("migrate", url=wrong)

    assert code == 1
    assert "PostgreSQL" in err
    assert "hunter2" not in out + err


async def test_config_shows_no_password(database: str) -> None:
    password = urlsplit(database).password
    assert password is not None

    code, out, err = await _run("config", url=database)

    assert code == 0
    assert '"idempotency_retention_days": 30' in out
    assert password not in out + err


async def test_a_url_that_is_not_postgresql_s_is_refused_without_showing_it() -> None:
    code, _, err = await _run("config", url="mysql://root:hunter2@localhost/x")

    assert code == 2
    assert "AFDP_DATABASE_URL" in err
    assert "hunter2" not in err


async def test_the_gauges_tell_how_many_records_are_pending_and_how_old_the_oldest_is(
    database: str, settings_of: SettingsOf, make_draft: Make
) -> None:
    settings = settings_of(database, pending_refresh_seconds=0.05)
    async with open_store(settings) as store:
        old = make_draft(notarized_at=datetime.now(UTC) - timedelta(minutes=5))
        assert await store.prepare([old, make_draft()]) == [Prepared()] * 2

        async with asyncio.timeout(30):
            while REGISTRY.get_sample_value("afdp_records_pending") != 2:
                await store.check()
        oldest = REGISTRY.get_sample_value("afdp_records_pending_oldest_seconds")

    assert oldest == pytest.approx(300, abs=30)


async def test_keys_past_their_retention_are_deleted_and_others_kept(
    database: str, settings_of: SettingsOf, make_draft: Make
) -> None:
    async with open_store(settings_of(database)) as store:
        await store.prepare([make_draft(key=f"k{n}") for n in range(6)])
    connection = await asyncpg.connect(database)
    await connection.execute(
        "UPDATE afdp_metadata.idempotency_key SET created_at = now() - interval '31 days' "
        "WHERE digest IN (SELECT digest FROM afdp_metadata.idempotency_key LIMIT 4)"
    )

    async with open_store(settings_of(database)), asyncio.timeout(30):
        while await connection.fetchval("SELECT count(*) FROM afdp_metadata.idempotency_key") > 2:
            pass

    kept = await connection.fetchval("SELECT count(*) FROM afdp_metadata.idempotency_key")
    await connection.close()
    assert kept == 2
