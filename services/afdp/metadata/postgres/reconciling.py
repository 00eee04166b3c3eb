"""What the reconciler reads: every record, whole or not, and every place; and the one thing that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from afdp.metadata.postgres import records
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.lookup import lookup_key, term_key
from afdp.metadata.terms import Terms
from afdp.metadata.values import Draft, Kept, Place, Record
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
        UNION (SELECT DISTINCT receipt_id FROM rekor1_entry WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT receipt_id FROM stamp_wanted WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
        UNION (SELECT receipt_id FROM external_stamp WHERE receipt_id > $1 ORDER BY receipt_id LIMIT $2)
    ) AS known ORDER BY receipt_id LIMIT $2
"""
# A page ends before the statement that is too much for one answer; the first is never that.
_PAGE = """
    SELECT receipt_id, r.receipt_id IS NOT NULL AS has_head, c.receipt_id IS NOT NULL AS has_content,
           EXISTS (SELECT FROM pending p WHERE p.receipt_id = id.receipt_id)
               OR EXISTS (SELECT FROM log_queue q WHERE q.receipt_id = id.receipt_id AND q.main) AS waits,
           r.data_key IS NULL AND coalesce(sha256(c.evidence) = r.evidence_hash, false) AS evidence_fits,
           r.evidence_key,
           array_remove(ARRAY[
               CASE WHEN c.tenant <> r.tenant OR e.tenant <> r.tenant
                   OR EXISTS (SELECT FROM pending p WHERE p.receipt_id = id.receipt_id AND p.tenant <> r.tenant)
                   OR EXISTS (SELECT FROM log_queue q WHERE q.receipt_id = id.receipt_id AND q.tenant <> r.tenant)
                   OR EXISTS (SELECT FROM stamp_wanted s WHERE s.receipt_id = id.receipt_id AND s.tenant <> r.tenant)
                   THEN 'a part of it is of another tenant' END,
               CASE WHEN e.receipt_id IS NOT NULL
                   AND EXISTS (SELECT FROM pending p WHERE p.receipt_id = id.receipt_id)
                   THEN 'it has its place in a log, and waits for one' END,
               CASE WHEN e.receipt_id IS NOT NULL AND NOT EXISTS (
                       SELECT FROM log_place l WHERE l.origin = e.origin AND l.log_index = e.log_index
                       AND l.receipt_id = e.receipt_id AND l.tenant = e.tenant
                   ) THEN 'its place in the log is not held for it' END,
               CASE WHEN r.batch_id IS NOT NULL AND NOT EXISTS (
                       SELECT FROM batch b WHERE b.batch_id = r.batch_id AND b.tenant = r.tenant
                   ) THEN 'its batch is not there' END
           ], NULL) AS faults,
           sum(4096 + size.bytes) OVER (ORDER BY receipt_id) - size.bytes AS before
    FROM unnest($1::uuid[]) AS id (receipt_id)
    LEFT JOIN (SELECT * FROM record WHERE receipt_id = ANY($1::uuid[])) AS r USING (receipt_id)
    LEFT JOIN (SELECT * FROM record_content WHERE receipt_id = ANY($1::uuid[])) AS c USING (receipt_id)
    LEFT JOIN (SELECT * FROM log_entry WHERE receipt_id = ANY($1::uuid[])) AS e USING (receipt_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(octet_length(c.statement), 0)
            + CASE WHEN r.data_key IS NULL THEN 0 ELSE coalesce(octet_length(c.evidence), 0) END AS bytes
    ) AS size
    ORDER BY receipt_id
"""
# What is to lead to records, by their own word, and does not: to be completed by a table and its columns.
_UNFOUND = """
    SELECT DISTINCT w.receipt_id
    FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[], $5::text[]) AS w (
        receipt_id, key, notarized_at, value, tenant
    )
    WHERE NOT EXISTS (
        SELECT FROM {table} t WHERE (t.{key}, t.notarized_at) = (w.key, w.notarized_at)
            AND (t.receipt_id, t.{value}, t.tenant) = (w.receipt_id, w.value, w.tenant)
    )
"""
_UNFOUND_BY_ARTIFACT = _UNFOUND.format(table="record_artifact", key="artifact_key", value="artifact_hash")
_UNFOUND_BY_TERM = _UNFOUND.format(table="record_term", key="term_key", value="term")
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
# Those that are nowhere any more, and that went with others of their tenant, each with its leaf hash of then.
_EXPIRED = """
    SELECT p.receipt_id, g.leaf_hash
    FROM log_place p
    JOIN expired_record g ON g.receipt_id = p.receipt_id AND g.tenant = p.tenant
    JOIN expiry x ON x.expiry_id = g.expiry_id AND x.tenant = p.tenant
    WHERE p.origin = $2 AND p.log_index >= $3 AND p.log_index < $4 AND p.receipt_id = ANY($1::uuid[])
        AND NOT EXISTS (SELECT FROM record r WHERE r.receipt_id = ANY($1::uuid[]) AND r.receipt_id = p.receipt_id)
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
_ALWAYS = Terms()


async def kept(connection: Connection, limit: int, after: UUID | None, max_bytes: int) -> list[Kept]:
    """The next records by ascending receipt ID, of one moment; fewer than `limit` where they are large."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        known = [row["receipt_id"] for row in await fetch_pruned(connection, _IDS, after or _BEFORE_ALL, limit)]
        rows = [row for row in await fetch_pruned(connection, _PAGE, known) if row["before"] <= max_bytes]
        whole = [row["receipt_id"] for row in rows if row["has_head"] and row["has_content"]]
        found = await records.by_ids(connection, whole, with_evidence=False)
        unfound = await _unfound(connection, [record.draft for record in found.values()])
    return [_kept(row, found, unfound) for row in rows]


async def places(connection: Connection, origin: str, start: int, end: int) -> list[Place]:
    """Which records say that they are in a part of a log, by ascending index."""
    held = {row["log_index"]: row["receipt_id"] for row in await connection.fetch(_PLACES, origin, start, end)}
    told = await fetch_pruned(connection, _TOLD, origin, list(held.values()))
    found = [Place(row["log_index"], row["receipt_id"], row["leaf_hash"]) for row in told]
    if missing := set(held.values()) - {row["receipt_id"] for row in told}:
        rows = await fetch_pruned(connection, _EXPIRED, list(missing), origin, start, end)
        gone = {row["receipt_id"]: row["leaf_hash"] or None for row in rows}
        found += [
            Place(index, receipt_id, gone[receipt_id], expired=True)
            for index, receipt_id in held.items()
            if receipt_id in gone
        ]
    return sorted(
        (each for each in found if held.get(each.log_index) == each.receipt_id), key=lambda each: each.log_index
    )


async def reopen(connection: Connection, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
    """Make a record PENDING, or queue it, that has no place and waits for none; whether that was done."""
    query, target = (_QUEUE, external_log) if external_log else (_REOPEN, log_origin)
    return await connection.fetchval(query, receipt_id, target) is not None


_Unfound = Mapping[str, set[UUID]]


async def _unfound(connection: Connection, drafts: Sequence[Draft]) -> _Unfound:
    """The records that are not found by what they have to be found by, by what that is.

    Terms of metadata are not among it: which there are depends on what the settings were when a record was made.
    """
    by_artifact = [
        (draft, lookup_key(draft.submitter.tenant, each), each)
        for draft in drafts
        for each in dict.fromkeys(draft.terms.artifact_hashes)
    ]
    by_term = [(draft, term_key(term), term) for draft in drafts for term in _ALWAYS.of(draft)]
    return {
        "each of its artifacts": await _missed(connection, _UNFOUND_BY_ARTIFACT, by_artifact),
        "its submitter": await _missed(connection, _UNFOUND_BY_TERM, by_term),
    }


async def _missed(connection: Connection, query: str, wanted: Sequence[tuple[Draft, int, bytes]]) -> set[UUID]:
    rows = [(draft.receipt_id, key, draft.notarized_at, each, draft.submitter.tenant) for draft, key, each in wanted]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
    return {row["receipt_id"] for row in await connection.fetch(query, *columns)}


def _kept(row: asyncpg.Record, found: dict[UUID, Record], unfound: _Unfound) -> Kept:
    receipt_id, faults = row["receipt_id"], list(row["faults"])
    record = found.get(receipt_id)
    if record and row["evidence_key"] != lookup_key(record.draft.submitter.tenant, record.draft.evidence_hash):
        faults.append("it is not found by its evidence")
    faults += [f"it is not found by {what}" for what, missed in unfound.items() if receipt_id in missed]
    whole = row["has_head"], row["has_content"], row["waits"], row["evidence_fits"]
    return Kept(receipt_id, *whole, record, tuple(faults))
