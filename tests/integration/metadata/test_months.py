"""What is kept of records lies in months: each is made before it is needed or when it is, and has no own door."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from afdp.errors import AlreadyExists, InvalidArgument
from afdp.metadata.postgres import PostgresStore, records
from afdp.metadata.postgres.roles import KEEPER, READER, WRITER
from afdp.metadata.values import Completion, Draft, LogPosition, Prepared, Search

Make = Callable[..., Draft]

DIVIDED = {
    "record",
    "record_content",
    "record_artifact",
    "record_term",
    "log_entry",
    "external_stamp",
    "further_entry",
    "rekor1_entry",
}
OLD = [
    datetime(2021, 1, 31, 23, 59, 59, 999000, UTC),
    datetime(2021, 2, 1, tzinfo=UTC),
    datetime(2023, 7, 9, tzinfo=UTC),
]


def id_of(moment: datetime) -> uuid.UUID:
    """A receipt ID (UUIDv7) as it would have been made then."""
    head = round(moment.timestamp() * 1000).to_bytes(6, "big")
    tail = int.from_bytes(os.urandom(10), "big") & 0x0FFF_3FFF_FFFF_FFFF_FFFF | 0x7000_8000_0000_0000_0000
    return uuid.UUID(bytes=head + tail.to_bytes(10, "big"))


async def _parts(connection: asyncpg.Connection) -> dict[str, set[str]]:
    """The tables that are divided, and the months that each has."""
    rows = await connection.fetch(
        "SELECT inhparent::regclass::text AS divided, inhrelid::regclass::text AS part FROM pg_inherits "
        "JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r' AND c.relnamespace = 'afdp_metadata'::regnamespace"
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        name = row["divided"].removeprefix("afdp_metadata.")
        found.setdefault(name, set()).add(row["part"].removeprefix("afdp_metadata.").removeprefix(f"{name}_"))
    return found


async def test_records_of_any_month_are_written_and_found_though_nobody_made_it_before(
    own_store: PostgresStore, database: str, make_draft: Make, tenant: str
) -> None:
    artifact = os.urandom(32)
    times = [*OLD, datetime.now(UTC)]
    drafts = [make_draft(receipt_id=id_of(time), notarized_at=time, artifacts=(artifact,)) for time in times]
    assert await own_store.prepare(drafts) == [Prepared()] * 4

    found = [await own_store.get_record(tenant, draft.receipt_id) for draft in drafts]
    assert [record.draft for record in found if record] == drafts
    newest_first = [draft.receipt_id for draft in reversed(drafts)]
    for query in (Search(tenant), Search(tenant, artifact_hash=artifact), Search(tenant, actor_id="release-bot")):
        assert [each.receipt_id for each in await own_store.search(query, None, 10)] == newest_first
    assert [each.receipt_id for each in await own_store.kept(10, None)] == [draft.receipt_id for draft in drafts]
    again = await own_store.prepare([replace(drafts[0], receipt_id=id_of(times[3]), dedupe=True)])
    assert isinstance(again[0], type(found[0]))

    connection = await asyncpg.connect(database)
    parts = await _parts(connection)
    rows = await connection.fetch(
        "SELECT tableoid::regclass::text AS name FROM afdp_metadata.record ORDER BY receipt_id"
    )
    await connection.close()
    assert set(parts) == DIVIDED
    assert all({"202101", "202102", "202307"} < each for each in parts.values())
    assert [row["name"][-6:] for row in rows[:3]] == ["202101", "202102", "202307"]


async def test_a_receipt_id_that_is_of_no_time_of_ours_is_refused_alone(store: PostgresStore, make_draft: Make) -> None:
    wrong = [id_of(datetime(1999, 1, 1, tzinfo=UTC)), id_of(datetime.now(UTC) + timedelta(days=400)), uuid.UUID(int=1)]
    good, *refused = await store.prepare([make_draft(), *(make_draft(receipt_id=each) for each in wrong)])
    assert good == Prepared()
    assert [type(each) for each in refused] == [InvalidArgument] * 3


async def test_an_entry_of_the_log_has_one_record_in_whichever_months_they_are(
    store: PostgresStore, make_draft: Make, checkpoint_of: Callable[..., Any]
) -> None:
    first, second = make_draft(receipt_id=id_of(OLD[0])), make_draft(receipt_id=id_of(OLD[2]))
    await store.prepare([first, second])
    checkpoint = checkpoint_of()
    [done] = await store.complete(checkpoint, [Completion(first.receipt_id, 7, b"")])
    [refused, other] = await store.complete(
        checkpoint, [Completion(second.receipt_id, 7, b""), Completion(first.receipt_id, 8, b"")]
    )
    assert isinstance(done, LogPosition)
    assert isinstance(refused, AlreadyExists)
    assert other == done
    record = await store.get_record(second.submitter.tenant, second.receipt_id)
    assert record is not None
    assert record.log is None


async def test_months_are_made_ahead_by_several_at_once_and_by_the_rights_of_the_pipeline(
    own_store: PostgresStore, database: str
) -> None:
    async def ahead() -> None:
        connection = await asyncpg.connect(database, server_settings=WRITER | {"search_path": "afdp_metadata"})
        await connection.fetchval("SELECT make_months_ahead()")
        await connection.close()

    await asyncio.gather(*(ahead() for _ in range(4)))
    connection = await asyncpg.connect(database)
    parts = await _parts(connection)
    await connection.close()
    now = datetime.now(UTC)
    following = (now.replace(day=1) + timedelta(days=32)).strftime("%Y%m")
    assert {name for name, each in parts.items() if {now.strftime("%Y%m"), following} <= each} == DIVIDED


@pytest.mark.parametrize("role", [WRITER["role"], READER["role"], KEEPER])
async def test_no_role_reaches_a_month_but_through_its_table_or_makes_one_of_its_own(
    store: PostgresStore, module_database: str, role: str
) -> None:
    connection = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    try:
        await connection.fetchval("SELECT make_months_ahead()")
        month = datetime.now(UTC).strftime("%Y%m")
        bare = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'afdp_metadata'::regnamespace AND relispartition "
            "AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity AND relacl IS NULL)"
        )
        assert bare == []
        await connection.execute(f"SET ROLE {role}")
        for name in sorted(DIVIDED):
            for statement in (
                "SELECT FROM {}",
                "DELETE FROM {}",
                "TRUNCATE {}",
                "DROP TABLE {}",
                "UPDATE {} SET tenant = ''",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement.format(f"{name}_{month}"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT make_month('2022-01-01')")
    finally:
        await connection.close()


async def test_a_record_is_read_from_its_own_month_alone(
    store: PostgresStore, module_database: str, make_draft: Make
) -> None:
    draft = make_draft(receipt_id=id_of(OLD[1]))
    await store.prepare([draft, make_draft()])
    connection = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    try:
        await connection.execute("SET plan_cache_mode = force_custom_plan")
        for query, value in ((records._BY_IDS, [draft.receipt_id]), (records._WITHOUT_EVIDENCE, [draft.receipt_id])):
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}", value))
            assert "record_content_202102" in plan
            assert datetime.now(UTC).strftime("_%Y%m") not in plan
    finally:
        await connection.close()
