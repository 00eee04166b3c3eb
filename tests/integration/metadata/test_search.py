"""Finding records: by each term, by several, page after page, and never another tenant's."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from afdp.errors import InvalidArgument, NotFound
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.postgres.search import search_statement, signed_statement
from afdp.metadata.service import Metadata
from afdp.metadata.values import Draft, Position, Search
from tests.many_records import fill_records

Make = Callable[..., Draft]
DAY = datetime(2026, 11, 24, tzinfo=UTC)


async def _all_pages(metadata: Metadata, query: Search, page_size: int) -> list[UUID]:
    found: list[UUID] = []
    token = ""
    while True:
        page = await metadata.search(query, page_size, token)
        assert len(page.records) <= page_size
        found += [summary.receipt_id for summary in page.records]
        token = page.next_page_token
        if not token:
            return found


async def test_each_term_finds_its_records_and_no_others(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    artifact = os.urandom(32)
    wanted = make_draft(
        event_type="ai.model.trained",
        actor_id="alice",
        key_id="other:2",
        artifacts=(os.urandom(32), artifact),
        notarized_at=DAY,
    )
    other = make_draft(artifacts=(os.urandom(32),), notarized_at=DAY + timedelta(days=1))
    await log_drafts(store, [wanted, other, make_draft(tenant="another", evidence=wanted.evidence)])

    for query in (
        Search(tenant, evidence_hash=wanted.evidence_hash),
        Search(tenant, artifact_hash=artifact),
        Search(tenant, event_type="ai.model.trained"),
        Search(tenant, actor_id="alice"),
        Search(tenant, key_id="other:2"),
        Search(tenant, start_time=DAY, end_time=DAY + timedelta(microseconds=1)),
        Search(tenant, wanted.evidence_hash, artifact, "ai.model.trained", "alice", "other:2", DAY, DAY + timedelta(1)),
    ):
        (found,) = (await metadata.search(query, 10, "")).records
        assert found.receipt_id == wanted.receipt_id
        assert found.terms == wanted.terms
        assert found.log_index is not None
    assert not (await metadata.search(Search(tenant, actor_id="alice", event_type="ai.model.retired"), 10, "")).records
    assert not (await metadata.search(Search(tenant, end_time=DAY), 10, "")).records


async def test_an_artifact_that_tenants_share_is_found_by_each_in_its_own_records(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    artifact = os.urandom(32)
    mine = make_draft(artifacts=(artifact, artifact))
    await store.prepare([mine, make_draft(tenant="neighbour", artifacts=(artifact,))])

    for query in (
        Search(tenant, artifact_hash=artifact),
        Search(tenant, artifact_hash=artifact, actor_id="release-bot"),
    ):
        (found,) = (await metadata.search(query, 10, "")).records
        assert found.receipt_id == mine.receipt_id
    assert not (await metadata.search(Search("stranger", artifact_hash=artifact), 10, "")).records


async def test_pages_hold_every_record_once_newest_first(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    artifact = os.urandom(32)
    # Three at a time share a moment, so that pages end between equals.
    drafts = [make_draft(notarized_at=DAY + timedelta(seconds=n // 3), artifacts=(artifact,)) for n in range(20)]
    await store.prepare(drafts)
    expected = [d.receipt_id for d in sorted(drafts, key=lambda d: (d.notarized_at, d.receipt_id), reverse=True)]

    for query in (Search(tenant), Search(tenant, artifact_hash=artifact), Search(tenant, actor_id="release-bot")):
        for page_size in (1, 2, 7, 19, 20, 21, 1000):
            assert await _all_pages(metadata, query, page_size) == expected


async def test_records_that_arrive_between_pages_neither_repeat_nor_hide_any(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    drafts = [make_draft(notarized_at=DAY + timedelta(seconds=n)) for n in range(6)]
    await store.prepare(drafts)
    first = await metadata.search(Search(tenant), 3, "")

    await store.prepare([make_draft(notarized_at=DAY + timedelta(seconds=n)) for n in range(10, 15)])
    second = await metadata.search(Search(tenant), 3, first.next_page_token)

    found = [summary.receipt_id for summary in first.records + second.records]
    assert found == [draft.receipt_id for draft in reversed(drafts)]
    assert second.next_page_token == ""


async def test_a_page_ends_early_before_it_outgrows_a_message(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    artifacts = tuple(os.urandom(32) for _ in range(1000))
    await store.prepare([make_draft(artifacts=artifacts) for _ in range(150)])

    page = await metadata.search(Search(tenant), 1000, "")

    assert 100 < len(page.records) < 150
    assert page.next_page_token
    assert len(await _all_pages(metadata, Search(tenant), 1000)) == 150


async def test_a_token_of_another_query_is_refused(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    await store.prepare([make_draft() for _ in range(2)])
    token = (await metadata.search(Search(tenant), 1, "")).next_page_token

    for query in (Search(tenant, actor_id="release-bot"), Search("somebody-else")):
        with pytest.raises(InvalidArgument) as refused:
            await metadata.search(query, 1, token)
        assert [violation.field for violation in refused.value.fields] == ["page_token"]


async def test_evidence_is_found_by_its_newest_logged_record_and_counted(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    drafts = [make_draft(evidence=b"{}", notarized_at=DAY + timedelta(seconds=n)) for n in range(4)]
    await log_drafts(store, drafts[:3])
    await store.prepare([drafts[3], make_draft(tenant="another", evidence=b"{}")])
    digest = drafts[0].evidence_hash

    newest, count = await metadata.find_evidence(tenant, digest)
    assert (newest.draft.receipt_id, count) == (drafts[2].receipt_id, 4)

    by_signature, count = await metadata.find_evidence(tenant, digest, drafts[0].signature)
    assert (by_signature.draft.receipt_id, count) == (drafts[0].receipt_id, 4)

    pending, _ = await metadata.find_evidence(tenant, digest, drafts[3].signature)
    assert (pending.draft.receipt_id, pending.log) == (drafts[3].receipt_id, None)

    with pytest.raises(NotFound):
        await metadata.find_evidence(tenant, digest, b"another signature")
    with pytest.raises(NotFound):
        await metadata.find_evidence("nobody", digest)


async def test_a_record_is_found_by_its_tenant_only(metadata: Metadata, make_draft: Make, tenant: str) -> None:
    draft = make_draft()
    await metadata.prepare([draft])

    assert (await metadata.get_record(tenant, draft.receipt_id)).draft.statement == draft.statement
    with pytest.raises(NotFound):
        await metadata.get_record("another", draft.receipt_id)


async def test_what_a_key_version_signed_is_told_in_order_from_right_after_any_of_it(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    drafts = [make_draft(key_id="k:1", notarized_at=DAY + timedelta(seconds=at // 2)) for at in range(7)]
    await log_drafts(store, drafts[:6])
    await store.prepare([drafts[6], make_draft(key_id="k:2", notarized_at=DAY)])
    newest_first = sorted(drafts, key=lambda each: (each.notarized_at, each.receipt_id), reverse=True)
    query = Search(tenant, key_id="k:1")

    found = await metadata.signed(query, 10, None)
    assert [each.receipt_id for each in found] == [each.receipt_id for each in newest_first]
    assert [each.evidence_hash for each in found] == [each.evidence_hash for each in newest_first]
    assert [each.log_index is None for each in found] == [each is drafts[6] for each in newest_first]
    for at in range(7):
        rest = await metadata.signed(query, 2, found[at].receipt_id)
        assert rest == found[at + 1 : at + 3]
    since = Search(tenant, key_id="k:1", start_time=DAY + timedelta(seconds=2))
    assert await metadata.signed(since, 10, None) == found[:3]


async def test_an_export_goes_on_only_after_a_record_of_the_same_tenant(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    draft = make_draft(key_id="k:1", notarized_at=DAY)
    await store.prepare([draft])

    with pytest.raises(InvalidArgument) as refused:
        await metadata.signed(Search("somebody-else", key_id="k:1"), 10, draft.receipt_id)
    assert [fault.field for fault in refused.value.fields] == ["after"]


@pytest.mark.parametrize("statement", [search_statement, signed_statement])
async def test_each_page_of_what_a_key_version_signed_is_read_by_its_index(
    own_store: PostgresStore, database: str, make_draft: Make, tenant: str, statement: Any
) -> None:
    draft = make_draft(key_id="k:1", notarized_at=DAY)
    await own_store.prepare([draft])
    connection = await asyncpg.connect(database)
    try:
        await fill_records(connection, "k:1", "k:2", 5_000)
        for after in (None, Position(DAY - timedelta(seconds=2_000), draft.receipt_id)):
            query = Search(tenant, key_id="k:1", start_time=DAY - timedelta(days=1))
            sql, parameters = statement(query, after, 1_000)
            rows = await connection.fetch(f"EXPLAIN {sql}", *parameters.values)
            plan = "\n".join(row["QUERY PLAN"] for row in rows)
            assert "tenant_key_id_notarized_at_receipt_id_idx" in plan  # the part of `record_by_key` that a month has
            assert "Seq Scan on record" not in plan
    finally:
        await connection.close()
