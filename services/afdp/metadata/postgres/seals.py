"""How a record is sealed, as its row tells it, and the wrapped keys beside the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from afdp.metadata.record_keys import KeptKey, Scope, WrappedKey
from afdp.metadata.values import Erased, Seal
from afdp.postgres import Connection, Database

_INDEX_KEYS = "SELECT tenant, wrapped FROM index_key WHERE tenant = ANY($1::text[])"
# The first of a tenant stays; who comes second reads that one.
_KEEP_INDEX_KEYS = """
    INSERT INTO index_key (tenant, wrapped) SELECT * FROM unnest($1::text[], $2::bytea[]) AS k (tenant, wrapped)
    ORDER BY 1 ON CONFLICT (tenant) DO NOTHING
"""
_DATA_KEYS = """
    SELECT k.id, k.tenant, k.subject, k.wrapped, e.erased_at, e.certificate
    FROM data_key k
    LEFT JOIN erasure e ON e.tenant = k.tenant AND e.subject = k.subject AND e.erased_at IS NOT NULL
    WHERE k.id = ANY($1::uuid[])
"""
_KEEP_DATA_KEYS = """
    INSERT INTO data_key (id, tenant, subject, wrapped)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[]) ON CONFLICT (id) DO NOTHING
"""


def seal_of(row: asyncpg.Record) -> Seal | None:
    """How a record is sealed, from a row that has these columns of `record`; None: it is kept in plain."""
    return None if row["data_key"] is None else Seal(row["tenant"], row["data_key"], row["head"] or b"")


class PostgresShelf:
    """Wrapped keys, beside the records; the promises are those of `afdp.metadata.record_keys.Shelf`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def index_keys(self, tenants: Sequence[str]) -> dict[str, bytes]:
        """The wrapped index keys of those tenants that have one."""

        async def read(connection: Connection) -> dict[str, bytes]:
            return {row["tenant"]: row["wrapped"] for row in await connection.fetch(_INDEX_KEYS, list(tenants))}

        return await self._database.run(read)

    async def keep_index_keys(self, keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """Keeps index keys, of each tenant the first; gives those that are kept."""

        async def keep(connection: Connection) -> None:
            await connection.execute(_KEEP_INDEX_KEYS, list(keys), list(keys.values()))

        await self._database.run(keep)
        return await self.index_keys(list(keys))

    async def data_keys(self, identifiers: Sequence[UUID]) -> dict[UUID, KeptKey]:
        """Those of the data keys that there are."""

        async def read(connection: Connection) -> dict[UUID, KeptKey]:
            rows = await connection.fetch(_DATA_KEYS, list(identifiers))
            return {
                row["id"]: KeptKey(
                    Scope(row["tenant"], row["subject"]),
                    row["wrapped"],
                    Erased(row["erased_at"], row["certificate"]) if row["erased_at"] else None,
                )
                for row in rows
            }

        return await self._database.run(read)

    async def keep_data_keys(self, keys: Sequence[WrappedKey]) -> None:
        """Keeps data keys."""
        rows = [(key.id, key.scope.tenant, key.scope.subject, key.wrapped) for key in keys]

        async def keep(connection: Connection) -> None:
            await connection.execute(_KEEP_DATA_KEYS, *map(list, zip(*rows, strict=True)))

        await self._database.run(keep)
