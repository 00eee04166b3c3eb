"""Signatures that wait for a stamp by an authority outside: taken, put off, and done with.

A claim says until when nobody else gets the same ones, and needs no word from whoever made it: one who died lets go by
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from afdp.metadata.postgres import changes
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.seals import seal_of
from afdp.metadata.values import StampBacklog, UnstampedSignature
from afdp.postgres import Connection

_CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT receipt_id FROM stamp_wanted WHERE due_at <= statement_timestamp()
        ORDER BY due_at LIMIT $1
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE stamp_wanted AS w SET due_at = statement_timestamp() + $2::interval, attempts = attempts + 1
        FROM due WHERE w.receipt_id = due.receipt_id
        RETURNING w.receipt_id, w.since, w.attempts
    )
    SELECT receipt_id, attempts FROM taken ORDER BY since, receipt_id
"""
_SIGNED = """
    SELECT r.receipt_id, r.tenant, c.statement, c.signature, r.key_id, r.data_key, r.head
    FROM record r JOIN record_content c USING (receipt_id)
    WHERE r.receipt_id = ANY($1::uuid[]) AND c.receipt_id = ANY($1::uuid[])
"""
# Who comes second finds nothing that is wanted, and changes nothing.
_KEEP = f"""
    WITH done AS (
        DELETE FROM stamp_wanted WHERE receipt_id = $1 RETURNING receipt_id
    ), kept AS (
        INSERT INTO external_stamp (receipt_id, tenant, timestamp)
        SELECT receipt_id, r.tenant, $2 FROM done JOIN record r USING (receipt_id) WHERE r.receipt_id = $1
        ON CONFLICT (receipt_id) DO NOTHING
        RETURNING receipt_id, tenant
    )
    {changes.WRITE.format(changed="kept")}
"""  # noqa: S608 - of constants
_POSTPONE = "UPDATE stamp_wanted SET due_at = statement_timestamp() + $2::interval WHERE receipt_id = ANY($1::uuid[])"
_BACKLOG = "SELECT count(*) AS waiting, min(since) AS oldest FROM stamp_wanted"


async def claim(connection: Connection, limit: int, lease: timedelta) -> list[UnstampedSignature]:
    """Those that have waited longest, for this caller alone until the lease is over."""
    taken = {row["receipt_id"]: row["attempts"] for row in await connection.fetch(_CLAIM, limit, lease)}
    found = {row["receipt_id"]: row for row in await fetch_pruned(connection, _SIGNED, list(taken))}
    return [
        UnstampedSignature(receipt_id, row["statement"], row["signature"], row["key_id"], attempts, seal_of(row))
        for receipt_id, attempts in taken.items()
        if (row := found.get(receipt_id)) is not None
    ]


async def keep(connection: Connection, receipt_id: UUID, timestamp: bytes) -> None:
    """The stamp over a record's signature, where one was still wanted."""
    await fetch_pruned(connection, _KEEP, receipt_id, timestamp)


async def postpone(connection: Connection, receipt_ids: Sequence[UUID], wait: timedelta) -> None:
    """Nobody gets these before the wait is over."""
    await connection.execute(_POSTPONE, list(receipt_ids), wait)


async def backlog(connection: Connection) -> StampBacklog:
    """How many wait, and since when."""
    row = await connection.fetchrow(_BACKLOG)
    return StampBacklog(row["waiting"], row["oldest"]) if row else StampBacklog(0, None)
