"""Reading records: whole by ID or evidence, and what recovery needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from afdp.errors import ResourceExhausted
from afdp.messages.metadata import WorkflowType
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.lookup import lookup_key
from afdp.metadata.postgres.queues import more_positions, to_position
from afdp.metadata.postgres.seals import seal_of
from afdp.metadata.values import Draft, Principal, Record, SearchTerms
from afdp.postgres import Connection

# Which records is said of each table by itself, so that a plan has no other months.
_WHOLE = """
    SELECT r.*, c.issuer, c.subject, c.method, c.evidence, c.statement, c.signature, c.leaf_hash, c.timestamp,
           e.origin, e.log_index, e.tree_size, e.proof, e.logged_at, k.note, x.timestamp AS external_timestamp,
           v.body, v.log_index AS shown_index, v.integrated_time, v.promise, q.log AS external_log,
           p.log_origin,
           EXISTS (SELECT FROM further_entry f WHERE f.receipt_id = r.receipt_id AND f.{which}) AS has_more{told}
    FROM record r
    JOIN record_content c ON c.receipt_id = r.receipt_id AND c.{which}
    LEFT JOIN log_entry e ON e.receipt_id = r.receipt_id AND e.{which}
    LEFT JOIN checkpoint k ON k.origin = e.origin AND k.tree_size = e.tree_size
    LEFT JOIN external_stamp x ON x.receipt_id = r.receipt_id AND x.{which}
    LEFT JOIN rekor1_entry v ON v.receipt_id = e.receipt_id AND v.origin = e.origin AND v.{which}
    LEFT JOIN log_queue q ON q.receipt_id = r.receipt_id AND q.main
    LEFT JOIN pending p ON p.receipt_id = r.receipt_id
    WHERE r.{which}
"""
_BY_IDS = _WHOLE.format(which="receipt_id = ANY($1::uuid[])", told="") + " ORDER BY r.receipt_id"
_WITHOUT_EVIDENCE = _BY_IDS.replace(
    "c.evidence", "CASE WHEN r.data_key IS NULL THEN ''::bytea ELSE c.evidence END AS evidence"
)
_OF_TENANT = _WHOLE.format(which="receipt_id = $1", told="") + " AND r.tenant = $2"
_SOME_OF_TENANT = _WHOLE.format(which="receipt_id = ANY($1::uuid[])", told="") + " AND r.tenant = $2"
# It is in its logs, has all its stamps, and does not expire soon: nothing is added to it or taken away. What was to be
# added was written down with the record, so that a snapshot in which nothing is to be added has all of it.
_LASTS = """,
           e.receipt_id IS NOT NULL AND k.note IS NOT NULL AND p.receipt_id IS NULL
           AND NOT EXISTS (SELECT FROM log_queue w WHERE w.receipt_id = r.receipt_id)
           AND NOT EXISTS (SELECT FROM stamp_wanted s WHERE s.receipt_id = r.receipt_id)
           AND (r.retention_class = '' OR must_stay_until(r.retention_class, r.notarized_at) > now() + interval '1 day')
           AS lasts
"""
_OF_TENANT_AND_WHETHER_IT_LASTS = _WHOLE.format(which="receipt_id = $1", told=_LASTS) + " AND r.tenant = $2"
# A record that waits is in `pending`, or in the queue of the log that is to make it LOGGED.
_OF_EVIDENCE = """
    SELECT r.receipt_id, count(*) OVER () AS number
    FROM record r
    WHERE r.evidence_key = $1 AND r.tenant = $2 AND r.evidence_hash = $3
    ORDER BY (EXISTS (SELECT FROM pending p WHERE p.receipt_id = r.receipt_id)
              OR EXISTS (SELECT FROM log_queue q WHERE q.receipt_id = r.receipt_id AND q.main)),
             r.notarized_at DESC, r.receipt_id DESC
"""
_NEWEST_OF_EVIDENCE = f"{_OF_EVIDENCE} LIMIT 1"
_SIGNED_SO = "SELECT receipt_id FROM record_content WHERE receipt_id = ANY($1::uuid[]) AND signature = $2"
_PENDING = "SELECT receipt_id FROM pending WHERE receipt_id > $1 AND notarized_at < $2 ORDER BY receipt_id LIMIT $3"
_SIZES = """
    SELECT octet_length(evidence) + octet_length(statement) + coalesce(octet_length(timestamp), 0) AS size
    FROM record_content WHERE receipt_id = ANY($1::uuid[])
"""
_BEFORE_ALL = UUID(int=0)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
# What an answer holds of a record beside its evidence, statement and timestamp, generously.
_OTHER_BYTES = 4 * 1024


async def by_ids(
    connection: Connection, receipt_ids: Iterable[UUID], *, with_evidence: bool = True
) -> dict[UUID, Record]:
    """Those records that exist, of any tenant, by ascending receipt ID; what is sealed is always whole."""
    rows = await fetch_pruned(connection, _BY_IDS if with_evidence else _WITHOUT_EVIDENCE, list(receipt_ids))
    return {record.draft.receipt_id: record for record in await _whole(connection, rows)}


async def of_tenant(connection: Connection, tenant: str, receipt_id: UUID) -> Record | None:
    """One record of a tenant."""
    row = await connection.fetchrow(_OF_TENANT, receipt_id, tenant)
    return (await _whole(connection, [row]))[0] if row else None


async def lasting_of_tenant(connection: Connection, tenant: str, receipt_id: UUID) -> tuple[Record, bool] | None:
    """One record of a tenant, and whether it stays as it is for the day to come."""
    row = await connection.fetchrow(_OF_TENANT_AND_WHETHER_IT_LASTS, receipt_id, tenant)
    return ((await _whole(connection, [row]))[0], row["lasts"]) if row else None


async def some_of_tenant(connection: Connection, tenant: str, receipt_ids: Sequence[UUID]) -> list[Record]:
    """Those of some records that a tenant has."""
    return await _whole(connection, await connection.fetch(_SOME_OF_TENANT, receipt_ids, tenant))


async def by_evidence(
    connection: Connection, tenant: str, evidence_hash: bytes, signature: bytes
) -> tuple[Record, int] | None:
    """The newest record of the evidence, LOGGED before PENDING, and how many records of it there are."""
    named = (lookup_key(tenant, evidence_hash), tenant, evidence_hash)
    found = await connection.fetch(_OF_EVIDENCE if signature else _NEWEST_OF_EVIDENCE, *named)
    if not found:
        return None
    wanted = [row["receipt_id"] for row in found]
    if signature:
        signed = {row["receipt_id"] for row in await connection.fetch(_SIGNED_SO, wanted, signature)}
        wanted = [receipt_id for receipt_id in wanted if receipt_id in signed]
    record = await of_tenant(connection, tenant, wanted[0]) if wanted else None
    return None if record is None else (record, found[0]["number"])


async def pending(
    connection: Connection, limit: int, after: UUID | None, before: datetime | None, max_bytes: int
) -> list[Record]:
    """PENDING records by ascending ID.

    Raises:
        ResourceExhausted: they do not fit in `max_bytes` together.
    """
    rows = await connection.fetch(_PENDING, after or _BEFORE_ALL, before or _END_OF_TIME, limit)
    waiting = [row["receipt_id"] for row in rows]
    if sum(row["size"] + _OTHER_BYTES for row in await fetch_pruned(connection, _SIZES, waiting)) > max_bytes:
        raise ResourceExhausted("these records do not fit in one answer: ask for a smaller page_size")
    return list((await by_ids(connection, waiting)).values())


async def _whole(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Record]:
    records = [to_record(row) for row in rows]
    if with_more := [row["receipt_id"] for row in rows if row["has_more"]]:
        more = await more_positions(connection, with_more)
        records = [replace(record, more=more.get(record.draft.receipt_id, ())) for record in records]
    return records


def to_record(row: asyncpg.Record) -> Record:
    """A row of the whole record."""
    draft = Draft(
        receipt_id=row["receipt_id"],
        submitter=Principal(row["tenant"], row["issuer"], row["subject"], row["method"]),
        idempotency=None,
        workflow_type=WorkflowType(row["workflow_type"]),
        batch_id=row["batch_id"],
        evidence=row["evidence"],
        evidence_hash=row["evidence_hash"],
        terms=to_terms(row),
        statement=row["statement"],
        signature=row["signature"],
        key_id=row["key_id"],
        leaf_hash=row["leaf_hash"],
        notarized_at=row["notarized_at"],
        timestamp=row["timestamp"] or b"",
        external_log=row["external_log"] or "",
        log_origin=row["log_origin"] or "",
        retention_class=row["retention_class"],
        seal=seal_of(row),
    )
    external = row["external_timestamp"] or b""
    if row["origin"] is None:
        return Record(draft, None, None, external)
    return Record(draft, to_position(row), row["logged_at"], external)


async def notarized_at(connection: Connection, tenant: str, receipt_id: UUID) -> datetime | None:
    """When a record of a tenant was notarised."""
    query = "SELECT notarized_at FROM record WHERE tenant = $1 AND receipt_id = $2"
    time: datetime | None = await connection.fetchval(query, tenant, receipt_id)
    return time


def to_terms(row: asyncpg.Record) -> SearchTerms:
    """What search finds a record by, from a row of `record`."""
    hashes: bytes = row["artifact_hashes"]
    return SearchTerms(
        event_type=row["event_type"],
        actor_type=row["actor_type"],
        actor_id=row["actor_id"],
        timestamp_utc=row["timestamp_utc"],
        artifact_hashes=tuple(hashes[start : start + 32] for start in range(0, len(hashes), 32)),
    )
