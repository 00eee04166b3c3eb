"""Prepare on a real PostgreSQL: one key, one answer, whatever comes at the same time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from afdp.errors import AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted
from afdp.metadata.postgres import PostgresStore, idempotency, open_store
from afdp.metadata.service import Metadata
from afdp.metadata.values import Batch, Completion, Draft, KeyTaken, Prepared, Record, Search

Make = Callable[..., Draft]


async def test_a_prepared_draft_is_a_pending_record_with_every_byte_of_it(
    store: PostgresStore, make_draft: Make
) -> None:
    artifacts = (os.urandom(32), os.urandom(32))
    draft = make_draft(key="k", artifacts=(*artifacts, artifacts[0]), actor_id="Zoë 🚀", timestamp=os.urandom(600))

    assert await store.prepare([draft]) == [Prepared()]

    record = await store.get_record(draft.submitter.tenant, draft.receipt_id)
    assert record == Record(replace(draft, idempotency=None), None, None)


async def test_the_same_key_and_request_is_answered_by_the_record_of_the_first(
    store: PostgresStore, make_draft: Make
) -> None:
    first = make_draft(key="k", evidence=b"{}")
    again = make_draft(key="k", evidence=b"{}")
    await store.prepare([first])

    (answer,) = await store.prepare([again])

    assert isinstance(answer, Record)
    assert answer.draft.receipt_id == first.receipt_id
    assert await store.get_record(again.submitter.tenant, again.receipt_id) is None


async def test_the_same_key_with_other_evidence_is_refused_and_says_so(store: PostgresStore, make_draft: Make) -> None:
    await store.prepare([make_draft(key="k")])
    other = make_draft(key="k")

    (answer,) = await store.prepare([other])

    assert isinstance(answer, AlreadyExists)
    assert "with other evidence" in answer.message
    assert await store.get_record(other.submitter.tenant, other.receipt_id) is None


async def test_the_same_key_and_evidence_with_other_options_is_refused_and_says_so(
    store: PostgresStore, make_draft: Make
) -> None:
    await store.prepare([make_draft(key="k", evidence=b"{}")])

    (answer,) = await store.prepare([make_draft(key="k", evidence=b"{}", fingerprint=bytes(32))])

    assert isinstance(answer, AlreadyExists)
    assert "other options" in answer.message


async def test_a_key_belongs_to_one_principal_of_one_tenant(store: PostgresStore, make_draft: Make) -> None:
    drafts = [make_draft(key="k"), make_draft(key="k", subject="other@example.com"), make_draft(key="k", tenant="else")]

    assert await store.prepare(drafts) == [Prepared()] * 3


async def test_of_two_drafts_with_one_key_in_a_batch_the_first_wins(store: PostgresStore, make_draft: Make) -> None:
    first = make_draft(key="k", evidence=b"{}")
    twin = make_draft(key="k", evidence=b"{}")
    other = make_draft(key="k", evidence=b"[]")
    free = make_draft()

    answers = await store.prepare([first, twin, other, free])

    assert [type(answer) for answer in answers] == [Prepared, Record, KeyTaken, Prepared]
    assert isinstance(answers[1], Record)
    assert answers[1].draft.receipt_id == first.receipt_id


async def test_a_thousand_drafts_under_one_key_make_one_record(store: PostgresStore, make_draft: Make) -> None:
    drafts = [make_draft(key="k", evidence=b"{}") for _ in range(1024)]

    first, *others = await store.prepare(drafts)

    assert first == Prepared()
    assert {answer.draft.receipt_id for answer in others if isinstance(answer, Record)} == {drafts[0].receipt_id}
    assert await store.find_evidence(drafts[0].submitter.tenant, drafts[0].evidence_hash, b"") is not None


async def test_of_two_services_that_prepare_one_key_at_once_exactly_one_wins(
    store: PostgresStore, module_database: str, make_draft: Make, settings_of: Callable[..., Any]
) -> None:
    async with open_store(settings_of(module_database)) as another:
        for _ in range(20):
            key = os.urandom(8).hex()
            drafts = [make_draft(key=key, evidence=b"{}") for _ in range(2)]
            # The shared keys are met in opposite orders, which must not end in a deadlock either.
            more = [make_draft(key=f"{key}/{n}") for n in range(8)]
            answers = await asyncio.gather(
                store.prepare([drafts[0], *more]), another.prepare([*reversed(more), drafts[1]])
            )

            outcomes = [answers[0][0], answers[1][-1]]
            winner = outcomes.index(Prepared())
            loser = outcomes[1 - winner]
            assert isinstance(loser, Record)
            assert loser.draft.receipt_id == drafts[winner].receipt_id


async def test_a_draft_waits_for_a_concurrent_one_of_its_key_and_takes_over_if_that_one_fails(
    store: PostgresStore, module_database: str, make_draft: Make
) -> None:
    draft = make_draft(key="k")
    blocker = await asyncpg.connect(module_database, server_settings={"search_path": "afdp_metadata"})
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await _claim(blocker, draft)
        waiting = asyncio.create_task(store.prepare([draft]))
        await _until_somebody_waits(blocker)
        assert not waiting.done()
        await transaction.rollback()

        assert await waiting == [Prepared()]
    finally:
        await blocker.close()


async def test_an_expired_key_counts_as_new(store: PostgresStore, module_database: str, make_draft: Make) -> None:
    await store.prepare([make_draft(key="k")])
    connection = await asyncpg.connect(module_database)
    await connection.execute(
        "UPDATE afdp_metadata.idempotency_key SET created_at = now() - interval '30 days 1 second'"
    )
    await connection.close()
    second = make_draft(key="k")

    assert await store.prepare([second]) == [Prepared()]
    (again,) = await store.prepare([make_draft(key="k", evidence=second.evidence)])

    assert isinstance(again, Record)
    assert again.draft.receipt_id == second.receipt_id


async def test_preparing_the_same_drafts_again_changes_nothing(store: PostgresStore, make_draft: Make) -> None:
    drafts = [make_draft(), make_draft(key="k"), make_draft()]

    assert await store.prepare(drafts) == [Prepared()] * 3
    assert await store.prepare(drafts) == [Prepared()] * 3
    assert (await store.find_evidence(drafts[0].submitter.tenant, drafts[0].evidence_hash, b"") or (0, 0))[1] == 1


async def test_a_draft_that_is_in_the_log_already_is_answered_by_its_record(
    store: PostgresStore, make_draft: Make, log_drafts: Any
) -> None:
    drafts = [make_draft(), make_draft(key="k")]
    await log_drafts(store, drafts)

    answers = await store.prepare(drafts)

    assert all(isinstance(answer, Record) and answer.log is not None for answer in answers)


async def test_another_draft_under_a_taken_receipt_id_fails_alone(store: PostgresStore, make_draft: Make) -> None:
    taken = make_draft()
    await store.prepare([taken])

    answers = await store.prepare([make_draft(), make_draft(receipt_id=taken.receipt_id, key="k"), make_draft()])

    assert [type(answer) for answer in answers] == [Prepared, AlreadyExists, Prepared]
    # What failed has not taken its key either.
    assert await store.prepare([make_draft(key="k")]) == [Prepared()]


async def test_a_draft_that_postgresql_refuses_fails_alone(store: PostgresStore, make_draft: Make) -> None:
    bad = make_draft(actor_id="nul\0", key="k")
    good = [make_draft(), make_draft(key="k2")]

    answers = await store.prepare([good[0], bad, good[1]])

    assert [type(answer) for answer in answers] == [Prepared, InvalidArgument, Prepared]
    assert "nul" not in str(answers[1])
    assert await store.get_record(bad.submitter.tenant, bad.receipt_id) is None
    assert await store.prepare([make_draft(key="k")]) == [Prepared()]


async def test_text_that_cannot_be_sent_or_indexed_fails_alone_too(store: PostgresStore, make_draft: Make) -> None:
    # Text with a lone surrogate is none that can be sent; a row of an index has a limit.
    unsendable, oversize = make_draft(event_type="\ud800"), make_draft(key_id=os.urandom(5_000).hex())

    answers = await store.prepare([unsendable, oversize, make_draft()])

    assert [type(answer) for answer in answers] == [InvalidArgument, InvalidArgument, Prepared]


async def test_dedupe_answers_with_the_newest_record_of_the_evidence(store: PostgresStore, make_draft: Make) -> None:
    older, newer = make_draft(evidence=b"{}"), make_draft(evidence=b"{}")
    await store.prepare([newer, older])
    newer, older = sorted((newer, older), key=lambda draft: draft.notarized_at, reverse=True)

    (answer,) = await store.prepare([make_draft(evidence=b"{}", dedupe=True)])

    assert isinstance(answer, Record)
    assert answer.draft.receipt_id == newer.receipt_id


async def test_dedupe_without_a_record_writes_one_and_never_looks_at_other_tenants(
    store: PostgresStore, make_draft: Make
) -> None:
    await store.prepare([make_draft(evidence=b"{}", tenant="somebody-else")])

    assert await store.prepare([make_draft(evidence=b"{}", dedupe=True)]) == [Prepared()]


async def test_dedupe_finds_the_same_evidence_within_its_batch(store: PostgresStore, make_draft: Make) -> None:
    drafts = [make_draft(evidence=b"{}", dedupe=n > 0, key=f"k{n}") for n in range(200)]

    first, *others = await store.prepare(drafts)

    assert first == Prepared()
    assert {answer.draft.receipt_id for answer in others if isinstance(answer, Record)} == {drafts[0].receipt_id}
    assert len(others) == 199


async def test_a_key_stands_for_the_record_that_dedupe_gave(store: PostgresStore, make_draft: Make) -> None:
    before = make_draft(evidence=b"{}")
    await store.prepare([before])
    await store.prepare([make_draft(evidence=b"{}", dedupe=True, key="k")])
    await store.prepare([make_draft(evidence=b"{}")])  # a newer one, which must not change the answer

    (answer,) = await store.prepare([make_draft(evidence=b"{}", dedupe=True, key="k")])

    assert isinstance(answer, Record)
    assert answer.draft.receipt_id == before.receipt_id


async def test_services_that_dedupe_the_same_evidence_at_once_write_it_once(
    store: PostgresStore, make_draft: Make
) -> None:
    drafts = [make_draft(evidence=b"{}", dedupe=True) for _ in range(8)]

    answers = await asyncio.gather(*(store.prepare([draft]) for draft in drafts))

    assert sum(answer == [Prepared()] for answer in answers) == 1
    found = await store.find_evidence(drafts[0].submitter.tenant, drafts[0].evidence_hash, b"")
    assert found is not None
    assert found[1] == 1


async def test_a_key_whose_record_was_deleted_brings_it_not_back(
    own_store: PostgresStore, database: str, make_draft: Make
) -> None:
    before, again = (make_draft(evidence=b"{}", key="k") for _ in range(2))
    await own_store.prepare([before])
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET session_replication_role = replica")  # as a superuser, whom no trigger holds
        await connection.execute("DELETE FROM afdp_metadata.record WHERE receipt_id = $1", before.receipt_id)
    finally:
        await connection.close()

    (answer,) = await own_store.prepare([again])

    assert isinstance(answer, FailedPrecondition)
    assert "retention" in answer.message
    assert await own_store.get_record(again.submitter.tenant, again.receipt_id) is None


async def test_a_key_of_a_batch_is_not_a_key_of_a_package(store: PostgresStore, make_draft: Make) -> None:
    draft = make_draft(key="k")
    assert draft.idempotency is not None
    await store.create_batch(Batch(draft.receipt_id, draft.submitter, draft.idempotency, 1, draft.notarized_at))

    (answer,) = await store.prepare([make_draft(key="k", evidence=draft.evidence)])

    assert isinstance(answer, AlreadyExists)
    assert "batch" in answer.message


async def test_a_draft_whose_hash_is_not_that_of_its_evidence_is_named(metadata: Metadata, make_draft: Make) -> None:
    good, bad = make_draft(), replace(make_draft(), evidence_hash=bytes(32))

    answers = await metadata.prepare([good, bad])

    assert answers[0] == Prepared()
    assert isinstance(answers[1], InvalidArgument)
    assert [violation.field for violation in answers[1].fields] == ["drafts[1].evidence_hash"]


async def test_drafts_with_very_many_artifacts_are_written(store: PostgresStore, make_draft: Make) -> None:
    artifacts = tuple(os.urandom(32) for _ in range(1_000))
    drafts = [make_draft(artifacts=artifacts) for _ in range(20)]

    assert await store.prepare(drafts) == [Prepared()] * 20
    found = await store.search(Search(drafts[0].submitter.tenant, artifact_hash=artifacts[999]), None, 1000)
    assert {summary.receipt_id for summary in found} == {draft.receipt_id for draft in drafts}


async def test_more_pending_records_than_a_message_holds_are_asked_for_in_smaller_pages(
    database: str, make_draft: Make, settings_of: Callable[..., Any]
) -> None:
    async with open_store(settings_of(database, max_message_bytes=100_000)) as small:
        await small.prepare([make_draft(evidence=os.urandom(30_000)) for _ in range(4)])

        assert len(await small.list_pending(2, None, None)) == 2
        with pytest.raises(ResourceExhausted, match="page_size"):
            await small.list_pending(4, None, None)


async def test_pending_records_come_by_ascending_id_of_all_tenants(
    own_store: PostgresStore, make_draft: Make, checkpoint_of: Any
) -> None:
    drafts = sorted((make_draft(tenant=f"t{n % 3}") for n in range(7)), key=lambda draft: draft.receipt_id)
    await own_store.prepare(drafts)
    completed = drafts.pop(3)

    async def ids(limit: int, after: Any = None, before: Any = None) -> list[Any]:
        return [record.draft.receipt_id for record in await own_store.list_pending(limit, after, before)]

    await own_store.complete(checkpoint_of(), [Completion(completed.receipt_id, 0, b"")])
    expected = [draft.receipt_id for draft in drafts]
    assert await ids(100) == expected
    assert await ids(4) == expected[:4]
    assert await ids(4, after=expected[3]) == expected[4:]
    assert await ids(100, before=min(draft.notarized_at for draft in drafts)) == []
    assert await ids(100, before=max(draft.notarized_at for draft in drafts) + timedelta(seconds=1)) == expected


async def _claim(connection: asyncpg.Connection, draft: Draft) -> None:
    assert draft.idempotency is not None
    digest = idempotency.digest(draft.submitter, draft.idempotency)
    await connection.execute(
        "INSERT INTO idempotency_key (digest, fingerprint, target, is_batch) VALUES ($1, $2, $3, false)",
        digest,
        draft.idempotency.fingerprint,
        draft.receipt_id,
    )


async def _until_somebody_waits(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
