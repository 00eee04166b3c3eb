"""The audit trail on a real PostgreSQL: rows are only ever added, and seals fix them."""

from __future__ import annotations

import asyncio
import os
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from afdp.audit.rows import INTENT, OUTCOME, write_row
from afdp.audit.seals import BEFORE_THE_FIRST, Seal, root_of, row_leaf, seal_hash
from afdp.errors import InvalidArgument
from afdp.metadata.audit_trail import AuditTrail, NewRow, RowQuery
from afdp.metadata.postgres import PostgresStore
from tests.integration.metadata.conftest import MakeDraft, new_id

LEASE = timedelta(seconds=60)


def row(tenant: str = "acme", **members: object) -> NewRow:
    fixed = {"time": datetime.now(UTC), "step": "authorization", "result": "allow", "rpc": "GetEvidence"}
    return NewRow.read(write_row({**fixed, "tenant": tenant, "subject": "ada", **members}))


async def test_a_row_is_on_record_once_and_found_by_what_it_is_about(own_store: PostgresStore, tenant: str) -> None:
    trail = AuditTrail(own_store.audit)
    wanted = row(tenant, resource="receipt:1", result="deny", reason="not hers")
    rows = [row(tenant), wanted, row(tenant, subject="bob"), row("another-tenant", resource="receipt:1")]
    await trail.record(rows)
    await trail.record(rows)

    everything, _ = await trail.of_tenant(RowQuery(tenant), 0, 10)
    assert [each.row for each in everything] == [each.row for each in reversed(rows[:3])]
    for query in (RowQuery(tenant, resource="receipt:1"), RowQuery(tenant, result="deny")):
        found, _ = await trail.of_tenant(query, 0, 10)
        assert [each.row for each in found] == [wanted.row]
    of_bob, _ = await trail.of_tenant(RowQuery(tenant, actor="bob"), 0, 10)
    assert len(of_bob) == 1
    first, _ = await trail.of_tenant(RowQuery(tenant), 0, 2)
    rest, _ = await trail.of_tenant(RowQuery(tenant), first[-1].sequence, 2)
    assert [each.row for each in first + rest] == [each.row for each in everything]
    later, _ = await trail.of_tenant(RowQuery(tenant, start_time=datetime.now(UTC) + timedelta(hours=1)), 0, 10)
    assert later == []


async def test_an_intent_without_an_outcome_is_told(own_store: PostgresStore, tenant: str) -> None:
    trail = AuditTrail(own_store.audit)
    await trail.record([row(tenant, phase=INTENT, act="a"), row(tenant, phase=INTENT, act="b")])
    await trail.record([row(tenant, phase=OUTCOME, act="a")])
    _, unfinished = await trail.of_tenant(RowQuery(tenant), 0, 10)
    assert unfinished == ["b"]


async def test_rows_that_ride_with_drafts_are_there_also_where_a_draft_is_refused(
    own_store: PostgresStore, tenant: str, make_draft: MakeDraft
) -> None:
    rows = [row(tenant, phase=INTENT, act="a")]
    good, bad = make_draft(key="one", tenant=tenant), make_draft(key="one", tenant=tenant, fingerprint=os.urandom(32))
    await own_store.prepare([good], rows=rows)
    more = [row(tenant, phase=INTENT, act="b")]
    await own_store.prepare([make_draft(tenant=tenant), bad], rows=more)
    again = [row(tenant, phase=INTENT, act="c")]
    taken = make_draft(tenant=tenant, receipt_id=good.receipt_id)
    await own_store.prepare([taken], rows=again)
    found = await own_store.audit.read_rows(0, 10, sealed=False)
    assert [each.row for each in found] == [each.row for each in rows + more + again]


async def test_seals_cover_every_row_and_name_the_one_before(own_store: PostgresStore) -> None:
    trail, holder = AuditTrail(own_store.audit), uuid.uuid4()
    assert (await trail.seal(holder, LEASE)).unanchored is None
    await trail.record([row(), row()])
    assert (await trail.seal(holder, LEASE)).oldest is None
    await trail.record([row()])
    state = await trail.seal(holder, LEASE)

    first, second = await trail.seals(0, 10)
    rows = await trail.read(0, 10, sealed=True)
    leaves = [row_leaf(each.sequence, each.recorded_at, each.row) for each in rows]
    said = Seal.parse(first.body)
    assert (said.previous, said.root, said.rows) == (BEFORE_THE_FIRST, root_of(leaves[:2]), 2)
    assert (Seal.parse(second.body).previous, Seal.parse(second.body).root) == (seal_hash(first.body), leaves[2])
    assert state.unanchored is not None
    assert state.unanchored.body == second.body

    receipt = new_id()
    await trail.anchor(2, receipt)
    assert (await trail.seal(holder, LEASE)).unanchored is None
    assert (await trail.seals(1, 10))[0].anchor == receipt


async def test_rows_about_a_seals_own_notarisation_are_no_reason_for_another_one(own_store: PostgresStore) -> None:
    trail, holder = AuditTrail(own_store.audit), uuid.uuid4()
    await trail.record([row(silent=True)])
    assert (await trail.seal(holder, LEASE)).unanchored is None
    await trail.record([row()])
    await trail.seal(holder, LEASE)
    assert [Seal.parse(each.body).rows for each in await trail.seals(0, 10)] == [2]


async def test_one_seals_at_a_time(own_store: PostgresStore) -> None:
    trail, first = AuditTrail(own_store.audit), uuid.uuid4()
    assert (await trail.seal(first, LEASE)).held
    assert not (await trail.seal(uuid.uuid4(), LEASE)).held
    assert (await trail.seal(first, LEASE)).held


async def test_a_row_that_was_begun_and_not_committed_is_waited_for(own_store: PostgresStore, database: str) -> None:
    """Its number is below that of a row which is there; a seal that went past it would never cover it."""
    trail, holder = AuditTrail(own_store.audit), uuid.uuid4()
    slow = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        late = row()
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(
            "INSERT INTO audit_row (id, tenant, phase, results, silent, terms, row) VALUES ($1, 'acme', '', 1, "
            "false, '{}', $2)",
            late.head.id,
            late.row,
        )
        await trail.record([row()])
        sealing = asyncio.create_task(trail.seal(holder, LEASE))
        await asyncio.wait([sealing], timeout=0.2)
        assert await trail.seals(0, 10) == []
        await transaction.commit()
        await sealing
    finally:
        await slow.close()
    while not (found := await trail.seals(0, 10)):
        await trail.seal(holder, LEASE)
    assert sum(Seal.parse(each.body).rows for each in found) == 2


@pytest.mark.parametrize("table", ["audit_row", "audit_seal", "audit_anchor"])
async def test_nobody_but_a_superuser_who_takes_the_trigger_away_changes_what_is_there(
    own_store: PostgresStore, database: str, table: str
) -> None:
    trail = AuditTrail(own_store.audit)
    await trail.record([row()])
    await trail.seal(uuid.uuid4(), LEASE)
    await trail.anchor(1, new_id())
    owner = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET {_SELF[table]}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
            async with owner.transaction():
                await owner.execute("SET LOCAL ROLE afdp_metadata_writer")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with owner.transaction():
                        await owner.execute(statement)
    finally:
        await owner.close()


async def test_who_writes_chooses_neither_the_place_of_a_row_nor_its_time(
    own_store: PostgresStore, database: str
) -> None:
    """Not even with the service's own role: both are what the seals go by."""
    await AuditTrail(own_store.audit).record([row()])
    named = "id, tenant, phase, results, silent, terms, row"
    copied = named.replace("id,", "gen_random_uuid(),")
    owner = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        await owner.execute("SET ROLE afdp_metadata_writer")
        for column, value in (("sequence", "1000000"), ("recorded_at", "now() - interval '1 year'")):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(
                    f"INSERT INTO audit_row ({column}, {named}) SELECT {value}, {copied} FROM audit_row LIMIT 1"
                )
        for statement in ("SELECT setval('audit_sequence', 1)", "ALTER SEQUENCE audit_sequence RESTART"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
        await owner.execute(f"INSERT INTO audit_row ({named}) SELECT {copied} FROM audit_row LIMIT 1")
    finally:
        await owner.close()


async def test_a_row_of_which_some_was_refused_is_found_by_either_result(own_store: PostgresStore, tenant: str) -> None:
    trail = AuditTrail(own_store.audit)
    fixed = {"time": datetime.now(UTC), "step": "act", "result": "allow", "tenant": tenant}
    items = [{"resource": "receipt:1"}, {"resource": "receipt:2", "result": "deny"}]
    mixed = NewRow.read(write_row(fixed, items))
    refused = NewRow.read(write_row(fixed, [each | {"result": "deny"} for each in items]))
    await trail.record([mixed, refused])
    for result, expected in (("allow", [mixed]), ("deny", [refused, mixed]), ("error", []), ("", [refused, mixed])):
        found, _ = await trail.of_tenant(RowQuery(tenant, result=result), 0, 10)
        assert [each.row for each in found] == [each.row for each in expected], result


async def test_a_tenants_rows_are_read_as_who_sees_no_others(own_store: PostgresStore) -> None:
    trail = AuditTrail(own_store.audit)
    rows = [row("acme"), row("globex"), row("acme")]
    await trail.record(rows)
    assert await trail.read(0, 10, sealed=True, tenant="acme") == []
    await trail.seal(uuid.uuid4(), LEASE)
    await trail.record([row("acme")])
    found = await trail.read(0, 10, sealed=True, tenant="acme")
    assert [each.row for each in found] == [rows[0].row, rows[2].row]
    rest = await trail.read(found[0].sequence, 10, sealed=True, tenant="acme")
    assert [each.row for each in rest] == [rows[2].row]
    assert len(await trail.read(0, 10, sealed=False, tenant="acme")) == 3


@pytest.mark.parametrize(
    ("column", "value"),
    [("tenant", "'x'"), ("terms", "'{}'"), ("results", "2"), ("silent", "true"), ("phase", "'intent'")],
)
async def test_a_row_that_is_filed_under_what_it_is_not_is_named(
    own_store: PostgresStore, database: str, column: str, value: str
) -> None:
    trail = AuditTrail(own_store.audit)
    await trail.record([row(resource="receipt:1"), row(phase=OUTCOME, act="a")])
    before = await trail.read_filed(0, 10)
    assert [misfiled for _, misfiled in before] == ["", ""]
    owner = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        await owner.execute("SET session_replication_role = replica")
        await owner.execute(f"UPDATE audit_row SET {column} = {value} WHERE sequence = $1", before[1][0].sequence)
    finally:
        await owner.close()
    assert [misfiled for _, misfiled in await trail.read_filed(0, 10)] == ["", column]


_SELF = {"audit_row": "row = row", "audit_seal": "body = body", "audit_anchor": "receipt_id = receipt_id"}


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b'{"id":1}', b'{"id":"x","result":"allow"}'])
def test_what_is_no_row_is_refused(damaged: bytes) -> None:
    with pytest.raises(InvalidArgument):
        NewRow.read(damaged)
