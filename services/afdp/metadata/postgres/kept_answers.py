"""What answers a request already, where nothing new is taken: the record of its key, or the newest of its evidence."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from afdp.errors import Aborted, NotaryError
from afdp.metadata.postgres import idempotency, records
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.lookup import lookup_key
from afdp.metadata.postgres.prepare import by_claim
from afdp.metadata.values import Asked, Record
from afdp.postgres import Connection
from afdp.postgres.errors import RETRY_AFTER

_NEWEST = """
    SELECT receipt_id FROM record
    WHERE evidence_key = $1 AND tenant = $2 AND evidence_hash = $3
    ORDER BY notarized_at DESC, receipt_id DESC LIMIT 1
"""
_CLAIM = idempotency.CLAIM.format(rows="VALUES ($2::bytea, $3::bytea, $4::uuid, false)")


async def find_answer(connection: Connection, asked: Asked, retention: timedelta) -> Record | NotaryError | None:
    """The record, or why there cannot be one; None: nothing answers it.

    A record that is found by its evidence has the key from now on, as if it had been found in `prepare`.

    Raises:
        Aborted: another request took the key meanwhile.
    """
    digest = idempotency.digest(asked.submitter, asked.idempotency) if asked.idempotency is not None else None
    if digest is not None:
        claim = (await idempotency.look_up(connection, [digest], retention)).get(digest)
        if claim is not None:
            return by_claim(asked, claim, await _record(connection, claim.target))
    if not asked.dedupe:
        return None
    tenant = asked.submitter.tenant
    named = lookup_key(tenant, asked.evidence_hash), tenant, asked.evidence_hash
    rows = await fetch_pruned(connection, _NEWEST, *named)
    newest = await _record(connection, rows[0]["receipt_id"]) if rows else None
    if newest is not None and asked.idempotency is not None:
        row = digest, asked.idempotency.fingerprint, newest.draft.receipt_id
        if await connection.fetchval(_CLAIM, retention, *row) is None:
            raise Aborted("another request took this idempotency key meanwhile: try again", retry_after=RETRY_AFTER)
    return newest


async def _record(connection: Connection, receipt_id: UUID) -> Record | None:
    return (await records.by_ids(connection, [receipt_id])).get(receipt_id)
