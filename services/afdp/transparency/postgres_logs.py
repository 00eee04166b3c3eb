"""Which logs there are, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from afdp.postgres import Database
from afdp.transparency.values import KnownLog, LogIdentity


class PostgresCatalogue:
    """The logs in the schema `afdp_log`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def logs(self) -> Sequence[KnownLog]:
        """Every log, in the order in which they were opened."""
        rows = await self._database.run(lambda connection: connection.fetch(_LOGS))
        return [_known(row) for row in rows]


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
