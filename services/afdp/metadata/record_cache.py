"""What may keep copies of records beside the store.

A copy is of a record as the store has it: where that is sealed, so is the copy, and it says nothing once the key of its
subject is destroyed. It is only of a record that can no longer change, so that none ever has to be called back.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from afdp.metadata.values import Record


class RecordCache(Protocol):
    """One technology that keeps copies: `redis_cache.py`. It raises nothing, whatever becomes of it."""

    async def find(self, tenant: str, receipt_id: UUID) -> Record | None:
        """A copy of a record of this tenant, as it was kept; None: there is none."""

    def keep(self, tenant: str, record: Record) -> None:
        """Keeps a copy of a record of this tenant, or not; it must stay as it is for a day."""
