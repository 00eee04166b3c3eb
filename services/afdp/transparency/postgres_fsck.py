"""What fsck reads beside the log itself, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from afdp.transparency.fsck import KeptCheckpoint
from afdp.transparency.postgres import PostgresStore
from afdp.transparency.values import SignedCheckpoint, Stamp


class PostgresKeptCheckpoints:
    """The cosigned and the stamped checkpoints of one log of the schema `afdp_log`."""

    def __init__(self, store: PostgresStore) -> None:
        self._database = store.database
        self._log = store.log_id

    async def between(self, start: int, end: int) -> Sequence[KeptCheckpoint]:
        """Those of sizes above `start` up to `end`, smallest first."""
        rows = await self._database.run(lambda connection: connection.fetch(_BETWEEN, self._log, start, end))
        return [
            KeptCheckpoint(
                row["held_in"],
                SignedCheckpoint(row["size"], row["root"], row["note"]),
                Stamp(row["timestamp"], row["authority"], row["stamped_at"]) if row["timestamp"] else None,
            )
            for row in rows
        ]


_BETWEEN = """
SELECT 'cosigned_checkpoint' AS held_in, size, root, note, NULL AS timestamp, NULL AS authority, NULL AS stamped_at
FROM cosigned_checkpoint WHERE log_id = $1 AND size > $2 AND size <= $3
UNION ALL
SELECT 'stamped_checkpoint', size, root, note, timestamp, authority, stamped_at
FROM stamped_checkpoint WHERE log_id = $1 AND size > $2 AND size <= $3
ORDER BY size, held_in
"""
