"""The workflows' read model: single packages from their records, batches from their own table and records."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from afdp.messages.metadata import WorkflowState, WorkflowType
from afdp.metadata.postgres.conditions import Conditions, Parameters, fetch_planned
from afdp.metadata.postgres.seals import seal_of
from afdp.metadata.values import Position, Workflow, WorkflowQuery
from afdp.postgres import Connection

# A package's workflow runs until its record is in the log.
_OF_RECORDS = """
    SELECT w.workflow_type AS type, w.receipt_id AS id, w.notarized_at AS created_at, e.logged_at AS completed_at,
           CASE WHEN e.receipt_id IS NULL THEN 2 ELSE 3 END AS state,
           w.event_type, w.actor_id, 0 AS item_count, 0 AS succeeded, 0 AS failed, false AS abandoned,
           w.tenant, w.data_key, w.head
    FROM ({records}) AS w
    LEFT JOIN log_entry e USING (receipt_id)
"""
_OF_BATCHES = """
    SELECT 3::smallint AS type, id, created_at, completed_at, state, '' AS event_type, '' AS actor_id,
           item_count, succeeded, failed, abandoned, tenant, NULL AS data_key, NULL AS head
    FROM batch_workflow
    WHERE {conditions}
"""

# Packages of a batch are not listed: it is.
_NOTHING = "SELECT WHERE false"
_RECORDS = "SELECT * FROM record r WHERE {conditions}"
_PAGE = """
    ({records}) UNION ALL ({batches})
    ORDER BY created_at DESC, id DESC
    LIMIT {limit}
"""
_COUNT = """
    SELECT (SELECT count(*) FROM ({records}) AS r) - (SELECT count(*) FROM ({running}) AS p)
         + (SELECT count(*) FROM ({batches}) AS b)
"""

_STATE_OF_RECORDS = {
    WorkflowState.RUNNING: "EXISTS (SELECT FROM pending p WHERE p.receipt_id = r.receipt_id)",
    WorkflowState.COMPLETED: "NOT EXISTS (SELECT FROM pending p WHERE p.receipt_id = r.receipt_id)",
}


async def get(connection: Connection, tenant: str, kind: WorkflowType, workflow_id: UUID) -> Workflow | None:
    """One workflow. A package of a batch is a workflow of its own too, under its receipt ID."""
    if kind == WorkflowType.BATCH_SIGNING:
        query = _OF_BATCHES.format(conditions="id = $1 AND tenant = $2")
        row = await connection.fetchrow(query, workflow_id, tenant)
        return _to_workflow(row) if row else None
    query = _OF_RECORDS.format(records="SELECT * FROM record WHERE receipt_id = $1 AND tenant = $2")
    row = await connection.fetchrow(query, workflow_id, tenant)
    if row is None or (
        row["type"] != kind and (row["type"], kind) != (WorkflowType.BATCH_SIGNING, WorkflowType.SIMPLE_SIGNING)
    ):
        return None
    return _to_workflow(row, kind)


async def page(connection: Connection, query: WorkflowQuery, after: Position | None, limit: int) -> list[Workflow]:
    """Workflows that match, newest first, from right after a position."""
    parameters = Parameters()
    most = parameters.place(limit)
    records = (
        f"{_records(parameters, query, query.state, after)} ORDER BY notarized_at DESC, receipt_id DESC LIMIT {most}"
    )
    batches = f"{_batches(parameters, query, after)} ORDER BY created_at DESC, id DESC LIMIT {most}"
    both = _PAGE.format(records=_OF_RECORDS.format(records=records), batches=batches, limit=most)
    return [_to_workflow(row) for row in await fetch_planned(connection, both, parameters)]


async def count(connection: Connection, query: WorkflowQuery) -> int:
    """How many match in all."""
    parameters = Parameters()
    counted, subtracted = query.state, _NOTHING
    if query.state == WorkflowState.COMPLETED:
        # All but the few that run: quicker than to look at each whether it does.
        counted, subtracted = None, _records(parameters, query, WorkflowState.RUNNING)
    records, batches = _records(parameters, query, counted), _batches(parameters, query, None)
    total = _COUNT.format(records=records, running=subtracted, batches=batches)
    ((number,),) = await fetch_planned(connection, total, parameters)
    return int(number)


def _records(
    parameters: Parameters, query: WorkflowQuery, state: WorkflowState | None, after: Position | None = None
) -> str:
    conditions = Conditions(parameters)
    conditions.add("tenant = {}", query.tenant)
    conditions.add("workflow_type <> 3")
    conditions.add_span("notarized_at", query.start_time, query.end_time)
    conditions.add_position("notarized_at", "receipt_id", after)
    if state is not None:
        conditions.add(_STATE_OF_RECORDS.get(state, "false"))
    return _RECORDS.format(conditions=conditions)


def _batches(parameters: Parameters, query: WorkflowQuery, after: Position | None) -> str:
    conditions = Conditions(parameters)
    conditions.add("tenant = {}", query.tenant)
    conditions.add("state = {}", None if query.state is None else int(query.state))
    conditions.add_span("created_at", query.start_time, query.end_time)
    conditions.add_position("created_at", "id", after)
    return _OF_BATCHES.format(conditions=conditions)


def _to_workflow(row: asyncpg.Record, kind: WorkflowType | None = None) -> Workflow:
    state = WorkflowState(row["state"])
    return Workflow(
        type=kind or WorkflowType(row["type"]),
        id=row["id"],
        state=state,
        created_at=row["created_at"],
        completed_at=row["completed_at"],
        error=_why_failed(row) if state == WorkflowState.FAILED else "",
        event_type=row["event_type"],
        actor_id=row["actor_id"],
        item_count=row["item_count"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        seal=seal_of(row),
    )


def _why_failed(row: asyncpg.Record) -> str:
    if row["abandoned"]:
        return "the service stopped before any package of this batch was signed"
    return f"none of its {row['item_count']} packages has a receipt"
