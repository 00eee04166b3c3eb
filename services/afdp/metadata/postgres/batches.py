"""Batch workflows: their beginning and their end."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import asyncpg

from afdp.errors import Aborted, AlreadyExists, FieldViolation, InvalidArgument, NotFound
from afdp.metadata.differences import MOST_NAMED
from afdp.metadata.postgres import idempotency
from afdp.metadata.values import Batch, Idempotency
from afdp.postgres import Connection
from afdp.postgres.errors import RETRY_AFTER

_CLAIM = idempotency.CLAIM.format(rows="VALUES ($2::bytea, $3::bytea, $4::uuid, true)")
_INSERT = """
    INSERT INTO batch (batch_id, tenant, issuer, subject, method, item_count, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (batch_id) DO NOTHING
    RETURNING batch_id
"""
_SAME = """
    SELECT 1 FROM batch
    WHERE batch_id = $1 AND (tenant, issuer, subject, method, item_count, created_at) = ($2, $3, $4, $5, $6, $7)
"""
_COUNTS = "SELECT item_count, finished_at, succeeded, failed FROM batch WHERE batch_id = $1 AND tenant = $2 FOR UPDATE"
_FINISH = "UPDATE batch SET finished_at = statement_timestamp(), succeeded = $2, failed = $3 WHERE batch_id = $1"


async def create(connection: Connection, batch: Batch, retention: timedelta) -> tuple[UUID, bool]:
    """The batch of this key, and whether another request made it before.

    Raises:
        AlreadyExists: the key, or the ID, stands for something else.
        Aborted: the key expired while it was looked up.
    """
    async with connection.transaction():
        if batch.idempotency is not None:
            before = await _claimed_before(connection, batch, batch.idempotency, retention)
            if before is not None:
                return before, before != batch.batch_id
        submitter = batch.submitter
        row = (
            batch.batch_id,
            submitter.tenant,
            submitter.issuer,
            submitter.subject,
            submitter.method,
            batch.item_count,
            batch.created_at,
        )
        written = await connection.fetchval(_INSERT, *row)
        if written is None and not await connection.fetchval(_SAME, *row):
            raise AlreadyExists("another batch stands under this ID")
    return batch.batch_id, False


async def _claimed_before(connection: Connection, batch: Batch, key: Idempotency, retention: timedelta) -> UUID | None:
    """The batch that this key stands for already; None: it stands for the given one from now on."""
    digest = idempotency.digest(batch.submitter, key)
    if await connection.fetchval(_CLAIM, retention, digest, key.fingerprint, batch.batch_id):
        return None
    claim = (await idempotency.look_up(connection, [digest], retention)).get(digest)
    if claim is None:
        raise Aborted("the idempotency key expired while it was looked up: try again", retry_after=RETRY_AFTER)
    if not claim.is_batch:
        raise AlreadyExists("this idempotency key was used before, for a single package")
    if claim.fingerprint != key.fingerprint:
        differing = await _differences(connection, batch, key, claim.target, retention)
        raise AlreadyExists("this idempotency key was used before, with another batch", fields=differing)
    return claim.target


async def _differences(
    connection: Connection, batch: Batch, key: Idempotency, before: UUID, retention: timedelta
) -> list[FieldViolation]:
    """How a batch differs from the one before, as far as its items have got receipts: item `i` has the key `key/i`."""
    hashes = [batch.item_hashes[at : at + 32] for at in range(0, len(batch.item_hashes), 32)]
    keys = [idempotency.digest(batch.submitter, Idempotency(f"{key.key}/{n}", each)) for n, each in enumerate(hashes)]
    claims = await idempotency.look_up(connection, keys, retention)
    others = [
        FieldViolation(f"evidence_packages[{n}]", "was another")
        for n, (digest, each) in enumerate(zip(keys, hashes, strict=True))
        if digest in claims and claims[digest].fingerprint != each
    ]
    count = await connection.fetchval("SELECT item_count FROM batch WHERE batch_id = $1", before)
    if count is not None and count != batch.item_count:
        others.insert(0, FieldViolation("evidence_packages", f"were {count}"))
    return others[:MOST_NAMED]


async def finish(connection: Connection, tenant: str, batch_id: UUID, succeeded: int, failed: int) -> None:
    """End a batch with its counts; repeated with other counts, the last word counts.

    Raises:
        NotFound: this tenant has no such batch.
        InvalidArgument: the counts are more than its packages.
    """
    async with connection.transaction():
        row: asyncpg.Record | None = await connection.fetchrow(_COUNTS, batch_id, tenant)
        if row is None:
            raise NotFound("no batch has this ID")
        if succeeded + failed > row["item_count"]:
            raise InvalidArgument.field(
                "succeeded", f"succeeded and failed are more than its {row['item_count']} items"
            )
        if row["finished_at"] is None or (row["succeeded"], row["failed"]) != (succeeded, failed):
            await connection.execute(_FINISH, batch_id, succeeded, failed)
