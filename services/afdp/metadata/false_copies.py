"""False copies of records are put on record: somebody can write where copies are kept, and has tried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from afdp.audit.rows import write_row
from afdp.errors import NotaryError
from afdp.metadata.audit_trail import AuditTrail, NewRow

logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds

_MOST_TENANTS = 256  # that are told of at once


@dataclass(slots=True)
class _Found:
    count: int
    latest: UUID


class FalseCopies:
    """Those that were found, until they are told of: the first at once, more of them each minute and by tenant."""

    def __init__(self) -> None:
        self._found: dict[str, _Found] = {}
        self._any = asyncio.Event()

    def add(self, tenant: str, receipt_id: UUID) -> None:
        """One was found in the place of a copy of this record."""
        if tenant in self._found:
            self._found[tenant].count += 1
            self._found[tenant].latest = receipt_id
        elif len(self._found) < _MOST_TENANTS:
            self._found[tenant] = _Found(1, receipt_id)
        self._any.set()

    @asynccontextmanager
    async def told(self, trail: AuditTrail, every: float = EVERY) -> AsyncIterator[None]:
        """They are told of for the length of a block."""
        task = asyncio.create_task(self._tell(trail, every))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _tell(self, trail: AuditTrail, every: float) -> None:
        while True:
            await self._any.wait()
            self._any.clear()
            found, self._found = self._found, {}
            count = sum(each.count for each in found.values())
            fields = {"count": count, "tenants": len(found)}
            logger.error("copies of records in the cache are false: they were dropped", extra={"fields": fields})
            await self._put(trail, [NewRow.read(_row(tenant, each)) for tenant, each in found.items()], every)
            await asyncio.sleep(every)

    async def _put(self, trail: AuditTrail, rows: list[NewRow], every: float) -> None:
        while True:
            try:
                return await trail.record(rows)
            except NotaryError as error:  # they have their IDs: written twice they are on record once
                logger.warning("false copies are not on record yet", extra={"fields": {"reason": error.message}})
                await asyncio.sleep(every)


def _row(tenant: str, found: _Found) -> bytes:
    return write_row(
        {
            "time": datetime.now(UTC),
            "step": "act",
            "result": "error",
            "rpc": "DropFalseCopy",
            "permission": "evidence.read",
            "issuer": "afdp-metadata",
            "subject": "record-cache",
            "method": "service",
            "tenant": tenant,
            "resource": f"receipt:{found.latest}",
            "reason": "a copy in the cache was not of this record: the record itself was read",
            "count": found.count,
        }
    )
