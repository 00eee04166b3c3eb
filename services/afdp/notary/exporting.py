"""Exports: all that a search finds, line by line, in the memory of one page however much it is.

A page is read when the one before has been taken: a client that reads slowly holds nothing but its place among the
exports that go on at once, and one that goes away ends its own. One that reads more slowly than anybody needs to is let
go: it can come back, and go on where it was.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from afdp.errors import InvalidArgument, NotFound, ResourceExhausted
from afdp.messages import metadata as store
from afdp.messages.notary import ExportFormat
from afdp.notary.access.gate import READ
from afdp.notary.access.given import Listed, asked_for, receipts_given
from afdp.notary.export_lines import Form
from afdp.notary.ids import require_uuid
from afdp.notary.model import Principal
from afdp.notary.service import Access, check_window

_PAGE = 256  # records, and as many bytes as metadata gives at once
_CHUNK_BYTES = 64 * 1024  # from which on lines are handed over
_READ_TIMEOUT = 30.0  # seconds, of a page
_SLOWEST = 8 * 1024  # bytes a second that who exports has to take
_PATIENCE = 30.0  # seconds beyond that

_under_way = Gauge("afdp_notary_exports_under_way", "Exports that are being read.")
_limit = Gauge("afdp_notary_exports_limit", "How many exports may be read at once.")
_records = Counter("afdp_notary_exported_records", "Records that were exported.")


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines, and the receipt of the last one; empty before the first."""

    data: bytes
    last_receipt_id: str


class Exports:
    """The exports of one notary.

    Args:
        forms: what lines may be written in.
        most: how many may go on at once; of one tenant half of them.
    """

    def __init__(
        self,
        metadata: store.MetadataServiceClient,
        access: Access,
        forms: Mapping[ExportFormat, Form],
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forms = forms
        self._metadata = metadata
        self._access = access
        self._most = most
        self._clock = clock
        self._by_tenant: Tally[str] = Tally()
        _limit.set(most)

    async def lines(
        self, principal: Principal, wanted: store.SearchRecordsRequest, written_in: ExportFormat, after: str
    ) -> AsyncGenerator[Lines, None]:
        """All that is found and that the caller may see, in order, from right after a receipt.

        Raises:
            InvalidArgument: what is wanted cannot be looked for; nothing was given yet.
            ResourceExhausted: too many exports go on, or this one is read too slowly.
            Unauthenticated: the caller's credential has ended.
            Unavailable, DeadlineExceeded: it ended early, and goes on behind the last receipt that was given.
        """
        if (form := self._forms.get(written_in)) is None:
            raise InvalidArgument.field("format", "must be ndjson or csv")
        check_window(wanted.start_time, wanted.end_time)
        wanted.tenant, wanted.page_size = principal.tenant, _PAGE
        at = store.ReadRecordsRequest(wanted, require_uuid("after", after) if after else "")
        asked = asked_for(wanted)
        if after:
            await self._require_seen(principal, after)
        pace = _Pace(self._clock)
        with self._place(principal.tenant):
            page = await self._metadata.read_records(at, timeout=_READ_TIMEOUT)
            yield Lines(b"" if after else form.head, after)
            while True:
                seen = self._seen(principal, page.records)
                self._access.gave(principal, READ, receipts_given([_receipt_id(each) for each in seen], asked))
                async for lines in self._written(seen, form):
                    self._access.require_unexpired(principal, READ)  # whoever is slow takes long over a page
                    with pace.of(len(lines.data)):
                        yield lines
                if not page.next_after:
                    return
                at = store.ReadRecordsRequest(wanted, page.next_after, page.next_after_notarized_at)
                page = await self._metadata.read_records(at, timeout=_READ_TIMEOUT)

    async def _require_seen(self, principal: Principal, receipt_id: str) -> None:
        """Nobody goes on after a receipt that an export would not give: where it lies is part of what is hidden.

        Raises:
            InvalidArgument: there is none for the caller.
        """
        asked = store.GetRecordRequest(principal.tenant, receipt_id)
        try:
            found = (await self._metadata.get_record(asked, timeout=_READ_TIMEOUT)).record
        except NotFound:
            found = None
        if found is None or not self._seen(principal, [found]):
            raise InvalidArgument.field("after", "is not the ID of a receipt")

    async def _written(self, seen: Sequence[store.Record], form: Form) -> AsyncGenerator[Lines, None]:
        waiting, size = [], 0
        for at, record in enumerate(seen, 1):
            line = await form.line(record)
            waiting.append(line)
            size += len(line)
            if size >= _CHUNK_BYTES or at == len(seen):
                _records.inc(len(waiting))
                yield Lines(b"".join(waiting), _receipt_id(record))
                waiting, size = [], 0

    def _seen(self, principal: Principal, records: Sequence[store.Record]) -> list[store.Record]:
        seen = self._access.may_list(principal, [self._listed(each.draft or store.Draft()) for each in records])
        return [record for record, may in zip(records, seen, strict=True) if may]

    def _listed(self, draft: store.Draft) -> Listed:
        event_type = draft.terms.event_type if draft.terms is not None else ""
        return Listed(draft.receipt_id, event_type, draft.evidence if self._access.asks_for_labels else None)

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        if self._by_tenant.total() >= self._most or self._by_tenant[tenant] >= max(1, self._most // 2):
            raise ResourceExhausted("too many exports go on at present; try again", retry_after=5.0)
        self._by_tenant[tenant] += 1
        _under_way.inc()
        try:
            yield
        finally:
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]
            _under_way.dec()


class _Pace:
    """How fast somebody reads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waited = 0.0
        self._taken = 0

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """While so many bytes are taken. Raises ResourceExhausted where all of it takes too long."""
        since = self._clock()
        yield
        self._waited += self._clock() - since
        self._taken += size
        if self._waited > _PATIENCE + self._taken / _SLOWEST:
            raise ResourceExhausted("the export is read too slowly: go on after the last receipt that you have")


def _receipt_id(record: store.Record) -> str:
    return record.draft.receipt_id if record.draft is not None else ""
