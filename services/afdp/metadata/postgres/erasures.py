"""Erasures in PostgreSQL (`schema/0016_erasure.sql`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from afdp.errors import Aborted, NotFound
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.metadata.erasing import Erasure, Waiting
from afdp.metadata.postgres.retention import patient
from afdp.metadata.record_keys import KeptKey, Scope
from afdp.metadata.values import Erased
from afdp.postgres import Connection, Database
from afdp.postgres.errors import RETRY_AFTER

# A hold on records of the tenant is placed before or after (`retention.py`), and its records are written so, too.
_DECIDING = "SELECT pg_advisory_xact_lock(hashtextextended('afdp_metadata.erasing.' || $1, 0))"
_ADD = """
    INSERT INTO erasure (tenant, subject, requested_by, reason) VALUES ($1, $2, $3, $4)
    ON CONFLICT (tenant, subject) DO NOTHING
"""
_RENEW = """
    INSERT INTO erasure AS e (tenant, subject, requested_by, reason, closing_since, decided_at)
    VALUES ($1, $2, $3, $4, statement_timestamp(), statement_timestamp())
    ON CONFLICT (tenant, subject) DO UPDATE
        SET closing_since = excluded.closing_since, decided_at = excluded.decided_at, deferred = NULL
        WHERE e.decided_at IS NULL
"""
_ONE = "SELECT * FROM erasure WHERE tenant = $1 AND subject = $2"
_PAGE = """
    SELECT * FROM erasure
    WHERE ($1 = '' OR tenant = $1) AND (NOT $5 OR certificate IS NULL)
        AND ($2::text IS NULL OR (tenant, subject) > ($2, $3))
    ORDER BY tenant, subject LIMIT $4
"""
_KEYS = "SELECT id FROM data_key WHERE tenant = $1 AND subject = $2"
# What keeps the records of a subject's data keys. A class keeps the youngest of them the longest.
_WAITING = """
    SELECT
        (SELECT coalesce(jsonb_object_agg(class, until), '{}') FROM (
            SELECT class, must_stay_until(class, youngest)::text AS until FROM (
                SELECT r.retention_class AS class, max(r.notarized_at) AS youngest FROM record r
                WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1 AND r.retention_class <> '' GROUP BY 1
            ) AS of_class WHERE must_stay_until(class, youngest) > now()
        ) AS told) AS classes,
        (SELECT max(until) FILTER (WHERE until < 'infinity') FROM (
            SELECT must_stay_until(r.retention_class, max(r.notarized_at)) AS until FROM record r
            WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1 AND r.retention_class <> ''
            GROUP BY r.retention_class
        ) AS told WHERE until > now()) AS until,
        (SELECT coalesce(array_agg(DISTINCT h.case_number ORDER BY h.case_number), '{}') FROM legal_hold h
         WHERE h.tenant = $1 AND h.released_at IS NULL AND EXISTS (
             SELECT FROM record r WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1 AND is_named(h, r))) AS cases,
        (SELECT count(*) FROM (
            SELECT receipt_id FROM pending UNION SELECT receipt_id FROM log_queue
            UNION SELECT receipt_id FROM stamp_wanted
        ) AS w JOIN record r USING (receipt_id) WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1) AS unfinished
"""
_DEFER = "UPDATE erasure SET deferred = $3 WHERE tenant = $1 AND subject = $2 AND decided_at IS NULL"
_CLOSE = """
    UPDATE erasure SET closing_since = clock_timestamp()
    WHERE tenant = $1 AND subject = $2 AND closing_since IS NULL AND erased_at IS NULL
"""
_LOCKED = f"{_ONE} FOR UPDATE"
_OPEN = """
    UPDATE erasure SET closing_since = NULL, deferred = $3
    WHERE tenant = $1 AND subject = $2 AND decided_at IS NULL
"""
_DECIDE = """
    UPDATE erasure SET decided_at = statement_timestamp(), deferred = NULL
    WHERE tenant = $1 AND subject = $2 AND decided_at IS NULL
"""
_SEALED = """
    SELECT count(*) AS records, (min(r.receipt_id::text))::uuid AS first_id, (max(r.receipt_id::text))::uuid AS last_id,
           coalesce(tree_root(array_agg(
               sha256('\\x00'::bytea || uuid_send(r.receipt_id) || coalesce(c.leaf_hash, '')) ORDER BY r.receipt_id
           )), sha256('')) AS root
    FROM record r LEFT JOIN record_content c ON c.receipt_id = r.receipt_id
    WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1
"""
_WIPE = "UPDATE data_key SET wrapped = '' WHERE tenant = $1 AND subject = $2"
_ERASED = """
    UPDATE erasure
    SET erased_at = clock_timestamp(), records = $3, first_id = $4, last_id = $5, root = $6, act = $7, deferred = NULL
    WHERE tenant = $1 AND subject = $2 AND decided_at IS NOT NULL AND erased_at IS NULL
"""
# Who watches is told, and pages of what was told before are read anew.
_CHANGED = """
    INSERT INTO record_change (tenant, receipt_ids)
    SELECT tenant, array_agg(receipt_id ORDER BY receipt_id) FROM (
        SELECT tenant, receipt_id, (row_number() OVER (ORDER BY receipt_id) - 1) / 256 AS part FROM record r
        WHERE r.data_key = ANY($2::uuid[]) AND r.tenant = $1
    ) AS sealed GROUP BY tenant, part ORDER BY part
"""
_KEY_OF = """
    SELECT k.tenant, k.subject, k.wrapped, e.erased_at, e.certificate
    FROM record r JOIN data_key k ON k.id = r.data_key AND k.tenant = r.tenant
    LEFT JOIN erasure e ON e.tenant = k.tenant AND e.subject = k.subject AND e.erased_at IS NOT NULL
    WHERE r.receipt_id = $2 AND r.tenant = $1 AND octet_length(k.subject) > 0
"""
_CERTIFY = """
    UPDATE erasure SET certificate = $3
    WHERE tenant = $1 AND subject = $2 AND erased_at IS NOT NULL AND certificate IS NULL
"""


class PostgresErasures:
    """The promises are those of `afdp.metadata.erasing.ErasureStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, scope: Scope, requested_by: str, reason: str) -> Erasure:
        """Puts on record that a subject is to be erased."""

        async def put(connection: Connection) -> Erasure:
            await connection.execute(_ADD, scope.tenant, scope.subject, requested_by, reason)
            return await _standing(connection, scope)

        return await self._database.run(put)

    async def get(self, scope: Scope) -> Erasure | None:
        """One erasure."""
        row = await self._database.run(lambda connection: connection.fetchrow(_ONE, scope.tenant, scope.subject))
        return None if row is None else _to_erasure(row)

    async def page(self, tenant: str, after: Scope | None, limit: int, uncertified: bool) -> list[Erasure]:
        """A tenant's, or those of all."""
        place = (None, b"") if after is None else (after.tenant, after.subject)
        rows = await self._database.run(lambda connection: connection.fetch(_PAGE, tenant, *place, limit, uncertified))
        return [_to_erasure(row) for row in rows]

    async def defer(self, scope: Scope) -> Waiting | None:
        """Writes what keeps the subject's records."""

        async def look(connection: Connection) -> Waiting | None:
            found = await _waiting(connection, scope)
            await connection.execute(_DEFER, scope.tenant, scope.subject, _to_json(found))
            return found

        return await self._database.run(look)

    async def close(self, scope: Scope) -> datetime:
        """Writes that nothing is to be sealed for the subject any more."""

        async def shut(connection: Connection) -> datetime:
            await connection.execute(_CLOSE, scope.tenant, scope.subject)
            since = (await _standing(connection, scope)).closing_since
            if since is None:
                raise Aborted("the erasure was opened again meanwhile", retry_after=RETRY_AFTER)
            return since

        return await self._database.run(shut)

    async def decide(self, scope: Scope, closing_since: datetime) -> Waiting | None:
        """Decides that it is erased, or opens it again."""

        async def judge(connection: Connection) -> Waiting | None:
            async with connection.transaction():
                await connection.execute(_DECIDING, scope.tenant)
                row = await connection.fetchrow(_LOCKED, scope.tenant, scope.subject)
                if row is not None and row["decided_at"] is not None:
                    return None
                if row is None or row["closing_since"] != closing_since:
                    raise Aborted("the erasure was opened again meanwhile", retry_after=RETRY_AFTER)
                if (found := await _waiting(connection, scope)) is not None:
                    await connection.execute(_OPEN, scope.tenant, scope.subject, _to_json(found))
                else:
                    await connection.execute(_DECIDE, scope.tenant, scope.subject)
                return found

        return await self._database.run(judge)

    async def wipe(self, scope: Scope, act: UUID) -> Erasure:
        """Empties the data keys, and counts what they had sealed."""

        async def empty(connection: Connection) -> Erasure:
            if (found := await _standing(connection, scope)).erased_at is not None:
                return found
            keys = [each["id"] for each in await connection.fetch(_KEYS, scope.tenant, scope.subject)]
            async with connection.transaction(readonly=True):  # this may take long, and nobody waits for it
                [sealed] = await patient(_SEALED, scope.tenant, keys)(connection)
            async with connection.transaction():
                if not (await _standing(connection, scope, _LOCKED)).erased_at:
                    await connection.execute(_CHANGED, scope.tenant, keys)
                    await connection.execute(_WIPE, scope.tenant, scope.subject)
                    await connection.execute(_ERASED, scope.tenant, scope.subject, *sealed.values(), act)
                return await _standing(connection, scope)

        return await self._database.run(empty)

    async def renew(self, scope: Scope, requested_by: str, reason: str) -> None:
        """Puts on record that it is decided."""
        row = scope.tenant, scope.subject, requested_by, reason
        await self._database.run(lambda connection: connection.execute(_RENEW, *row))

    async def key_of(self, tenant: str, receipt_id: UUID) -> KeptKey | None:
        """The data key of a record."""
        row = await self._database.run(lambda connection: connection.fetchrow(_KEY_OF, tenant, receipt_id))
        if row is None:
            return None
        erased = Erased(row["erased_at"], row["certificate"]) if row["erased_at"] else None
        return KeptKey(Scope(row["tenant"], row["subject"]), row["wrapped"], erased)

    async def certify(self, scope: Scope, receipt_id: UUID) -> None:
        """Writes which record certifies it."""
        row = scope.tenant, scope.subject, receipt_id
        await self._database.run(lambda connection: connection.execute(_CERTIFY, *row))


async def _standing(connection: Connection, scope: Scope, query: str = _ONE) -> Erasure:
    row = await connection.fetchrow(query, scope.tenant, scope.subject)
    if row is None:
        raise NotFound("there is no such erasure")
    return _to_erasure(row)


async def _waiting(connection: Connection, scope: Scope) -> Waiting | None:
    keys = [each["id"] for each in await connection.fetch(_KEYS, scope.tenant, scope.subject)]
    [row] = await connection.fetch(_WAITING, scope.tenant, keys)
    classes: dict[str, str] = orjson.loads(row["classes"])
    for_ever = "infinity" in classes.values()
    found = Waiting(
        tuple(sorted(classes)), None if for_ever else row["until"], for_ever, tuple(row["cases"]), row["unfinished"]
    )
    return None if found == Waiting() else found


def _to_json(waiting: Waiting | None) -> str | None:
    if waiting is None:
        return None
    said = {
        "classes": waiting.classes,
        "until": format_timestamp(waiting.until) if waiting.until else None,
        "for_ever": waiting.for_ever,
        "cases": waiting.cases,
        "unfinished": waiting.unfinished,
    }
    return orjson.dumps(said).decode()


def _from_json(text: str) -> Waiting:
    said = orjson.loads(text)
    until = parse_timestamp(said["until"]) if said["until"] else None
    return Waiting(tuple(said["classes"]), until, said["for_ever"], tuple(said["cases"]), said["unfinished"])


def _to_erasure(row: asyncpg.Record) -> Erasure:
    values: Mapping[str, object] = {name: value for name, value in row.items() if name != "deferred"}
    found = Erasure(**{**values, "root": row["root"] or b""})  # type: ignore[arg-type]
    return found if row["deferred"] is None else replace(found, waiting=_from_json(row["deferred"]))
