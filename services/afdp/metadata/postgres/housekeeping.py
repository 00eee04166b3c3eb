"""What goes on beside the calls, slowly: counting what waits, forgetting old idempotency keys."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial

from prometheus_client import Gauge

from afdp.errors import NotaryError
from afdp.metadata.postgres import changes, idempotency, stamps
from afdp.metadata.postgres.roles import as_keeper
from afdp.postgres import Connection, Database

logger = logging.getLogger(__name__)

FORGET_EVERY = 3600.0  # seconds

_pending = Gauge("afdp_records_pending", "Records that are signed and not known to be in the log.")
_oldest = Gauge("afdp_records_pending_oldest_seconds", "Age of the oldest pending record; 0 where there is none.")
_unstamped = Gauge("afdp_records_unstamped", "Records that wait for the stamp of an authority outside.")
_unstamped_oldest = Gauge("afdp_records_unstamped_oldest_seconds", "Age of the oldest of them; 0 where there is none.")

_PENDING = """
    SELECT count(*) AS number,
           coalesce(greatest(extract(epoch FROM now() - min(notarized_at)), 0), 0)::float8 AS oldest
    FROM pending
"""
_FORGET_USAGE = "DELETE FROM tenant_usage WHERE day < current_date - 400"


async def count_waiting(database: Database, every: float) -> None:
    """Sets the gauges each `every` seconds, until it is cancelled. While PostgreSQL is away they stay as they were."""
    while True:
        await database.until_reachable()
        try:
            await refresh_waiting(database)
        except NotaryError as error:
            logger.info("what waits was not counted", extra={"fields": {"reason": error.message}})
        await asyncio.sleep(every)


async def refresh_waiting(database: Database) -> None:
    """Sets the gauges now."""

    async def count(connection: Connection) -> tuple[int, float]:
        row = await connection.fetchrow(_PENDING)
        return (row["number"], row["oldest"]) if row else (0, 0.0)

    number, oldest = await database.run(as_keeper(count))
    _pending.set(number)
    _oldest.set(oldest)
    unstamped = await database.run(as_keeper(stamps.backlog))
    _unstamped.set(unstamped.waiting)
    age = datetime.now(UTC) - unstamped.oldest if unstamped.oldest else timedelta()
    _unstamped_oldest.set(max(0.0, age.total_seconds()))


async def forget_old_keys(database: Database, retention: timedelta, every: float = FORGET_EVERY) -> None:
    """Deletes idempotency keys past their retention each `every` seconds, and tenants' use of more than a year ago."""

    async def forget(connection: Connection) -> int:
        await connection.execute(_FORGET_USAGE)
        return await idempotency.forget_expired(connection, retention)

    while True:
        await database.until_reachable()
        try:
            while await database.run(as_keeper(forget)):
                pass
        except NotaryError as error:
            logger.info("old idempotency keys were not deleted", extra={"fields": {"reason": error.message}})
        await asyncio.sleep(every)


async def forget_old_changes(database: Database, retention: timedelta, every: float = FORGET_EVERY) -> None:
    """Deletes what watchers were to be told of past its retention, each `every` seconds, and not at once."""
    while True:
        await asyncio.sleep(every)
        await database.until_reachable()
        try:
            while await database.run(as_keeper(partial(changes.forget_old, retention=retention))):
                pass
        except NotaryError as error:
            logger.info("old changes were not deleted", extra={"fields": {"reason": error.message}})
