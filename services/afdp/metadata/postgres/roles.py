"""The roles that sessions take, each with no more rights than its work needs (`schema/0007_tenants.sql`)."""

from __future__ import annotations

from typing import TypeVar

from afdp.metadata.config import MetadataSettings
from afdp.postgres import Connection, Work

T = TypeVar("T")

WRITER = {"role": "afdp_metadata_writer"}
"""The pipeline, whose batches are of many tenants. It adds records, and changes or deletes none."""

READER = {
    "role": "afdp_metadata_reader",
    "default_transaction_read_only": "on",
    "plan_cache_mode": "force_custom_plan",
}
"""Tenants, each confined to its own rows by `Database.run_for`.

Plans are made for the values asked for: of divided tables they have only the months where these can be, and of several
indexes the one that finds the fewest rows.
"""

KEEPER = "afdp_metadata_keeper"

ALL = (WRITER["role"], READER["role"], KEEPER)
"""Those that the service's login role is a member of."""


def as_keeper(work: Work[T]) -> Work[T]:
    """Work that counts what waits and forgets what is old: in a transaction of the role for it."""

    async def kept(connection: Connection) -> T:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {KEEPER}")
            return await work(connection)

    return kept


def shared_out(settings: MetadataSettings) -> tuple[MetadataSettings, MetadataSettings]:
    """The settings for the pipeline's connections and for the readers': half of the connections each."""
    least, most = settings.database_pool_min, settings.database_pool_max
    readers = {"database_pool_min": max(1, least // 2), "database_pool_max": max(1, most // 2)}
    pipeline = {
        "database_pool_min": max(1, least - readers["database_pool_min"]),
        "database_pool_max": max(1, most - readers["database_pool_max"]),
    }
    return settings.model_copy(update=pipeline), settings.model_copy(update=readers)
