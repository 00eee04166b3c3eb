"""Finding records by what they say and where they are, in either order, whole or in short, while others write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.formats.canonical import canonical_json
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.service import Metadata
from afdp.metadata.values import Draft, Position, Search

Make = Callable[..., Draft]
Settings = Callable[..., MetadataSettings]
DAY = datetime(2026, 11, 24, tzinfo=UTC)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store(module_database: str, settings_of: Settings) -> AsyncIterator[PostgresStore]:
    """A store that finds records by three places in their metadata."""
    async with open_store(settings_of(module_database, searchable_metadata="model.name,run,tags")) as opened:
        yield opened


def says(metadata: Any) -> bytes:
    return canonical_json({"metadata": metadata, "salt": os.urandom(8).hex()})


async def found(metadata: Metadata, query: Search) -> list[UUID]:
    return [each.receipt_id for each in (await metadata.search(query, 1000, "")).records]


async def test_each_filter_finds_its_records_and_no_others_alone_and_with_the_rest(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    artifact = os.urandom(32)
    said = {"model": {"name": "credit-risk"}, "run": 7, "tags": ["eu", "prod"]}
    wanted = make_draft(evidence=says(said), subject="alice", artifacts=(artifact,))
    wanted = replace(wanted, terms=replace(wanted.terms, actor_type="human"))
    others = [make_draft(evidence=says(None)), make_draft(evidence=says({"run": 8}), artifacts=(os.urandom(32),))]
    await log_drafts(store, [*others, wanted, make_draft(tenant="another", evidence=wanted.evidence, subject="alice")])
    [told] = (await metadata.search(Search(tenant, submitter="alice"), 10, "")).records
    assert told.log_index is not None
    assert told.log_origin == "notary.localhost"

    each_alone: list[dict[str, Any]] = [
        {"actor_type": "human"},
        {"submitter": "alice"},
        {"log_index": told.log_index},
        {"log_index": told.log_index, "log_origin": told.log_origin},
        {"metadata": (("model.name", "credit-risk"),)},
        {"metadata": (("run", "7"), ("tags", "prod"), ("tags", "eu"))},
        {"submitter": "alice", "metadata": (("run", "7"),), "artifact_hash": artifact},
    ]
    together = {name: value for filters in each_alone for name, value in filters.items()}
    for filters in (*each_alone, together, together | {"event_type": wanted.terms.event_type}):
        for oldest_first in (False, True):
            query = Search(tenant, **filters, oldest_first=oldest_first)
            assert await found(metadata, query) == [wanted.receipt_id]
            [whole] = (await metadata.read(query, 10, None)).records
            assert whole.draft.evidence == wanted.evidence
    for missed in (
        {"submitter": "bob"},
        {"submitter": "ALICE"},
        {"log_index": told.log_index + 10_000_000},
        {"log_index": told.log_index, "log_origin": "elsewhere.example"},
        {"log_origin": "elsewhere.example"},
        {"metadata": (("run", "7"), ("tags", "us"))},
        {"submitter": "alice", "metadata": (("run", "8"),)},
        {"submitter": "alice", "event_type": "ai.model.retired"},
    ):
        assert await found(metadata, Search(tenant, **missed)) == []
    assert wanted.receipt_id not in await found(metadata, Search("another", submitter="alice"))
    assert await found(metadata, Search("another", log_index=told.log_index)) == []
    assert set(await found(metadata, Search(tenant, log_origin=told.log_origin))) == {
        each.receipt_id for each in (*others, wanted)
    }


async def test_a_question_about_a_place_that_is_not_searchable_names_it(metadata: Metadata, tenant: str) -> None:
    query = Search(tenant, metadata=(("run", "7"), ("salary", "1")))

    for ask in (metadata.search(query, 10, ""), metadata.read(query, 10, None)):
        with pytest.raises(InvalidArgument) as refused:
            await ask
        assert [fault.field for fault in refused.value.fields] == ["metadata[1]"]


async def test_the_oldest_come_first_where_that_is_asked_for_on_every_page(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    artifact = os.urandom(32)
    drafts = [
        make_draft(notarized_at=DAY + timedelta(seconds=n // 3), artifacts=(artifact,), evidence=says({"run": 1}))
        for n in range(10)
    ]
    await store.prepare(drafts)
    expected = [d.receipt_id for d in sorted(drafts, key=lambda d: (d.notarized_at, d.receipt_id))]

    for filters in ({}, {"artifact_hash": artifact}, {"metadata": (("run", "1"),)}, {"actor_id": "release-bot"}):
        query, seen, token = Search(tenant, **filters, oldest_first=True), [], ""
        while True:
            page = await metadata.search(query, 3, token)
            seen += [each.receipt_id for each in page.records]
            if not (token := page.next_page_token):
                break
        assert seen == expected
    token = (await metadata.search(Search(tenant), 3, "")).next_page_token
    with pytest.raises(InvalidArgument):
        await metadata.search(Search(tenant, oldest_first=True), 3, token)


async def test_whole_records_come_in_order_in_pages_that_fit_in_memory(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    drafts = [make_draft(evidence=os.urandom(300 * 1024), notarized_at=DAY + timedelta(seconds=n)) for n in range(12)]
    await store.prepare(drafts)
    query, seen, after, sizes = Search(tenant, oldest_first=True), [], None, []

    while True:
        page = await metadata.read(query, 1000, after)
        sizes.append(sum(len(record.draft.evidence) for record in page.records))
        seen += page.records
        if (after := page.ended) is None:
            break

    assert [record.draft for record in seen] == drafts
    assert max(sizes) <= 2 * 1024 * 1024
    assert len(sizes) == 2
    rest = await metadata.read(query, 5, drafts[3].receipt_id)
    assert [record.draft for record in rest.records] == drafts[4:9]
    with pytest.raises(InvalidArgument) as refused:
        await metadata.read(Search("somebody-else"), 5, drafts[3].receipt_id)
    assert [fault.field for fault in refused.value.fields] == ["after"]
    assert (await metadata.read(Search("somebody-else"), 5, Position(DAY, drafts[3].receipt_id))).records == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), page_size=st.integers(1, 9), oldest_first=st.booleans(), by_artifact=st.booleans())
async def test_while_others_write_pages_give_what_was_there_at_the_start_exactly_once(
    metadata: Metadata,
    store: PostgresStore,
    make_draft: Make,
    seed: int,
    page_size: int,
    oldest_first: bool,
    by_artifact: bool,
) -> None:
    random, artifact, tenant = Random(seed), os.urandom(32), f"tenant-{os.urandom(8).hex()}"

    def some(count: int) -> list[Draft]:
        """Anywhere in the list, many at the same moment."""
        times = (DAY + timedelta(microseconds=random.randrange(6)) for _ in range(count))
        return [make_draft(tenant=tenant, artifacts=(artifact,), notarized_at=time) for time in times]

    there = some(random.randrange(1, 25))
    await store.prepare(there)
    query = Search(tenant, artifact_hash=artifact if by_artifact else None, oldest_first=oldest_first)
    seen: list[UUID] = []
    token, written = "", 0
    while True:
        more, written = some(2) if written < 20 else [], written + 2  # else the list might grow before it for ever
        page, _ = await asyncio.gather(metadata.search(query, page_size, token), metadata.prepare(more))
        seen += [each.receipt_id for each in page.records]
        if not (token := page.next_page_token):
            break

    assert len(seen) == len(set(seen))
    assert {draft.receipt_id for draft in there} <= set(seen)
