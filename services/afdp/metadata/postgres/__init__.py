"""Records in PostgreSQL, through asyncpg."""

from afdp.metadata.postgres.migrating import SCHEMA, migrate_database
from afdp.metadata.postgres.store import PostgresStore, open_store

__all__ = ["SCHEMA", "PostgresStore", "migrate_database", "open_store"]
