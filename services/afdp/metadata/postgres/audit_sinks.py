"""Where each sink is in the audit trail, in PostgreSQL.

A sink is held by one process at a time, by a lease in the database's own time that is renewed before each batch. Who
has lost it in mid-batch may deliver what another delivers too, and can no longer move the place on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from afdp.metadata.postgres.audit import PostgresAudit
from afdp.metadata.sinks.ledger import Held, SinkState, TrailRow
from afdp.postgres import Database

MOST_COUNTED = 100_000  # rows that wait

_BEGIN = """
    INSERT INTO audit_sink (name, cursor)
    SELECT $1, CASE WHEN $2 THEN coalesce((SELECT max(last) FROM audit_seal), 0) ELSE 0 END
    ON CONFLICT (name) DO NOTHING
"""
_HOLD = """
    UPDATE audit_sink SET holder = $2, held_until = clock_timestamp() + $3::interval
    WHERE name = $1 AND due_at <= clock_timestamp() AND (holder = $2 OR held_until < clock_timestamp())
    RETURNING cursor, failures
"""
_ADVANCE = """
    UPDATE audit_sink SET cursor = $3, failures = 0, trouble = '', since = NULL
    WHERE name = $1 AND holder = $2 AND cursor < $3
    RETURNING cursor
"""
_PUT_OFF = """
    UPDATE audit_sink SET failures = failures + 1, trouble = $4, due_at = clock_timestamp() + $3::interval,
        since = coalesce(since, clock_timestamp()), held_until = '-infinity'
    WHERE name = $1 AND holder = $2
"""
_LET_GO = "UPDATE audit_sink SET held_until = '-infinity' WHERE name = $1 AND holder = $2"
# What is about the trail's own seal waits for the next one, and is late by no fault of a sink's.
_STATES = """
    SELECT s.name, w.waiting, w.oldest, s.trouble, s.since
    FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) JOIN audit_sink s USING (name),
    LATERAL (
        SELECT count(*) AS waiting, min(recorded_at) AS oldest FROM (
            SELECT recorded_at FROM audit_row r
            WHERE r.sequence > s.cursor
              AND (NOT r.silent OR r.sequence <= (SELECT max(last) FROM audit_seal))
            ORDER BY r.sequence LIMIT $2
        ) AS waits
    ) AS w
    ORDER BY wanted.place
"""


class PostgresLedger:
    """The ledger of `sinks/ledger.py`."""

    def __init__(self, database: Database, audit: PostgresAudit) -> None:
        self._database = database
        self._audit = audit

    async def begin(self, name: str, *, at_end: bool) -> None:
        """Puts a sink at the trail's beginning, or its end, that has no place yet."""
        await self._database.run(lambda connection: connection.execute(_BEGIN, name, at_end))

    async def hold(self, name: str, holder: UUID, lease: timedelta) -> Held | None:
        """Takes or keeps a sink for the length of the lease."""
        row = await self._database.run(lambda connection: connection.fetchrow(_HOLD, name, holder, lease))
        return Held(row["cursor"], row["failures"]) if row else None

    async def advance(self, name: str, holder: UUID, cursor: int) -> bool:
        """A sink has all up to a row."""
        found = await self._database.run(lambda connection: connection.fetchval(_ADVANCE, name, holder, cursor))
        return found is not None

    async def put_off(self, name: str, holder: UUID, wait: timedelta, trouble: str) -> None:
        """A sink is to be left alone for a while."""
        await self._database.run(lambda connection: connection.execute(_PUT_OFF, name, holder, wait, trouble))

    async def let_go(self, name: str, holder: UUID) -> None:
        """A sink may be taken by another at once."""
        await self._database.run(lambda connection: connection.execute(_LET_GO, name, holder))

    async def read(self, after: int, limit: int) -> Sequence[TrailRow]:
        """Rows that a seal covers, after a place."""
        rows = await self._audit.read_rows(after, limit, sealed=True)
        return [TrailRow(row.sequence, row.recorded_at, row.row) for row in rows]

    async def states(self, names: Sequence[str]) -> Sequence[SinkState]:
        """How sinks stand."""
        rows = await self._database.run(lambda connection: connection.fetch(_STATES, list(names), MOST_COUNTED))
        return [SinkState(row["name"], row["waiting"], row["oldest"], row["trouble"], row["since"]) for row in rows]
