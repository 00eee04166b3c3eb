"""Searching records: every filter leads an index that is in the list's own order, newest first."""

from __future__ import annotations

import asyncpg

from afdp.messages.metadata import WorkflowType
from afdp.metadata.postgres.conditions import Conditions, Parameters
from afdp.metadata.postgres.lookup import lookup_key
from afdp.metadata.postgres.records import to_terms
from afdp.metadata.values import Position, Search, Summary
from afdp.postgres import Connection

# The log's index is added to the few rows of a page only.
_PAGE = """
    SELECT page.*, e.log_index
    FROM (
        SELECT r.* FROM {source} WHERE {conditions}
        ORDER BY {ordered}.notarized_at DESC, {ordered}.receipt_id DESC
        LIMIT {limit}
    ) AS page
    LEFT JOIN log_entry e USING (receipt_id)
    ORDER BY page.notarized_at DESC, page.receipt_id DESC
"""


async def search(connection: Connection, query: Search, after: Position | None, limit: int) -> list[Summary]:
    """Records that match, newest first, from right after a position."""
    parameters = Parameters()
    conditions = Conditions(parameters)
    source, ordered = "record r", "r"
    if query.artifact_hash is not None:
        source, ordered = "record_artifact a JOIN record r USING (receipt_id, notarized_at)", "a"
        conditions.add("a.artifact_key = {}", lookup_key(query.tenant, query.artifact_hash))
        conditions.add("a.artifact_hash = {}", query.artifact_hash)
    conditions.add("r.tenant = {}", query.tenant)
    if query.evidence_hash is not None:
        conditions.add("r.evidence_key = {}", lookup_key(query.tenant, query.evidence_hash))
        conditions.add("r.evidence_hash = {}", query.evidence_hash)
    conditions.add("r.event_type = {}", query.event_type)
    conditions.add("r.actor_id = {}", query.actor_id)
    conditions.add("r.key_id = {}", query.key_id)
    conditions.add_span(f"{ordered}.notarized_at", query.start_time, query.end_time)
    conditions.add_position(f"{ordered}.notarized_at", f"{ordered}.receipt_id", after)
    page = _PAGE.format(source=source, conditions=conditions, ordered=ordered, limit=parameters.place(limit))
    return [_to_summary(row) for row in await connection.fetch(page, *parameters.values)]


def _to_summary(row: asyncpg.Record) -> Summary:
    return Summary(
        receipt_id=row["receipt_id"],
        evidence_hash=row["evidence_hash"],
        terms=to_terms(row),
        key_id=row["key_id"],
        notarized_at=row["notarized_at"],
        workflow_type=WorkflowType(row["workflow_type"]),
        log_index=row["log_index"],
    )
