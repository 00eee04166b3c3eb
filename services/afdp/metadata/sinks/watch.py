"""How the sinks are: for metrics, and for who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from prometheus_client import Gauge

from afdp.errors import NotaryError
from afdp.metadata.sinks.ledger import Ledger, SinkState

logger = logging.getLogger(__name__)

LOOK = 5.0  # seconds between two looks

_events = Gauge("afdp_audit_sink_lag_events", "Rows of the audit trail that a sink has not got, to 100,000.", ["sink"])
_seconds = Gauge("afdp_audit_sink_lag_seconds", "How long the oldest of them has waited; 0 where none does.", ["sink"])
_degraded = Gauge("afdp_audit_sink_degraded", "1 while a sink does not take audit events.", ["sink"])


class SinkWatch:
    """Looks at the sinks of the settings."""

    def __init__(self, names: Sequence[str], ledger: Ledger) -> None:
        self._names = names
        self._ledger = ledger

    async def run(self) -> None:
        """Sets the gauges until cancelled; they stay as they were while the database is away."""
        while True:
            try:
                await self.states()
            except NotaryError as error:
                logger.debug("the sinks were not looked at", extra={"fields": {"reason": error.message}})
            await asyncio.sleep(LOOK)

    async def states(self) -> Sequence[SinkState]:
        """How each is, now."""
        if not self._names:
            return []
        found = await self._ledger.states(self._names)
        for each in found:
            _events.labels(each.name).set(each.waiting)
            _seconds.labels(each.name).set(lag_of(each))
            _degraded.labels(each.name).set(bool(each.trouble))
        return found


def lag_of(state: SinkState) -> float:
    """Seconds for which the oldest row has waited that a sink has not got."""
    return max(0.0, (datetime.now(UTC) - state.oldest).total_seconds()) if state.oldest else 0.0
