"""Records in PostgreSQL, through asyncpg."""

from afdp.metadata.postgres.store import PostgresStore, migrate_database, open_store

__all__ = ["PostgresStore", "migrate_database", "open_store"]
