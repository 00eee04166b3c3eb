"""Workflows as lists show them: packages from their records, batches by their own word or their records'."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from afdp.errors import AlreadyExists, InvalidArgument, NotFound
from afdp.messages.metadata import WorkflowState, WorkflowType
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.service import Metadata
from afdp.metadata.values import Batch, Draft, Idempotency, Workflow, WorkflowQuery

Make = Callable[..., Draft]
DAY = datetime(2026, 11, 24, tzinfo=UTC)
SIMPLE, BATCH = WorkflowType.SIMPLE_SIGNING, WorkflowType.BATCH_SIGNING


@pytest.fixture
def make_batch(make_draft: Make) -> Callable[..., Batch]:
    """`make_batch(items, …)`: a batch of this tenant."""

    def make(
        items: int = 2, *, key: str | None = None, fingerprint: bytes = bytes(32), created_at: datetime | None = None
    ) -> Batch:
        draft = make_draft()
        idempotency = None if key is None else Idempotency(key, fingerprint)
        return Batch(draft.receipt_id, draft.submitter, idempotency, items, created_at or datetime.now(UTC))

    return make


async def test_a_package_runs_until_its_record_is_in_the_log(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    draft = make_draft(notarized_at=DAY)
    await store.prepare([draft])
    running = await metadata.get_workflow(tenant, SIMPLE, draft.receipt_id)
    assert running == Workflow(
        SIMPLE, draft.receipt_id, WorkflowState.RUNNING, DAY, None, "", draft.terms.event_type, draft.terms.actor_id
    )

    await log_drafts(store, [draft])

    done = await metadata.get_workflow(tenant, SIMPLE, draft.receipt_id)
    assert done.state == WorkflowState.COMPLETED
    assert done.completed_at is not None


async def test_a_workflow_is_found_by_its_tenant_and_type_only(
    metadata: Metadata, make_draft: Make, make_batch: Callable[..., Batch], tenant: str
) -> None:
    draft, batch = make_draft(), make_batch()
    await metadata.prepare([draft])
    await metadata.create_batch(batch)

    for asked in (
        ("another", SIMPLE, draft.receipt_id),
        (tenant, BATCH, draft.receipt_id),
        (tenant, WorkflowType.APPROVAL_SIGNING, draft.receipt_id),
        ("another", BATCH, batch.batch_id),
        (tenant, SIMPLE, batch.batch_id),
    ):
        with pytest.raises(NotFound):
            await metadata.get_workflow(*asked)


async def test_a_batch_ends_with_its_counts(metadata: Metadata, make_batch: Callable[..., Batch], tenant: str) -> None:
    batch = make_batch(5)
    assert await metadata.create_batch(batch) == (batch.batch_id, False)
    assert (await metadata.get_workflow(tenant, BATCH, batch.batch_id)).state == WorkflowState.RUNNING

    await metadata.finish_batch(tenant, batch.batch_id, 3, 2)
    await metadata.finish_batch(tenant, batch.batch_id, 3, 2)

    done = await metadata.get_workflow(tenant, BATCH, batch.batch_id)
    assert (done.state, done.item_count, done.succeeded, done.failed) == (WorkflowState.COMPLETED, 5, 3, 2)
    assert done.completed_at is not None


async def test_a_batch_without_a_receipt_has_failed(
    metadata: Metadata, make_batch: Callable[..., Batch], tenant: str
) -> None:
    batch = make_batch(5)
    await metadata.create_batch(batch)
    await metadata.finish_batch(tenant, batch.batch_id, 0, 5)

    failed = await metadata.get_workflow(tenant, BATCH, batch.batch_id)

    assert (failed.state, failed.failed) == (WorkflowState.FAILED, 5)
    assert failed.error == "none of its 5 packages has a receipt"


async def test_a_batch_that_is_unknown_or_too_small_cannot_end(
    metadata: Metadata, make_batch: Callable[..., Batch], tenant: str
) -> None:
    batch = make_batch(2)
    await metadata.create_batch(batch)

    with pytest.raises(NotFound):
        await metadata.finish_batch("another", batch.batch_id, 1, 1)
    with pytest.raises(InvalidArgument, match="more than its 2 items"):
        await metadata.finish_batch(tenant, batch.batch_id, 2, 1)


async def test_a_batch_left_by_a_crash_is_complete_once_all_its_records_are_logged(
    metadata: Metadata,
    store: PostgresStore,
    make_draft: Make,
    make_batch: Callable[..., Batch],
    tenant: str,
    log_drafts: Any,
) -> None:
    batch = make_batch(2)
    await metadata.create_batch(batch)
    drafts = [make_draft(workflow_type=BATCH, batch_id=batch.batch_id) for _ in range(2)]
    await log_drafts(store, drafts[:1])
    await store.prepare(drafts[1:])
    running = await metadata.get_workflow(tenant, BATCH, batch.batch_id)
    assert (running.state, running.succeeded, running.failed) == (WorkflowState.RUNNING, 1, 0)

    await log_drafts(store, drafts[1:])

    done = await metadata.get_workflow(tenant, BATCH, batch.batch_id)
    assert (done.state, done.succeeded, done.failed) == (WorkflowState.COMPLETED, 2, 0)
    assert done.completed_at is not None


async def test_a_batch_left_by_a_crash_ends_after_ten_minutes_with_what_it_has(
    metadata: Metadata,
    store: PostgresStore,
    make_draft: Make,
    make_batch: Callable[..., Batch],
    tenant: str,
    log_drafts: Any,
) -> None:
    now = datetime.now(UTC)
    fresh = make_batch(3, created_at=now - timedelta(minutes=9))
    empty, partial, waiting = (make_batch(3, created_at=now - timedelta(minutes=11)) for _ in range(3))
    for batch in (fresh, empty, partial, waiting):
        await metadata.create_batch(batch)
    await log_drafts(store, [make_draft(workflow_type=BATCH, batch_id=partial.batch_id)])
    await store.prepare([make_draft(workflow_type=BATCH, batch_id=waiting.batch_id)])

    async def told(batch: Batch) -> tuple[object, ...]:
        found = await metadata.get_workflow(tenant, BATCH, batch.batch_id)
        return (found.state, found.succeeded, found.failed, found.error)

    assert await told(fresh) == (WorkflowState.RUNNING, 0, 0, "")
    assert await told(waiting) == (WorkflowState.RUNNING, 0, 0, "")
    assert await told(partial) == (WorkflowState.COMPLETED, 1, 2, "")
    error = "the service stopped before any package of this batch was signed"
    assert await told(empty) == (WorkflowState.FAILED, 0, 3, error)

    running = await metadata.list_workflows(WorkflowQuery(tenant, WorkflowState.RUNNING), 10, "")
    assert {workflow.id for workflow in running.workflows} == {fresh.batch_id, waiting.batch_id}
    failed = await metadata.list_workflows(WorkflowQuery(tenant, WorkflowState.FAILED), 10, "")
    assert [workflow.id for workflow in failed.workflows] == [empty.batch_id]


async def test_a_key_finds_the_batch_from_before(metadata: Metadata, make_batch: Callable[..., Batch]) -> None:
    first, again = make_batch(key="k"), make_batch(key="k")

    assert await metadata.create_batch(first) == (first.batch_id, False)
    assert await metadata.create_batch(first) == (first.batch_id, False)
    assert await metadata.create_batch(again) == (first.batch_id, True)
    with pytest.raises(AlreadyExists, match="another batch"):
        await metadata.create_batch(make_batch(key="k", fingerprint=bytes([1]) * 32))


async def test_a_key_of_a_package_is_not_a_key_of_a_batch(
    metadata: Metadata, make_draft: Make, make_batch: Callable[..., Batch]
) -> None:
    await metadata.prepare([make_draft(key="k")])

    with pytest.raises(AlreadyExists, match="single package"):
        await metadata.create_batch(make_batch(key="k"))


async def test_another_batch_under_a_taken_id_is_refused(metadata: Metadata, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(2)
    await metadata.create_batch(batch)

    assert await metadata.create_batch(batch) == (batch.batch_id, False)
    with pytest.raises(AlreadyExists):
        await metadata.create_batch(Batch(batch.batch_id, batch.submitter, None, 3, batch.created_at))


async def test_packages_and_batches_are_listed_together_newest_first(
    metadata: Metadata,
    store: PostgresStore,
    make_draft: Make,
    make_batch: Callable[..., Batch],
    tenant: str,
    log_drafts: Any,
) -> None:
    expected: list[tuple[datetime, UUID]] = []
    for n in range(12):
        at = DAY + timedelta(seconds=n // 2)
        if n % 3:
            draft = make_draft(notarized_at=at)
            await (log_drafts(store, [draft]) if n % 2 else store.prepare([draft]))
            expected.append((at, draft.receipt_id))
        else:
            batch = make_batch(1, created_at=at)
            await metadata.create_batch(batch)
            # What belongs to a batch is not listed beside it.
            await log_drafts(store, [make_draft(workflow_type=BATCH, batch_id=batch.batch_id, notarized_at=at)])
            expected.append((at, batch.batch_id))
    ids = [identifier for _, identifier in sorted(expected, reverse=True)]

    for page_size in (1, 5, 12, 100):
        found: list[UUID] = []
        token = ""
        while True:
            page = await metadata.list_workflows(WorkflowQuery(tenant), page_size, token)
            assert page.total == 12
            found += [workflow.id for workflow in page.workflows]
            token = page.next_page_token
            if not token:
                break
        assert found == ids


async def test_the_total_is_counted_with_the_first_page(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str
) -> None:
    await store.prepare([make_draft() for _ in range(3)])
    first = await metadata.list_workflows(WorkflowQuery(tenant), 2, "")
    await store.prepare([make_draft()])

    second = await metadata.list_workflows(WorkflowQuery(tenant), 2, first.next_page_token)

    assert (first.total, second.total) == (3, 3)


async def test_states_and_times_filter_the_list_and_its_total(
    metadata: Metadata, store: PostgresStore, make_draft: Make, tenant: str, log_drafts: Any
) -> None:
    drafts = [make_draft(notarized_at=DAY + timedelta(hours=n)) for n in range(4)]
    await log_drafts(store, drafts[:3])
    await store.prepare(drafts[3:])

    async def listed(**filters: Any) -> tuple[list[UUID], int]:
        page = await metadata.list_workflows(WorkflowQuery(tenant, **filters), 10, "")
        return [workflow.id for workflow in page.workflows], page.total

    ids = [draft.receipt_id for draft in drafts]
    assert await listed(state=WorkflowState.COMPLETED) == (ids[2::-1], 3)
    assert await listed(state=WorkflowState.RUNNING) == (ids[3:], 1)
    assert await listed(state=WorkflowState.FAILED) == ([], 0)
    assert await listed(start_time=DAY + timedelta(hours=1), end_time=DAY + timedelta(hours=3)) == (ids[2:0:-1], 2)


async def test_a_package_of_a_batch_is_found_by_its_receipt_id(
    metadata: Metadata, store: PostgresStore, make_draft: Make, make_batch: Callable[..., Batch], tenant: str
) -> None:
    batch = make_batch(1)
    draft = make_draft(workflow_type=BATCH, batch_id=batch.batch_id)
    await store.prepare([draft])

    assert (await metadata.get_workflow(tenant, SIMPLE, draft.receipt_id)).type == SIMPLE
