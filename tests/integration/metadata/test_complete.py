"""Complete on a real PostgreSQL: a record gets one position and keeps it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from afdp.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.service import Metadata
from afdp.metadata.values import Checkpoint, Completion, Draft, LogPosition, Prepared

Make = Callable[..., Draft]
MakeCheckpoint = Callable[..., Checkpoint]


async def test_a_completed_record_has_its_position_and_is_pending_no_more(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    draft, checkpoint, proof = make_draft(), checkpoint_of(), os.urandom(32 * 20)
    await store.prepare([draft])

    answers = await store.complete(checkpoint, [Completion(draft.receipt_id, checkpoint.tree_size - 1, proof)])

    position = LogPosition(checkpoint.origin, checkpoint.tree_size - 1, checkpoint.tree_size, proof, checkpoint.note)
    assert answers == [position]
    record = await store.get_record(draft.submitter.tenant, draft.receipt_id)
    assert record is not None
    assert record.log == position
    assert record.logged_at is not None
    assert draft.receipt_id not in {each.draft.receipt_id for each in await store.list_pending(1024, None, None)}


async def test_a_record_keeps_its_first_position(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    draft, first, second = make_draft(), checkpoint_of(), checkpoint_of()
    await store.prepare([draft])
    before = await store.complete(first, [Completion(draft.receipt_id, 17, bytes(32))])

    assert await store.complete(second, [Completion(draft.receipt_id, 18, bytes(64))]) == before
    assert await store.complete(first, [Completion(draft.receipt_id, 17, bytes(32))]) == before


async def test_a_record_named_twice_gets_one_position(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    draft, checkpoint = make_draft(), checkpoint_of()
    await store.prepare([draft])
    completions = [Completion(draft.receipt_id, 5, b""), Completion(draft.receipt_id, 6, b"")]

    answers = await store.complete(checkpoint, completions)

    assert [answer.log_index for answer in answers if isinstance(answer, LogPosition)] == [5, 5]


async def test_a_receipt_that_is_unknown_fails_alone(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    known, unknown, checkpoint = make_draft(), make_draft(), checkpoint_of()
    await store.prepare([known])

    answers = await store.complete(
        checkpoint, [Completion(unknown.receipt_id, 7, b""), Completion(known.receipt_id, 8, b"")]
    )

    assert [type(answer) for answer in answers] == [NotFound, LogPosition]


async def test_a_log_index_that_another_record_has_fails_alone(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    drafts, checkpoint = [make_draft() for _ in range(3)], checkpoint_of()
    await store.prepare(drafts)
    await store.complete(checkpoint, [Completion(drafts[0].receipt_id, 100, b"")])

    answers = await store.complete(
        checkpoint, [Completion(drafts[1].receipt_id, 100, b""), Completion(drafts[2].receipt_id, 101, b"")]
    )

    assert [type(answer) for answer in answers] == [AlreadyExists, LogPosition]
    record = await store.get_record(drafts[1].submitter.tenant, drafts[1].receipt_id)
    assert record is not None
    assert record.log is None


async def test_one_note_stands_for_all_records_of_a_tree(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    drafts = [make_draft(), make_draft()]
    await store.prepare(drafts)
    first = checkpoint_of()
    resigned = checkpoint_of(first.tree_size)  # the same tree under another signature

    await store.complete(first, [Completion(drafts[0].receipt_id, 200, b"")])
    (answer,) = await store.complete(resigned, [Completion(drafts[1].receipt_id, 201, b"")])

    assert isinstance(answer, LogPosition)
    assert answer.checkpoint == first.note


async def test_another_tree_of_a_size_on_record_is_refused_and_nothing_is_written(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    drafts = [make_draft(), make_draft()]
    await store.prepare(drafts)
    first = checkpoint_of()
    await store.complete(first, [Completion(drafts[0].receipt_id, 300, b"")])

    with pytest.raises(FailedPrecondition, match="another tree"):
        await store.complete(
            checkpoint_of(first.tree_size, root=bytes([1]) * 32), [Completion(drafts[1].receipt_id, 301, b"")]
        )

    record = await store.get_record(drafts[1].submitter.tenant, drafts[1].receipt_id)
    assert record is not None
    assert record.log is None


async def test_services_that_complete_the_same_records_at_once_agree_on_their_positions(
    store: PostgresStore, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    drafts = [make_draft() for _ in range(32)]
    assert await store.prepare(drafts) == [Prepared()] * 32

    async def complete(shift: int, order: list[Draft]) -> dict[object, object]:
        checkpoint = checkpoint_of(1_000_000_000 + shift)
        completions = [
            Completion(draft.receipt_id, 900_000_000 + 100 * shift + drafts.index(draft), b"") for draft in order
        ]
        answers = await store.complete(checkpoint, completions)
        return {draft.receipt_id: answer for draft, answer in zip(order, answers, strict=True)}

    answers = await asyncio.gather(complete(1, drafts), complete(2, drafts[::-1]), complete(3, drafts[16:] + drafts))

    assert answers[0] == answers[1] == answers[2]
    assert all(isinstance(answer, LogPosition) for answer in answers[0].values())


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ("", "a note is a text"),
        ("notary.localhost\n5\nAAAA\n", "a note is a text"),
        ("elsewhere.example\n5\nAAAA\n\n— elsewhere.example AAAAAAAA\n", "given origin"),
        ("notary.localhost\n6\nAAAA\n\n— notary.localhost AAAAAAAA\n", "tree_size"),
    ],
)
async def test_a_checkpoint_that_is_not_of_this_log_and_size_is_refused(
    metadata: Metadata, make_draft: Make, note: str, reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason) as refused:
        await metadata.complete(Checkpoint("notary.localhost", 5, note), [Completion(make_draft().receipt_id, 0, b"")])

    assert [violation.field for violation in refused.value.fields] == ["checkpoint"]


async def test_an_index_outside_of_the_tree_fails_alone(
    metadata: Metadata, make_draft: Make, checkpoint_of: MakeCheckpoint
) -> None:
    drafts, checkpoint = [make_draft(), make_draft()], checkpoint_of()
    await metadata.prepare(drafts)

    answers = await metadata.complete(
        checkpoint,
        [
            Completion(drafts[0].receipt_id, checkpoint.tree_size, b""),
            Completion(drafts[1].receipt_id, checkpoint.tree_size - 1, b""),
        ],
    )

    assert isinstance(answers[0], InvalidArgument)
    assert [violation.field for violation in answers[0].fields] == ["completions[0].log_index"]
    assert isinstance(answers[1], LogPosition)
