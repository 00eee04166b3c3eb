"""Beneath the queries: what PostgreSQL itself shows a tenant, and what it lets each role do."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from afdp.audit.rows import write_row
from afdp.errors import FailedPrecondition
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.postgres import SCHEMA, PostgresStore, housekeeping, idempotency, migrate_database, open_store
from afdp.metadata.postgres.roles import READER, WRITER, as_keeper
from afdp.metadata.values import Batch, Draft, Principal, Search, WorkflowQuery
from afdp.postgres import open_database

Make = Callable[..., Draft]

OF_NOBODY = {"schema_migration", "checkpoint", "trust_repository", "trust_file"} | {
    "audit_seal",
    "audit_anchor",
    "audit_sealer",
    "audit_sink",
    "retention_class",
    "record_change_horizon",
    "witnessed_tree",
    "page_key",
}
"""Tables without a tenant's data: the history of the schema, what is published, hashes over rows of all tenants,
and what tokens of pages are sealed under."""

NOT_FOR_READERS = {
    "data_key",
    "expiring",
    "expiring_tenant",
    "expiring_batch",
    "erasure",
    "idempotency_key",
    "index_key",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service_url(module_database: str, settings_of: Callable[..., Any]) -> AsyncIterator[str]:
    """The URL for a service's own login role, which owns nothing, once the owner has migrated."""
    assert await migrate_database(settings_of(module_database)) == 0
    login = f"service_{uuid.uuid4().hex}"
    async with session(module_database) as owner:
        await owner.execute(f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'p'")
        await owner.execute(f"GRANT afdp_metadata_writer, afdp_metadata_reader, afdp_metadata_keeper TO {login}")
        parts = urlsplit(module_database)
        yield urlunsplit(parts._replace(netloc=f"{login}:p@{parts.hostname}:{parts.port}"))
        await owner.execute(f"DROP ROLE {login}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(service_url: str, settings_of: Callable[..., Any]) -> AsyncIterator[PostgresStore]:
    """The store as the service opens it."""
    async with open_store(settings_of(service_url)) as store:
        yield store


@asynccontextmanager
async def session(url: str, tenant: str | None = None, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of the login role, with a role and a tenant where they are given."""
    given = {"search_path": "afdp_metadata", **settings}
    connection = await asyncpg.connect(url, server_settings=given)
    try:
        if tenant is not None:
            await connection.execute("SELECT set_config('afdp.tenant', $1, false)", tenant)
        yield connection
    finally:
        await connection.close()


async def _fill(store: PostgresStore, owner_url: str, make_draft: Make, log_drafts: Any, tenant: str) -> list[UUID]:
    """Rows of a tenant in every table: gives its receipt IDs."""
    logged, waiting = make_draft(tenant=tenant, artifacts=(os.urandom(32),)), make_draft(tenant=tenant, key="k")
    await log_drafts(store, [logged])
    row = write_row({"time": logged.notarized_at, "step": "act", "result": "allow", "tenant": tenant})
    await store.prepare([waiting], rows=[NewRow.read(row)])
    submitter = Principal(tenant, "", "somebody", "none")
    await store.create_batch(Batch(make_draft().receipt_id, submitter, None, 1, logged.notarized_at))
    async with session(owner_url) as owner:
        await owner.execute(
            "INSERT INTO external_stamp (receipt_id, tenant, timestamp) VALUES ($1, $2, '')", logged.receipt_id, tenant
        )
        await owner.execute("INSERT INTO further_entry VALUES ($1, $2, 'log', 0, 1, '', '')", logged.receipt_id, tenant)
        await owner.execute("INSERT INTO rekor1_entry VALUES ($1, $2, 'log', '', 0, 0, '')", logged.receipt_id, tenant)
        await owner.execute("INSERT INTO log_queue VALUES ($1, $2, 'log', false)", logged.receipt_id, tenant)
        await owner.execute("INSERT INTO stamp_wanted VALUES ($1, $2, now())", logged.receipt_id, tenant)
        await owner.execute("INSERT INTO tenant_usage VALUES ($1, current_date, 0, 2, 48)", tenant)
        await owner.execute(
            "INSERT INTO legal_hold (hold_id, tenant, case_number, reason, placed_by) VALUES ($1, $2, 'c', '', 'x')",
            logged.receipt_id,
            tenant,
        )
        await owner.execute(
            "INSERT INTO expiry (tenant, month, records, kept, held, classes, first_id, last_id, root) "
            "VALUES ($2, '2021-03-01', 1, 0, 0, '{}', $1, $1, sha256(''))",
            logged.receipt_id,
            tenant,
        )
        await owner.execute(
            "INSERT INTO expired_record VALUES ($1, $2, gen_random_uuid(), '')", logged.receipt_id, tenant
        )
    return [logged.receipt_id, waiting.receipt_id]


async def _tables(connection: asyncpg.Connection) -> set[str]:
    """Those that have a name of their own; what they are divided into is reached through them."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = 'afdp_metadata' AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    return {row["relname"] for row in rows}


async def _parts(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = 'afdp_metadata' AND relkind = 'r' AND relispartition"
    )
    return {row["relname"] for row in rows}


async def _counts(connection: asyncpg.Connection, names: set[str]) -> dict[str, int]:
    return {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for name in sorted(names)}


async def test_every_table_with_a_tenant_s_data_has_row_security_that_holds_for_its_owner_too(
    service: PostgresStore, module_database: str
) -> None:
    async with session(module_database) as owner:
        rows = await owner.fetch(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = 'afdp_metadata' AND relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity)"
        )
        assert {row["relname"] for row in rows} == OF_NOBODY
        views = await owner.fetch(
            "SELECT reloptions FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = 'afdp_metadata' AND relkind IN ('v', 'm')"
        )
        assert all("security_invoker=true" in (row["reloptions"] or ()) for row in views)


async def test_a_tenant_sees_its_own_rows_in_every_table_and_none_of_another_s(
    service: PostgresStore, service_url: str, module_database: str, make_draft: Make, log_drafts: Any
) -> None:
    mine, theirs = f"a-{uuid.uuid4().hex}", f"b-{uuid.uuid4().hex}"
    own = await _fill(service, module_database, make_draft, log_drafts, mine)
    foreign = await _fill(service, module_database, make_draft, log_drafts, theirs)

    async with session(service_url, mine, **READER) as reader:
        readable = await _tables(reader) - OF_NOBODY - NOT_FOR_READERS
        several = {"record": 2, "record_content": 2, "record_term": 2, "record_change": 3}
        assert await _counts(reader, readable) == {name: several.get(name, 1) for name in readable}
        for name in readable - {"batch", "tenant_usage", "record_change", "audit_row", "legal_hold", "expiry"}:
            found = {row["receipt_id"] for row in await reader.fetch(f"SELECT receipt_id FROM {name}")}
            assert found <= set(own), name
            rows = await reader.fetch(f"SELECT * FROM {name} WHERE receipt_id = ANY($1::uuid[])", foreign)
            assert rows == [], name
        for name in ("record", "batch", "batch_workflow", "tenant_usage", "record_change", "audit_row"):
            assert await reader.fetchval(f"SELECT count(*) FROM {name} WHERE tenant <> $1", mine) == 0
        for name in NOT_FOR_READERS:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(f"SELECT FROM {name}")


@pytest.mark.parametrize("tenant", [None, "", "nobody", "%"])
async def test_a_reader_of_no_tenant_sees_nothing(
    service: PostgresStore,
    service_url: str,
    module_database: str,
    make_draft: Make,
    log_drafts: Any,
    tenant: str | None,
) -> None:
    await _fill(service, module_database, make_draft, log_drafts, f"c-{uuid.uuid4().hex}")
    async with session(service_url, tenant, **READER) as reader:
        readable = await _tables(reader) - OF_NOBODY - NOT_FOR_READERS | {"batch_workflow"}
        assert set((await _counts(reader, readable)).values()) == {0}


async def test_a_reader_changes_nothing_even_where_its_session_is_not_read_only(
    service: PostgresStore, service_url: str, module_database: str, make_draft: Make, log_drafts: Any
) -> None:
    mine = f"d-{uuid.uuid4().hex}"
    await _fill(service, module_database, make_draft, log_drafts, mine)
    async with session(service_url, mine, role=READER["role"]) as reader:
        for name in await _tables(reader):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"DELETE FROM {name}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"INSERT INTO {name} SELECT * FROM {name}")
    async with session(service_url, mine, **READER) as reader:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reader.execute("CREATE TEMPORARY TABLE t ()")


async def test_the_pipeline_can_neither_change_nor_delete_what_was_notarised(
    service: PostgresStore, service_url: str
) -> None:
    async with session(service_url, **WRITER) as writer:
        for name in (
            "record",
            "record_content",
            "record_artifact",
            "record_term",
            "log_entry",
            "external_stamp",
            "further_entry",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(f"UPDATE {name} SET receipt_id = receipt_id")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(f"DELETE FROM {name}")
        for statement in ("TRUNCATE record", "DROP TABLE record", "ALTER TABLE record DISABLE ROW LEVEL SECURITY"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(statement)


async def test_a_login_that_took_no_role_may_only_ask_which_release_the_schema_is_of(
    service: PostgresStore, service_url: str
) -> None:
    async with session(service_url) as login:
        flags = await login.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolinherit FROM pg_roles WHERE rolname = session_user"
        )
        assert flags is not None
        assert tuple(flags) == (False, False, False)
        assert await login.fetchval("SELECT max(version) FROM schema_migration") >= 7
        for name in await _tables(login) - {"schema_migration"}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.fetch(f"SELECT FROM {name}")


async def test_connections_serve_one_tenant_after_the_other_and_each_sees_its_own(
    service: PostgresStore, make_draft: Make, log_drafts: Any
) -> None:
    tenants = [f"e{n}-{uuid.uuid4().hex}" for n in range(3)]
    drafts = {tenant: make_draft(tenant=tenant) for tenant in tenants}
    await log_drafts(service, list(drafts.values()))
    for tenant in tenants * 3:
        own = drafts[tenant]
        found = await service.get_record(tenant, own.receipt_id)
        assert found is not None
        assert [each.receipt_id for each in await service.search(Search(tenant), None, 10)] == [own.receipt_id]
        assert await service.count_workflows(WorkflowQuery(tenant)) == 1
        for other in tenants:
            if other != tenant:
                assert await service.get_record(tenant, drafts[other].receipt_id) is None
                assert await service.find_evidence(tenant, drafts[other].evidence_hash, b"") is None


async def test_what_goes_on_beside_the_calls_works_with_the_rights_it_has(
    service: PostgresStore, service_url: str, settings_of: Callable[..., Any], make_draft: Make
) -> None:
    await service.prepare([make_draft(key="k")])
    async with open_database(settings_of(service_url), SCHEMA, "metadata", session=WRITER) as database:
        await housekeeping.refresh_waiting(database)
        forgotten = await database.run(as_keeper(lambda c: idempotency.forget_expired(c, timedelta(seconds=-1))))
        assert forgotten
        with pytest.raises(FailedPrecondition):  # the right is missing
            await database.run(as_keeper(lambda c: c.execute("DELETE FROM record")))
