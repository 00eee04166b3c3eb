"""Events of the audit trail go to a sink: in order, each at least once, by one process at a time.

The sink's place in the trail is kept in the database and moves on after the sink has said that it has a batch: what was
sent before a crash, and not yet noted, is sent again. A row that cannot be read is told as an event that says so, so
that a place of the trail is never passed over in silence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from uuid import UUID, uuid4

from prometheus_client import Counter

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import HIGH, INFORMATIONAL, LOW, MEDIUM, severity_of
from afdp.audit.rows import events_of
from afdp.errors import DataLoss, NotaryError
from afdp.metadata.sinks.ledger import Ledger, TrailRow
from afdp.metadata.sinks.settings import Severity, SinkSettings
from afdp.metadata.sinks.sink import Sink, SinkError

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks for new rows, or at a sink that another process has
LONGEST_WAIT = 60.0  # seconds between two attempts, where the sink asks for no more

_LEASE_BEYOND = 30.0  # seconds for which a sink is held beyond the time that a batch may take
_MOST_ROWS = 500
_LEVELS: dict[Severity, int] = {"informational": INFORMATIONAL, "low": LOW, "medium": MEDIUM, "high": HIGH}

_sent = Counter("afdp_audit_sink_events", "Audit events that a sink has taken.", ["sink"])
_failures = Counter("afdp_audit_sink_failures", "Times that a sink did not take audit events.", ["sink"])


class Forwarder:
    """Sends one sink what it has not got."""

    def __init__(self, settings: SinkSettings, sink: Sink, ledger: Ledger, holder: UUID | None = None) -> None:
        """`holder` names this process; a random one otherwise."""
        self.name = settings.name
        self._sink = sink
        self._ledger = ledger
        self._holder = holder or uuid4()
        self._tenants = frozenset(settings.tenants)
        self._least = _LEVELS[settings.severity]
        self._at_end = settings.start == "now"
        self._most = settings.batch_events
        self._lease = timedelta(seconds=settings.timeout_seconds + _LEASE_BEYOND)
        _sent.labels(self.name)
        _failures.labels(self.name)

    async def run(self) -> None:
        """Sends until cancelled, and then lets go of the sink."""
        begun = False
        try:
            while True:
                try:
                    if not begun:
                        await self._ledger.begin(self.name, at_end=self._at_end)
                        begun = True
                    if await self.forward():
                        continue
                except NotaryError as error:
                    logger.debug("audit events cannot be read to be sent", extra={"fields": {"reason": error.message}})
                await asyncio.sleep(LOOK)
        finally:
            await self._let_go()

    async def forward(self) -> bool:
        """Sends the next batch, if the sink is this process's; whether there may be more at once."""
        held = await self._ledger.hold(self.name, self._holder, self._lease)
        if held is None:
            return False
        rows = await self._ledger.read(held.cursor, min(self._most, _MOST_ROWS))
        if not rows:
            return False
        try:
            whole = await self._deliver(rows)
        except SinkError as error:
            await self._put_off(error, held.failures)
            return False
        except Exception as error:  # of any library: a sink ends neither this service nor the other sinks
            logger.exception("a sink failed in a way that was not foreseen", extra={"fields": {"sink": self.name}})
            await self._put_off(SinkError(f"{type(error).__name__}: see the log"), held.failures)
            return False
        return whole and await self._ledger.advance(self.name, self._holder, rows[-1].sequence)

    async def _deliver(self, rows: Sequence[TrailRow]) -> bool:
        """Sends what the sink wants of some rows; False where it has become another's in the midst."""
        events = (event for row in rows for event in _events(row) if self._wants(event))
        # In a thread, as is what the sinks make of events: a batch takes tens of milliseconds to read.
        batch = await asyncio.to_thread(list, islice(events, self._most))
        while batch:
            await self._sink.deliver(batch)
            _sent.labels(self.name).inc(len(batch))
            batch = await asyncio.to_thread(list, islice(events, self._most))
            if batch and await self._ledger.hold(self.name, self._holder, self._lease) is None:
                return False
        return True

    def _wants(self, event: RecordedEvent) -> bool:
        return severity_of(event) >= self._least and (not self._tenants or event.tenant in self._tenants)

    async def _put_off(self, error: SinkError, failures: int) -> None:
        _failures.labels(self.name).inc()
        wait = min(LONGEST_WAIT, 2.0 ** min(failures, 16)) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        wait = max(wait, error.retry_after or 0.0)
        level = logging.INFO if failures else logging.WARNING
        fields = {"sink": self.name, "reason": error.reason, "again_in_seconds": round(wait, 1)}
        logger.log(level, "a sink does not take audit events", extra={"fields": fields})
        await self._ledger.put_off(self.name, self._holder, timedelta(seconds=wait), error.reason)

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._ledger.let_go(self.name, self._holder)
        except (NotaryError, TimeoutError):
            logger.info("a sink is held until its lease ends", extra={"fields": {"sink": self.name}})


def _events(row: TrailRow) -> Iterator[RecordedEvent]:
    """The events of a row, or one that says that there is nothing to be read."""
    try:
        yield from events_of(row.row, row.sequence)
    except DataLoss as error:
        name = f"unreadable-{row.sequence}"
        reason = error.message
        yield RecordedEvent(row.recorded_at, "trail", "error", "", reason=reason, sequence=row.sequence, uid=name)
