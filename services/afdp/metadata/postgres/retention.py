"""Classes, holds and expiries in PostgreSQL (`schema/0012_retention.sql`, which decides and does what goes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from uuid import UUID

import asyncpg
import orjson

from afdp.errors import AlreadyExists, FailedPrecondition
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.expiring import expire
from afdp.metadata.postgres.roles import as_keeper
from afdp.metadata.retention import Deferral, Due, Expiry, Hold, Period, Release
from afdp.postgres import Connection, Database, Work

_LONGEST = 6 * 3600.0  # seconds; to write what stays of a month takes its time

# A hold is placed before or after it is decided that a subject of its tenant is erased (`erasures.py`).
_PLACING = "SELECT pg_advisory_xact_lock_shared(hashtextextended('afdp_metadata.erasing.' || $1, 0))"
_PLACE = """
    INSERT INTO legal_hold (
        hold_id, tenant, case_number, reason, placed_by, artifact_hash, actor_id, event_type, subject,
        start_time, end_time, asked
    ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (hold_id) DO NOTHING
"""
_HOLD = "SELECT * FROM legal_hold WHERE tenant = $1 AND hold_id = $2"
_RELEASE = """
    UPDATE legal_hold SET released_by = $3, release_reason = $4, released_at = statement_timestamp()
    WHERE tenant = $1 AND hold_id = $2 AND released_at IS NULL
    RETURNING *
"""
_HOLDS = """
    SELECT * FROM legal_hold
    WHERE tenant = $1 AND ($2 OR released_at IS NULL) AND ($3::uuid IS NULL OR hold_id < $3)
    ORDER BY hold_id DESC LIMIT $4
"""
# Those that a hold keeps: not what is erased, or about to be with no way back. Readers may not know of erasures.
_NAMED = """
    SELECT count(*) FROM record r, legal_hold h WHERE h.hold_id = $1 AND r.tenant = h.tenant AND is_named(h, r)
        AND NOT EXISTS (
            SELECT FROM data_key k JOIN erasure e ON e.tenant = k.tenant AND e.subject = k.subject
            WHERE k.id = r.data_key AND e.decided_at IS NOT NULL
        )
"""
# What is shorter than what stands is not written, and not told.
_PUT_CLASSES = """
    INSERT INTO retention_class AS c (name, period) SELECT name, period::interval
    FROM unnest($1::text[], $2::text[]) AS given (name, period) ORDER BY name
    ON CONFLICT (name) DO UPDATE SET period = excluded.period
        WHERE c.period IS NOT NULL AND (
            excluded.period IS NULL OR excluded.period <> c.period AND lasts_as_long(excluded.period, c.period)
        )
"""
_LONGER = """
    SELECT c.name FROM retention_class c
    JOIN unnest($1::text[], $2::text[]) AS given (name, period) USING (name)
    WHERE c.period IS DISTINCT FROM given.period::interval ORDER BY c.name
"""
_DUE = """
    SELECT month, tenant, due, kept, held FROM months_with_records() AS month, due_in_month(month)
    WHERE due > 0 ORDER BY month, tenant
"""
_ALL = "SELECT * FROM expiry WHERE $1::uuid IS NULL OR expiry_id > $1 ORDER BY expiry_id LIMIT $2"
_UNCERTIFIED = "SELECT * FROM expiry WHERE certificate IS NULL ORDER BY expired_at, expiry_id LIMIT $1"
_EXPIRED = """
    SELECT * FROM expiry WHERE tenant = $1 AND month = date_trunc('month', time_of($2) AT TIME ZONE 'UTC')::date
    ORDER BY expired_at
"""
_CERTIFY = "UPDATE expiry SET certificate = $2 WHERE expiry_id = $1 AND certificate IS NULL"
_DEFERRED = """
    SELECT max(until) FILTER (WHERE until > now() AND until < 'infinity') AS until,
           coalesce(bool_or(until = 'infinity'), false) AS for_ever,
           (SELECT coalesce(array_agg(DISTINCT h.case_number), '{}') FROM legal_hold h
            WHERE h.tenant = $1 AND h.released_at IS NULL AND EXISTS (
                SELECT FROM record r
                WHERE r.receipt_id = ANY($2::uuid[]) AND r.tenant = $1 AND is_named(h, r))) AS cases
    FROM (SELECT must_stay_until(retention_class, notarized_at) AS until FROM record
          WHERE tenant = $1 AND receipt_id = ANY($2::uuid[])) AS told
"""


class PostgresRetention:
    """The promises are those of `afdp.metadata.retention.RetentionStore`."""

    def __init__(self, database: Database, tenants: Database) -> None:
        self._database = database
        self._tenants = tenants

    async def place_hold(self, hold: Hold) -> tuple[Hold, int]:
        """Puts a hold on record."""
        who = hold.hold_id, hold.tenant, hold.case_number, hold.reason, hold.placed_by
        about = hold.artifact_hash, hold.actor_id, hold.event_type, hold.subject, hold.start_time, hold.end_time

        async def place(connection: Connection) -> Hold:
            async with connection.transaction():
                await connection.execute(_PLACING, hold.tenant)
                await connection.execute(_PLACE, *who, *about, hold.asked)
            row = await connection.fetchrow(_HOLD, hold.tenant, hold.hold_id)
            found = None if row is None else _to_hold(row)
            if found is None or _asked(found) != _asked(hold):
                raise AlreadyExists("another hold stands under this ID")
            return found

        placed = await self._database.run(place)
        count = await self._database.run(lambda connection: connection.fetchval(_NAMED, hold.hold_id))
        return placed, int(count or 0)

    async def release_hold(self, release: Release) -> Hold | None:
        """Ends a hold."""

        async def end(connection: Connection) -> Hold | None:
            named = release.tenant, release.hold_id
            row = await connection.fetchrow(_RELEASE, *named, release.released_by, release.reason)
            if row is None and await connection.fetchrow(_HOLD, *named):
                raise FailedPrecondition("this hold has been released before")
            return None if row is None else _to_hold(row)

        return await self._database.run(end)

    async def holds(self, tenant: str, *, released: bool, before: UUID | None, limit: int) -> list[Hold]:
        """A tenant's holds, newest first."""
        rows = await self._tenants.run_for(tenant, lambda c: c.fetch(_HOLDS, tenant, released, before, limit))
        return [_to_hold(row) for row in rows]

    async def put_classes(self, classes: Mapping[str, Period]) -> list[str]:
        """Says how long classes are kept."""
        names, periods = list(classes), [each.iso for each in classes.values()]

        async def put(connection: Connection) -> list[str]:
            await connection.execute(_PUT_CLASSES, names, periods)
            return [row["name"] for row in await connection.fetch(_LONGER, names, periods)]

        return await self._database.run(as_keeper(put))

    async def due(self) -> list[Due]:
        """Where something is due."""
        rows = await self._database.run(as_keeper(patient(_DUE)))
        return [Due(row["month"], row["tenant"], row["due"], row["kept"], row["held"]) for row in rows]

    async def expire_month(self, month: date, act: UUID | None = None) -> list[Expiry]:
        """Lets go what is due of a month."""
        return [_to_expiry(row) for row in await self._database.run(lambda each: expire(each, month, act))]

    async def all_expired(self, after: UUID | None, limit: int) -> list[Expiry]:
        """What went of all tenants, by ascending ID."""
        rows = await self._database.run(as_keeper(lambda connection: connection.fetch(_ALL, after, limit)))
        return [_to_expiry(row) for row in rows]

    async def uncertified(self, limit: int) -> list[Expiry]:
        """What went and has no certificate."""
        rows = await self._database.run(as_keeper(lambda connection: connection.fetch(_UNCERTIFIED, limit)))
        return [_to_expiry(row) for row in rows]

    async def expired(self, tenant: str, receipt_id: UUID) -> list[Expiry]:
        """What went of a tenant in the month of this receipt ID."""
        rows = await self._tenants.run_for(tenant, lambda connection: connection.fetch(_EXPIRED, tenant, receipt_id))
        return [_to_expiry(row) for row in rows]

    async def certify(self, expiry_id: UUID, receipt_id: UUID) -> None:
        """Writes which record certifies an expiry."""
        await self._database.run(as_keeper(lambda connection: connection.execute(_CERTIFY, expiry_id, receipt_id)))

    async def deferred(self, tenant: str, receipt_ids: Sequence[UUID]) -> Deferral | None:
        """What keeps any of these records from being erased now."""
        return await self._tenants.run_for(tenant, lambda connection: deferred(connection, tenant, receipt_ids))


async def deferred(connection: Connection, tenant: str, receipt_ids: Sequence[UUID]) -> Deferral | None:
    """As `PostgresRetention.deferred`, by any role that may read records and holds, also in a caller's transaction."""
    [row] = await fetch_pruned(connection, _DEFERRED, tenant, list(receipt_ids))
    if row["until"] is None and not row["for_ever"] and not row["cases"]:
        return None
    return Deferral(None if row["for_ever"] else row["until"], row["for_ever"], tuple(row["cases"]))


def patient(query: str, *values: object) -> Work[list[asyncpg.Record]]:
    """Work that may take hours, in a transaction."""

    async def fetch(connection: Connection) -> list[asyncpg.Record]:
        await connection.execute("SET LOCAL statement_timeout = 0")
        rows: list[asyncpg.Record] = await connection.fetch(query, *values, timeout=_LONGEST)
        return rows

    return fetch


def _asked(hold: Hold) -> tuple[object, ...]:
    """What a hold is about, without what became of it."""
    about = hold.artifact_hash, hold.actor_id, hold.event_type, hold.subject, hold.start_time, hold.end_time
    return (hold.tenant, hold.case_number, hold.reason, hold.placed_by, *about)


def _to_hold(row: asyncpg.Record) -> Hold:
    return Hold(**dict(row))


def _to_expiry(row: asyncpg.Record) -> Expiry:
    return Expiry(**{**dict(row), "classes": orjson.loads(row["classes"])})
