"""A clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from afdp.signer.clock import Clock, Reading
from afdp.signer.ntp import Synchronisation

GOOD = Synchronisation(True, 0.0, 0.01)


@dataclass
class LocalTime:
    """What a machine's clocks say."""

    wall: float = field(default_factory=lambda: datetime.now(UTC).timestamp())
    steady: float = 1000.0
    system: Synchronisation = GOOD

    def passes(self, seconds: float) -> None:
        """Time passes for both clocks."""
        self.wall += seconds
        self.steady += seconds

    def clock(self, *, strict: bool = True, max_offset: float = 1.0) -> Clock:
        """A clock over this."""
        reading = Reading(lambda: self.wall, lambda: self.steady, lambda: self.system)
        return Clock(strict=strict, max_offset=max_offset, reading=reading)
