"""Complete: PENDING records become LOGGED ones, all in one transaction; one statement where nothing is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from afdp.errors import FailedPrecondition, NotaryError, NotFound
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.postgres import audit, changes
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.values import Checkpoint, Completion, LogPosition
from afdp.postgres import Connection, is_refused, refusal
from afdp.postgres.errors import FOREIGN

# A note of the same tree may carry other signatures: the first one stays. One of another tree leaves `noted` empty, and
# then nothing is written.
_STATEMENT = r"""
    WITH noted AS (
        INSERT INTO checkpoint AS c (origin, tree_size, note) VALUES ($1, $2, $3)
        ON CONFLICT (origin, tree_size) DO UPDATE SET note = c.note
            WHERE split_part(c.note, E'\n\n', 1) = split_part(excluded.note, E'\n\n', 1)
        RETURNING c.note
    ), done AS (
        DELETE FROM pending WHERE receipt_id = ANY($4::uuid[]) AND EXISTS (SELECT FROM noted)
        RETURNING receipt_id, tenant
    ), changed AS (
        {changed}
    ), logged AS (
        INSERT INTO log_entry (receipt_id, tenant, origin, log_index, tree_size, proof)
        SELECT receipt_id, done.tenant, $1, entry.log_index, $2, entry.proof
        FROM unnest($4::uuid[], $5::bigint[], $6::bytea[]) AS entry (receipt_id, log_index, proof)
        JOIN done USING (receipt_id)
        RETURNING receipt_id, tenant, log_index
    ), placed AS (
        INSERT INTO log_place (origin, log_index, receipt_id, tenant)
        SELECT $1, log_index, receipt_id, tenant FROM logged {unless}
    ), in_audit AS (
        {audit}
    )
    SELECT (SELECT note FROM noted) AS note, ARRAY(SELECT receipt_id FROM logged) AS logged
"""
_ROWS = audit.insert(7, where="EXISTS (SELECT FROM noted)")
_CHANGED = changes.WRITE.format(changed="done")
_WRITE = _STATEMENT.format(unless="", audit=_ROWS, changed=_CHANGED)
# A record that had lost its row of `log_entry` gets it again, and its place is there.
_WRITE_AGAIN = _STATEMENT.format(
    unless="""WHERE NOT EXISTS (
        SELECT FROM log_place p
        WHERE p.origin = $1 AND p.log_index = logged.log_index AND p.receipt_id = logged.receipt_id
    )""",
    audit=_ROWS,
    changed=_CHANGED,
)
_ON_RECORD = """
    SELECT e.receipt_id, e.origin, e.log_index, e.tree_size, e.proof, c.note
    FROM log_entry e JOIN checkpoint c ON c.origin = e.origin AND c.tree_size = e.tree_size
    WHERE e.receipt_id = ANY($1::uuid[])
"""

_Answers = dict[UUID, LogPosition | NotaryError]


async def complete(
    connection: Connection, checkpoint: Checkpoint, completions: Sequence[Completion], rows: Sequence[NewRow] = ()
) -> list[LogPosition | NotaryError]:
    """The position on record per completion, in order; one that is LOGGED already keeps its first position.

    The rows of the audit trail are written in the same transaction.

    Raises:
        FailedPrecondition: another tree of the same size is on record for this log.
    """
    distinct = list({completion.receipt_id: completion for completion in reversed(completions)}.values())
    try:
        answers = await _write(connection, checkpoint, distinct, _WRITE, rows)
    except FOREIGN as error:
        if not is_refused(error):
            raise
        answers = await _write_singly(connection, checkpoint, distinct, rows)
    missing = [completion.receipt_id for completion in distinct if completion.receipt_id not in answers]
    if missing:
        answers |= await _on_record(connection, missing)
    unknown = NotFound("no record has this receipt ID")
    return [answers.get(completion.receipt_id, unknown) for completion in completions]


async def _write(
    connection: Connection,
    checkpoint: Checkpoint,
    completions: Sequence[Completion],
    statement: str,
    rows: Sequence[NewRow] = (),
) -> _Answers:
    """The positions of those that were PENDING and are now LOGGED."""
    row = await connection.fetchrow(
        statement,
        checkpoint.origin,
        checkpoint.tree_size,
        checkpoint.note,
        [completion.receipt_id for completion in completions],
        [completion.log_index for completion in completions],
        [completion.proof for completion in completions],
        *audit.columns(rows),
    )
    if row is None or row["note"] is None:
        raise FailedPrecondition("another tree of this size is on record for this log: it must not be used any further")
    logged = set(row["logged"])
    return {
        done.receipt_id: LogPosition(checkpoint.origin, done.log_index, checkpoint.tree_size, done.proof, row["note"])
        for done in completions
        if done.receipt_id in logged
    }


async def _write_singly(
    connection: Connection, checkpoint: Checkpoint, completions: Sequence[Completion], rows: Sequence[NewRow]
) -> _Answers:
    answers: _Answers = {}
    async with connection.transaction():
        await audit.add_rows(connection, rows)
        for completion in completions:
            try:
                async with connection.transaction():
                    answers |= await _write(connection, checkpoint, [completion], _WRITE_AGAIN)
            except FOREIGN as error:
                if not is_refused(error):
                    raise
                answers[completion.receipt_id] = refusal(error)
    return answers


async def _on_record(connection: Connection, receipt_ids: Iterable[UUID]) -> _Answers:
    rows = await fetch_pruned(connection, _ON_RECORD, list(receipt_ids))
    return {
        row["receipt_id"]: LogPosition(row["origin"], row["log_index"], row["tree_size"], row["proof"], row["note"])
        for row in rows
    }
