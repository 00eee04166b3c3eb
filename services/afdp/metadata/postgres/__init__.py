"""Records in PostgreSQL, through asyncpg."""

from afdp.metadata.postgres.store import SCHEMA, PostgresStore, migrate_database, open_store

__all__ = ["SCHEMA", "PostgresStore", "migrate_database", "open_store"]
