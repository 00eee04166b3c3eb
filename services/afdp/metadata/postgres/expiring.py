"""Records of a month expire, in steps that are short transactions each (`schema/0012_retention.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from afdp.errors import Aborted
from afdp.metadata.postgres.roles import KEEPER
from afdp.postgres import Connection
from afdp.postgres.errors import FOREIGN, RETRY_AFTER

_LONGEST = 6 * 3600.0  # seconds; a step over records is over soon, but a root is made of all that goes
_BEFORE_ALL = UUID(int=0)

# For as long as the session is there, so that nobody waits for one whose process is gone.
_ALONE = "SELECT pg_try_advisory_lock(hashtextextended('afdp_metadata.expiring', 0))"
_OVER = "SELECT pg_advisory_unlock(hashtextextended('afdp_metadata.expiring', 0))"


async def expire(connection: Connection, month: date, act: UUID | None) -> list[asyncpg.Record]:
    """Lets go what is due of a month: rows of `expiry`. What a run has left that was ended is taken back first.

    Raises:
        Aborted: another session is at it, or records, holds or classes have changed meanwhile.
    """
    if not await connection.fetchval(_ALONE):
        raise Aborted("records are expiring already: try again", retry_after=RETRY_AFTER)
    try:
        while await _step(connection, "SELECT undo_expiry($1)", month):
            pass
        if not await _step(connection, "SELECT begin_expiry($1, $2)", month, act):
            return []
        await _through(connection, "SELECT sort_expiry($1, $2), end_of($1)", month)
        await _through(connection, "SELECT copy_expiry($1, $2), end_of($1)", month)
        while await _step(connection, "SELECT sum_expiry($1)", month):
            pass
        gone = await _rows(connection, "SELECT * FROM end_expiry($1)", month)
        while await _step(connection, "SELECT clear_expiry()"):
            pass
        return list(gone)
    finally:
        with suppress(*FOREIGN):  # it ends with the session
            await connection.fetchval(_OVER)


async def _through(connection: Connection, query: str, month: date) -> None:
    """Step by step along the receipt IDs of a month."""
    begins, end = _BEFORE_ALL, None
    while begins != end:
        [row] = await _rows(connection, query, month, begins)
        begins, end = row


async def _step(connection: Connection, query: str, *values: object) -> Any:
    [row] = await _rows(connection, query, *values)
    return row[0]


async def _rows(connection: Connection, query: str, *values: object) -> Sequence[asyncpg.Record]:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {KEEPER}; SET LOCAL statement_timeout = 0")
        return await connection.fetch(query, *values, timeout=_LONGEST)
