"""What the forwarding of the audit trail keeps between two starts, and what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class TrailRow:
    """A row of the trail: its place, when it was written, and its bytes."""

    sequence: int
    recorded_at: datetime
    row: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A sink that is one process's for a while.

    Attributes:
        cursor: the place of the last row that it has.
        failures: times in a row that it did not take what came after.
    """

    cursor: int
    failures: int


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink stands.

    Attributes:
        name: of the settings.
        waiting: rows that it has not got yet, as far as they were counted.
        oldest: when the oldest of these was written; None where none waits.
        trouble: why it did not take the last ones; empty where it did.
        since: from when on it has not.
    """

    name: str
    waiting: int
    oldest: datetime | None
    trouble: str = ""
    since: datetime | None = None


class Ledger(Protocol):
    """Where each sink is in the trail. Every method raises a NotaryError where that cannot be told."""

    async def begin(self, name: str, *, at_end: bool) -> None:
        """Puts a sink at the trail's beginning, or its end, that has no place yet."""

    async def hold(self, name: str, holder: UUID, lease: timedelta) -> Held | None:
        """Takes or keeps a sink for the length of the lease; None: another has it, or it is to be left alone."""

    async def advance(self, name: str, holder: UUID, cursor: int) -> bool:
        """A sink has all up to a row. False: it is another's meanwhile, and nothing is changed."""

    async def put_off(self, name: str, holder: UUID, wait: timedelta, trouble: str) -> None:
        """A sink did not take what it was sent, and is to be left alone for a while."""

    async def let_go(self, name: str, holder: UUID) -> None:
        """A sink may be taken by another at once."""

    async def read(self, after: int, limit: int) -> Sequence[TrailRow]:
        """Rows after a place, by ascending place, of which none can appear in between any more; none: that is all."""

    async def states(self, names: Sequence[str]) -> Sequence[SinkState]:
        """How sinks stand, in this order; those that have no place yet are left out."""
