"""Which logs there are, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg

from afdp.postgres import Connection, Database
from afdp.transparency.postgres import create_tree
from afdp.transparency.values import KnownLog, LogIdentity, NewLog


class PostgresCatalogue:
    """The logs in the schema `afdp_log`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def logs(self) -> Sequence[KnownLog]:
        """Every log, in the order in which they were opened."""
        rows = await self._database.run(lambda connection: connection.fetch(_LOGS))
        return [_known(row) for row in rows]

    async def open(
        self, identity: LogIdentity, decide: Callable[[Sequence[KnownLog]], NewLog | None]
    ) -> Sequence[KnownLog]:
        """Opens the log that `decide` makes of those that are there, one opener at a time; gives all of them then."""

        async def work(connection: Connection) -> Sequence[KnownLog]:
            async with connection.transaction():
                await connection.execute(_TAKE_TURNS)
                known = [_known(row) for row in await connection.fetch(_LOGS)]
                if new := decide(known):
                    number = max(each.number for each in known) + 1
                    before = next((each.number for each in known if each.origin == new.predecessor), None)
                    await create_tree(connection, number, identity)
                    await connection.execute(_OPEN, number, new.base_url, list(new.tenants), before)
                return [_known(row) for row in await connection.fetch(_LOGS)]

        return await self._database.run(work)

    async def freeze(self, origin: str) -> None:
        """Freezes a log, under the lock that all who append to it take. One that is frozen stays as it is."""
        await self._database.run(lambda connection: connection.execute(_FREEZE, origin))


def _known(row: asyncpg.Record) -> KnownLog:
    return KnownLog(
        number=row["log_id"],
        identity=LogIdentity(row["origin"], row["public_key"]),
        base_url=row["base_url"],
        tenants=tuple(row["tenants"]),
        predecessor=row["predecessor"],
        successor=row["successor"],
        opened_at=row["opened_at"],
        frozen_at=row["frozen_at"],
        waits=row["waits"],
    )


_LOGS = """
SELECT tree.log_id, tree.origin, tree.public_key, tree.frozen_at, coalesce(log.base_url, '') AS base_url,
       coalesce(log.tenants, '{}') AS tenants, log.opened_at, coalesce(before.origin, '') AS predecessor,
       coalesce(after.origin, '') AS successor, before.origin IS NOT NULL AND before.frozen_at IS NULL AS waits
FROM tree
LEFT JOIN log USING (log_id)
LEFT JOIN tree AS before ON before.log_id = log.predecessor
LEFT JOIN log AS next ON next.predecessor = tree.log_id
LEFT JOIN tree AS after ON after.log_id = next.log_id
ORDER BY tree.log_id
"""

_TAKE_TURNS = "LOCK TABLE log IN SHARE ROW EXCLUSIVE MODE"

_OPEN = "INSERT INTO log (log_id, base_url, tenants, predecessor) VALUES ($1, $2, $3, $4)"

_FREEZE = "UPDATE tree SET frozen_at = clock_timestamp() WHERE origin = $1 AND frozen_at IS NULL"
