"""How a record is sealed, as its row tells it, and the wrapped keys beside the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
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
_PAGE_OF_DATA_KEYS = _DATA_KEYS.replace("k.id = ANY($1::uuid[])", "k.id > $1 ORDER BY k.id LIMIT $2")
_PAGE_OF_INDEX_KEYS = "SELECT tenant, wrapped FROM index_key WHERE tenant > $1 ORDER BY tenant LIMIT $2"
_PAGE_OF_SCOPES = """
    SELECT tenant, subject FROM (
        (SELECT DISTINCT tenant, subject FROM data_key WHERE (tenant, subject) > ($1, $2) ORDER BY 1, 2 LIMIT $3)
        UNION (SELECT tenant, ''::bytea FROM index_key WHERE tenant > $1 ORDER BY 1 LIMIT $3)
    ) AS s ORDER BY 1, 2 LIMIT $3
"""
# One that changed meanwhile, as by an erasure, stays as it is.
_REPLACE = """
    UPDATE {table} k SET wrapped = fresh.wrapped
    FROM unnest($1::{kind}[], $2::bytea[], $3::bytea[]) AS fresh (name, before, wrapped)
    WHERE k.{key} = fresh.name AND k.wrapped = fresh.before
"""
_REPLACE_DATA_KEYS = _REPLACE.format(table="data_key", key="id", kind="uuid")
_REPLACE_INDEX_KEYS = _REPLACE.format(table="index_key", key="tenant", kind="text")
_NEWEST_DATA_KEYS = """
    SELECT s.tenant, s.subject, newest.id, newest.wrapped
    FROM unnest($1::text[], $2::bytea[]) AS s (tenant, subject), LATERAL (
        SELECT k.id, k.wrapped FROM data_key k
        WHERE k.tenant = s.tenant AND k.subject = s.subject AND k.made_at > now() - $3::interval AND k.wrapped <> ''
        ORDER BY k.made_at DESC LIMIT 1
    ) AS newest
"""
_CLOSED = """
    SELECT tenant, subject, decided_at IS NOT NULL AS decided FROM erasure
    WHERE closing_since IS NOT NULL AND erased_at IS NULL OR erased_at > statement_timestamp() - $1::interval
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

        rows = await self._database.run(lambda connection: connection.fetch(_DATA_KEYS, list(identifiers)))
        return {row["id"]: _to_key(row) for row in rows}

    async def page_of_data_keys(self, after: UUID, limit: int) -> dict[UUID, KeptKey]:
        """Data keys by ascending ID."""
        rows = await self._database.run(lambda connection: connection.fetch(_PAGE_OF_DATA_KEYS, after, limit))
        return {row["id"]: _to_key(row) for row in rows}

    async def page_of_scopes(self, after: Scope | None, limit: int) -> list[Scope]:
        """Scopes that have keys, in order."""
        place = (after.tenant, after.subject) if after else ("", b"")  # no tenant is empty
        rows = await self._database.run(lambda connection: connection.fetch(_PAGE_OF_SCOPES, *place, limit))
        return [Scope(row["tenant"], row["subject"]) for row in rows]

    async def page_of_index_keys(self, after: str, limit: int) -> dict[str, bytes]:
        """Wrapped index keys by ascending tenant."""
        rows = await self._database.run(lambda connection: connection.fetch(_PAGE_OF_INDEX_KEYS, after, limit))
        return {row["tenant"]: row["wrapped"] for row in rows}

    async def replace_data_keys(self, keys: Mapping[UUID, tuple[bytes, bytes]]) -> None:
        """Newly wrapped data keys take the place of the same ones."""
        await self._replace(_REPLACE_DATA_KEYS, keys)

    async def replace_index_keys(self, keys: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Newly wrapped index keys take the place of the same ones."""
        await self._replace(_REPLACE_INDEX_KEYS, keys)

    async def _replace(
        self, query: str, keys: Mapping[UUID, tuple[bytes, bytes]] | Mapping[str, tuple[bytes, bytes]]
    ) -> None:
        before, fresh = [each for each, _ in keys.values()], [each for _, each in keys.values()]
        await self._database.run(lambda connection: connection.execute(query, list(keys), before, fresh))

    async def newest_data_keys(self, scopes: Sequence[Scope], age: float) -> dict[Scope, tuple[UUID, bytes]]:
        """Of each scope the newest data key that is young enough."""
        asked = [scope.tenant for scope in scopes], [scope.subject for scope in scopes], timedelta(seconds=age)
        rows = await self._database.run(lambda connection: connection.fetch(_NEWEST_DATA_KEYS, *asked))
        return {Scope(row["tenant"], row["subject"]): (row["id"], row["wrapped"]) for row in rows}

    async def keep_data_keys(self, keys: Sequence[WrappedKey]) -> None:
        """Keeps data keys."""
        rows = [(key.id, key.scope.tenant, key.scope.subject, key.wrapped) for key in keys]

        async def keep(connection: Connection) -> None:
            await connection.execute(_KEEP_DATA_KEYS, *map(list, zip(*rows, strict=True)))

        await self._database.run(keep)

    async def closed(self, seconds: float) -> dict[Scope, bool]:
        """The scopes of subjects that are being erased, or were lately."""
        lately = timedelta(seconds=seconds)
        rows = await self._database.run(lambda connection: connection.fetch(_CLOSED, lately))
        return {Scope(row["tenant"], row["subject"]): row["decided"] for row in rows}


def _to_key(row: asyncpg.Record) -> KeptKey:
    erased = Erased(row["erased_at"], row["certificate"]) if row["erased_at"] else None
    return KeptKey(Scope(row["tenant"], row["subject"]), row["wrapped"], erased)
