"""The schema's history: SQL files, each applied once, in order, and never changed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from afdp.errors import FailedPrecondition
from afdp.metadata.postgres.connections import SCHEMA, Connection

# Any number that nobody else locks; all who migrate this schema agree on it.
_LOCK = int.from_bytes(sha256(b"afdp_metadata migrations").digest()[:8], "big", signed=True)
_LOCK_PATIENCE = "60s"
_TIMEOUT = 3600.0  # an index over many millions of rows takes its time


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: `0001_records.sql` is version 1 of the name `records`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text, in hex."""
        return sha256(self.sql.encode()).hexdigest()


@cache
def packaged() -> tuple[Migration, ...]:
    """The migrations of this release, by ascending version."""
    folder = files("afdp.metadata.postgres") / "schema"
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(version), name, file.read_text(encoding="utf-8")))
    return tuple(found)


async def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Bring the schema to this release; gives what was applied, nothing if it was there already.

    Each migration is a transaction of its own under one advisory lock, so any number of processes may do this at once.
    A schema of a newer release is left as it is: releases only add to it.

    Raises:
        FailedPrecondition: a migration that was applied is not the one of this release.
    """
    wanted = packaged() if migrations is None else migrations
    if not _missing(wanted, await _applied(connection)):
        return []  # no right to change the schema is needed then
    done = []
    for migration in wanted:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if migration in _missing(wanted, await _applied(connection)):
                await _apply(connection, migration)
                done.append(migration)
    return done


async def _applied(connection: Connection) -> dict[int, str]:
    """The checksums of the applied migrations by version."""
    if await connection.fetchval("SELECT to_regclass($1) IS NULL", f"{SCHEMA}.schema_migration"):
        return {}
    rows = await connection.fetch(f"SELECT version, checksum FROM {SCHEMA}.schema_migration")  # noqa: S608 - a constant
    return {row["version"]: row["checksum"] for row in rows}


def _missing(wanted: Sequence[Migration], applied: dict[int, str]) -> list[Migration]:
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise FailedPrecondition(
                f"migration {migration.version:04d}_{migration.name} was applied to this database with other contents: "
                "this release does not belong to it"
            )
    return [migration for migration in wanted if migration.version not in applied]


async def _apply(connection: Connection, migration: Migration) -> None:
    if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", SCHEMA):
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.schema_migration ("
        "version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.execute(migration.sql, timeout=_TIMEOUT)
    await connection.execute(
        f"INSERT INTO {SCHEMA}.schema_migration (version, name, checksum) VALUES ($1, $2, $3)",  # noqa: S608 - a constant
        migration.version,
        migration.name,
        migration.checksum,
    )
