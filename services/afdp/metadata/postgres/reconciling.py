"""What the reconciler reads: every record, whole or not, and every place; and the one thing that it writes."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import asyncpg

from afdp.metadata.postgres import records
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.values import Kept, Place, Record
from afdp.postgres import Connection

# Whatever table knows a receipt ID, so that a row that was deleted somewhere is missed. Each is read along its key.
_IDS = """
    SELECT receipt_id FROM (
        (SELECT receipt_id FROM record WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT receipt_id FROM record_content WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT receipt_id FROM log_entry WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT receipt_id FROM pending WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT DISTINCT receipt_id FROM log_queue WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT DISTINCT receipt_id FROM further_entry WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
    ) AS known ORDER BY receipt_id LIMIT $2
"""
# A page ends before the statement that is too much for one answer; the first is never that.
_PAGE = """
    SELECT receipt_id, r.receipt_id IS NOT NULL AS has_head, c.receipt_id IS NOT NULL AS has_content,
           EXISTS (SELECT FROM pending p WHERE p.receipt_id = id.receipt_id)
               OR EXISTS (SELECT FROM log_queue q WHERE q.receipt_id = id.receipt_id AND q.main) AS waits,
           coalesce(sha256(c.evidence) = r.evidence_hash, false) AS evidence_fits,
           sum(4096 + coalesce(octet_length(c.statement), 0)) OVER (ORDER BY receipt_id)
               - coalesce(octet_length(c.statement), 0) AS before
    FROM unnest($1::uuid[]) AS id (receipt_id)
    LEFT JOIN (SELECT * FROM record WHERE receipt_id = ANY($1::uuid[])) AS r USING (receipt_id)
    LEFT JOIN (SELECT * FROM record_content WHERE receipt_id = ANY($1::uuid[])) AS c USING (receipt_id)
    ORDER BY receipt_id
"""
_PLACES = """
    SELECT log_index, receipt_id FROM log_place WHERE origin = $1 AND log_index >= $2 AND log_index < $3
"""
# Only the record's own row tells where it is.
_TOLD = """
    SELECT e.log_index, e.receipt_id, c.leaf_hash
    FROM log_entry e
    LEFT JOIN record_content c ON c.receipt_id = e.receipt_id AND c.receipt_id = ANY($2::uuid[])
    WHERE e.origin = $1 AND e.receipt_id = ANY($2::uuid[])
"""
_LOST = """
    SELECT receipt_id, tenant, notarized_at FROM record
    WHERE receipt_id = $1
        AND NOT EXISTS (SELECT FROM log_entry WHERE receipt_id = $1)
        AND NOT EXISTS (SELECT FROM pending WHERE receipt_id = $1)
        AND NOT EXISTS (SELECT FROM log_queue WHERE receipt_id = $1 AND main)
"""
_REOPEN = f"""
    INSERT INTO pending (receipt_id, tenant, notarized_at, log_origin)
    SELECT receipt_id, tenant, notarized_at, $2 FROM ({_LOST}) AS lost ON CONFLICT DO NOTHING RETURNING receipt_id
"""  # noqa: S608 - of a constant
_QUEUE = f"""
    INSERT INTO log_queue (receipt_id, tenant, log, main)
    SELECT receipt_id, tenant, $2, true FROM ({_LOST}) AS lost ON CONFLICT DO NOTHING RETURNING receipt_id
"""  # noqa: S608 - of a constant
_BEFORE_ALL = UUID(int=0)


async def kept(connection: Connection, limit: int, after: UUID | None, max_bytes: int) -> list[Kept]:
    """The next records by ascending receipt ID, of one moment; fewer than `limit` where they are large."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        known = [row["receipt_id"] for row in await fetch_pruned(connection, _IDS, after or _BEFORE_ALL, limit)]
        rows = [row for row in await fetch_pruned(connection, _PAGE, known) if row["before"] <= max_bytes]
        whole = [row["receipt_id"] for row in rows if row["has_head"] and row["has_content"]]
        found = await records.by_ids(connection, whole, with_evidence=False)
    return [_kept(row, found) for row in rows]


async def places(connection: Connection, origin: str, start: int, end: int) -> list[Place]:
    """Which records say that they are in a part of a log, by ascending index."""
    held = {row["log_index"]: row["receipt_id"] for row in await connection.fetch(_PLACES, origin, start, end)}
    told = await fetch_pruned(connection, _TOLD, origin, list(held.values()))
    found = [Place(row["log_index"], row["receipt_id"], row["leaf_hash"]) for row in told]
    return sorted(
        (each for each in found if held.get(each.log_index) == each.receipt_id), key=lambda each: each.log_index
    )


async def reopen(connection: Connection, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
    """Make a record PENDING, or queue it, that has no place and waits for none; whether that was done."""
    query, target = (_QUEUE, external_log) if external_log else (_REOPEN, log_origin)
    return await connection.fetchval(query, receipt_id, target) is not None


def _kept(row: asyncpg.Record, found: dict[UUID, Record]) -> Kept:
    seen = Kept(row["receipt_id"], row["has_head"], row["has_content"], row["waits"], row["evidence_fits"], None)
    return replace(seen, record=found.get(seen.receipt_id))
