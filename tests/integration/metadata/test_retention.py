"""How long records are kept: what lets them go, what holds them, and that no role of the service has another way."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from afdp.embedded.postgres import running_postgres
from afdp.errors import Aborted, AlreadyExists, FailedPrecondition
from afdp.metadata.postgres import PostgresStore, migrate_database, open_store
from afdp.metadata.postgres.expiring import expire
from afdp.metadata.postgres.roles import KEEPER, READER, WRITER
from afdp.metadata.retention import Expiry, Hold, Period, Release
from afdp.metadata.values import Batch, Draft, Principal, Search
from tests.integration.metadata.test_months import DIVIDED, id_of

Make = Callable[..., Draft]

MARCH = datetime(2021, 3, 5, 12, tzinfo=UTC)
MONTH = date(2021, 3, 1)
SHORT = {"short": Period(days=90)}


@pytest_asyncio.fixture(loop_scope="session")
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of the owner, beside the store."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    yield connection
    await connection.close()


@pytest.fixture
def old(make_draft: Make, tenant: str) -> Make:
    """`old(…)`: a draft of March 2021 whose class is past its time."""
    minutes = iter(range(10_000))

    def make(*, retention_class: str = "short", at: datetime = MARCH, **more: Any) -> Draft:
        time = at + timedelta(minutes=next(minutes))
        draft = make_draft(receipt_id=id_of(time), notarized_at=time, **more)
        return replace(draft, retention_class=retention_class)

    return make


def hold_of(tenant: str, **conditions: Any) -> Hold:
    return Hold(
        id_of(datetime.now(UTC)), tenant, "case 7", "a court asks", "https://id.example.com counsel", **conditions
    )


def leaf(draft: Draft) -> bytes:
    return sha256(b"\0" + draft.receipt_id.bytes + draft.leaf_hash).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


STEPS = ("undo_expiry($1)", "begin_expiry($1)", "sort_expiry($1, $2)", "copy_expiry($1, $2)", "sum_expiry($1)")


async def prepare_expiry(session: asyncpg.Connection, steps: Sequence[str] = STEPS) -> None:
    """The steps before the last one, of a small month; each in its transaction, as the keeper."""
    for step in steps:
        async with session.transaction():
            await session.execute(f"SET LOCAL ROLE {KEEPER}")
            await session.fetchval(f"SELECT {step}", *((MONTH, uuid.UUID(int=0)) if "$2" in step else (MONTH,)))


async def left(store: PostgresStore, tenant: str) -> set[uuid.UUID]:
    return {each.receipt_id for each in await store.search(Search(tenant), None, 1000)}


# --- what goes, and what stays ----------------------------------------------------------------------------------------


async def test_what_is_past_its_time_goes_and_everything_else_of_its_month_stays(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    retention = own_store.retention
    due = [old(artifacts=(os.urandom(32),)) for _ in range(5)]
    stays = [
        old(retention_class=""),
        old(retention_class="long"),
        old(retention_class="for ever"),
        old(retention_class="never heard of"),
    ]
    waits = old()
    await log_drafts(own_store, [*due, *stays])
    await own_store.prepare([waits])
    assert await retention.put_classes({**SHORT, "long": Period(years=500), "for ever": Period()}) == []

    [planned] = await retention.due()
    assert (planned.month, planned.tenant, planned.due, planned.kept, planned.held) == (MONTH, tenant, 5, 5, 0)
    [gone] = await retention.expire_month(MONTH)

    kept = [*stays, waits]
    assert (gone.tenant, gone.month, gone.records, gone.kept, gone.classes) == (tenant, MONTH, 5, 5, {"short": 5})
    assert (gone.first_id, gone.last_id) == (due[0].receipt_id, due[-1].receipt_id)
    assert gone.root == root_of([leaf(draft) for draft in due])
    assert await left(own_store, tenant) == {draft.receipt_id for draft in kept}
    for draft in kept:
        record = await own_store.get_record(tenant, draft.receipt_id)
        assert record is not None
        assert record.draft == draft
    for table in sorted(DIVIDED):
        rows = await owner.fetch(f"SELECT receipt_id FROM {table}")
        assert not {row["receipt_id"] for row in rows} & {draft.receipt_id for draft in due}, table
    assert await retention.expire_month(MONTH) == []
    assert await retention.due() == []
    await log_drafts(own_store, [old(retention_class="")])  # the month goes on


async def test_a_month_of_which_nothing_stays_goes_whole_and_its_space_returns(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    async def size() -> int:
        await owner.execute("CHECKPOINT")
        measured = await owner.fetchrow(
            "SELECT pg_database_size(current_database()) AS size, current_setting('data_directory') AS folder"
        )
        return int(measured["size"])

    drafts = [old(evidence=os.urandom(20_000)) for _ in range(200)]
    for start in range(0, 200, 50):
        await log_drafts(own_store, drafts[start : start + 50])
    await own_store.retention.put_classes(SHORT)
    full = await size()
    parts = await owner.fetchval(
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relname LIKE '%\\_202103'"
    )
    [gone] = await own_store.retention.expire_month(MONTH)
    assert (gone.records, gone.kept) == (200, 0)
    assert parts > 200 * 20_000
    assert full - await size() > 0.9 * parts
    assert await owner.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE '%202103%'") == 0
    assert await left(own_store, tenant) == set()


async def test_the_space_of_a_month_returns_though_some_of_it_stays(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, log_drafts: Any
) -> None:
    drafts = [old(evidence=os.urandom(20_000), retention_class="short" if n % 10 else "") for n in range(100)]
    await log_drafts(own_store, drafts)
    await own_store.retention.put_classes(SHORT)
    sizes = []
    for _ in range(2):
        query = "SELECT pg_total_relation_size('record_content_202103')"
        sizes.append(await owner.fetchval(query))
        await own_store.retention.expire_month(MONTH)
    assert sizes[0] > 100 * 20_000
    assert sizes[1] < sizes[0] / 5


async def test_what_leads_to_a_record_goes_with_it(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    gone_batch, whole_batch = id_of(MARCH), id_of(MARCH)
    due = old(key="k", batch_id=gone_batch)
    of_batch = [old(batch_id=whole_batch), old(batch_id=whole_batch, retention_class="", key="kept")]
    for batch_id, count in ((gone_batch, 1), (whole_batch, 2)):
        await own_store.create_batch(Batch(batch_id, Principal(tenant, "", "x", "none"), None, count, MARCH))
    await log_drafts(own_store, [due, *of_batch])
    wanted = replace(old(), external_stamp=True)
    await log_drafts(own_store, [wanted])
    await own_store.retention.put_classes(SHORT)
    [gone] = await own_store.retention.expire_month(MONTH)
    assert gone.records == 3
    assert await owner.fetchval("SELECT count(*) FROM stamp_wanted") == 0
    targets = {row["target"] for row in await owner.fetch("SELECT target FROM idempotency_key")}
    assert targets == {of_batch[1].receipt_id}
    assert {row["batch_id"] for row in await owner.fetch("SELECT batch_id FROM batch")} == {whole_batch}
    # Under the key there is a new record now, as after a month in which keys are kept.
    assert len(await own_store.prepare([old(key="k")])) == 1


async def test_an_entry_of_the_log_is_known_as_one_of_a_record_that_has_expired(
    own_store: PostgresStore, old: Make, log_drafts: Any, owner: asyncpg.Connection
) -> None:
    drafts = [old(), old(retention_class="")]
    await log_drafts(own_store, drafts)
    await own_store.retention.put_classes(SHORT)
    origin = await owner.fetchval("SELECT origin FROM log_entry LIMIT 1")
    before = await own_store.places(origin, 0, 2**40)
    await own_store.retention.expire_month(MONTH)
    after = await own_store.places(origin, 0, 2**40)
    assert [(each.receipt_id, each.expired) for each in before] == [(draft.receipt_id, False) for draft in drafts]
    assert [(each.receipt_id, each.expired) for each in after] == [
        (drafts[0].receipt_id, True),
        (drafts[1].receipt_id, False),
    ]


async def test_a_class_is_lengthened_for_what_is_there_and_never_shortened(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, log_drafts: Any
) -> None:
    retention = own_store.retention
    await log_drafts(own_store, [old()])
    assert await retention.put_classes({"short": Period(years=1)}) == []
    assert await retention.put_classes({"short": Period(days=90), "other": Period(months=1)}) == ["short"]
    assert len(await retention.due()) == 1
    assert await retention.put_classes({"seven": Period(years=7)}) == []
    assert await retention.put_classes({"seven": Period(days=2521)}) == ["seven"], "36 days less, whatever a month is"
    assert await retention.put_classes({"seven": Period(days=2558)}) == []
    assert await retention.put_classes({"short": Period(years=100)}) == []
    assert await retention.due() == []
    assert await retention.put_classes({"short": Period()}) == []
    assert await retention.put_classes({"short": Period(years=1)}) == ["short"]
    assert await retention.expire_month(MONTH) == []
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute("UPDATE retention_class SET period = '1 day'")


async def test_a_period_ends_with_the_month_in_which_it_is_over(own_store: PostgresStore, database: str) -> None:
    await own_store.retention.put_classes({"year": Period(years=1), "days": Period(days=30)})
    connection = await asyncpg.connect(
        database, server_settings={"search_path": "afdp_metadata", "timezone": "Asia/Tokyo"}
    )
    try:
        until = "SELECT must_stay_until($1, $2)"
        assert await connection.fetchval(until, "year", datetime(2024, 2, 29, tzinfo=UTC)) == datetime(
            2025, 3, 1, tzinfo=UTC
        )
        last = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
        assert await connection.fetchval(until, "days", last) == datetime(2026, 4, 1, tzinfo=UTC)
        assert await connection.fetchval(f"{until} = 'infinity'", "unheard of", last)
        assert await connection.fetchval(f"{until} = '-infinity'", "", last)
    finally:
        await connection.close()


# --- holds ------------------------------------------------------------------------------------------------------------

ARTIFACT = sha256(b"model").digest()
CONDITIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "artifact": ({"artifact_hash": ARTIFACT}, {"artifacts": (os.urandom(32), ARTIFACT)}),
    "actor": ({"actor_id": "mallory"}, {"actor_id": "mallory"}),
    "event type": ({"event_type": "ai.incident"}, {"event_type": "ai.incident"}),
    "subject": ({"subject": "eve@example.com"}, {"subject": "eve@example.com"}),
    "time": (
        {"start_time": datetime(2021, 3, 20, tzinfo=UTC), "end_time": datetime(2021, 3, 21, tzinfo=UTC)},
        {"at": datetime(2021, 3, 20, 1, tzinfo=UTC)},
    ),
    "both": ({"actor_id": "mallory", "artifact_hash": ARTIFACT}, {"actor_id": "mallory", "artifacts": (ARTIFACT,)}),
}


@pytest.mark.parametrize("name", CONDITIONS)
async def test_a_hold_keeps_what_it_names_also_what_comes_later_until_it_is_released(
    store: PostgresStore, old: Make, tenant: str, log_drafts: Any, name: str
) -> None:
    retention = store.retention
    conditions, matching = CONDITIONS[name]
    others = [old(), old(actor_id="mallory") if name == "both" else old()]
    named = old(**matching)
    await log_drafts(store, [*others, named])
    await retention.put_classes(SHORT)
    hold = hold_of(tenant, **conditions)
    placed, records = await retention.place_hold(hold)
    assert (replace(placed, placed_at=None), records) == (hold, 1)
    later = old(**matching)
    await log_drafts(store, [later])
    assert await retention.place_hold(hold) == (placed, 2)  # said again, as after an answer that was lost

    gone = [each for each in await retention.expire_month(MONTH) if each.tenant == tenant]
    assert [(each.records, each.held) for each in gone] == [(2, 2)]
    assert await left(store, tenant) == {named.receipt_id, later.receipt_id}

    released = await retention.release_hold(Release(tenant, hold.hold_id, "counsel", "it is over"))
    assert released is not None
    assert (released.released_by, released.release_reason) == ("counsel", "it is over")
    with pytest.raises(FailedPrecondition):
        await retention.release_hold(Release(tenant, hold.hold_id, "counsel", "again"))
    assert await retention.holds(tenant, released=False, before=None, limit=10) == []
    assert await retention.holds(tenant, released=True, before=None, limit=10) == [released]
    assert [each.records for each in await retention.expire_month(MONTH) if each.tenant == tenant] == [2]
    assert await left(store, tenant) == set()


@pytest.mark.parametrize("kept_as", ["sealed"], indirect=True)
async def test_holds_on_sealed_records_hold_the_same_and_are_read_as_they_were_placed(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    retention, held = own_store.retention, {}
    await retention.put_classes(SHORT)
    for name, (conditions, matching) in CONDITIONS.items():
        own = f"{tenant}-{name}".replace(" ", "-")
        named, other = old(tenant=own, **matching), old(tenant=own)
        await log_drafts(own_store, [named, other])
        hold = hold_of(own, **conditions)
        placed, records = await retention.place_hold(hold)
        assert (replace(placed, placed_at=None), records) == (hold, 1)
        assert await retention.place_hold(hold) == (placed, 1)
        with pytest.raises(AlreadyExists):
            await retention.place_hold(replace(hold, reason="another"))
        assert await retention.holds(own, released=False, before=None, limit=10) == [placed]
        held[own] = named.receipt_id
    rows = await owner.fetch("SELECT * FROM legal_hold")
    assert len(rows) == len(CONDITIONS)
    for known in (hold_of(tenant).reason, "mallory", "eve@example.com", ARTIFACT.hex(), str(ARTIFACT)):
        assert known not in str([dict(row) for row in rows])

    await retention.expire_month(MONTH)

    assert {own: await left(own_store, own) for own in held} == {own: {named} for own, named in held.items()}


async def test_a_hold_holds_and_is_seen_in_its_own_tenant_alone(
    store: PostgresStore, old: Make, tenant: str, log_drafts: Any
) -> None:
    await log_drafts(store, [old()])
    await store.retention.put_classes(SHORT)
    hold = hold_of("another-tenant")
    await store.retention.place_hold(hold)
    assert await store.retention.holds(tenant, released=True, before=None, limit=10) == []
    assert await store.retention.release_hold(Release(tenant, hold.hold_id, "x", "y")) is None
    assert [each.records for each in await store.retention.expire_month(MONTH) if each.tenant == tenant] == [1]


async def test_a_hold_that_comes_while_records_expire_is_refused_or_wins_and_is_never_half(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    await log_drafts(own_store, [old() for _ in range(3)])
    await own_store.retention.put_classes(SHORT)
    # As while records expire: this transaction has decided, and not ended.
    await prepare_expiry(owner)
    async with owner.transaction():
        await owner.execute(f"SET LOCAL ROLE {KEEPER}")
        gone = await owner.fetch("SELECT * FROM end_expiry($1)", MONTH)
        await owner.execute("RESET ROLE")
        placing = asyncio.create_task(own_store.retention.place_hold(hold_of(tenant)))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'legal_hold'::regclass"
        async with asyncio.timeout(60):
            while True:
                if await owner.fetchval(waiting):
                    break
                await asyncio.sleep(0.01)
        assert not placing.done()
    assert len(gone) == 1
    assert (await placing)[1] == 0  # nothing was left for it, and it says so

    # And as while one is placed.
    await log_drafts(own_store, [old() for _ in range(3)])
    async with owner.transaction():
        await owner.execute("UPDATE legal_hold SET released_by = 'x', release_reason = 'y', released_at = now()")
        with pytest.raises(Aborted):
            await own_store.retention.expire_month(MONTH)
    assert [each.records for each in await own_store.retention.expire_month(MONTH)] == [3]


@pytest.mark.parametrize("done", range(1, len(STEPS) + 2))
async def test_an_expiry_that_is_killed_after_any_step_has_let_nothing_go_and_is_then_done_once(
    own_store: PostgresStore,
    owner: asyncpg.Connection,
    database: str,
    old: Make,
    tenant: str,
    log_drafts: Any,
    done: int,
) -> None:
    drafts = [old(retention_class="short" if n % 2 else "") for n in range(6)]
    await log_drafts(own_store, drafts)
    await own_store.retention.put_classes(SHORT)
    victim = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    await victim.fetchval("SELECT pg_advisory_lock(hashtextextended('afdp_metadata.expiring', 0))")
    await prepare_expiry(victim, STEPS[:done])
    await victim.execute("BEGIN")
    if done > len(STEPS):
        assert len(await victim.fetch("SELECT * FROM end_expiry($1)", MONTH)) == 1
    else:
        with pytest.raises(Aborted):
            await own_store.retention.expire_month(MONTH)
    await owner.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await victim.execute("COMMIT")

    async with asyncio.timeout(60):
        assert await left(own_store, tenant) == {draft.receipt_id for draft in drafts}
    for table in ("expired_record", "expiry", "log_place"):
        assert (await own_store.strays(table, [], 100))[0] == []
    assert await own_store.retention.uncertified(10) == []
    [gone] = await expired(own_store)
    assert gone.records == 3
    assert gone.root == root_of([leaf(draft) for draft in drafts[1::2]])
    assert await own_store.retention.uncertified(10) == [gone]
    assert await owner.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_next'") == 0
    kept = {row["receipt_id"] for row in await owner.fetch("SELECT receipt_id FROM expired_record")}
    assert kept == {draft.receipt_id for draft in drafts[1::2]}


async def expired(store: PostgresStore) -> list[Expiry]:
    """What goes of the month, once the session is over that was at it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await store.retention.expire_month(MONTH)
            except Aborted:
                await asyncio.sleep(0.05)


async def test_a_hold_or_a_record_that_comes_between_the_steps_ends_the_expiry_with_nothing_gone(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    drafts = [old() for _ in range(3)]
    await log_drafts(own_store, drafts)
    await own_store.retention.put_classes(SHORT)

    async def comes(what: Callable[[], Awaitable[object]]) -> None:
        await prepare_expiry(owner)
        await what()
        with pytest.raises(asyncpg.LockNotAvailableError, match="have changed"):
            await prepare_expiry(owner, ["end_expiry($1)"])

    late = old()
    await comes(lambda: log_drafts(own_store, [late]))
    await comes(lambda: own_store.retention.put_classes({"short": Period(days=91)}))
    held = hold_of(tenant, start_time=drafts[0].notarized_at, end_time=drafts[1].notarized_at)
    await comes(lambda: own_store.retention.place_hold(held))
    await comes(lambda: own_store.retention.release_hold(Release(tenant, held.hold_id, "counsel", "it is over")))
    assert await left(own_store, tenant) == {draft.receipt_id for draft in (*drafts, late)}
    assert [each.records for each in await own_store.retention.expire_month(MONTH)] == [4]


async def test_who_watches_and_who_seals_is_held_up_by_no_more_than_a_step(
    own_store: PostgresStore, owner: asyncpg.Connection, database: str, old: Make, log_drafts: Any
) -> None:
    """What is written between two steps is seen: no transaction is under way that began before it."""
    await log_drafts(own_store, [old(retention_class="short" if n % 2 else "") for n in range(6)])
    await own_store.retention.put_classes(SHORT)
    session = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        for step in STEPS:
            await prepare_expiry(session, [step])
            mine = await owner.fetchval("SELECT pg_current_xact_id()")
            async with asyncio.timeout(60):
                seen = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8"
                while not await owner.fetchval(seen, str(mine)):  # noqa: ASYNC110 - the store's own work, for a moment
                    await asyncio.sleep(0.01)
    finally:
        await session.close()


async def test_an_expiry_has_one_certificate_and_the_first_one_stays(
    own_store: PostgresStore, old: Make, tenant: str, log_drafts: Any
) -> None:
    draft = old()
    await log_drafts(own_store, [draft])
    await own_store.retention.put_classes(SHORT)
    [gone] = await own_store.retention.expire_month(MONTH)
    first, second = id_of(MARCH), id_of(MARCH)
    await own_store.retention.certify(gone.expiry_id, first)
    await own_store.retention.certify(gone.expiry_id, second)
    assert await own_store.retention.uncertified(10) == []
    assert await own_store.retention.expired(tenant, draft.receipt_id) == [replace(gone, certificate=first)]
    assert await own_store.retention.expired("another", draft.receipt_id) == []
    assert await own_store.retention.expired(tenant, id_of(datetime.now(UTC))) == []


async def test_what_defers_an_erasure_is_told_with_its_cases_and_its_end(
    store: PostgresStore, old: Make, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    retention = store.retention
    await retention.put_classes({**SHORT, "years": Period(years=7), "for ever": Period()})
    past, free = old(), old(retention_class="")
    now = datetime.now(UTC)
    kept = replace(make_draft(), retention_class="years")
    always = replace(make_draft(), retention_class="for ever")
    await log_drafts(store, [past, free, kept, always])

    assert await retention.deferred(tenant, [past.receipt_id, free.receipt_id]) is None
    by_class = await retention.deferred(tenant, [past.receipt_id, kept.receipt_id])
    assert by_class is not None
    assert by_class.until is not None
    assert timedelta(days=7 * 365) < by_class.until - now < timedelta(days=7 * 366 + 31)
    for_ever = await retention.deferred(tenant, [kept.receipt_id, always.receipt_id])
    assert for_ever is not None
    assert (for_ever.for_ever, for_ever.until) == (True, None)
    await retention.place_hold(hold_of(tenant, actor_id=free.terms.actor_id))
    held = await retention.deferred(tenant, [free.receipt_id])
    assert held is not None
    assert held.cases == ("case 7",)
    assert await retention.deferred("another", [kept.receipt_id]) is None


# --- no other way -----------------------------------------------------------------------------------------------------

BY_ANOTHER_WAY = [
    "DELETE FROM {}",
    "TRUNCATE {}",
    "TRUNCATE {} CASCADE",
    "DROP TABLE {}",
    "DROP TABLE {} CASCADE",
    "ALTER TABLE {} RENAME TO elsewhere",
    "ALTER TABLE {} DISABLE TRIGGER ALL",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} SET UNLOGGED",
    "DO $$ BEGIN LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; END $$",
    "CREATE RULE r AS ON INSERT TO {} DO INSTEAD NOTHING",
    "CREATE TRIGGER t BEFORE INSERT ON {} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE POLICY p ON {} USING (true)",
    "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "UPDATE {} SET tenant = 'nobody'",
]
BY_THE_WHOLE = [
    "ALTER TABLE record DETACH PARTITION record_202103",
    "ALTER TABLE record DETACH PARTITION record_202103 CONCURRENTLY",
    "UPDATE record SET retention_class = ''",
    "UPDATE record SET notarized_at = '2001-01-01'",
    "UPDATE legal_hold SET case_number = ''",
    "UPDATE legal_hold SET tenant = 'nobody'",
    "DELETE FROM legal_hold",
    "DELETE FROM expiry",
    "DELETE FROM expired_record",
    "INSERT INTO expired_record SELECT receipt_id, tenant, receipt_id, '' FROM record",
    "INSERT INTO expiring_batch SELECT batch_id FROM batch",
    "UPDATE expiring SET rules = ''",
    "TRUNCATE legal_hold",
    "DELETE FROM retention_class",
    "UPDATE expiry SET records = 0",
    "INSERT INTO expiry (tenant, month, records) VALUES ('t', '2021-03-01', 1)",
    "SET session_replication_role = replica",
    "DROP SCHEMA afdp_metadata CASCADE",
    "DROP FUNCTION refuse_deletion() CASCADE",
    "CREATE OR REPLACE FUNCTION must_stay_until(class text, notarized_at timestamptz) RETURNS timestamptz "
    "LANGUAGE sql AS $$ SELECT '-infinity'::timestamptz $$",
    "CREATE TABLE afdp_metadata.shadow ()",
    "SELECT close_part('record_202103')",
    "SELECT make_month('2021-04-01')",
    "SET ROLE postgres_owner",
]


@pytest.mark.parametrize("role", ["", WRITER["role"], READER["role"], KEEPER])
async def test_no_role_of_the_service_gets_rid_of_a_record_a_hold_or_a_word_about_them_in_another_way(
    store: PostgresStore, module_database: str, old: Make, tenant: str, log_drafts: Any, role: str
) -> None:
    held = old()
    await log_drafts(store, [held])
    await store.retention.put_classes(SHORT)
    await store.retention.place_hold(hold_of(tenant))
    login = f"service_{uuid.uuid4().hex}"
    owner = await asyncpg.connect(module_database)
    await owner.execute(f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'p'")
    await owner.execute(f"GRANT {WRITER['role']}, {READER['role']}, {KEEPER} TO {login}")
    session = await asyncpg.connect(
        module_database, user=login, password="p", server_settings={"search_path": "afdp_metadata"}
    )
    tables = [*DIVIDED, *(f"{name}_202103" for name in sorted(DIVIDED))]
    statements = [each.format(name) for each in BY_ANOTHER_WAY for name in tables] + BY_THE_WHOLE
    try:
        if role:
            await session.execute(f"SET ROLE {role}")
        for statement in statements:
            with pytest.raises(
                (
                    asyncpg.InsufficientPrivilegeError,
                    asyncpg.RestrictViolationError,
                    asyncpg.UndefinedObjectError,
                    asyncpg.InvalidParameterValueError,
                )
            ):
                await session.execute(statement)
        # The one way that there is does not do it either, whatever the session says of itself.
        await session.execute("SET afdp.expiring = 'on'")
        if role == KEEPER:
            gone = await expire(session, MONTH, None)
            assert tenant not in {row["tenant"] for row in gone}
        else:
            for step in (*STEPS, "end_expiry($1)"):
                values = (MONTH, uuid.UUID(int=0)) if "$2" in step else (MONTH,)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await session.fetch(f"SELECT {step}", *values)
        assert await store.get_record(tenant, held.receipt_id)
    finally:
        await session.close()
        await owner.execute(f"DROP ROLE {login}")
        await owner.close()


async def test_not_even_who_owns_the_tables_deletes_rows_or_empties_tables_unawares(
    own_store: PostgresStore, owner: asyncpg.Connection, old: Make, tenant: str, log_drafts: Any
) -> None:
    """A superuser who puts triggers aside can; the audit trail, the log and the reconciler are for that."""
    await log_drafts(own_store, [old(artifacts=(ARTIFACT,))])
    await own_store.retention.place_hold(hold_of(tenant))
    for name in ("record", "record_content", "record_artifact", "log_entry", "legal_hold"):
        for statement in (f"DELETE FROM {name}", f"TRUNCATE {name}"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await owner.execute(statement)
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute("UPDATE legal_hold SET end_time = '2001-01-01'")


@asynccontextmanager
async def _weak_owner(folder: Path, settings_of: Callable[..., Any]) -> AsyncIterator[str]:
    """A schema whose owner may make roles, and nothing else; gives the URL of the service's login."""
    async with running_postgres(folder) as server:
        admin = await asyncpg.connect(server.dsn)
        await admin.execute("CREATE ROLE owner LOGIN CREATEROLE PASSWORD 'p'")
        await admin.execute("CREATE DATABASE of_owner OWNER owner")
        await admin.close()
        place = f"127.0.0.1:{server.port}/of_owner"
        login = f"postgresql://service:p@{place}"
        assert await migrate_database(settings_of(login, database_owner_url=f"postgresql://owner:p@{place}")) == 0
        yield login


async def test_records_expire_under_an_owner_that_is_no_superuser(
    data_folder: Path, settings_of: Callable[..., Any], old: Make, tenant: str, log_drafts: Any
) -> None:
    async with _weak_owner(data_folder, settings_of) as login, open_store(settings_of(login)) as store:
        drafts = [old(key=str(n), retention_class="short" if n % 2 else "") for n in range(6)]
        await log_drafts(store, drafts)
        await store.retention.put_classes(SHORT)
        assert [each.due for each in await store.retention.due()] == [3]
        [gone] = await store.retention.expire_month(MONTH)
        assert gone.root == root_of([leaf(draft) for draft in drafts[1::2]])
        assert await left(store, tenant) == {draft.receipt_id for draft in drafts[::2]}
