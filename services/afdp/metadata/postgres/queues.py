"""The queues of records that go to logs of others: leased, completed, put back.

A lease is nothing but a later time at which the record is due again. So a worker that dies holds nothing up for longer
than that, and two that work on one record at once do no harm: the log takes an entry once, and the first position that
is written stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from afdp.errors import FailedPrecondition, NotaryError, NotFound
from afdp.metadata.postgres import changes
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.seals import seal_of
from afdp.metadata.values import LogPosition, Queued, QueuedCompletion, QueueLength, Rekor1Entry
from afdp.postgres import Connection

_DUE = """
    WITH due AS (
        SELECT receipt_id FROM log_queue WHERE log = $1 AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    SELECT receipt_id FROM due ORDER BY receipt_id
"""
_SIGNED = """
    SELECT receipt_id, tenant, statement, signature, key_id, data_key, head FROM (
        SELECT r.receipt_id, r.tenant, c.statement, c.signature, r.key_id, r.data_key, r.head,
               row_number() OVER (ORDER BY r.receipt_id) AS place,
               sum(octet_length(c.statement)) OVER (ORDER BY r.receipt_id) AS total
        FROM record_content c JOIN record r USING (receipt_id)
        WHERE c.receipt_id = ANY($1::uuid[]) AND r.receipt_id = ANY($1::uuid[])
    ) AS sized
    WHERE place = 1 OR total <= $2
"""
_TAKE = """
    UPDATE log_queue SET due_at = statement_timestamp() + $3::interval, attempts = attempts + 1
    WHERE log = $1 AND receipt_id = ANY($2::uuid[])
    RETURNING receipt_id, attempts
"""
_DEFER = """
    UPDATE log_queue q SET due_at = statement_timestamp() + d.wait
    FROM unnest($2::uuid[], $3::interval[]) AS d (receipt_id, wait)
    WHERE q.log = $1 AND q.receipt_id = d.receipt_id
"""
_LENGTHS = """
    SELECT log, count(*) AS length, min(queued_at) AS oldest FROM log_queue GROUP BY log ORDER BY log
"""
# All of one tree. A note of the same tree may carry other signatures: the first one stays. One of another tree leaves
# `noted` empty, and then nothing is written. A record leaves the queue only once it is in `log_entry`: one whose place
# is another record's stays.
_LOGGED = rf"""
    WITH noted AS (
        INSERT INTO checkpoint AS c (origin, tree_size, note) VALUES ($2, $3, $4)
        ON CONFLICT (origin, tree_size) DO UPDATE SET note = c.note
            WHERE (string_to_array(c.note, E'\n'))[3] = (string_to_array(excluded.note, E'\n'))[3]
        RETURNING c.note
    ), waiting AS MATERIALIZED (
        SELECT receipt_id, tenant FROM log_queue
        WHERE log = $1 AND receipt_id = ANY($5::uuid[]) AND main AND EXISTS (SELECT FROM noted)
        ORDER BY receipt_id FOR UPDATE
    ), there AS MATERIALIZED (
        SELECT receipt_id FROM log_entry WHERE receipt_id = ANY($5::uuid[])
    ), placed AS (
        INSERT INTO log_place (origin, log_index, receipt_id, tenant)
        SELECT $2, entry.log_index, receipt_id, waiting.tenant
        FROM unnest($5::uuid[], $6::bigint[]) AS entry (receipt_id, log_index) JOIN waiting USING (receipt_id)
        WHERE receipt_id NOT IN (SELECT receipt_id FROM there)
        ON CONFLICT DO NOTHING
        RETURNING receipt_id
    ), own AS (
        SELECT receipt_id FROM placed
        UNION ALL
        SELECT p.receipt_id FROM unnest($5::uuid[], $6::bigint[]) AS entry (receipt_id, log_index)
        JOIN log_place p ON p.origin = $2 AND p.log_index = entry.log_index AND p.receipt_id = entry.receipt_id
    ), logged AS (
        INSERT INTO log_entry (receipt_id, tenant, origin, log_index, tree_size, proof)
        SELECT receipt_id, waiting.tenant, $2, entry.log_index, $3, entry.proof
        FROM unnest($5::uuid[], $6::bigint[], $7::bytea[]) AS entry (receipt_id, log_index, proof)
        JOIN waiting USING (receipt_id)
        WHERE receipt_id IN (SELECT receipt_id FROM own) AND receipt_id NOT IN (SELECT receipt_id FROM there)
        ON CONFLICT DO NOTHING
        RETURNING receipt_id, tenant
    ), done AS (
        DELETE FROM log_queue WHERE log = $1 AND receipt_id IN (
            SELECT receipt_id FROM logged
            UNION ALL SELECT receipt_id FROM waiting JOIN there USING (receipt_id)
        )
    ), changed AS (
        {changes.WRITE.format(changed="logged")}
    )
    SELECT (SELECT note FROM noted) AS note, ARRAY(SELECT receipt_id FROM logged) AS logged
"""  # noqa: S608 - of constants
_FURTHER = f"""
    WITH done AS (
        DELETE FROM log_queue WHERE log = $1 AND receipt_id = ANY($5::uuid[]) AND NOT main
        RETURNING receipt_id, tenant
    ), changed AS (
        {changes.WRITE.format(changed="done")}
    )
    INSERT INTO further_entry (receipt_id, tenant, origin, log_index, tree_size, proof, note)
    SELECT receipt_id, done.tenant, $2, entry.log_index, $3, entry.proof, $4
    FROM unnest($5::uuid[], $6::bigint[], $7::bytea[]) AS entry (receipt_id, log_index, proof)
    JOIN done USING (receipt_id)
    ON CONFLICT DO NOTHING
    RETURNING receipt_id
"""  # noqa: S608 - of constants
_STILL_QUEUED = "SELECT receipt_id FROM log_queue WHERE log = $1 AND receipt_id = ANY($2::uuid[])"
_REKOR1 = """
    INSERT INTO rekor1_entry (receipt_id, tenant, origin, body, log_index, integrated_time, promise)
    SELECT x.receipt_id, r.tenant, x.origin, x.body, x.log_index, x.integrated_time, x.promise
    FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[])
        AS x (receipt_id, origin, body, log_index, integrated_time, promise)
    JOIN record r USING (receipt_id)
    WHERE r.receipt_id = ANY($1::uuid[])
    ON CONFLICT DO NOTHING
"""
_POSITIONS = """
    SELECT e.receipt_id, e.origin, e.log_index, e.tree_size, e.proof, k.note,
           x.body, x.log_index AS shown_index, x.integrated_time, x.promise
    FROM log_entry e
    JOIN checkpoint k ON k.origin = e.origin AND k.tree_size = e.tree_size
    LEFT JOIN rekor1_entry x ON x.receipt_id = e.receipt_id AND x.origin = e.origin AND x.receipt_id = ANY($1::uuid[])
    WHERE e.receipt_id = ANY($1::uuid[])
"""
_MORE = """
    SELECT e.receipt_id, e.origin, e.log_index, e.tree_size, e.proof, e.note,
           x.body, x.log_index AS shown_index, x.integrated_time, x.promise
    FROM further_entry e
    LEFT JOIN rekor1_entry x ON x.receipt_id = e.receipt_id AND x.origin = e.origin AND x.receipt_id = ANY($1::uuid[])
    WHERE e.receipt_id = ANY($1::uuid[])
    ORDER BY e.receipt_id, e.logged_at, e.origin
"""

_Group = tuple[str, int, str]  # origin, tree size, note


async def lease(connection: Connection, log: str, limit: int, lease: timedelta, max_bytes: int) -> list[Queued]:
    """Takes due records out for a while, those that wait longest first; together at most `max_bytes`, or one."""
    async with connection.transaction():
        due = [row["receipt_id"] for row in await connection.fetch(_DUE, log, limit)]
        signed = {row["receipt_id"]: row for row in await fetch_pruned(connection, _SIGNED, due, max_bytes)}
        taken = {row["receipt_id"]: row["attempts"] for row in await connection.fetch(_TAKE, log, list(signed), lease)}
    return [
        Queued(
            receipt_id,
            signed[receipt_id]["statement"],
            signed[receipt_id]["signature"],
            signed[receipt_id]["key_id"],
            attempts,
            seal_of(signed[receipt_id]),
        )
        for receipt_id, attempts in sorted(taken.items())
    ]


async def complete(
    connection: Connection, log: str, completions: Sequence[QueuedCompletion]
) -> list[LogPosition | NotaryError]:
    """The position on record per completion, in order; one that has a position there already keeps it.

    One whose place is another record's is refused, and stays queued.
    """
    written: dict[UUID, LogPosition] = {}
    refused: dict[UUID, NotaryError] = {}
    async with connection.transaction():
        for (origin, tree_size, note), members in _by_tree(completions).items():
            arguments = (log, origin, tree_size, note, *_columns(members))
            (row,) = await fetch_pruned(connection, _LOGGED, *arguments)
            if row["note"] is None:
                error = FailedPrecondition("another tree of this size is on record for this log")
                refused |= {each.receipt_id: error for each in members}
                continue
            further = await connection.fetch(_FURTHER, *arguments)
            fresh = {*row["logged"], *(each["receipt_id"] for each in further)}
            written |= {each.receipt_id: each.position for each in members if each.receipt_id in fresh}
        await _write_rekor1(connection, written)
        missing = [each.receipt_id for each in completions if each.receipt_id not in {*written, *refused}]
        if missing:
            taken = FailedPrecondition("another record is on record at this place of the log")
            refused |= {row["receipt_id"]: taken for row in await connection.fetch(_STILL_QUEUED, log, missing)}
        found = await _on_record(connection, missing) if missing else {}
    unknown = NotFound("this record does not wait for this log, and is in none")
    return [
        written.get(each.receipt_id) or refused.get(each.receipt_id) or _there(found, each) or unknown
        for each in completions
    ]


async def defer(connection: Connection, log: str, waits: Mapping[UUID, timedelta]) -> None:
    """Records are due after these times."""
    await connection.execute(_DEFER, log, list(waits), list(waits.values()))


async def lengths(connection: Connection) -> list[QueueLength]:
    """The queues that are not empty."""
    return [QueueLength(row["log"], row["length"], row["oldest"]) for row in await connection.fetch(_LENGTHS)]


async def more_positions(connection: Connection, receipt_ids: Iterable[UUID]) -> dict[UUID, tuple[LogPosition, ...]]:
    """Where records are in further logs."""
    found: dict[UUID, tuple[LogPosition, ...]] = {}
    for row in await fetch_pruned(connection, _MORE, list(receipt_ids)):
        found[row["receipt_id"]] = (*found.get(row["receipt_id"], ()), to_position(row))
    return found


def to_position(row: asyncpg.Record) -> LogPosition:
    """A position from a row that has the columns of `rekor1_entry` beside."""
    rekor1 = None
    if row["body"] is not None:
        rekor1 = Rekor1Entry(row["body"], row["shown_index"], row["integrated_time"], row["promise"])
    note = row["note"] or ""  # that of a checkpoint which somebody deleted holds for nothing
    return LogPosition(row["origin"], row["log_index"], row["tree_size"], row["proof"], note, rekor1)


def _by_tree(completions: Sequence[QueuedCompletion]) -> dict[_Group, list[QueuedCompletion]]:
    groups: dict[_Group, dict[UUID, QueuedCompletion]] = {}
    for each in completions:
        at = each.position
        groups.setdefault((at.origin, at.tree_size, at.checkpoint), {})[each.receipt_id] = each
    return {group: list(members.values()) for group, members in groups.items()}


def _columns(members: Sequence[QueuedCompletion]) -> tuple[list[object], list[object], list[object]]:
    return (
        [each.receipt_id for each in members],
        [each.position.log_index for each in members],
        [each.position.proof for each in members],
    )


async def _write_rekor1(connection: Connection, written: Mapping[UUID, LogPosition]) -> None:
    rows = [
        (receipt_id, at.origin, at.rekor1.body, at.rekor1.log_index, at.rekor1.integrated_time, at.rekor1.promise)
        for receipt_id, at in written.items()
        if at.rekor1 is not None
    ]
    if rows:
        await fetch_pruned(connection, _REKOR1, *map(list, zip(*rows, strict=True)))


async def _on_record(connection: Connection, receipt_ids: Sequence[UUID]) -> dict[UUID, list[LogPosition]]:
    found: dict[UUID, list[LogPosition]] = {}
    for query in (_POSITIONS, _MORE):
        for row in await fetch_pruned(connection, query, receipt_ids):
            found.setdefault(row["receipt_id"], []).append(to_position(row))
    return found


def _there(found: Mapping[UUID, Sequence[LogPosition]], completion: QueuedCompletion) -> LogPosition | None:
    """The position that a record has, of the same log where it has several."""
    positions = found.get(completion.receipt_id, ())
    same = (each for each in positions if each.origin == completion.position.origin)
    return next(same, positions[0] if positions else None)
