"""The logs of others as the notary sees them: what goes there, how much waits, and what is done while one is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from prometheus_client import Gauge

from afdp.errors import NotaryError, ResourceExhausted, Unavailable
from afdp.messages import metadata as store
from afdp.messages.transparency import TransparencyServiceClient
from afdp.notary.external import Drain, Pace
from afdp.notary.keys import KeyDirectory
from afdp.notary.status import Part
from afdp.notary.waiting import Answerable, Waiting

logger = logging.getLogger(__name__)

LOOK = 5.0  # seconds between two looks at the queues
OLD = 300.0  # seconds from which on a queue is said to be behind

_TIMEOUT = 5.0
_EMPTY = (0, 0.0)  # records, and seconds that the oldest has waited

_records = Gauge("afdp_log_backlog_records", "Records that wait for a log of others.", ["log"])
_oldest = Gauge("afdp_log_backlog_oldest_seconds", "How long the oldest of them has waited.", ["log"])
_limit = Gauge("afdp_log_backlog_limit", "How many may wait before no more are taken.")
_away = Gauge("afdp_log_away", "1 while a log of others does not take entries.", ["log"])

WhileAway = Literal["continue", "refuse"]


class ExternalQueue:
    """Which logs of others records go to, and the work on their queues."""

    def __init__(
        self,
        main: str,
        more: Sequence[str],
        while_away: WhileAway,
        most: int,
        metadata: store.MetadataServiceClient,
        transparency: TransparencyServiceClient,
        keys: KeyDirectory,
        pace: Pace,
        waiting: Waiting,
    ) -> None:
        """Settings.

        Args:
            main: the log that makes a record LOGGED; empty: one of ours does.
            more: logs that records go to as well.
            while_away: what is done with new evidence while `main` does not take entries.
            most: how many records may wait for one log.
        """
        self.main = main
        self.more = tuple(more)
        self._while_away = while_away
        self._most = most
        self._metadata = metadata
        self._waiting = waiting
        self._lengths: dict[str, tuple[int, float]] = {}

        def drain(log: str) -> Drain:
            return Drain(log, metadata, transparency, keys, pace, waiting.told if log == main else _nobody)

        self._make = drain
        self._drains: dict[str, Drain] = {name: drain(name) for name in (*([main] if main else []), *more)}

    def require_open(self, *, to_main: bool) -> None:
        """Refuses new evidence where the settings say so.

        Args:
            to_main: whether it goes to `main`; that of a tenant with a log of its own does not.

        Raises:
            Unavailable: the log is away, and nothing is taken meanwhile.
            ResourceExhausted: as much waits for a log that it goes to as may.
        """
        if to_main and self._drains[self.main].trouble and self._while_away == "refuse":
            raise Unavailable("the log is away, and nothing is notarised without it here", retry_after=LOOK)
        for name in (*([self.main] if to_main else []), *self.more):
            if self._lengths.get(name, _EMPTY)[0] >= self._most:
                raise ResourceExhausted(f"as many records wait for the log {name} as may", retry_after=LOOK)

    def wait(self, waiting: Sequence[Answerable]) -> None:
        """Takes those who wait for records that are queued."""
        for each in waiting:
            if each.record.draft is not None:
                self._waiting.add(each.record.draft.receipt_id, each)

    def ask(self) -> None:
        """Says that something was queued."""
        for drain in self._drains.values():
            drain.ask()

    async def run(self) -> None:
        """Works on the queues until cancelled; also on one that is not in the settings any more and is not empty."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._waiting.run())
            for drain in self._drains.values():
                tasks.create_task(drain.run())
            while True:
                try:
                    await self._look()
                except NotaryError as error:
                    logger.debug("the queues cannot be seen", extra={"fields": {"reason": str(error)}})
                for name in self._lengths.keys() - self._drains.keys():
                    self._drains[name] = self._make(name)
                    tasks.create_task(self._drains[name].run())
                await asyncio.sleep(LOOK)

    async def status(self) -> list[Part]:
        """How they are, for operators: one part per log.

        Raises:
            Unavailable: the metadata service is away.
        """
        if self._drains:
            await self._look()
        return [self._part(drain) for drain in self._drains.values()]

    def _part(self, drain: Drain) -> Part:
        length, age = self._lengths.get(drain.log, _EMPTY)
        waits = f"{length} wait, the oldest for {round(age)} seconds" if length else "none waits"
        name = f"log {drain.log}"
        if drain.trouble:
            remedy = f"see whether it can be reached, and AFDP_EXTERNAL_LOGS: {drain.trouble}"
            return Part("notary", name, False, f"it takes no entries; {waits}", remedy, public=True)
        if age > OLD:
            remedy = "it takes fewer entries than come: see AFDP_EXTERNAL_LOG_IN_FLIGHT, and the log's own limits"
            return Part("notary", name, False, f"it is behind; {waits}", remedy, public=True)
        return Part("notary", name, True, waits, public=True)

    async def _look(self) -> None:
        queues = (await self._metadata.get_queues(store.GetQueuesRequest(), timeout=_TIMEOUT)).queues
        now = datetime.now(UTC)
        self._lengths = {
            each.log: (each.length, max(0.0, (now - each.oldest).total_seconds()) if each.oldest else 0.0)
            for each in queues
        }
        _limit.set(self._most)
        for name, drain in self._drains.items():
            length, age = self._lengths.get(name, _EMPTY)
            _records.labels(name).set(length)
            _oldest.labels(name).set(age)
            if not length:
                drain.nothing_waits()
            _away.labels(name).set(bool(drain.trouble))


def _nobody(receipt_id: str, position: store.LogPosition) -> None:
    """Nobody waits for a further log."""
