"""Whether the service's login role is one that row security holds for."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres.migrating import SCHEMA
from afdp.metadata.postgres.roles import ALL
from afdp.postgres.errors import FOREIGN
from afdp.selfcheck import Finding

_PATIENCE = 5.0  # seconds
_REMEDY = "run the command `migrate` of the service with AFDP_DATABASE_OWNER_URL: docs/tenants.md"

_STATE = """
    SELECT session_user AS login, r.rolsuper OR r.rolbypassrls AS above,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relowner = r.oid) AS owner,
           (SELECT count(*) FROM pg_roles g WHERE g.rolname = ANY($2::text[])) AS there,
           (SELECT count(*) FROM pg_roles g WHERE g.rolname = ANY($2::text[])
            AND pg_has_role(session_user, g.oid, 'MEMBER')) AS taken
    FROM pg_roles r WHERE r.rolname = session_user
"""


async def tenants(settings: MetadataSettings) -> Sequence[Finding]:
    """What keeps tenants apart in the database. Nothing is said where it cannot be reached, which is told elsewhere."""
    url = settings.database_url.get_secret_value()
    try:
        connection = await asyncpg.connect(url, timeout=_PATIENCE, command_timeout=_PATIENCE)
        try:
            row = await connection.fetchrow(_STATE, SCHEMA, list(ALL))
        finally:
            await connection.close(timeout=_PATIENCE)
    except FOREIGN:
        return []
    return [_finding(row)] if row else []


def _finding(row: asyncpg.Record) -> Finding:
    login = row["login"]
    if not row["there"]:
        return Finding("tenants", True, "the roles that keep tenants apart are made by the first migration")
    if row["taken"] < len(ALL):
        return Finding("tenants", False, f"the role {login} may not take {', '.join(ALL)}", _REMEDY)
    if row["above"] or row["owner"]:
        what = "is above row security" if row["above"] else "owns tables of its own schema"
        return Finding(
            "tenants", True, f"the role {login} {what}: a session is held only by the role it takes", _REMEDY
        )
    return Finding("tenants", True, f"the role {login} owns nothing, and sees rows only by the role that it takes")
