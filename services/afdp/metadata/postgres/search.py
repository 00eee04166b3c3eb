"""Searching records: every filter leads an index that is in the list's own order, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from afdp.messages.metadata import WorkflowType
from afdp.metadata.postgres.conditions import Conditions, Parameters, fetch_planned
from afdp.metadata.postgres.lookup import lookup_key
from afdp.metadata.postgres.records import to_terms
from afdp.metadata.values import Position, Search, SignedRecord, Summary
from afdp.postgres import Connection

_MATCHING = """
    SELECT {columns} FROM record r WHERE {conditions}
    ORDER BY notarized_at DESC, receipt_id DESC
    LIMIT {limit}
"""
_OF_ARTIFACT = """
    SELECT r.*
    FROM (
        SELECT receipt_id FROM record_artifact a WHERE {artifact}
        ORDER BY notarized_at DESC, receipt_id DESC
        LIMIT {limit}
    ) AS found
    JOIN record r USING (receipt_id)
    WHERE {conditions}
    ORDER BY r.notarized_at DESC, r.receipt_id DESC
"""
_HAS_ARTIFACT = """EXISTS (
    SELECT FROM record_artifact a
    WHERE {artifact} AND a.notarized_at = r.notarized_at AND a.receipt_id = r.receipt_id
)"""
# The log's index is added to the few rows of a page only.
_INDEXES = "SELECT receipt_id, log_index FROM log_entry WHERE receipt_id = ANY($1::uuid[])"


async def search(connection: Connection, query: Search, after: Position | None, limit: int) -> list[Summary]:
    """Records that match, newest first, from right after a position."""
    page, parameters = search_statement(query, after, limit)
    rows = await fetch_planned(connection, page, parameters)
    indexes = await _log_indexes(connection, rows)
    return [_to_summary(row, indexes.get(row["receipt_id"])) for row in rows]


def search_statement(query: Search, after: Position | None, limit: int) -> tuple[str, Parameters]:
    """The SQL of `search` and its parameters."""
    parameters = Parameters()
    others = (query.evidence_hash, query.event_type, query.actor_id, query.key_id)
    if query.artifact_hash is not None and not any(others):
        found = _of_artifact(parameters, query, query.artifact_hash, after, limit)
    else:
        found = _matching(parameters, query, after, limit)
    return found, parameters


async def signed(connection: Connection, query: Search, after: Position | None, limit: int) -> list[SignedRecord]:
    """Records of a key version, newest first, from right after a position; the fewest columns that tell them."""
    page, parameters = signed_statement(query, after, limit)
    rows = await fetch_planned(connection, page, parameters)
    indexes = await _log_indexes(connection, rows)
    return [
        SignedRecord(row["receipt_id"], row["evidence_hash"], row["notarized_at"], indexes.get(row["receipt_id"]))
        for row in rows
    ]


def signed_statement(query: Search, after: Position | None, limit: int) -> tuple[str, Parameters]:
    """The SQL of `signed` and its parameters."""
    parameters = Parameters()
    return _matching(parameters, query, after, limit, "receipt_id, evidence_hash, notarized_at"), parameters


async def _log_indexes(connection: Connection, rows: Sequence[asyncpg.Record]) -> dict[UUID, int]:
    """Where the LOGGED ones of these records are in the log."""
    found = await connection.fetch(_INDEXES, [row["receipt_id"] for row in rows]) if rows else []
    return {row["receipt_id"]: row["log_index"] for row in found}


def _of_artifact(
    parameters: Parameters, query: Search, artifact_hash: bytes, after: Position | None, limit: int
) -> str:
    """All records of one artifact, read in the list's order, however many there are."""
    artifact, conditions = _artifact(parameters, query, artifact_hash, after), Conditions(parameters)
    conditions.add("r.tenant = {}", query.tenant)
    return _OF_ARTIFACT.format(artifact=artifact, conditions=conditions, limit=parameters.place(limit))


def _artifact(parameters: Parameters, query: Search, artifact_hash: bytes, after: Position | None) -> Conditions:
    """What holds of the artifact's rows; also where its record says the same, or all newer ones would be read first."""
    artifact = Conditions(parameters)
    artifact.add("a.artifact_key = {}", lookup_key(query.tenant, artifact_hash))
    artifact.add("a.artifact_hash = {}", artifact_hash)
    artifact.add_span("a.notarized_at", query.start_time, query.end_time)
    artifact.add_position("a.notarized_at", "a.receipt_id", after)
    return artifact


def _matching(parameters: Parameters, query: Search, after: Position | None, limit: int, columns: str = "*") -> str:
    conditions = Conditions(parameters)
    conditions.add("tenant = {}", query.tenant)
    if query.evidence_hash is not None:
        conditions.add("evidence_key = {}", lookup_key(query.tenant, query.evidence_hash))
        conditions.add("evidence_hash = {}", query.evidence_hash)
    if query.artifact_hash is not None:
        conditions.add(_HAS_ARTIFACT.format(artifact=_artifact(parameters, query, query.artifact_hash, after)))
    conditions.add("event_type = {}", query.event_type)
    conditions.add("actor_id = {}", query.actor_id)
    conditions.add("key_id = {}", query.key_id)
    conditions.add_span("notarized_at", query.start_time, query.end_time)
    conditions.add_position("notarized_at", "receipt_id", after)
    return _MATCHING.format(columns=columns, conditions=conditions, limit=parameters.place(limit))


def _to_summary(row: asyncpg.Record, log_index: int | None) -> Summary:
    return Summary(
        receipt_id=row["receipt_id"],
        evidence_hash=row["evidence_hash"],
        terms=to_terms(row),
        key_id=row["key_id"],
        notarized_at=row["notarized_at"],
        workflow_type=WorkflowType(row["workflow_type"]),
        log_index=log_index,
    )
