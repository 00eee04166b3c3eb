"""Whether PostgreSQL is there for a service: reached with its settings, new enough, and the service may work in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import asyncpg

from afdp.postgres.errors import FOREIGN
from afdp.postgres.settings import DatabaseSettings
from afdp.selfcheck import Finding

_OLDEST = 15
_PATIENCE = 5.0  # seconds
_REMEDY = "look at AFDP_DATABASE_URL, at PostgreSQL's own log, and at pg_hba.conf"

_STATE = """
    SELECT current_setting('server_version_num')::int / 10000 AS version,
           pg_is_in_recovery() AS standby,
           to_regnamespace($1) IS NOT NULL AS there,
           CASE WHEN to_regnamespace($1) IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                ELSE has_schema_privilege($1, 'USAGE') END AS allowed
"""


def postgres_of(schema: str) -> Callable[[DatabaseSettings], Awaitable[Sequence[Finding]]]:
    """The look at PostgreSQL of a service that keeps its tables in a schema."""

    async def postgres(settings: DatabaseSettings) -> Sequence[Finding]:
        url = settings.database_url.get_secret_value()
        where = _without_password(url)
        try:
            connection = await asyncpg.connect(url, timeout=_PATIENCE, command_timeout=_PATIENCE)
            try:
                row = await connection.fetchrow(_STATE, schema)
            finally:
                await connection.close(timeout=_PATIENCE)
        except FOREIGN as error:
            return [Finding("postgres", False, f"{where}: {_why(error)}", _REMEDY)]
        return [_finding(where, schema, row)] if row else []

    return postgres


def _why(error: BaseException) -> str:
    """In our words: PostgreSQL's own may quote names."""
    for kinds, why in _WHY:
        if isinstance(error, kinds):
            return why
    return "it refuses the connection"


_WHY: Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = (
    (TimeoutError, f"no answer within {_PATIENCE:g} seconds"),
    (asyncpg.InvalidPasswordError, "the password is refused"),
    (asyncpg.InvalidAuthorizationSpecificationError, "the role is not let in"),
    (asyncpg.InvalidCatalogNameError, "there is no such database"),
    (asyncpg.TooManyConnectionsError, "it has no connection left"),
    (asyncpg.CannotConnectNowError, "it is starting or stopping"),
    (OSError, "nobody answers there"),
)


def _finding(where: str, schema: str, row: asyncpg.Record) -> Finding:
    what = f"{where}, PostgreSQL {row['version']}"
    if row["version"] < _OLDEST:
        return Finding("postgres", False, what, f"upgrade it to {_OLDEST} or later")
    if row["standby"]:
        return Finding("postgres", False, f"{what}, is a standby", "name the primary in AFDP_DATABASE_URL")
    if not row["allowed"] and row["there"]:
        return Finding("postgres", False, f"{what}: the role may not use the schema {schema}", "give it to the role")
    if not row["allowed"]:
        remedy = "give the role the database, or run the command `migrate` of the service as one that owns it"
        return Finding("postgres", False, f"{what}: the role may not make the schema {schema}", remedy)
    state = "is there" if row["there"] else "is made at the first start"
    return Finding("postgres", True, f"{what}, schema {schema} {state}")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
