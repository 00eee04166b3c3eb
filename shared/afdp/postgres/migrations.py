"""A schema's history: SQL files, each applied once, in order, and never changed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from afdp.errors import FailedPrecondition

if TYPE_CHECKING:
    from afdp.postgres.pool import Connection

_LOCK_PATIENCE = "60s"
_TIMEOUT = 3600.0  # seconds; an index over many millions of rows takes its time


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema: `0001_records.sql` is version 1 of the name `records`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text, in hex."""
        return sha256(self.sql.encode()).hexdigest()


@cache
def packaged(package: str) -> tuple[Migration, ...]:
    """The migrations in the folder `schema` of a package, by ascending version.

    Raises:
        ValueError: they are not numbered 1, 2, 3 and so on.
    """
    found = []
    for file in sorted((files(package) / "schema").iterdir(), key=lambda file: file.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(version), name, file.read_text(encoding="utf-8")))
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations of {package} are not numbered 1, 2, 3 and so on")
    return tuple(found)


async def migrate(connection: Connection, schema: str, migrations: Sequence[Migration]) -> list[Migration]:
    """Bring the schema to this release; gives what was applied, nothing if it was there already.

    Each migration is a transaction of its own under one advisory lock, so any number of processes may do this at once.
    A schema of a newer release is left as it is: releases only add to it.

    Raises:
        FailedPrecondition: a migration that was applied is not the one of this release.
    """
    if not _missing(migrations, await _applied(connection, schema)):
        return []  # no right to change the schema is needed then
    # Any number that nobody else locks; all who migrate this schema agree on it.
    lock = int.from_bytes(sha256(f"{schema} migrations".encode()).digest()[:8], "big", signed=True)
    done = []
    for migration in migrations:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
            await connection.execute("SELECT pg_advisory_xact_lock($1)", lock)
            if migration in _missing(migrations, await _applied(connection, schema)):
                await _apply(connection, schema, migration)
                done.append(migration)
    return done


async def _applied(connection: Connection, schema: str) -> dict[int, str]:
    """The checksums of the applied migrations by version."""
    # From the tables, not by to_regclass: its cache may not have what another process made while we waited.
    known = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'schema_migration')"
    if not await connection.fetchval(known, schema):
        return {}
    rows = await connection.fetch(f"SELECT version, checksum FROM {schema}.schema_migration")  # noqa: S608 - a constant
    return {row["version"]: row["checksum"] for row in rows}


def _missing(wanted: Sequence[Migration], applied: dict[int, str]) -> list[Migration]:
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise FailedPrecondition(
                f"migration {migration.version:04d}_{migration.name} was applied to this database with other contents: "
                "this release does not belong to it"
            )
    return [migration for migration in wanted if migration.version not in applied]


async def _apply(connection: Connection, schema: str, migration: Migration) -> None:
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {schema}.schema_migration ("
        "version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.execute(migration.sql, timeout=_TIMEOUT)
    await connection.execute(
        f"INSERT INTO {schema}.schema_migration (version, name, checksum) VALUES ($1, $2, $3)",  # noqa: S608 - a constant
        migration.version,
        migration.name,
        migration.checksum,
    )
