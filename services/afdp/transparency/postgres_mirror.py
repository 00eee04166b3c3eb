"""Which replica mirrors a log, in PostgreSQL, by the database's clock."""

from __future__ import annotations

from afdp.transparency.postgres import PostgresStore


class PostgresTurns:
    """One turn per log of the schema `afdp_log`."""

    def __init__(self, store: PostgresStore) -> None:
        self._database = store.database
        self._log = store.log_id

    async def hold(self, holder: str, seconds: float) -> bool:
        """Takes or keeps the turn for so long; False while another one has it."""
        row = await self._database.run(lambda connection: connection.fetchrow(_HOLD, self._log, holder, seconds))
        return row is not None

    async def release(self, holder: str) -> None:
        """Gives it back."""
        await self._database.run(lambda connection: connection.execute(_RELEASE, self._log, holder))


_HOLD = """
INSERT INTO mirror_turn AS turn (log_id, holder, until)
VALUES ($1, $2::text, clock_timestamp() + make_interval(secs => $3::float8))
ON CONFLICT (log_id) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE turn.holder = excluded.holder OR turn.until < clock_timestamp()
RETURNING log_id
"""

_RELEASE = "DELETE FROM mirror_turn WHERE log_id = $1 AND holder = $2"
