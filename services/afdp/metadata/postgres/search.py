"""Searching records: every filter leads an index that is in the list's own order, newest or oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from afdp.messages.metadata import WorkflowType
from afdp.metadata.postgres.conditions import Conditions, Parameters, fetch_planned
from afdp.metadata.postgres.lookup import lookup_key, term_key
from afdp.metadata.postgres.records import to_terms
from afdp.metadata.postgres.seals import seal_of
from afdp.metadata.values import Position, Search, SignedRecord, Summary
from afdp.postgres import Connection

_MATCHING = """
    SELECT {columns} FROM record r WHERE {conditions}
    ORDER BY notarized_at {order}, receipt_id {order}
    LIMIT {limit}
"""
# All records of one artifact, or with one term, are read in the list's order, however many there are.
_FOUND_BY = """
    SELECT r.*
    FROM (
        SELECT receipt_id FROM {rows}
        ORDER BY notarized_at {order}, receipt_id {order}
        LIMIT {limit}
    ) AS found
    JOIN record r USING (receipt_id)
    WHERE {conditions}
    ORDER BY r.notarized_at {order}, r.receipt_id {order}
"""
_HAS = """EXISTS (
    SELECT FROM {rows} AND {alias}.notarized_at = {of}.notarized_at AND {alias}.receipt_id = {of}.receipt_id
)"""
_ARTIFACT = "record_artifact {alias} WHERE {alias}.artifact_key = {{}} AND {alias}.artifact_hash = {{}}"
_TERM = "record_term {alias} WHERE {alias}.term_key = {{}} AND {alias}.term = {{}}"
# By the number in its tree, or by the one through all trees of such a log.
_AT = """receipt_id IN (
    SELECT receipt_id FROM log_place WHERE origin = {origin} AND log_index = {index}
    UNION ALL SELECT receipt_id FROM further_entry WHERE origin = {origin} AND log_index = {index}
    UNION ALL SELECT receipt_id FROM rekor1_entry WHERE origin = {origin} AND log_index = {index}
)"""
# The indexes of all three begin with the origin. Which there are, checkpoints know, and the entries in further logs:
# each look-up leads to the next one.
_ANY_ORIGIN = """ANY (ARRAY(
    WITH RECURSIVE known (origin) AS (
        SELECT ''
        UNION ALL
        SELECT least(
            (SELECT min(c.origin) FROM checkpoint c WHERE c.origin > known.origin),
            (SELECT min(f.origin) FROM further_entry f WHERE f.origin > known.origin)
        ) FROM known WHERE known.origin IS NOT NULL
    )
    SELECT origin FROM known WHERE origin IS NOT NULL
))"""
_IN_LOG = """(
    EXISTS (SELECT FROM log_entry e WHERE e.receipt_id = r.receipt_id AND e.origin = {origin})
    OR EXISTS (SELECT FROM further_entry f WHERE f.receipt_id = r.receipt_id AND f.origin = {origin})
)"""
# The places in the log are added to the few rows of a page only.
_PLACES = "SELECT receipt_id, log_index, origin FROM log_entry WHERE receipt_id = ANY($1::uuid[])"


async def search(
    connection: Connection, query: Search, terms: Sequence[bytes], after: Position | None, limit: int
) -> list[Summary]:
    """Records that match and have all the terms, in order, from right after a position."""
    page, parameters = search_statement(query, after, limit, terms)
    rows = await fetch_planned(connection, page, parameters)
    places = await _places(connection, rows)
    return [_to_summary(row, *places.get(row["receipt_id"], (None, ""))) for row in rows]


def search_statement(
    query: Search, after: Position | None, limit: int, terms: Sequence[bytes] = ()
) -> tuple[str, Parameters]:
    """The SQL of `search` and its parameters."""
    parameters = Parameters()
    asked = _Asked(parameters, query, terms, after)
    found = _found_by(asked, limit) if asked.rows and not asked.of_record else _matching(asked, limit)
    return found, parameters


async def signed(connection: Connection, query: Search, after: Position | None, limit: int) -> list[SignedRecord]:
    """Records of a key version, newest first, from right after a position; the fewest columns that tell them."""
    page, parameters = signed_statement(query, after, limit)
    rows = await fetch_planned(connection, page, parameters)
    places = await _places(connection, rows)
    return [
        SignedRecord(
            row["receipt_id"],
            row["evidence_hash"],
            row["notarized_at"],
            places.get(row["receipt_id"], (None, ""))[0],
            seal_of(row),
        )
        for row in rows
    ]


def signed_statement(query: Search, after: Position | None, limit: int) -> tuple[str, Parameters]:
    """The SQL of `signed` and its parameters."""
    parameters = Parameters()
    columns = "receipt_id, tenant, evidence_hash, notarized_at, data_key, head"
    return _matching(_Asked(parameters, query, (), after), limit, columns), parameters


async def _places(connection: Connection, rows: Sequence[asyncpg.Record]) -> dict[UUID, tuple[int | None, str]]:
    """Where the LOGGED ones of these records are: index and origin."""
    found = await connection.fetch(_PLACES, [row["receipt_id"] for row in rows]) if rows else []
    return {row["receipt_id"]: (row["log_index"], row["origin"]) for row in found}


class _Asked:
    """A query in SQL, each part with its parameters.

    Attributes:
        of_record: conditions on `record r` but for tenant and time.
        rows: where else a record has a row that finds it: its artifacts, its terms.
    """

    def __init__(self, parameters: Parameters, query: Search, terms: Sequence[bytes], after: Position | None) -> None:
        self.parameters = parameters
        self.query = query
        self.order = "ASC" if query.oldest_first else "DESC"
        self._after = after
        self.of_record = self._of_record()
        self.rows = [(_TERM, (term_key(each), each)) for each in terms]
        if query.artifact_hash is not None:  # there is no narrower way, most often
            self.rows.insert(0, (_ARTIFACT, (lookup_key(query.tenant, query.artifact_hash), query.artifact_hash)))

    def conditions(self, of: str = "") -> Conditions:
        """None yet but that of the time, of the rows called `of`."""
        conditions = Conditions(self.parameters)
        query, prefix = self.query, f"{of}." if of else ""
        conditions.add_span(f"{prefix}notarized_at", query.start_time, query.end_time)
        place = f"{prefix}notarized_at", f"{prefix}receipt_id"
        conditions.add_position(*place, self._after, ascending=query.oldest_first)
        return conditions

    def rows_of(self, at: int) -> str:
        """Which rows, as text that goes on behind FROM; also where their record says the same of the time, or all
        newer ones would be read first.
        """
        alias, (text, values) = f"x{at}", self.rows[at]
        conditions = Conditions(self.parameters)
        conditions.add(text.format(alias=alias), *values)
        return f"{conditions} AND {time}" if (time := str(self.conditions(alias))) else str(conditions)

    def has(self, at: int, of: str) -> str:
        """That a row of `of` has one of these beside it."""
        return _HAS.format(rows=self.rows_of(at), alias=f"x{at}", of=of)

    def _of_record(self) -> Conditions:
        query, conditions = self.query, Conditions(self.parameters)
        if query.evidence_hash is not None:
            conditions.add("evidence_key = {}", lookup_key(query.tenant, query.evidence_hash))
            conditions.add("evidence_hash = {}", query.evidence_hash)
        conditions.add("event_type = {}", query.event_type)
        conditions.add("actor_type = {}", query.actor_type)
        conditions.add("actor_id = {}", query.actor_id)
        conditions.add("key_id = {}", query.key_id)
        if query.log_index is not None:
            index, named = self.parameters.place(query.log_index), query.log_origin is not None
            origin = self.parameters.place(query.log_origin) if named else _ANY_ORIGIN
            conditions.add_all(_AT.format(origin=origin, index=index))
        elif query.log_origin is not None:
            conditions.add_all(_IN_LOG.format(origin=self.parameters.place(query.log_origin)))
        return conditions


def _found_by(asked: _Asked, limit: int) -> str:
    """By its artifact or its first term, which the others stand beside."""
    rows = [asked.rows_of(0), *(asked.has(at, "x0") for at in range(1, len(asked.rows)))]
    tenant = Conditions(asked.parameters)
    tenant.add("r.tenant = {}", asked.query.tenant)
    place = asked.parameters.place(limit)
    return _FOUND_BY.format(rows=" AND ".join(rows), conditions=tenant, limit=place, order=asked.order)


def _matching(asked: _Asked, limit: int, columns: str = "*") -> str:
    conditions = asked.conditions()
    conditions.add("tenant = {}", asked.query.tenant)
    conditions.add_all(asked.of_record)
    for at in range(len(asked.rows)):
        conditions.add_all(asked.has(at, "r"))
    place = asked.parameters.place(limit)
    return _MATCHING.format(columns=columns, conditions=conditions, limit=place, order=asked.order)


def _to_summary(row: asyncpg.Record, log_index: int | None, log_origin: str) -> Summary:
    return Summary(
        receipt_id=row["receipt_id"],
        evidence_hash=row["evidence_hash"],
        terms=to_terms(row),
        key_id=row["key_id"],
        notarized_at=row["notarized_at"],
        workflow_type=WorkflowType(row["workflow_type"]),
        log_index=log_index,
        log_origin=log_origin,
        seal=seal_of(row),
    )
