"""What is new, for all who watch: one look at the records for the whole process, and one reading for each tenant.

Thousands may watch the receipts of one tenant. Each has its own place, and all who are at the same one share the page
that begins there: its receipts are read and checked once. A reader who is slow is somewhere else, and reads that by
itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from prometheus_client import Counter, Gauge

from afdp.errors import DeadlineExceeded, InvalidArgument, NotaryError, OutOfRange, ResourceExhausted, Unavailable
from afdp.messages import metadata as store
from afdp.messages.notary import NotarizationReceipt

logger = logging.getLogger(__name__)

PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
"""What goes away by itself."""

_TIMEOUT = 10.0  # seconds
_PAGE = 64  # changes
_PAGE_BYTES = 8 * 1024 * 1024  # of records; a page ends with the answer that goes beyond
_READS = 4  # pages that are read at a time
_WHOLE = 16  # records that come in one answer
_AT_ONCE = 8  # receipts that are made at a time
_KEPT_BYTES = 64 * 1024 * 1024  # of pages
_LONGEST_PAUSE = 2.0  # seconds between two looks while the metadata service is away

_watchers = Gauge("afdp_notary_watchers", "Who watches receipts.")
_looks = Counter("afdp_notary_watch_looks", "Looks at what is new, by how they went.", ["result"])
_pages = Counter("afdp_notary_watch_pages", "Pages of changes for those who watch, by who else had asked.", ["source"])


class Receipts(Protocol):
    """Where receipts are made (`receipts.py`)."""

    async def later_receipt(self, record: store.Record) -> NotarizationReceipt:
        """The receipt of a record, checked."""


@dataclass(frozen=True, slots=True)
class Told:
    """A change, as everybody is told it who may see it.

    Attributes:
        cursor: goes on after it.
        receipt: as it stands now; or the error that stands in its way, which stays.
        event_type, evidence: what policies ask for; no evidence where none asks for it.
    """

    cursor: str
    receipt_id: str
    receipt: NotarizationReceipt | NotaryError
    event_type: str
    evidence: bytes

    @property
    def size(self) -> int:
        """In bytes, near enough."""
        bundles = 0
        if isinstance(self.receipt, NotarizationReceipt):
            bundles = sum(map(len, (self.receipt.bundle, *self.receipt.more_bundles)))
        return bundles + len(self.evidence) + 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in order, the cursor that goes on after them, and whether there are more already."""

    told: Sequence[Told]
    end: str
    more: bool


_versions = count()  # none is given twice, also not to a tenant that is watched again


@dataclass(eq=False, slots=True)
class Tenant:
    """Whether there is something new for the watchers of a tenant: `version` is another then, and `changed` is set."""

    name: str
    version: int = field(default_factory=lambda: next(_versions))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0

    def tell(self) -> None:
        self.version = next(_versions)
        self.changed.set()
        self.changed = asyncio.Event()


class Feed:
    """The changes of records as one process follows them, for as long as somebody watches."""

    def __init__(
        self, metadata: store.MetadataServiceClient, receipts: Receipts, interval: float, *, with_evidence: bool = True
    ) -> None:
        """Peers and settings.

        Args:
            interval: seconds between two looks.
            with_evidence: whether who may see a receipt is decided by its evidence, too.
        """
        self._with_evidence = with_evidence
        self._metadata = metadata
        self._receipts = receipts
        self._interval = interval
        self._tenants: dict[str, Tenant] = {}
        self._pages: OrderedDict[tuple[str, str, int], asyncio.Task[Page]] = OrderedDict()
        self._kept = 0
        self._wanted = asyncio.Event()
        self._opening = asyncio.Lock()
        self._reads = asyncio.Semaphore(_READS)
        self._head = ""
        self._began = 0  # looks
        self._heard = 0  # the look that gave the head
        self.leaving = False

    async def open(self) -> str:
        """Where now is, for who begins to watch.

        Raises:
            NotaryError: that cannot be told now.
        """
        async with self._opening:
            if not self._head:
                self._head = (await self._metadata.get_news(store.GetNewsRequest(), timeout=_TIMEOUT)).cursor
                self._wanted.set()
        return self._head

    @contextmanager
    def watched(self, name: str) -> Iterator[Tenant]:
        """A tenant, which is told what is new for the length of a block."""
        tenant = self._tenants.setdefault(name, Tenant(name))
        tenant.watchers += 1
        _watchers.inc()
        try:
            yield tenant
        finally:
            _watchers.dec()
            tenant.watchers -= 1
            if not tenant.watchers:
                del self._tenants[name]
            if not self._tenants:
                self._wanted.clear()
                self._head = ""

    @property
    def looks(self) -> int:
        """How many have begun."""
        return self._began

    def head_since(self, looks: int) -> str:
        """Up to where it is known that a tenant that was not told has nothing new; empty where that is not known.

        `looks` is how many had begun when its changes were read last.
        """
        return self._head if self._heard > looks else ""

    async def page(self, tenant: Tenant, cursor: str) -> Page:
        """What comes after a cursor. All who ask for the same while nothing is new get the same.

        Raises:
            InvalidArgument: the cursor was never given.
            OutOfRange: changes after it were forgotten.
            NotaryError: it cannot be read now.
        """
        key = (tenant.name, cursor, tenant.version)
        task = self._pages.get(key)
        _pages.labels("new" if task is None else "shared").inc()
        if task is None:
            # Of whoever asks first it has neither the deadline nor the end.
            task = asyncio.create_task(self._read(tenant.name, cursor), context=Context())
            self._pages[key] = task
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)

    def leave(self) -> None:
        """Tells all who watch that this process stops."""
        self.leaving = True
        for tenant in self._tenants.values():
            tenant.tell()

    async def run(self) -> None:
        """Looks for what is new, until cancelled."""
        pause = self._interval
        try:
            while True:
                await self._wanted.wait()
                await asyncio.sleep(pause)
                try:
                    await self._look()
                    pause = self._interval
                    _looks.labels("done").inc()
                except NotaryError as error:
                    pause = max(self._interval, min(2 * pause, _LONGEST_PAUSE))
                    _looks.labels("failed").inc()
                    logger.info("what is new cannot be seen", extra={"fields": {"code": error.code}})
        finally:
            for task in self._pages.values():
                task.cancel()

    async def _look(self) -> None:
        self._began += 1
        look, since = self._began, self._head
        if not since:
            return
        names: Sequence[str] | None
        try:
            news = await self._metadata.get_news(store.GetNewsRequest(since), timeout=_TIMEOUT)
            names = news.tenants
        except (OutOfRange, InvalidArgument):  # of another history of the database: everybody looks for themselves
            news, names = await self._metadata.get_news(store.GetNewsRequest(), timeout=_TIMEOUT), None
        if self._head != since:  # all have gone meanwhile, and others have come
            return
        self._head, self._heard = news.cursor, look
        for tenant in [*self._tenants.values()] if names is None else [self._tenants.get(name) for name in names]:
            if tenant is not None:
                tenant.tell()

    async def _read(self, tenant: str, cursor: str) -> Page:
        async with self._reads:
            request = store.ListChangesRequest(tenant, cursor, _PAGE)
            found = await self._metadata.list_changes(request, timeout=_TIMEOUT)
            records: dict[str, store.Record] = {}
            size = 0
            for start in range(0, len(found.changes), _WHOLE):
                if size > _PAGE_BYTES:  # the rest is of the next page
                    changes = found.changes[:start]
                    return Page(await self._told(changes, records), changes[-1].cursor, True)
                ids = [change.receipt_id for change in found.changes[start : start + _WHOLE]]
                answer = await self._metadata.get_records(store.GetRecordsRequest(tenant, ids), timeout=_TIMEOUT)
                for each in answer.records:
                    if each.draft is not None:
                        records[each.draft.receipt_id] = each
                        size += len(each.draft.evidence) + len(each.draft.statement)
            return Page(await self._told(found.changes, records), found.cursor, found.more)

    async def _told(self, changes: Sequence[store.RecordChange], records: Mapping[str, store.Record]) -> Sequence[Told]:
        """Those whose record is there still."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def told(change: store.RecordChange, record: store.Record) -> Told:
            draft = record.draft or store.Draft()
            event_type = draft.terms.event_type if draft.terms is not None else ""
            async with room:
                receipt = await self._receipt(record)
            evidence = draft.evidence if self._with_evidence else b""  # many pages are kept
            return Told(change.cursor, change.receipt_id, receipt, event_type, evidence)

        there = [(change, records[change.receipt_id]) for change in changes if change.receipt_id in records]
        return await _all(told(change, record) for change, record in there)

    async def _receipt(self, record: store.Record) -> NotarizationReceipt | NotaryError:
        try:
            return await self._receipts.later_receipt(record)
        except PASSING:
            raise
        except NotaryError as error:  # it stays so: whoever watches goes on after it
            return error

    def _keep(self, key: tuple[str, str, int], done: asyncio.Task[Page]) -> None:
        """Keeps a page that was read, as long as there is room; one that was not can be asked for again."""
        if done.cancelled() or done.exception() is not None:
            self._pages.pop(key, None)
            return
        self._kept += _size(done.result())
        while self._kept > _KEPT_BYTES or len(self._pages) > 1024:
            oldest = next((each for each, task in self._pages.items() if task.done()), None)
            if oldest is None:
                break
            self._kept -= _size(self._pages.pop(oldest).result())


async def _all(awaitables: Iterator[Awaitable[Told]] | Sequence[Awaitable[Told]]) -> Sequence[Told]:
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _size(page: Page) -> int:
    return sum(each.size for each in page.told) + 1024
