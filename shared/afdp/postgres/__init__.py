"""PostgreSQL for the services that keep state there: one pool, one way to migrate, one translation of its errors.

async with open_database(settings, "afdp_log", "transparency", packaged("afdp.transparency")) as database:
    size = await database.run(lambda connection: connection.fetchval("SELECT size FROM tree"))
"""

from afdp.postgres.errors import is_refused, refusal, translated
from afdp.postgres.migrations import Migration, migrate, packaged
from afdp.postgres.pool import Connection, Database, Work, migrate_database, open_database
from afdp.postgres.settings import DatabaseSettings, check_postgres_url

__all__ = [
    "Connection",
    "Database",
    "DatabaseSettings",
    "Migration",
    "Work",
    "check_postgres_url",
    "is_refused",
    "migrate",
    "migrate_database",
    "open_database",
    "packaged",
    "refusal",
    "translated",
]
