"""Records that go to logs of others: queued with the record, leased, completed once, put back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from afdp.errors import FailedPrecondition, NotFound
from afdp.formats.encoding import b64
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.service import Metadata
from afdp.metadata.values import Draft, LogPosition, Prepared, QueuedCompletion, Record, Rekor1Entry

LEASE = timedelta(minutes=1)
MakeDraft = Callable[..., Draft]


def position(index: int, size: int = 100, *, origin: str = "rekor.example", root: bytes = bytes(32)) -> LogPosition:
    name = origin.partition(" ")[0]
    note = f"{origin}\n{size}\n{b64(root)}\n\n— {name} {b64(bytes(68))}\n"
    return LogPosition(origin, index, size, bytes(64), note)


async def queued(metadata: Metadata, make_draft: MakeDraft, log: str, **draft: object) -> Draft:
    made = replace(make_draft(**draft), external_log=log)
    assert await metadata.prepare([made]) == [Prepared()]
    return made


async def test_a_record_for_a_log_of_others_waits_in_its_queue_and_is_not_pending(
    own_store: PostgresStore, make_draft: MakeDraft
) -> None:
    metadata = Metadata(own_store)
    draft = await queued(metadata, make_draft, "rekor")

    record = await metadata.get_record(draft.submitter.tenant, draft.receipt_id)
    [length] = await metadata.queues()
    assert (record.log, record.draft.external_log) == (None, "rekor")
    assert await metadata.list_pending(10, None, None) == []
    assert (length.log, length.length) == ("rekor", 1)


async def test_what_one_worker_leases_no_other_gets_until_the_lease_is_over(
    own_store: PostgresStore, make_draft: MakeDraft
) -> None:
    metadata = Metadata(own_store)
    drafts = [await queued(metadata, make_draft, "rekor") for _ in range(20)]

    taken = await asyncio.gather(*(metadata.lease_queued("rekor", 5, LEASE) for _ in range(6)))
    assert sorted(each.receipt_id for part in taken for each in part) == sorted(each.receipt_id for each in drafts)
    await metadata.defer_queued("rekor", {drafts[0].receipt_id: timedelta(0)})
    [again] = await metadata.lease_queued("rekor", 5, LEASE)
    assert (again.receipt_id, again.attempts, again.statement) == (drafts[0].receipt_id, 2, drafts[0].statement)


async def test_a_completed_record_is_logged_where_it_was_first_completed_and_leaves_the_queue(
    own_store: PostgresStore, make_draft: MakeDraft
) -> None:
    metadata = Metadata(own_store)
    draft = await queued(metadata, make_draft, "rekor")
    first, second = position(7), position(7, 101)

    assert await metadata.complete_queued("rekor", [QueuedCompletion(draft.receipt_id, first)]) == [first]
    assert await metadata.complete_queued("rekor", [QueuedCompletion(draft.receipt_id, second)]) == [first]
    record = await metadata.get_record(draft.submitter.tenant, draft.receipt_id)
    assert record.log == first
    assert record.logged_at is not None
    assert await metadata.queues() == []


async def test_a_retry_finds_the_queued_record_and_not_another(own_store: PostgresStore, make_draft: MakeDraft) -> None:
    metadata = Metadata(own_store)
    draft = await queued(metadata, make_draft, "rekor", key="k", evidence=b"the same")
    retry = replace(make_draft(key="k", evidence=b"the same"), external_log="rekor")

    [outcome] = await metadata.prepare([retry])

    assert isinstance(outcome, Record)
    assert (outcome.draft.receipt_id, outcome.draft.external_log) == (draft.receipt_id, "rekor")
    assert [each.length for each in await metadata.queues()] == [1]


async def test_further_logs_stand_beside_the_one_that_a_record_is_logged_by(
    own_store: PostgresStore, make_draft: MakeDraft
) -> None:
    metadata = Metadata(own_store)
    draft = replace(make_draft(), external_log="rekor", more_logs=("other", "old"))
    assert await metadata.prepare([draft]) == [Prepared()]
    main, other = position(3), position(9, origin="other.example")
    old = replace(position(4, origin="old.example - 77"), rekor1=Rekor1Entry(b"{}", 1004, 1_795_000_000, b"signed"))

    for log, where in (("other", other), ("rekor", main), ("old", old)):
        assert await metadata.complete_queued(log, [QueuedCompletion(draft.receipt_id, where)]) == [where]

    record = await metadata.get_record(draft.submitter.tenant, draft.receipt_id)
    assert record.log == main
    assert record.more == (other, old)


async def test_a_record_that_waits_for_no_such_log_is_not_completed(metadata: Metadata, make_draft: MakeDraft) -> None:
    draft = make_draft()
    await metadata.prepare([draft])

    [outcome] = await metadata.complete_queued("rekor", [QueuedCompletion(draft.receipt_id, position(1))])

    assert isinstance(outcome, NotFound)


async def test_another_tree_of_the_same_size_completes_nothing(own_store: PostgresStore, make_draft: MakeDraft) -> None:
    metadata = Metadata(own_store)
    one, other = [await queued(metadata, make_draft, "rekor") for _ in range(2)]
    await metadata.complete_queued("rekor", [QueuedCompletion(one.receipt_id, position(1))])

    forked = QueuedCompletion(other.receipt_id, position(2, root=b"\1" * 32))
    [outcome] = await metadata.complete_queued("rekor", [forked])

    assert isinstance(outcome, FailedPrecondition)
    assert [each.length for each in await metadata.queues()] == [1]


async def test_a_record_whose_place_is_anothers_is_refused_and_stays_in_the_queue(
    own_store: PostgresStore, make_draft: MakeDraft
) -> None:
    metadata = Metadata(own_store)
    one, early = [await queued(metadata, make_draft, "rekor") for _ in range(2)]
    other = replace(make_draft(), external_log="rekor", more_logs=("other",))
    assert await metadata.prepare([other]) == [Prepared()]
    further = position(4, origin="other.example")
    assert await metadata.complete_queued("other", [QueuedCompletion(other.receipt_id, further)]) == [further]
    at = position(7)

    together = [QueuedCompletion(each.receipt_id, at) for each in (one, early)]
    first, at_once = await metadata.complete_queued("rekor", together)
    [later] = await metadata.complete_queued("rekor", [QueuedCompletion(other.receipt_id, at)])
    [repeated] = await metadata.complete_queued("rekor", together[:1])

    assert (first, repeated) == (at, at)
    assert isinstance(at_once, FailedPrecondition)
    assert isinstance(later, FailedPrecondition)
    assert [(each.log, each.length) for each in await metadata.queues()] == [("rekor", 2)]
    elsewhere = position(8)
    assert await metadata.complete_queued("rekor", [QueuedCompletion(early.receipt_id, elsewhere)]) == [elsewhere]
    assert [each.length for each in await metadata.queues()] == [1]


async def test_a_record_of_our_log_may_wait_for_others_as_well(own_store: PostgresStore, make_draft: MakeDraft) -> None:
    metadata = Metadata(own_store)
    draft = replace(make_draft(), more_logs=("rekor",))
    assert await metadata.prepare([draft]) == [Prepared()]
    [pending] = await metadata.list_pending(10, None, None)
    assert (pending.draft.receipt_id, pending.draft.external_log) == (draft.receipt_id, "")

    further = position(5)
    assert await metadata.complete_queued("rekor", [QueuedCompletion(draft.receipt_id, further)]) == [further]

    record = await metadata.get_record(draft.submitter.tenant, draft.receipt_id)
    assert (record.log, record.more) == (None, (further,))
    assert len(await metadata.list_pending(10, None, None)) == 1
