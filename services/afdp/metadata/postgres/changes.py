"""What watchers are told of: rows that are written with each change of records (`schema/0013_changes.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg

from afdp.errors import FieldViolation, OutOfRange
from afdp.metadata.cursors import EPOCH, WHOLE, Cursor, not_ours
from afdp.metadata.values import Change, Changes, News
from afdp.postgres import Connection

# Part of statements that change records, to be completed by what gives their IDs with their tenants.
WRITE = """
    INSERT INTO record_change (tenant, receipt_ids)
    SELECT tenant, array_agg(receipt_id ORDER BY receipt_id) FROM {changed} GROUP BY tenant
"""

# What is of one moment: up to where all is told (`head`), from where on something is there still, and which history of
# the database this is: a copy that was restored, or a replica that took over, goes on from another point.
_MOMENT = """
    WITH m AS MATERIALIZED (
        SELECT pg_snapshot_xmin(pg_current_snapshot()) AS head, now() AS now,
               h.xid::text::bigint AS gone_xid, h.seq AS gone_seq, h.written_at AS gone_at, h.history AS gone_history,
               change_history() AS history
        FROM record_change_horizon h
    )
"""
_COLUMNS = "m.head::text::bigint AS head, m.now, m.gone_xid, m.gone_seq, m.gone_at, m.gone_history, m.history"
_NOW = f"{_MOMENT} SELECT {_COLUMNS} FROM m"  # noqa: S608 - of constants
_PAGE = f"""
    {_MOMENT}
    SELECT {_COLUMNS}, c.xid::text::bigint AS xid, c.seq, c.receipt_ids, c.written_at
    FROM m LEFT JOIN LATERAL (
        SELECT xid, seq, receipt_ids, written_at FROM record_change
        WHERE tenant = $1 AND (xid, seq) >= ($2::text::xid8, $3) AND xid < m.head
        ORDER BY xid, seq LIMIT $4
    ) AS c ON true
    ORDER BY c.xid, c.seq
"""  # noqa: S608 - of constants
_NEWS = f"""
    {_MOMENT}
    SELECT {_COLUMNS}, ARRAY(
        SELECT DISTINCT tenant FROM record_change WHERE (xid, seq) > ($1::text::xid8, $2) AND xid < m.head
    ) AS tenants
    FROM m
"""  # noqa: S608 - of constants
_SINCE = "SELECT min(xid)::text::bigint FROM record_change WHERE written_at >= $1"
# Of a copy that was restored elsewhere, rows from before have higher numbers than those that are new.
_FORGET = """
    WITH old AS (
        SELECT xid, seq FROM (
            (SELECT xid, seq, written_at FROM record_change ORDER BY xid, seq LIMIT $2)
            UNION ALL
            (SELECT xid, seq, written_at FROM record_change ORDER BY xid DESC, seq DESC LIMIT $2)
        ) AS outermost
        WHERE written_at < now() - $1::interval
    ), gone AS (
        DELETE FROM record_change c USING old WHERE c.xid = old.xid AND c.seq = old.seq
        RETURNING c.xid, c.seq, c.written_at
    ), last AS (
        SELECT xid, seq, written_at FROM gone WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xid DESC, seq DESC LIMIT 1
    ), horizon AS (
        UPDATE record_change_horizon h
        SET xid = last.xid, seq = last.seq, written_at = last.written_at, history = change_history() FROM last
        WHERE h.history <> change_history() OR (h.xid, h.seq) < (last.xid, last.seq)
    )
    SELECT count(*) FROM gone
"""
_FORGET_AT_ONCE = 5_000
_WITNESSED_AT_ONCE = 4_096  # places of a log
_ROWS = 16
_KNOWN_SIZE = "SELECT tree_size FROM witnessed_tree WHERE origin = $1 FOR UPDATE"
_KEEP_SIZE = """
    INSERT INTO witnessed_tree AS w (origin, tree_size) VALUES ($1, $2)
    ON CONFLICT (origin) DO UPDATE SET tree_size = excluded.tree_size WHERE w.tree_size < excluded.tree_size
    RETURNING tree_size
"""
_WITNESSED = WRITE.format(changed="log_place WHERE origin = $1 AND log_index >= $2 AND log_index < $3")
# A clock of another server may differ, and a transaction has taken its number before it wrote its rows.
_MARGIN = timedelta(minutes=10)


async def page(connection: Connection, tenant: str, cursor: str, limit: int) -> Changes:
    """The changes of a tenant after a cursor, in order, of each record the last; without a cursor: where now is.

    Raises:
        InvalidArgument: the cursor was never given.
        OutOfRange: changes after it were deleted for their age.
    """
    if not cursor:
        return Changes((), _head(await _now(connection)).text(), False)
    after = await _placed(connection, Cursor.parse(cursor))
    rows = await connection.fetch(_PAGE, tenant, str(after.xid), after.seq, _ROWS)
    _require_there(after, rows[0])
    found: list[Change] = []
    for row in rows:
        if row["xid"] is not None and len(found) <= limit:
            found += _changes(row, after, limit + 1 - len(found))
    if not found:
        return Changes((), after.text(), False)
    told, more = found[:limit], len(found) > limit or len(rows) == _ROWS
    last = {change.receipt_id: change for change in told}
    return Changes(tuple(change for change in told if last[change.receipt_id] is change), told[-1].cursor, more)


async def news(connection: Connection, cursor: str) -> News:
    """Which tenants have changes after a cursor, and where that ends; without a cursor: where now is.

    Raises:
        InvalidArgument, OutOfRange: as of `page`.
    """
    if not cursor:
        return News((), _head(await _now(connection)).text())
    after = await _placed(connection, Cursor.parse(cursor))
    row = (await connection.fetch(_NEWS, str(after.xid), after.seq))[0]
    _require_there(after, row)
    return News(tuple(row["tenants"]), _head(row).text())


async def witnessed(connection: Connection, origin: str, tree_size: int) -> int:
    """The tree of a log is cosigned up to this size: a change of all records of which that was not told before.

    Gives the size of the largest such tree; 0: there was none.
    """
    while True:  # a log that grew for long without witnesses is told of step by step
        async with connection.transaction():
            known = await connection.fetchval(_KNOWN_SIZE, origin) or 0
            size = min(tree_size, known + _WITNESSED_AT_ONCE)
            if size and await connection.fetchval(_KEEP_SIZE, origin, size) is not None:
                await connection.execute(_WITNESSED, origin, known, size)
        if size >= tree_size:
            return max(known, tree_size)


async def forget_old(connection: Connection, retention: timedelta) -> bool:
    """Deletes some changes past their retention; whether there may be more."""
    return bool(await connection.fetchval(_FORGET, retention, _FORGET_AT_ONCE))


async def _now(connection: Connection) -> asyncpg.Record:
    return (await connection.fetch(_NOW))[0]


async def _placed(connection: Connection, cursor: Cursor) -> Cursor:
    """The cursor in the history that the database has now: of one in another its time counts, generously."""
    now = _head(await _now(connection))
    if cursor.history == now.history:
        if (cursor.xid, cursor.seq) > (now.xid, now.seq):
            raise not_ours()
        return cursor
    since = max(cursor.time, EPOCH + _MARGIN) - _MARGIN
    first = await connection.fetchval(_SINCE, since)
    return Cursor(now.history, now.xid if first is None else min(first, now.xid), 0, WHOLE, since)


def _require_there(after: Cursor, row: asyncpg.Record) -> None:
    if row["gone_history"] == row["history"]:
        gone, at = (row["gone_xid"], row["gone_seq"]), (after.xid, after.seq)
        is_there = at > gone or (at == gone and after.read == WHOLE)
    else:
        is_there = after.time > row["gone_at"]
    if not is_there:
        message = "is older than changes are kept: begin from now on without it, and search for what was made meanwhile"
        raise OutOfRange("changes after this cursor are gone", fields=[FieldViolation("cursor", message)])


def _changes(row: asyncpg.Record, after: Cursor, limit: int) -> list[Change]:
    """Those of a row that come after a cursor, the first of them."""
    ids: Sequence[UUID] = row["receipt_ids"]
    at = Cursor(row["history"], row["xid"], row["seq"], 0, row["written_at"])
    begin = min(after.read, len(ids)) if (at.xid, at.seq) == (after.xid, after.seq) else 0
    return [
        Change(each, replace(at, read=number if number < len(ids) else WHOLE).text())
        for number, each in enumerate(ids[begin : begin + limit], begin + 1)
    ]


def _head(row: asyncpg.Record) -> Cursor:
    """Before every row that is not told of yet."""
    return Cursor(row["history"], row["head"], 0, WHOLE, row["now"])
