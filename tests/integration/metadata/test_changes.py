"""What watchers are told of: each change of a record once it cannot be overtaken any more, and no other tenant's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from afdp.errors import InvalidArgument, OutOfRange
from afdp.metadata.cursors import Cursor
from afdp.metadata.postgres import PostgresStore, changes
from afdp.metadata.postgres.roles import as_keeper
from afdp.metadata.service import Metadata
from afdp.metadata.values import Changes, Checkpoint, Completion, Draft

MakeDraft = Callable[..., Draft]
Log = Callable[[PostgresStore, list[Draft]], Awaitable[Checkpoint]]


def ids(page: Changes) -> list[UUID]:
    return [change.receipt_id for change in page.changes]


def of(drafts: Sequence[Draft]) -> list[UUID]:
    return [draft.receipt_id for draft in drafts]


async def now(store: PostgresStore, tenant: str) -> str:
    return (await store.changes(tenant, "", 100)).end


async def told(store: PostgresStore, tenant: str, cursor: str, number: int, limit: int = 100) -> Changes:
    """The changes once there are so many: nothing is told while any older transaction of the server is under way."""
    async with asyncio.timeout(60):
        while len((page := await store.changes(tenant, cursor, limit)).changes) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return page


async def test_a_record_is_told_of_when_it_is_made_and_when_it_is_logged(
    store: PostgresStore, make_draft: MakeDraft, checkpoint_of: Callable[..., Checkpoint], tenant: str
) -> None:
    start, draft = await now(store, tenant), make_draft()
    await store.prepare([draft])
    made = await told(store, tenant, start, 1)
    assert ids(made) == [draft.receipt_id]
    assert ids(await store.changes(tenant, made.end, 100)) == []
    checkpoint = checkpoint_of()
    completion = Completion(draft.receipt_id, checkpoint.tree_size - 1, os.urandom(64))
    await store.complete(checkpoint, [completion])
    logged = await told(store, tenant, made.end, 1)
    assert ids(logged) == [draft.receipt_id]
    await store.complete(checkpoint, [completion])  # again: nothing has changed
    assert ids(await store.changes(tenant, logged.end, 100)) == []
    assert ids(await store.changes(tenant, start, 100)) == [draft.receipt_id], "of each record the last change"


async def test_a_page_goes_on_in_the_middle_of_a_batch(
    store: PostgresStore, make_draft: MakeDraft, tenant: str
) -> None:
    cursor, drafts = await now(store, tenant), [make_draft() for _ in range(7)]
    await store.prepare(drafts)
    read: list[UUID] = []
    while len(read) < len(drafts):
        page = await told(store, tenant, cursor, 1, 3)
        read += ids(page)
        cursor = page.end
    assert not page.more
    assert read == of(drafts)
    within = (await store.changes(tenant, cursor, 3)).end
    assert within == cursor, "who waits where nothing is new keeps the cursor, so that many share one question"


async def test_what_commits_late_is_told_of_late_and_not_left_out(
    store: PostgresStore, make_draft: MakeDraft, tenant: str, module_database: str, log_drafts: Log
) -> None:
    """A transaction is held open while others commit after it began: nothing is told that could overtake it."""
    start = await now(store, tenant)
    slow = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    try:
        late, early = make_draft(), [make_draft() for _ in range(3)]
        async with slow.transaction():
            await slow.execute("SET LOCAL ROLE afdp_metadata_writer")
            await slow.execute(
                "INSERT INTO record_change (tenant, receipt_ids) VALUES ($1, $2)", tenant, [late.receipt_id]
            )
            for draft in early:
                await log_drafts(store, [draft])
            meanwhile = await store.changes(tenant, start, 100)
            assert ids(meanwhile) == [], "they have higher numbers than a transaction that may still commit"
            assert tenant not in (await store.news(start)).tenants
        after = await told(store, tenant, meanwhile.end, 4)
        assert ids(after) == [late.receipt_id, *of(early)]
        assert tenant in (await store.news(start)).tenants
    finally:
        await slow.close()


async def test_what_is_rolled_back_is_never_told_of(
    store: PostgresStore, make_draft: MakeDraft, tenant: str, module_database: str
) -> None:
    start = await now(store, tenant)
    connection = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL ROLE afdp_metadata_writer")
        await connection.execute(
            "INSERT INTO record_change (tenant, receipt_ids) VALUES ($1, $2)", tenant, [make_draft().receipt_id]
        )
        await transaction.rollback()
    finally:
        await connection.close()
    draft = make_draft()
    await store.prepare([draft])
    assert ids(await told(store, tenant, start, 1)) == [draft.receipt_id]


async def test_a_tenant_is_told_of_its_own_records_alone_whatever_cursor_it_shows(
    store: PostgresStore, make_draft: MakeDraft, tenant: str
) -> None:
    start, ours = await now(store, tenant), make_draft()
    await store.prepare([ours, make_draft(tenant=f"{tenant}-other")])
    page = await told(store, tenant, start, 1)
    assert ids(page) == [ours.receipt_id]
    assert len(ids(await told(store, f"{tenant}-other", start, 1))) == 1
    assert ids(await store.changes(f"{tenant}-third", start, 100)) == []
    assert [record.draft.receipt_id for record in await store.get_records(tenant, of([ours]))] == [ours.receipt_id]
    assert await store.get_records(f"{tenant}-other", of([ours])) == []


async def test_what_waits_for_another_log_or_stamp_is_told_of_again_when_it_comes(
    metadata: Metadata, store: PostgresStore, make_draft: MakeDraft, tenant: str
) -> None:
    draft = replace(make_draft(), external_stamp=True)
    begun = await now(store, tenant)
    await store.prepare([draft])
    start = (await told(store, tenant, begun, 1)).end
    await store.keep_stamp(draft.receipt_id, b"stamp")
    page = await told(store, tenant, start, 1)
    assert ids(page) == [draft.receipt_id]
    await store.keep_stamp(draft.receipt_id, b"another")
    assert ids(await store.changes(tenant, page.end, 100)) == []


async def test_records_of_a_cosigned_tree_are_told_of_once(
    store: PostgresStore, make_draft: MakeDraft, tenant: str, checkpoint_of: Callable[..., Checkpoint]
) -> None:
    origin = f"{tenant}.example"
    drafts = [make_draft() for _ in range(4)]
    checkpoint = checkpoint_of(4, origin=origin)
    begun = await now(store, tenant)
    await store.prepare(drafts)
    made = (await told(store, tenant, begun, 4)).end
    await store.complete(checkpoint, [Completion(each.receipt_id, n, b"") for n, each in enumerate(drafts)])
    start = (await told(store, tenant, made, 4)).end
    await store.note_witnessed(origin, 2)
    first = await told(store, tenant, start, 2)
    assert ids(first) == of(drafts[:2])
    assert await store.note_witnessed(origin, 2) == 2  # another notary says so, too
    assert await store.note_witnessed(origin, 1) == 2
    assert await store.note_witnessed(origin, 0) == 2
    assert ids(await store.changes(tenant, first.end, 100)) == []
    await store.note_witnessed(origin, 4)
    assert ids(await told(store, tenant, first.end, 2)) == of(drafts[2:])


@pytest.mark.parametrize("cursor", ["x", "AAAA", "é", "A" * 200])
async def test_a_cursor_that_was_never_given_is_refused_by_name(store: PostgresStore, tenant: str, cursor: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await store.changes(tenant, cursor, 100)
    assert refused.value.fields[0].field == "cursor"


async def test_a_cursor_from_the_future_is_refused(store: PostgresStore, tenant: str) -> None:
    cursor = Cursor.parse(await now(store, tenant))
    with pytest.raises(InvalidArgument):
        await store.changes(tenant, replace(cursor, xid=cursor.xid + 1_000_000).text(), 100)


async def test_who_was_away_for_longer_than_changes_are_kept_is_told_so(
    own_store: PostgresStore, make_draft: MakeDraft, tenant: str, database: str
) -> None:
    start = await now(own_store, tenant)
    first, second = make_draft(), make_draft()
    await own_store.prepare([first])
    read = (await told(own_store, tenant, start, 1)).end
    await own_store.prepare([second])
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        forget = as_keeper(lambda each: changes.forget_old(each, timedelta(0)))
        assert not await as_keeper(lambda each: changes.forget_old(each, timedelta(hours=1)))(connection)
        assert ids(await told(own_store, tenant, read, 1)) == [second.receipt_id]
        assert await forget(connection)
        assert not await forget(connection)
    finally:
        await connection.close()
    for cursor in (start, read):
        with pytest.raises(OutOfRange) as refused:
            await own_store.changes(tenant, cursor, 100)
        assert refused.value.fields[0].field == "cursor"
        assert "begin from now on" in refused.value.fields[0].message


async def test_changes_that_are_deleted_in_several_steps_leave_no_cursor_that_misses_some(
    own_store: PostgresStore, make_draft: MakeDraft, tenant: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step takes the oldest and the newest of them: where reading may begin never goes back."""
    monkeypatch.setattr(changes, "_FORGET_AT_ONCE", 2)
    cursors = [await now(own_store, tenant)]
    for _ in range(10):
        await own_store.prepare([make_draft()])
        cursors.append((await told(own_store, tenant, cursors[-1], 1)).end)
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        forget = as_keeper(lambda each: changes.forget_old(each, timedelta(0)))
        while await forget(connection):
            pass
    finally:
        await connection.close()
    for cursor in cursors[:-1]:
        with pytest.raises(OutOfRange):
            await own_store.changes(tenant, cursor, 100)
    third = make_draft()
    begun_anew = await now(own_store, tenant)
    await own_store.prepare([third])
    assert ids(await told(own_store, tenant, begun_anew, 1)) == [third.receipt_id]


async def test_in_another_history_of_the_database_a_cursor_goes_on_by_its_time(
    store: PostgresStore, make_draft: MakeDraft, tenant: str
) -> None:
    """As after a replica took over or a copy was restored: what is told twice is no harm, what is left out would be."""
    draft = make_draft()
    begun = await now(store, tenant)
    await store.prepare([draft])
    there = Cursor.parse((await told(store, tenant, begun, 1)).end)
    elsewhere = replace(there, history=bytes(8), xid=there.xid + 10**9)
    page = await told(store, tenant, elsewhere.text(), 1)
    assert ids(page) == [draft.receipt_id]
    later = replace(elsewhere, time=there.time + timedelta(hours=2))
    page = await store.changes(tenant, later.text(), 100)
    assert ids(page) == []
    assert Cursor.parse(page.end).history == there.history
