"""What replicas share of the self-audit, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from afdp.transparency.audit import Walk
from afdp.transparency.postgres import PostgresStore
from afdp.transparency.values import SignedCheckpoint


class PostgresAuditBook:
    """The walk through one log of the schema `afdp_log`, and what was found on it."""

    def __init__(self, store: PostgresStore) -> None:
        self._database = store.database
        self._log = store.log_id

    async def take(self, bundles: int, total: int) -> Walk:
        """Takes the next bundles; after the last one it begins anew."""
        row = await self._row(_TAKE, bundles, total)
        return Walk(row["start"], row["rounds"], row["fault"]) if row else Walk(0, 0, "")

    async def fault(self) -> str:
        """What was found."""
        row = await self._row("SELECT fault FROM audit WHERE log_id = $1")
        return row["fault"] if row else ""

    async def keep_fault(self, fault: str) -> None:
        """Keeps what was found first."""
        await self._row(_KEEP_FAULT, fault)

    async def forget_fault(self) -> bool:
        """The log was repaired and found whole; whether there was a fault."""
        return await self._row(_FORGET_FAULT) is not None

    async def cosigned_between(self, start: int, end: int, most: int) -> Sequence[SignedCheckpoint]:
        """Cosigned checkpoints of these sizes."""
        rows = await self._database.run(
            lambda connection: connection.fetch(_COSIGNED_BETWEEN, self._log, start, end, most)
        )
        return [SignedCheckpoint(row["size"], row["root"], row["note"]) for row in rows]

    async def _row(self, query: str, *more: object) -> asyncpg.Record | None:
        return await self._database.run(lambda connection: connection.fetchrow(query, self._log, *more))


_TAKE = """
INSERT INTO audit AS walk (log_id, next_bundle, rounds) VALUES
    ($1, least($2::bigint, $3::bigint) % $3::bigint, CASE WHEN $2 < $3 THEN 0 ELSE 1 END)
ON CONFLICT (log_id) DO UPDATE SET
    taken = CASE WHEN walk.next_bundle < $3 THEN walk.next_bundle ELSE 0 END,
    next_bundle = CASE WHEN walk.next_bundle + $2 < $3 THEN walk.next_bundle + $2 ELSE 0 END,
    rounds = walk.rounds + CASE WHEN walk.next_bundle + $2 < $3 THEN 0 ELSE 1 END
RETURNING taken AS start, rounds, fault
"""

_KEEP_FAULT = """
INSERT INTO audit AS walk (log_id, fault, found_at) VALUES ($1, $2, statement_timestamp())
ON CONFLICT (log_id) DO UPDATE SET fault = excluded.fault, found_at = excluded.found_at WHERE walk.fault = ''
"""

_FORGET_FAULT = "UPDATE audit SET fault = '', found_at = NULL WHERE log_id = $1 AND fault <> '' RETURNING log_id"

_COSIGNED_BETWEEN = """
SELECT size, root, note FROM cosigned_checkpoint WHERE log_id = $1 AND size > $2 AND size <= $3
ORDER BY random() LIMIT $4
"""
