"""What a retry is answered where nothing new is taken: asked without a draft, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from afdp.errors import AlreadyExists, FailedPrecondition
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.service import Metadata
from afdp.metadata.values import Asked, Batch, Draft, Idempotency, Record

Make = Callable[..., Draft]


def asked(draft: Draft, *, key: str | None = None, dedupe: bool = False) -> Asked:
    idempotency = Idempotency(key, draft.evidence_hash) if key else None
    return Asked(draft.submitter, idempotency, draft.evidence, draft.evidence_hash, dedupe)


def id_of(record: Record | None) -> UUID | None:
    return None if record is None else record.draft.receipt_id


async def test_what_was_asked_for_under_a_key_is_found_by_its_principal_alone(
    metadata: Metadata, store: PostgresStore, make_draft: Make
) -> None:
    draft = make_draft(key="k")
    await store.prepare([draft])

    found = await metadata.find_answer(asked(draft, key="k"))

    assert found == Record(replace(draft, idempotency=None), None, None)
    assert await metadata.find_answer(asked(draft, key="another")) is None
    assert await metadata.find_answer(asked(draft)) is None
    for stranger in (replace(draft.submitter, subject="eve"), replace(draft.submitter, tenant=f"t-{uuid4().hex}")):
        for dedupe in (False, stranger.tenant != draft.submitter.tenant):
            question = replace(asked(draft, key="k", dedupe=dedupe), submitter=stranger)
            assert await metadata.find_answer(question) is None


async def test_a_key_that_stands_for_something_else_is_refused_with_what_differs(
    metadata: Metadata, store: PostgresStore, make_draft: Make
) -> None:
    first, other = make_draft(key="k", evidence=b'{"a":1}'), make_draft(key="k", evidence=b'{"a":2}')
    await store.prepare([first])
    with pytest.raises(AlreadyExists) as refused:
        await metadata.find_answer(asked(other, key="k"))
    assert [(fault.field, fault.message) for fault in refused.value.fields] == [("evidence_package.a", "was another")]

    batch = Batch(uuid4(), first.submitter, Idempotency("of a batch", bytes(32)), 1, datetime.now(UTC), b"")
    await store.create_batch(batch)
    with pytest.raises(AlreadyExists, match="for a batch"):
        await metadata.find_answer(asked(first, key="of a batch"))


async def test_the_newest_record_of_the_evidence_answers_who_dedupes_and_has_the_key_from_then_on(
    metadata: Metadata, store: PostgresStore, make_draft: Make
) -> None:
    old = make_draft()
    again = make_draft(evidence=old.evidence)
    await store.prepare([old])
    await store.prepare([again])

    assert id_of(await metadata.find_answer(asked(old, dedupe=True))) == again.receipt_id
    assert id_of(await metadata.find_answer(asked(old, key="k", dedupe=True))) == again.receipt_id

    await store.prepare([make_draft(evidence=old.evidence)])
    assert id_of(await metadata.find_answer(asked(old, key="k", dedupe=True))) == again.receipt_id
    [outcome] = await store.prepare([make_draft(key="k", evidence=old.evidence)])
    assert isinstance(outcome, Record)
    assert outcome.draft.receipt_id == again.receipt_id


async def test_a_key_whose_record_was_deleted_says_so(
    metadata: Metadata, store: PostgresStore, make_draft: Make, module_database: str
) -> None:
    draft = make_draft(key="k")
    await store.prepare([draft])
    superuser = await asyncpg.connect(module_database)
    try:
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute("DELETE FROM afdp_metadata.record WHERE receipt_id = $1", draft.receipt_id)
    finally:
        await superuser.close()

    with pytest.raises(FailedPrecondition, match="was deleted"):
        await metadata.find_answer(asked(draft, key="k"))
