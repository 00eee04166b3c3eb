"""Audit events as lines of the log: JSON, of the logger `afdp.audit`, written beside the requests they belong to.

What a caller did who is known has a line of its own. What nobody in particular did, and calls over a limit, are counted
and told together, so that a flood of them fills no disk.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
import prometheus_client as metrics

from afdp.errors import Unavailable
from afdp.notary.access.audit import AuditEvent
from afdp.notary.access.counted import Counts, Together

logger = logging.getLogger(__name__)

LOGGER = "afdp.audit"

_PAUSE = 0.1  # seconds in which events gather; also the most that a sudden end loses
_RETRY = 1.0
_FIELDS = tuple(each.name for each in fields(AuditEvent) if each.name not in ("time", "more"))

_events = metrics.Counter("afdp_audit_events", "Decisions about access, by what was decided.", ["step", "result"])
_waiting = metrics.Gauge("afdp_audit_queue_items", "Audit events that are not written yet.")
_limit = metrics.Gauge("afdp_audit_queue_items_limit", "How many may wait; then no request is let in.")
_failures = metrics.Counter("afdp_audit_write_failures", "Times that audit events could not be written.")


class LogTrail:
    """Writes events a moment after they are recorded. While that fails, it takes none, so nobody is let in."""

    def __init__(self, most: int, interval: float, write: Callable[[bytes], None] | None = None) -> None:
        """
        Args:
            most: events that may wait.
            interval: seconds between two lines about what is told together.
            write: puts bytes where they belong, or raises OSError; standard error.
        """
        self._most = most
        self._interval = interval
        self._write = write or _to_standard_error
        self._events: deque[AuditEvent] = deque()
        self._counts = Counts()
        self._broken = False
        self._writing: asyncio.Future[None] | None = None
        _limit.set(most)

    def record(self, event: AuditEvent) -> None:
        """Raises Unavailable where it cannot be written, or too many wait to be."""
        self._require_open()
        if event.subject and event.step not in ("limit", "act"):
            self._events.append(event)
        else:
            self._count(event, 1)

    def count(self, event: AuditEvent, count: int) -> None:
        """As many as are alike, of nobody in particular. Raises Unavailable as `record` does."""
        self._require_open()
        self._count(event, count)

    def _require_open(self) -> None:
        if self._broken or len(self._events) >= self._most:
            raise Unavailable("the audit trail takes no events", retry_after=_RETRY)

    def _count(self, event: AuditEvent, count: int) -> None:
        _events.labels(event.step, event.result).inc(count)
        self._counts.add(event, count)

    async def run(self) -> None:
        """Writes until cancelled, and then what is left."""
        loop = asyncio.get_running_loop()
        told = loop.time()
        try:
            while True:
                await asyncio.sleep(_RETRY if self._broken else _PAUSE)
                due = not self._broken and loop.time() - told >= self._interval
                if due:
                    told = loop.time()
                await self._flush(due)
        finally:
            if self._writing is not None:
                await asyncio.wait([self._writing])
            self._settle([*self._events], self._told())

    async def _flush(self, due: bool) -> None:
        events = [*self._events]
        told = self._told() if due else []
        _waiting.set(len(events))
        if not events and not told and not self._broken:
            return
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._settle, events, told)
        await asyncio.shield(self._writing)
        self._writing = None

    def _settle(self, events: Sequence[AuditEvent], told: Sequence[dict[str, Any]]) -> None:
        """Writes the first events that wait, and drops them. In a thread, one at a time."""
        lines = [_line(each.time, "access", _shown(each)) for each in events]
        lines += [_line(datetime.now(UTC), "access refused, told together", each) for each in told]
        try:
            self._write(b"".join(lines))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            _failures.inc()
            if not self._broken:
                self._broken = True
                logger.error("audit events cannot be written", extra={"fields": {"reason": type(error).__name__}})
            return
        self._broken = False
        for _ in events:
            self._events.popleft()
        for (step, result), count in Counter((each.step, each.result) for each in events).items():
            _events.labels(step, result).inc(count)

    def _told(self) -> list[dict[str, Any]]:
        """What is to be told together, counted anew from now on."""
        return [_together(each) for each in self._counts.take()]


def _together(told: Together) -> dict[str, Any]:
    latest = told.latest
    last = {"last_request_id": latest.request_id, "last_address": latest.address, "last_rpc": latest.rpc}
    return {**_shown(told.kind), "count": told.count, **last}


def _shown(event: AuditEvent) -> dict[str, Any]:
    """What it says, without what is empty."""
    return {**event.more, **{name: value for name in _FIELDS if (value := getattr(event, name))}}


def _line(time: datetime, message: str, facts: dict[str, Any]) -> bytes:
    head = {"level": "INFO", "logger": LOGGER, "message": message, "service": "notary", "time": time}
    return orjson.dumps(head | facts, option=orjson.OPT_APPEND_NEWLINE)


def _to_standard_error(lines: bytes) -> None:
    sys.stderr.write(lines.decode())
    sys.stderr.flush()
