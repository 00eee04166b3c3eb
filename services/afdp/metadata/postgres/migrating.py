"""The schema is brought to this release by who owns it, and the service's login role is let in."""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from hmac import digest
from urllib.parse import unquote, urlsplit

import asyncpg

from afdp.errors import FailedPrecondition, NotaryError
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres.roles import ALL
from afdp.postgres import migrate_database as migrate_schema
from afdp.postgres import packaged, translated
from afdp.postgres.errors import FOREIGN

SCHEMA, SERVICE = "afdp_metadata", "metadata"
MIGRATIONS = packaged("afdp.metadata.postgres")

_ITERATIONS = 4096  # as PostgreSQL makes them itself


async def migrate_database(settings: MetadataSettings) -> int:
    """The command `migrate`: brings the schema to this release, and says what it did. Gives the exit status."""
    owner = settings.database_owner_url or settings.database_url
    try:
        done = await migrate_schema(settings.model_copy(update={"database_url": owner}), SCHEMA, SERVICE, MIGRATIONS)
        for migration in done:
            print(f"applied {migration.version:04d}_{migration.name}")
        if settings.database_owner_url is not None:
            login = await _let_in(settings.database_url.get_secret_value(), owner.get_secret_value(), settings)
            print(f"the role {login} is let in")
    except NotaryError as error:
        print(error, file=sys.stderr)
        return 1
    print("the schema is up to date")
    return 0


async def _let_in(url: str, owner_url: str, settings: MetadataSettings) -> str:
    """The login role of a URL is there, inherits nothing, and may take the roles of the service; gives its name."""
    parts = urlsplit(url)
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not login or login == unquote(urlsplit(owner_url).username or ""):
        raise FailedPrecondition("AFDP_DATABASE_URL must name a role of its own, which is not the owner of the schema")
    try:
        owner = await asyncpg.connect(owner_url, timeout=settings.database_connect_timeout_seconds)
        try:
            async with owner.transaction():
                if not await owner.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", login):
                    secret = scram_verifier(password) if password else None
                    await owner.execute(await owner.fetchval(_CREATE, login, secret))
                await owner.execute(await owner.fetchval(_GRANT, login))
        finally:
            await owner.close()
    except FOREIGN as error:
        raise translated(error) from None
    return login


_CREATE = "SELECT format('CREATE ROLE %I LOGIN NOINHERIT PASSWORD %L', $1::text, $2::text)"
_GRANT = f"SELECT format('GRANT {', '.join(ALL)} TO %I', $1::text)"


def scram_verifier(password: str, salt: bytes = b"") -> str:
    """What PostgreSQL keeps of a password (RFC 5803), so that the password itself goes to no server and into no log.

    Args:
        password: of ASCII, which RFC 4013 leaves as it is.
        salt: 16 bytes; none: random ones.
    """
    salt = salt or os.urandom(16)
    salted = pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored_key = sha256(digest(salted, b"Client Key", "sha256")).digest()
    server_key = digest(salted, b"Server Key", "sha256")
    salt_, stored, server = (b64encode(each).decode() for each in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_}${stored}:{server}"
