"""What the metadata service promises of the audit trail, whatever keeps it.

Rows are only ever added. Seals fix them, each linked to the one before; one process at a time makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from afdp.audit.rows import INTENT, RowHead, acts_of, head_of
from afdp.audit.seals import next_seal

MOST_SEALED = 20_000  # rows under one seal
_HORIZON = timedelta(seconds=5)  # longest wait for older transactions; then the next call goes on waiting


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to add, and what it is filed under."""

    head: RowHead
    row: bytes

    @classmethod
    def read(cls, row: bytes) -> NewRow:
        """Raises InvalidArgument where it is no row."""
        return cls(head_of(row), row)


@dataclass(frozen=True, slots=True)
class Row:
    """A row on record."""

    sequence: int
    tenant: str
    recorded_at: datetime
    row: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seal on record.

    Attributes:
        body: as `afdp.audit.seals` writes it.
        sequences: of its rows, ascending.
        leaves: their leaf hashes, 32 bytes each, concatenated.
        anchor: the receipt of its own notarisation.
    """

    number: int
    body: bytes
    sequences: Sequence[int]
    leaves: bytes
    sealed_at: datetime
    anchor: UUID | None


@dataclass(frozen=True, slots=True)
class RowQuery:
    """Which rows of a tenant; None or empty: any. `start_time` belongs to the span, `end_time` does not."""

    tenant: str
    start_time: datetime | None = None
    end_time: datetime | None = None
    actor: str = ""
    resource: str = ""
    result: str = ""


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Rows that are to be sealed next, by ascending sequence.

    Attributes:
        before: the body of the newest seal; None: there is none.
        worth: whether there is more than what is about the last seal's own notarisation.
    """

    before: bytes | None
    sequences: Sequence[int]
    leaves: Sequence[bytes]
    worth: bool


@dataclass(frozen=True, slots=True)
class SealState:
    """What `seal` found and left.

    Attributes:
        held: whether the asker is the one that seals.
        unanchored: the newest seal, where it has no anchor.
        oldest: when the oldest row was written that is to be sealed and is not.
    """

    held: bool
    unanchored: Sealed | None = None
    oldest: datetime | None = None


class AuditStore(Protocol):
    """One technology that keeps the trail: `postgres/audit.py`. Each method raises Unavailable while it is away."""

    async def add_rows(self, rows: Sequence[NewRow]) -> None:
        """Add rows, all or none; one that is on record by its ID is passed over."""

    async def list_rows(self, query: RowQuery, before: int, limit: int, *, inclusive: bool = False) -> list[Row]:
        """A tenant's rows that match, newest first, older than the one with this sequence; 0: from the newest."""

    async def without_outcome(self, tenant: str, acts: Sequence[str]) -> list[str]:
        """Those acts that no row of a tenant is the outcome of."""

    async def read_rows(self, after: int, limit: int, *, sealed: bool) -> list[Row]:
        """Rows of all tenants by ascending sequence; with `sealed` those alone that a seal covers."""

    async def read_tenants_rows(self, tenant: str, after: int, limit: int, *, sealed: bool) -> list[Row]:
        """The same of one tenant, as who is confined to it."""

    async def read_filed(self, after: int, limit: int) -> list[tuple[Row, str]]:
        """Rows of all tenants, each with the names of what it is filed under that is not its own, if any."""

    async def read_seals(self, after: int, limit: int, covering: int = 0) -> list[Sealed]:
        """Seals by ascending number, from the one on that covers this row."""

    async def take_sealing(self, holder: UUID, lease: timedelta) -> bool:
        """Whether `holder` is the one that seals, for the length of the lease."""

    async def settled_until(self, patience: timedelta) -> int | None:
        """A sequence below which no row can appear any more, as high as can be; None: older work is not over yet."""

    async def unsealed(self, until: int, limit: int) -> Unsealed:
        """The rows up to a sequence that no seal covers."""

    async def add_seal(self, number: int, body: bytes, sequences: Sequence[int], leaves: bytes) -> None:
        """Add a seal. Raises Aborted where another one has this number."""

    async def newest_unanchored(self) -> Sealed | None:
        """The newest seal without its rows, where it has no anchor."""

    async def oldest_unsealed(self) -> datetime | None:
        """When the oldest row that is worth a seal was written and has none."""

    async def add_anchor(self, number: int, receipt_id: UUID) -> None:
        """Note a seal's own receipt. Raises FailedPrecondition where it has another one."""


class AuditTrail:
    """The trail."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store

    async def record(self, rows: Sequence[NewRow]) -> None:
        """Add rows, all or none. May be repeated."""
        await self._store.add_rows(rows)

    async def of_tenant(
        self, query: RowQuery, before: int, limit: int, *, inclusive: bool = False
    ) -> tuple[list[Row], list[str]]:
        """A page of a tenant's rows, newest first, and the acts that it has the intent of and nothing the outcome."""
        rows = await self._store.list_rows(query, before, limit, inclusive=inclusive)
        acts = [act for each in rows for phase, acts in (acts_of(each.row),) if phase == INTENT for act in acts]
        return rows, await self._store.without_outcome(query.tenant, acts) if acts else []

    async def read(self, after: int, limit: int, *, sealed: bool, tenant: str = "") -> list[Row]:
        """Rows of one tenant, or of all, oldest first."""
        if tenant:
            return await self._store.read_tenants_rows(tenant, after, limit, sealed=sealed)
        return await self._store.read_rows(after, limit, sealed=sealed)

    async def read_filed(self, after: int, limit: int) -> list[tuple[Row, str]]:
        """Rows of all tenants, sealed or not, each with what it is filed under that is not its own."""
        return await self._store.read_filed(after, limit)

    async def seals(self, after: int, limit: int, covering: int = 0) -> list[Sealed]:
        """Seals, oldest first, from the one on that covers this row."""
        return await self._store.read_seals(after, limit, covering)

    async def seal(self, holder: UUID, lease: timedelta) -> SealState:
        """Seal what is worth it, if the holder is the one that seals.

        Raises:
            Aborted: another process seals meanwhile.
        """
        if not await self._store.take_sealing(holder, lease):
            return SealState(held=False)
        until = await self._store.settled_until(_HORIZON)
        while until is not None and await self._seal_some(until):
            pass
        return SealState(True, await self._store.newest_unanchored(), await self._store.oldest_unsealed())

    async def _seal_some(self, until: int) -> bool:
        """One more seal; whether there can be another one."""
        found = await self._store.unsealed(until, MOST_SEALED)
        if not found.worth:
            return False
        seal = await asyncio.to_thread(next_seal, found.before, found.sequences, found.leaves, datetime.now(UTC))
        await self._store.add_seal(seal.number, seal.body(), found.sequences, b"".join(found.leaves))
        return len(found.sequences) == MOST_SEALED

    async def anchor(self, number: int, receipt_id: UUID) -> None:
        """Note a seal's own receipt. May be repeated."""
        await self._store.add_anchor(number, receipt_id)
