"""What tenants use is counted with the records themselves, once each, by all processes together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import asyncpg
import pytest

from afdp.metadata.postgres import PostgresStore
from afdp.metadata.values import Draft, Prepared, Usage

Make = Callable[..., Draft]


@pytest.fixture
def today() -> int:
    return int(time.time() // 86_400)


async def test_each_record_counts_once_with_the_bytes_of_its_evidence(
    store: PostgresStore, make_draft: Make, tenant: str, today: int
) -> None:
    usage: dict[str, Usage] = {}
    drafts = [make_draft(evidence=b"12345"), make_draft(key="k", evidence=b"123"), make_draft(tenant="neighbour")]

    assert await store.prepare(drafts, usage) == [Prepared()] * 3

    assert usage[tenant] == Usage(today, 2, 8)
    assert set(usage) == {tenant, "neighbour"}
    again: dict[str, Usage] = {}
    await store.prepare([make_draft(key="k", evidence=b"123"), *drafts[:1]], again)  # answered by what there is
    assert tenant not in again
    await store.prepare([make_draft(evidence=b"1")], again)
    assert again[tenant] == Usage(today, 3, 9)


async def test_without_being_asked_nothing_is_counted(
    store: PostgresStore, make_draft: Make, tenant: str, module_database: str
) -> None:
    await store.prepare([make_draft()])

    connection = await asyncpg.connect(module_database)
    try:
        query = "SELECT count(*) FROM afdp_metadata.tenant_usage WHERE tenant = $1"
        assert await connection.fetchval(query, tenant) == 0
    finally:
        await connection.close()


async def test_who_write_for_one_tenant_at_once_lose_no_count(
    store: PostgresStore, make_draft: Make, tenant: str, today: int
) -> None:
    async def write() -> Usage:
        usage: dict[str, Usage] = {}
        await store.prepare([make_draft(evidence=b"1234") for _ in range(5)], usage)
        return usage[tenant]

    told = await asyncio.gather(*(write() for _ in range(12)))

    assert all(5 <= each.records <= 60 for each in told)
    usage: dict[str, Usage] = {}
    await store.prepare([make_draft(evidence=b"1234")], usage)
    assert usage == {tenant: Usage(today, 61, 244)}


async def test_a_refused_draft_does_not_count_and_the_rest_of_its_batch_does(
    store: PostgresStore, make_draft: Make, tenant: str, today: int
) -> None:
    usage: dict[str, Usage] = {}
    good, bad = make_draft(evidence=b"12"), make_draft(event_type="\ud800")

    outcomes = await store.prepare([good, bad, make_draft(evidence=b"34")], usage)

    assert [outcome == Prepared() for outcome in outcomes] == [True, False, True]
    assert usage == {tenant: Usage(today, 2, 4)}
