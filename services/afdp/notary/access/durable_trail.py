"""The audit trail as the notary writes it: rows go to metadata, many at once, and to a spool while it is away.

There is no timer: rows are sent when the last ones are settled, with all that came meanwhile. None costs a round trip
of its own. Where neither metadata nor the spool takes them, nobody is let in until one does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import prometheus_client as metrics

from afdp.audit.rows import write_row
from afdp.errors import InvalidArgument, NotaryError, Unavailable
from afdp.messages.metadata import RecordAuditRowsRequest, RecordAuditRowsResponse
from afdp.notary.access.acts import current
from afdp.notary.access.audit import AuditEvent
from afdp.notary.access.counted import Counts, Together, of_nobody
from afdp.notary.access.log_trail import LogTrail
from afdp.notary.access.spool import Spool

logger = logging.getLogger(__name__)

MOST_ROWS = 1024
MOST_BYTES = 2 * 1024 * 1024

_TIMEOUT = 5.0  # seconds
_RETRY = 1.0

_rows = metrics.Counter("afdp_audit_rows", "Rows of the audit trail that are durable, by where.", ["where"])
_failures = metrics.Counter("afdp_audit_row_failures", "Times that rows could not be written, by where.", ["where"])
for _where in ("metadata", "spool", "refused"):
    _failures.labels(_where)  # so that the first one shows as an increase
_waiting = metrics.Gauge("afdp_audit_rows_waiting", "Rows of the audit trail that are not durable yet.")
_spooled = metrics.Gauge("afdp_audit_spool_bytes", "Rows that wait on disk for metadata to be back.")
_spool_limit = metrics.Gauge("afdp_audit_spool_bytes_limit", "How many may; then no request is let in.")


class Metadata(Protocol):
    """Where rows belong."""

    async def record_audit_rows(
        self, request: RecordAuditRowsRequest, *, timeout: float | None = None
    ) -> RecordAuditRowsResponse:
        """Adds rows."""


@dataclass(eq=False, slots=True)
class Group:
    """Rows that become durable together."""

    rows: list[bytes] = field(default_factory=list)
    size: int = 0
    ready: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def settled(self) -> None:
        """Returns once they are durable. Raises Unavailable where they can be nowhere."""
        await asyncio.shield(self.ready)


class DurableTrail:
    """Takes events and rows. `run` writes them, beside the calls."""

    def __init__(
        self, metadata: Metadata, spool: Spool | None, most: int, interval: float, log: LogTrail | None = None
    ) -> None:
        """
        Args:
            most: rows that may wait.
            interval: seconds between two rows about what is told together.
            log: hears each decision too.
        """
        self._metadata = metadata
        self._spool = spool
        self._most = most
        self._interval = interval
        self._log = log
        self._groups: deque[Group] = deque()
        self._sending: Group | None = None
        self._number = 0
        self._counts = Counts()
        self._some = asyncio.Event()
        self._away = False
        self._broken = False
        _spool_limit.set(spool.most if spool is not None else 0)

    def record(self, event: AuditEvent) -> None:
        """Puts an event on record: with the act that is under way, or by itself.

        Raises:
            Unavailable: it can go nowhere; what it is about must not happen.
        """
        if self._log is not None:
            self._log.record(event)
        act = current.get()
        if act is not None and event.step == "authorization" and act.hears(event):
            return
        if of_nobody(event):
            self._counts.add(event)
        else:
            group = self.put(write_row(_members(event)))
            if act is not None:
                act.follows(group)

    def count(self, event: AuditEvent, count: int) -> None:
        """Puts as many events on record as are alike, of nobody in particular; they are told together.

        Raises:
            Unavailable: they can go nowhere.
        """
        self.require_open()
        if self._log is not None:
            self._log.count(event, count)
        self._counts.add(event, count)

    def require_open(self) -> None:
        """Raises Unavailable where it takes nothing."""
        if self._broken or self._number >= self._most:
            raise Unavailable("the audit trail takes no events", retry_after=_RETRY)

    def put(self, row: bytes) -> Group:
        """Puts a row on its way."""
        self.require_open()
        return self._put(row)

    def _put(self, row: bytes) -> Group:
        group = self._groups[-1] if self._groups else None
        if group is None or len(group.rows) >= MOST_ROWS or group.size >= MOST_BYTES:
            group = Group()
            self._groups.append(group)
        group.rows.append(row)
        group.size += len(row)
        self._number += 1
        self._some.set()
        return group

    # --- writing ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until cancelled, and then what is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell())
                await self._write()
        finally:
            for each in self._counts.take():
                self._put(write_row(_told(each)))
            if self._sending is not None:
                self._groups.appendleft(self._sending)
            while self._groups and await self._settle_next():
                pass

    async def _tell(self) -> None:
        """What is told together becomes rows now and then."""
        while True:
            await asyncio.sleep(self._interval)
            if self._broken:  # they go on being counted
                continue
            for each in self._counts.take():
                self._put(write_row(_told(each)))

    async def _write(self) -> None:
        while True:
            if not self._groups and not (self._spool is not None and self._spool.waiting):
                self._some.clear()
                await self._some.wait()
            if self._spool is not None and self._spool.waiting and not await self._drain(self._spool):
                await self._until_some()
            if self._groups and not await self._settle_next():
                await asyncio.sleep(_RETRY)

    async def _until_some(self) -> None:
        """Metadata is away: what comes goes to disk, and now and then it is asked again."""
        self._some.clear()
        try:
            async with asyncio.timeout(_RETRY):
                while not self._groups:
                    await self._some.wait()
        except TimeoutError:
            pass

    async def _settle_next(self) -> bool:
        """The first group becomes durable; whether it did. If not, it stays the first, and whoever waits is told."""
        group = self._sending = self._groups.popleft()
        _waiting.set(self._number)
        where = await self._durable(group.rows)
        self._sending = None
        if not where:
            self._break(group)
            return False
        self._number -= len(group.rows)
        _waiting.set(self._number)
        _rows.labels(where).inc(len(group.rows))
        if self._broken:
            self._broken = False
            logger.warning("the audit trail takes events again")
        if not group.ready.done():
            group.ready.set_result(None)
        return True

    def _break(self, group: Group) -> None:
        """All who wait are told; their rows stay."""
        if not self._broken:
            self._broken = True
            logger.error("the audit trail takes no events: neither metadata nor the spool has room for them")
        waiting = [group, *self._groups]
        self._groups = deque(Group(each.rows, each.size) for each in waiting)
        for each in waiting:
            if not each.ready.done():
                each.ready.set_exception(Unavailable("the audit trail takes no events", retry_after=_RETRY))
                each.ready.exception()  # nobody need ask for it

    async def _durable(self, rows: Sequence[bytes]) -> str:
        """Where rows are durable now; empty: nowhere."""
        spool = self._spool
        if (spool is None or not (self._away or spool.waiting)) and await self._sent(rows):
            return "metadata"
        if spool is None:
            return ""
        try:
            await asyncio.shield(asyncio.to_thread(spool.append, rows))
        except OSError as error:
            _failures.labels("spool").inc()
            self._away = False  # so that metadata is asked next
            logger.error("rows of the audit trail cannot be spooled", extra={"fields": {"reason": error.strerror}})
            return ""
        _spooled.set(spool.waiting)
        return "spool"

    async def _drain(self, spool: Spool) -> bool:
        """Some of what waits on disk goes where it belongs; whether it did."""
        rows, size = await asyncio.to_thread(spool.next, MOST_ROWS)
        if not await self._sent(rows):
            return False
        await asyncio.to_thread(spool.sent, size)
        _spooled.set(spool.waiting)
        if not spool.waiting:
            logger.warning("the audit trail's spool is empty again")
        return True

    async def _sent(self, rows: Sequence[bytes]) -> bool:
        try:
            await self._metadata.record_audit_rows(RecordAuditRowsRequest(list(rows)), timeout=_TIMEOUT)
        except InvalidArgument as error:
            return await self._sent_singly(rows, error)
        except NotaryError as error:
            _failures.labels("metadata").inc()
            if not self._away:
                fields = {"code": error.code, "reason": error.message}
                logger.warning("rows of the audit trail wait for metadata", extra={"fields": fields})
            self._away = True
            return False
        self._away = False
        return True

    async def _sent_singly(self, rows: Sequence[bytes], error: NotaryError) -> bool:
        """One of the rows is none: it stands in nobody's way, and another one says that it is missing."""
        if len(rows) > 1:
            for row in rows:
                if not await self._sent([row]):
                    return False
            return True
        [row] = rows
        _failures.labels("refused").inc()
        digest = sha256(row).hexdigest()
        fields = {"reason": error.message, "sha256": digest, "bytes": len(row)}
        logger.error("a row of the audit trail is refused, and kept beside its spool", extra={"fields": fields})
        if self._spool is not None:
            await asyncio.to_thread(self._spool.keep_refused, row)
        reason = f"a row of the trail is refused, of {len(row)} bytes, SHA-256 {digest}: it is kept beside the spool"
        return await self._sent([write_row({"step": "act", "result": "error", "reason": reason, "time": _now()})])


def _now() -> datetime:
    return datetime.now(UTC)


def _members(event: AuditEvent) -> dict[str, Any]:
    return {**event.more, **{name: getattr(event, name) for name in _FIELDS}}


_FIELDS = tuple(name for name in AuditEvent.__dataclass_fields__ if name != "more")


def _told(told: Together) -> dict[str, Any]:
    latest = told.latest
    last = {"last_request_id": latest.request_id, "last_address": latest.address, "last_rpc": latest.rpc}
    return {**_members(told.kind), "time": _now(), "count": told.count, **last}
