"""Rows beside the records that contradict them, or that point to nothing, as a superuser may leave them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from afdp.errors import InvalidArgument
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.values import Batch, Draft, Usage

Make = Callable[..., Draft]

pytestmark = pytest.mark.parametrize("kept_as", ["plain", "sealed"], indirect=True)

TABLES = (
    *("idempotency_key", "batch", "record_artifact", "record_term", "log_place", "expiry", "expired_record"),
    "tenant_usage",
)
HASH = b"\x07" * 32


@pytest_asyncio.fixture(loop_scope="session")
async def superuser(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Whom no trigger, grant or policy holds."""
    connection = await asyncpg.connect(database)
    await connection.execute("SET session_replication_role = replica; SET search_path = afdp_metadata")
    try:
        yield connection
    finally:
        await connection.close()


async def found(store: PostgresStore, table: str, page: int = 2) -> dict[str, str]:
    """What is amiss with a table, page by page."""
    answers: dict[str, str] = {}
    after: list[str] = []
    while True:
        strays, after = await store.strays(table, after, page)
        assert not answers.keys() & {each.subject for each in strays}
        answers |= {each.subject: each.why for each in strays}
        if not after:
            return answers


async def filled(store: PostgresStore, make_draft: Make, log_drafts: Any) -> list[Draft]:
    """Five records with keys and artifacts, two of them of a batch; one key answered by dedupe; all counted as used."""
    drafts = [make_draft(key=f"k{n}", artifacts=(HASH, bytes([n]) * 32)) for n in range(5)]
    batch = make_draft(key="batch")
    assert batch.idempotency is not None
    await store.create_batch(Batch(batch.receipt_id, batch.submitter, batch.idempotency, 3, datetime.now(UTC)))
    drafts[1:3] = [replace(draft, batch_id=batch.receipt_id) for draft in drafts[1:3]]
    usage: dict[str, Usage] = {}
    await store.prepare(drafts, usage)
    await log_drafts(store, drafts)
    await store.finish_batch(batch.submitter.tenant, batch.receipt_id, 2, 1)
    same = make_draft(key="same", evidence=drafts[0].evidence)
    await store.prepare([replace(same, dedupe=True)])
    return [batch, *drafts]


async def test_what_was_written_by_the_service_is_no_stray(
    own_store: PostgresStore, make_draft: Make, log_drafts: Any
) -> None:
    await filled(own_store, make_draft, log_drafts)

    for table in TABLES:
        assert await found(own_store, table) == {}, table


async def test_each_row_that_contradicts_a_record_is_named(
    own_store: PostgresStore, make_draft: Make, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    batch, *drafts = await filled(own_store, make_draft, log_drafts)
    first = "SELECT digest FROM idempotency_key WHERE target = $1 ORDER BY created_at LIMIT 1"
    digests = [await superuser.fetchval(first, draft.receipt_id) for draft in drafts]
    await superuser.execute("UPDATE idempotency_key SET target = uuidv7() WHERE digest = $1", digests[0])
    await superuser.execute("UPDATE idempotency_key SET fingerprint = $2 WHERE digest = $1", digests[1], HASH)
    await superuser.execute("UPDATE idempotency_key SET created_at = '2001-01-01' WHERE digest = $1", digests[2])
    await superuser.execute("UPDATE idempotency_key SET created_at = '2101-01-01' WHERE digest = $1", digests[3])
    await superuser.execute("UPDATE batch SET succeeded = 3")
    await superuser.execute("DELETE FROM record WHERE receipt_id = $1", drafts[4].receipt_id)
    await superuser.execute(
        "INSERT INTO record_artifact SELECT artifact_key, notarized_at, $2, tenant, sha256('')"
        " FROM record_artifact WHERE receipt_id = $1 LIMIT 1",
        drafts[0].receipt_id,
        drafts[1].receipt_id,
    )
    await superuser.execute("UPDATE tenant_usage SET records = records + 1")

    gone = str(drafts[4].receipt_id)
    assert await found(own_store, "idempotency_key") == {
        digests[0].hex(): "there is no such record",
        digests[1].hex(): "it stands for other evidence than that of its record",
        digests[2].hex(): "it is older than what it stands for",
        digests[3].hex(): "it is from the future, and would be kept for longer",
        digests[4].hex(): "there is no such record",
    }
    assert await found(own_store, "batch") == {str(batch.receipt_id): "its counts are not those of its packages"}
    assert await found(own_store, "record_artifact", page=100) == {
        gone: "an artifact names it, and there is no such record",
        str(drafts[1].receipt_id): "it is found by an artifact that is not its own",
    }
    assert await found(own_store, "log_place") == {gone: "a place in a log is held for it, and there is no such record"}
    assert await found(own_store, "record_term") == {gone: "a term names it, and there is no such record"}
    [usage] = (await found(own_store, "tenant_usage")).items()
    assert usage == (
        f"{batch.submitter.tenant} {datetime.now(UTC):%Y-%m-%d}",
        "more is counted as used than there are records",
    )


async def test_a_batch_that_lost_itself_or_has_more_than_it_says_is_named(
    own_store: PostgresStore, make_draft: Make, log_drafts: Any, superuser: asyncpg.Connection
) -> None:
    batch, *_ = await filled(own_store, make_draft, log_drafts)
    for change, why in {
        "item_count = 1, succeeded = 1, failed = 0": "it has more records than packages",
        "item_count = 3, succeeded = 2, failed = 1, subject = 'mallory'": "its records are of another submitter",
        "subject = (SELECT min(subject) FROM record_content), created_at = '2001-01-01'": (
            "its time is not that of its ID"
        ),
        "finished_at = NULL": "it has counts and did not end",
    }.items():
        await superuser.execute(f"UPDATE batch SET {change}")
        assert await found(own_store, "batch") == {str(batch.receipt_id): why}
    await superuser.execute("DELETE FROM batch")

    [key] = (await found(own_store, "idempotency_key")).values()
    assert key == "there is no such batch"
    faults = [kept.faults for kept in await own_store.kept(100, None)]
    assert sorted(faults) == [(), (), (), ("its batch is not there",), ("its batch is not there",)]


async def test_a_table_that_is_not_gone_through_and_a_place_that_is_none_are_refused(store: PostgresStore) -> None:
    for table, after in (("record", []), ("batch", ["a", "b"])):
        with pytest.raises(InvalidArgument):
            await store.strays(table, after, 10)
