"""The months that divide the tables of records (`schema/0001_records.sql`): made ahead, or when one is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from afdp.errors import NotaryError
from afdp.postgres import Connection, Database

logger = logging.getLogger(__name__)

LOOK_EVERY = 3600.0  # seconds; there is always room for a month
_RETRY = 5.0

_AHEAD = "SELECT make_months_ahead()"
_FOR = "SELECT make_months($1::uuid[])"


async def make_for(connection: Connection, receipt_ids: Sequence[UUID]) -> bool:
    """Make the months of these receipt IDs; whether one was missing. There is none for an ID without a time."""
    made: bool = await connection.fetchval(_FOR, list(receipt_ids))
    return made


async def keep_ahead(database: Database, every: float = LOOK_EVERY) -> None:
    """Makes months ahead at the start and each `every` seconds, until it is cancelled. Several replicas may."""
    while True:
        await database.until_reachable()
        pause = every
        try:
            await database.run(lambda connection: connection.fetchval(_AHEAD))
        except NotaryError as error:
            logger.warning("no month could be made ahead", extra={"fields": {"reason": error.message}})
            pause = _RETRY
        await asyncio.sleep(pause)
