"""The clock that timestamps are taken from, and whether it can be trusted.

Three things are looked at: what the operating system says of its synchronisation, how far an external time-stamping
authority is away where one is configured as reference, and whether the clock was set, which shows against the clock
that nobody can set. What is wrong is logged once, shown in metrics, and with `refuse` it stops timestamps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prometheus_client import Counter, Gauge

from afdp.errors import Unavailable
from afdp.signer.ntp import Synchronisation, system_synchronisation
from afdp.signer.part import Part

logger = logging.getLogger(__name__)

_offset = Gauge("afdp_signer_clock_offset_seconds", "How far the clock is ahead, by what measured it.", ["by"])
_max_error = Gauge("afdp_signer_clock_max_error_seconds", "The most that the operating system believes to be off.")
_synchronised = Gauge("afdp_signer_clock_synchronised", "1 where the operating system keeps the clock synchronised.")
_trusted = Gauge("afdp_signer_clock_trusted", "1 where nothing speaks against the clock.")
_jumps = Counter("afdp_signer_clock_jumps", "How often the clock was set while the signer ran.")

_WATCH = 5.0  # seconds between two looks where no timestamp asks for one
_STEP = 0.25  # seconds by which two clocks may move against each other between two looks
# Between two polls the kernel lets its worst case grow by 500 parts in a million, whatever the clock really does: by
# more than a second at the longest poll of systemd-timesyncd. So that figure alone counts twice the bound.
_WORST_CASE = 2.0


def _steady() -> float:
    """Seconds on the clock that nobody can set and that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, slots=True)
class Reading:
    """The three sources of a clock, so that a test can have its own."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = _steady
    system: Callable[[], Synchronisation] = system_synchronisation


class Clock:
    """Gives the time, or refuses to."""

    def __init__(self, *, strict: bool, max_offset: float, reading: Reading = Reading()) -> None:
        """`strict`: past `max_offset` seconds, or not synchronised, it refuses; else it says so and goes on."""
        self._strict = strict
        self._max_offset = max_offset
        self._reading = reading
        self._reference: _Comparison | None = None
        self._said: str | None = None
        self._wrong: str | None = None
        self._apart = reading.wall() - reading.steady()
        self._latest = 0.0
        self.moved = asyncio.Event()  # the clock was set: whoever compares it should do so again
        self._look()

    @property
    def max_offset(self) -> timedelta:
        """How far it may be off, either way."""
        return timedelta(seconds=self._max_offset)

    def now(self) -> tuple[datetime, bool]:
        """The time, and whether it can be trusted.

        Raises:
            Unavailable: it cannot, and the clock is strict.
        """
        wall = self._look()
        if self._wrong is not None and self._strict:
            raise Unavailable(f"no timestamps are given: {self._wrong}", retry_after=_WATCH)
        self._latest = max(self._latest, wall)
        return datetime.fromtimestamp(wall, UTC), self._wrong is None

    def compared(self, ahead: float, uncertainty: float) -> None:
        """Takes note that the clock was found this many seconds ahead of the reference, give or take."""
        self._reference = _Comparison(ahead, uncertainty)
        _offset.labels("reference").set(ahead)
        self._look()

    async def watch(self) -> None:
        """Looks at the clock also while nobody asks for a timestamp, so that metrics and jumps are seen."""
        while True:
            self._look()
            await asyncio.sleep(_WATCH)

    async def status(self) -> Sequence[Part]:
        """As `status.Reporting`: one part, `clock`."""
        self._look()
        if self._wrong is None:
            return [Part("clock", True, self._good(), public=True)]
        what = "timestamps are refused" if self._strict else "timestamps go on, without a statement of accuracy"
        remedy = "run an NTP client on this machine (chrony or systemd-timesyncd) and look at what it says"
        return [Part("clock", False, f"{self._wrong}; {what}", remedy, public=True)]

    def _good(self) -> str:
        system = self._reading.system()
        reference = f", {self._reference}" if self._reference else ""
        return f"synchronised to within {system.max_error:.3f} s as the operating system says{reference}"

    def _look(self) -> float:
        """Looks at everything that may be wrong; gives the wall clock's seconds."""
        wall = self._notice_jumps()
        system = self._reading.system()
        self._wrong = self._find_wrong(wall, system)
        _synchronised.set(1 if system.synchronised else 0)
        _trusted.set(0 if self._wrong else 1)
        _offset.labels("system").set(system.offset)
        _max_error.set(system.max_error)
        kind = self._wrong and self._wrong.partition(":")[0]
        if kind != self._said:
            self._said = kind
            if self._wrong:
                logger.warning("the clock cannot be trusted", extra={"fields": {"reason": self._wrong}})
            else:
                logger.info("the clock can be trusted again")
        return wall

    def _find_wrong(self, wall: float, system: Synchronisation) -> str | None:
        if system.synchronised is None:
            return "the operating system does not say whether the clock is synchronised"
        if not system.synchronised:
            return "the operating system's clock is not synchronised"
        if system.max_error > _WORST_CASE * self._max_offset or abs(system.offset) > self._max_offset:
            return f"the clock may be off too far: by {max(system.max_error, abs(system.offset)):.3f} s"
        reference = self._reference
        if reference and abs(reference.ahead) - reference.uncertainty > self._max_offset:
            return f"the clock is too far from the reference: {reference}"
        if wall < self._latest - self._max_offset:
            return f"the clock was set back behind the last timestamp: by {self._latest - wall:.3f} s"
        return None

    def _notice_jumps(self) -> float:
        wall, apart = self._read()
        step = apart - self._apart
        if abs(step) > _STEP:
            wall, apart = self._read()  # once more: the two clocks are not read at the same moment
            step = apart - self._apart
        self._apart = apart
        if abs(step) > _STEP:
            _jumps.inc()
            logger.warning("the clock was set", extra={"fields": {"seconds": round(step, 3)}})
            if self._reference:
                self._reference = _Comparison(self._reference.ahead + step, self._reference.uncertainty)
            self.moved.set()
        return wall

    def _read(self) -> tuple[float, float]:
        """The wall clock, and how far it is from the steady one, which is read before and after it."""
        before = self._reading.steady()
        wall = self._reading.wall()
        return wall, wall - (before + self._reading.steady()) / 2


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How far ahead of the reference the clock was found, in seconds."""

    ahead: float
    uncertainty: float

    def __str__(self) -> str:
        way = "ahead of" if self.ahead > 0 else "behind"
        return f"{abs(self.ahead):.3f} s {way} the reference, give or take {self.uncertainty:.3f} s"
