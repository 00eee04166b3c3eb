"""Every log entry of ours has its record, every record its entry: gone through from both sides, and closed.

First through the logs: an entry that no record claims is remembered if one of our keys signed it, and counted as a
stranger's if none did. Then through the records: each is held against its statement, its proof and its checkpoint, and
meets its entry if that was remembered. What is left of them has no record. A record is written before its entry, so
what happens meanwhile looks like no gap. Memory holds what was remembered and what is named, each up to a bound.

`recovery.py` closes what crashes leave, at once; this finds whatever else is amiss, and shows that nothing is.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import astuple, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from uuid import UUID

from afdp.errors import DataLoss, FailedPrecondition, NotaryError, NotFound, ResourceExhausted, Unavailable
from afdp.formats.merkle import leaf_hash
from afdp.messages.metadata import (
    Draft,
    Erased,
    Expiry,
    GetRecordRequest,
    KeptRecord,
    ListExpiriesRequest,
    ListKeptRequest,
    ListPlacesRequest,
    ListStraysRequest,
    LogPosition,
    MetadataServiceClient,
    Principal,
    Record,
    RenewErasureRequest,
    ReopenRecordRequest,
)
from afdp.messages.signer import KeyPurpose
from afdp.messages.transparency import ListEntriesRequest, ListEntriesResponse, TransparencyServiceClient
from afdp.notary.expiring import ITSELF, certificate_of
from afdp.notary.gaps import Gap, Kind, alterations, signed_by_us
from afdp.notary.keys import KeyDirectory
from afdp.notary.pipeline import Logged
from afdp.notary.receipts import Entry, check_place, log_entry
from afdp.notary.reconciling_erasures import erasure_faults, place_fault
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import UncountedError, UnknownAuthorityError, verify_stamp

logger = logging.getLogger(__name__)

ENTRIES, RECORDS, ROWS = 256, 256, 1024  # a page
BESIDE = (
    *("idempotency_key", "batch", "record_artifact", "record_term", "log_place", "expiry", "expired_record"),
    *("tenant_usage", "data_key", "index_key"),
)
PATIENCE = 1800.0  # seconds, for a page of expiries: the root of each is made anew
MOST_REMEMBERED = 100_000  # entries of ours without a record, until records were gone through
MOST_NAMED = 10_000  # gaps; all are counted

Finish = Callable[[Sequence[Record]], Awaitable[list[Logged]]]
"""Brings records into their logs (`Stages.log`)."""


@dataclass(slots=True)
class Progress:
    """How far a run has come: all that another process needs to go on with it.

    Attributes:
        entries: by log, the index of the next entry.
        after: the last receipt ID; empty before the first.
        strays: by table beside the records, where its last page ended.
        remembered: entries of ours that no record claims, by leaf hash: the log and the index.
        contradicted: records that claim an entry which is another's, by receipt ID, in words.
        furthest: by log, the largest tree that a record's proof is of.
    """

    entries: dict[str, int] = field(default_factory=dict)
    after: str = ""
    strays: dict[str, list[str]] = field(default_factory=dict)
    records: int = 0
    strangers: int = 0
    copies: int = 0
    on_the_way: int = 0
    remembered: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    contradicted: dict[str, str] = field(default_factory=dict)
    furthest: dict[str, int] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    found: Tally[str] = field(default_factory=Tally)
    closed: Tally[str] = field(default_factory=Tally)

    @property
    def open(self) -> int:
        """How many gaps are not closed."""
        return self.found.total() - self.closed.total()

    def copied(self) -> Progress:
        """A copy that goes its own way."""
        return Progress(**{each.name: copy(getattr(self, each.name)) for each in fields(self)})

    def add(self, gap: Gap) -> None:
        """Counts a gap, and names it while there is room."""
        self.found[gap.kind.value] += 1
        self.closed[gap.kind.value] += gap.closed
        if len(self.gaps) < MOST_NAMED:
            self.gaps.append(gap)


Pause = Callable[[Progress], Awaitable[None]]
"""What is done between two pages."""


class Reconciler:
    """Goes through logs and records."""

    def __init__(
        self,
        metadata: MetadataServiceClient,
        transparency: TransparencyServiceClient,
        keys: KeyDirectory,
        finish: Finish,
        external: str,
        grace: timedelta,
        timeout: float,
    ) -> None:
        """Peers and settings.

        Args:
            finish: closes UNLOGGED records.
            external: the log of others that makes records LOGGED; empty: ours do.
            grace: how long a record may wait to be logged before that is a gap.
        """
        self._metadata = metadata
        self._transparency = transparency
        self._keys = keys
        self._finish = finish
        self._external = external
        self._grace = grace
        self._timeout = timeout

    async def run(self, progress: Progress, pause: Pause, *, close: bool) -> None:
        """Goes on from `progress` to the end; with `close` it adds what is missing, else it only names it.

        Raises:
            Unavailable: a peer is away; `progress` says how far it came.
            FailedPrecondition: more entries have no record than can be remembered.
        """
        ours = {key.spki: key.key_id for key in await self._keys.versions() if key.purpose == KeyPurpose.EVIDENCE}
        if not progress.after:
            for log in await self._keys.logs.logs():
                await self._through_log(log.origin, ours, progress, pause)
        await self._through_records(progress, pause, close=close)
        for origin, index in progress.remembered.values():
            why = "one of our keys signed it, and no record has it"
            progress.add(Gap(Kind.UNRECORDED, f"{origin} entry {index}", why))
        progress.remembered.clear()
        for table in BESIDE:
            await self._through_table(table, progress, pause)
        await self._through_certificates(progress, pause)
        async for subject, why in erasure_faults(self._metadata, self._timeout):
            progress.add(Gap(Kind.STRAY, f"erasure {subject}", why))
        await self._measure_logs(progress)

    async def _through_log(self, origin: str, ours: dict[bytes, str], progress: Progress, pause: Pause) -> None:
        start, size = progress.entries.get(origin, 0), ENTRIES
        while True:
            try:
                page = await self._entries(origin, start, size)
            except DataLoss as error:
                if size > 1:  # which one is it?
                    size = max(1, size // 16)
                    continue
                progress.add(Gap(Kind.UNREADABLE, f"{origin} entry {start}", error.message))
                progress.entries[origin] = start = start + 1
                continue
            if not page.entries:
                return
            await self._claimed(origin, start, page.entries, ours, progress)
            progress.entries[origin] = start = start + len(page.entries)
            size = ENTRIES
            await pause(progress)

    async def _claimed(
        self, origin: str, start: int, bodies: Sequence[bytes], ours: dict[bytes, str], progress: Progress
    ) -> None:
        """Holds a page of entries against the records that say they are there."""
        request = ListPlacesRequest(origin=origin, start=start, end=start + len(bodies))
        places = await self._metadata.list_places(request, timeout=self._timeout)
        claims = {index: at for at, index in enumerate(places.log_indexes)}
        gone = places.expired_leaf_hashes
        expired = {index: gone[32 * at : 32 * at + 32] for at, index in enumerate(places.expired_indexes)}
        for index, body in enumerate(bodies, start):
            at, leaf = claims.get(index), leaf_hash(body)
            if expired.get(index) in (leaf, _LOST):  # its record has gone, with a certificate
                continue
            if at is not None:
                claimed = places.leaf_hashes[32 * at : 32 * at + 32]
                if claimed in (leaf, _LOST):  # of a record that has lost its content more is said later
                    continue
                receipt_id = str(UUID(bytes=places.receipt_ids[16 * at : 16 * at + 16]))
                progress.contradicted[receipt_id] = f"entry {index} of {origin} is not the record's"
            if not signed_by_us(body, ours):
                progress.strangers += 1
            elif progress.remembered.get(leaf, (origin, index)) != (origin, index):  # not of this page, read before
                where, before = progress.remembered[leaf]
                progress.add(Gap(Kind.DOUBLED, f"{origin} entry {index}", f"it is entry {before} of {where}, too"))
            else:
                progress.remembered[leaf] = origin, index
        if len(progress.remembered) + len(progress.contradicted) > MOST_REMEMBERED:
            raise FailedPrecondition(
                f"more than {MOST_REMEMBERED} entries up to {start} of {origin} have no record: "
                "was an old backup of the records restored?"
            )

    async def _through_records(self, progress: Progress, pause: Pause, *, close: bool) -> None:
        while page := await self._kept(progress.after):
            before = progress.copied()
            try:
                await self._judge_page(page, progress, close=close)
            except BaseException:  # who goes on, also after an interruption, begins with this page anew
                for each in fields(progress):
                    setattr(progress, each.name, getattr(before, each.name))
                raise
            await pause(progress)

    async def _through_table(self, table: str, progress: Progress, pause: Pause) -> None:
        """Names what contradicts records, or points to nothing, in a table beside them."""
        after, began = progress.strays.get(table, []), table in progress.strays
        while after or not began:
            request = ListStraysRequest(table, after, ROWS)
            patience = PATIENCE if table == "expiry" else self._timeout
            found = await self._metadata.list_strays(request, timeout=patience)
            for stray in found.strays:
                progress.add(Gap(Kind.STRAY, f"{table} {stray.subject}", stray.why))
            progress.strays[table] = after = found.next
            began = True
            await pause(progress)

    async def _through_certificates(self, progress: Progress, pause: Pause) -> None:
        """Names expiries that are not what was notarised of them."""
        after = ""
        while True:
            request = ListExpiriesRequest(all=True, after_expiry_id=after)
            page = (await self._metadata.list_expiries(request, timeout=self._timeout)).expiries
            for expiry in page:
                if expiry.certificate and await self._contradicts(expiry):
                    progress.add(Gap(Kind.STRAY, f"expiry {expiry.expiry_id}", "its certificate says something else"))
            if not page:
                return
            after = page[-1].expiry_id
            await pause(progress)

    async def _contradicts(self, expiry: Expiry) -> bool:
        """Whether what is on record as its certificate is another; that it is not there is said elsewhere."""
        asked = GetRecordRequest(expiry.tenant, expiry.certificate)
        try:
            found = (await self._metadata.get_record(asked, timeout=self._timeout)).record
        except NotFound:
            return False
        draft = _draft(found or Record())
        submitter = draft.submitter or Principal()
        by = submitter.issuer, submitter.subject, submitter.method
        return by != astuple(ITSELF) or draft.evidence_hash != certificate_of(expiry).hash

    async def _judge_page(self, page: Sequence[KeptRecord], progress: Progress, *, close: bool) -> None:
        wanting: list[tuple[Kind, str, Record]] = []
        for kept in page:
            progress.records += 1
            await self._judge(kept, progress, wanting)
        if close and wanting:
            await self._close(wanting, progress)
        else:
            for kind, why, record in wanting:
                progress.add(Gap(kind, _draft(record).receipt_id, why))
        progress.after = page[-1].receipt_id

    async def _judge(self, kept: KeptRecord, progress: Progress, wanting: list[tuple[Kind, str, Record]]) -> None:
        """Adds what is amiss with one record to `progress`, or to `wanting` where it can be closed."""
        contradicted = progress.contradicted.pop(kept.receipt_id, "")
        if kept.record is None or kept.record.draft is None or not (kept.has_head and kept.has_content):
            part = "its content is missing" if kept.has_head else "its row in `record` is missing"
            progress.add(Gap(Kind.INCOMPLETE, kept.receipt_id, part))
            return
        if kept.record.erased is not None:
            await self._judge_erased(kept, kept.record, kept.record.erased, contradicted, progress, wanting)
            return
        draft = kept.record.draft
        faults = [*alterations(draft, kept.evidence_fits), *await self._stamp_faults(kept.record)]
        entry = await self._entry(draft, faults)
        place = progress.remembered.pop(draft.leaf_hash, None)
        if entry is not None and entry.leaf_hash != draft.leaf_hash:
            place = place or progress.remembered.pop(entry.leaf_hash, None)
            faults.append("its statement or signature is not what its leaf hash was made of")
        if faults or entry is None:
            progress.add(Gap(Kind.ALTERED, kept.receipt_id, "; ".join([*faults, *kept.faults])))
            return
        known = progress.found.total()
        if kept.record.log is None:
            self._judge_waiting(kept, kept.record, place, progress, wanting)
        else:
            await self._judge_place(kept.record, entry, place, contradicted, progress)
        if kept.faults and known == progress.found.total():
            progress.add(Gap(Kind.STRAY, kept.receipt_id, "; ".join(kept.faults)))

    async def _judge_erased(
        self,
        kept: KeptRecord,
        record: Record,
        erased: Erased,
        contradicted: str,
        progress: Progress,
        wanting: list[tuple[Kind, str, Record]],
    ) -> None:
        """Of a record that nobody can open any more: whether its entry is where it says, and its erasure on record."""
        draft = _draft(record)
        place = progress.remembered.pop(draft.leaf_hash, None)
        faults = [*await self._stamp_faults(record), *kept.faults]
        if record.log is None:
            faults.append("its subject was erased before it was in a log")
        for position in (record.log, *record.more) if record.log is not None else ():
            if fault := await place_fault(self._keys, draft.leaf_hash, position):
                faults.append(f"it is not entry {position.log_index} of {position.origin}: {fault}")
            progress.furthest[position.origin] = max(position.tree_size, progress.furthest.get(position.origin, 0))
        if contradicted and not place:
            faults.append(contradicted)
        if faults:
            progress.add(Gap(Kind.ALTERED, kept.receipt_id, "; ".join(faults)))
        if erased.at is None:
            why = "its subject's key is destroyed, and the database knows of no erasure: is it of a backup of before?"
            wanting.append((Kind.UNERASED, why, record))

    def _judge_waiting(
        self,
        kept: KeptRecord,
        record: Record,
        place: tuple[str, int] | None,
        progress: Progress,
        wanting: list[tuple[Kind, str, Record]],
    ) -> None:
        draft = _draft(record)
        if not kept.waits:
            found = f"; its entry is number {place[1]} of {place[0]}" if place else ""
            if place:
                draft.log_origin = place[0]
            wanting.append((Kind.UNPLACED, f"it has no place in a log and waits for none{found}", record))
        elif draft.external_log or (draft.notarized_at or _LONG_AGO) > datetime.now(UTC) - self._grace:
            progress.on_the_way += 1
        else:
            wanting.append((Kind.UNLOGGED, "it is signed and waits to be logged", record))

    async def _judge_place(
        self, record: Record, entry: Entry, place: tuple[str, int] | None, contradicted: str, progress: Progress
    ) -> None:
        draft, claimed = _draft(record), record.log or LogPosition()
        for position in (claimed, *record.more):
            if fault := await self._fault(draft, position, entry):
                found = f"; its entry is number {place[1]} of {place[0]}" if place else ""
                why = f"it is not entry {position.log_index} of {position.origin}: {fault}{found}"
                progress.add(Gap(Kind.MISPLACED, draft.receipt_id, why))
                return
            progress.furthest[position.origin] = max(position.tree_size, progress.furthest.get(position.origin, 0))
        if place and place[0] == claimed.origin and place[1] != claimed.log_index:
            why = f"entry {claimed.log_index} of {claimed.origin} is entry {place[1]}, too"
            progress.add(Gap(Kind.DOUBLED, draft.receipt_id, why))
        elif place and place[0] != claimed.origin:  # whoever has a receipt can have its entry logged once more
            progress.copies += 1
        elif contradicted and not place:
            progress.add(Gap(Kind.MISPLACED, draft.receipt_id, contradicted))

    async def _fault(self, draft: Draft, position: LogPosition, entry: Entry) -> str:
        """Why a place does not hold; empty: it does."""
        try:
            log = await self._keys.log(position.origin, position.checkpoint)
        except Unavailable:
            await self._keys.logs.logs()  # Unavailable again where nobody can be asked
            return "there is no such log"
        try:
            check_place(draft, position, log, entry, await self._keys.evidence_key(draft.key_id))
        except NotVerifiedError as error:
            return error.reason
        return ""

    async def _close(self, wanting: Sequence[tuple[Kind, str, Record]], progress: Progress) -> None:
        """Reopens what has lost its place, and brings all into their logs."""
        finishing: list[tuple[Kind, str, Record]] = []
        for kind, why, record in wanting:
            draft = _draft(record)
            if kind is Kind.UNERASED:
                await self._renew(draft, why, progress)
            elif kind is Kind.UNPLACED and await self._reopen(draft):
                progress.add(Gap(kind, draft.receipt_id, f"{why}: it is queued again", closed=True))
            else:
                finishing.append((kind, why, record))
        if not finishing:
            return
        try:
            outcomes = await self._finish([record for _, _, record in finishing])
        except NotaryError as error:
            outcomes = [error] * len(finishing)
        for (kind, why, record), outcome in zip(finishing, outcomes, strict=True):
            failed = isinstance(outcome, NotaryError)
            said = f"{why}: {outcome}" if failed else f"{why}: it is logged now"
            progress.add(Gap(kind, _draft(record).receipt_id, said, closed=not failed))

    async def _renew(self, draft: Draft, why: str, progress: Progress) -> None:
        """Erases the subject of a record once more; its certificate follows."""
        tenant = draft.submitter.tenant if draft.submitter else ""
        try:
            request = RenewErasureRequest(tenant, draft.receipt_id)
            await self._metadata.renew_erasure(request, timeout=self._timeout)
        except NotaryError as error:
            progress.add(Gap(Kind.UNERASED, draft.receipt_id, f"{why}: {error}"))
        else:
            progress.add(Gap(Kind.UNERASED, draft.receipt_id, f"{why}: it is on record again", closed=True))

    async def _reopen(self, draft: Draft) -> bool:
        """Makes a record without a place PENDING, in the log where its entry is or is to go; True: one of others."""
        tenant = draft.submitter.tenant if draft.submitter else ""
        if not draft.log_origin and self._external and not await self._keys.logs.has_own(tenant):
            draft.external_log = self._external
        elif not draft.log_origin:
            draft.log_origin = await self._keys.logs.of_tenant(tenant)
        request = ReopenRecordRequest(draft.receipt_id, draft.log_origin, draft.external_log)
        await self._metadata.reopen_record(request, timeout=self._timeout)
        return bool(draft.external_log)

    async def _measure_logs(self, progress: Progress) -> None:
        for log in await self._keys.logs.logs():
            reached = progress.furthest.get(log.origin, 0)
            size = (await self._entries(log.origin, 2**62, 1)).tree_size
            if size < reached:
                why = f"it has {size} entries, and a record was proven in a tree of {reached}"
                progress.add(Gap(Kind.UNREADABLE, log.origin, why))

    async def _entry(self, draft: Draft, faults: list[str]) -> Entry | None:
        try:
            return log_entry(draft, await self._keys.evidence_key(draft.key_id))
        except Unavailable:
            if draft.key_id in {key.key_id for key in await self._keys.versions()}:
                raise
            faults.append("it names a key that there is not")
        except ValueError:
            faults.append("its signature is missing")
        return None

    async def _stamp_faults(self, record: Record) -> list[str]:
        """Why timestamps over its signature do not hold. One whose authority was revoked since holds for what it is."""
        faults = []
        draft, known = _draft(record), await self._keys.authorities()
        for name, response in (("timestamp", draft.timestamp), ("timestamp from outside", record.external_timestamp)):
            if not response:
                continue
            try:
                verify_stamp(response, draft.signature, known)
            except UncountedError:
                continue
            except UnknownAuthorityError as error:  # of one outside that is asked no more its receipts say nothing
                if response is draft.timestamp and await self._is_strange(draft):
                    faults.append(f"its {name} does not hold: {error.reason}")
            except NotVerifiedError as error:
                faults.append(f"its {name} does not hold: {error.reason}")
        return faults

    async def _is_strange(self, draft: Draft) -> bool:
        """Whether nobody knows the authority of a timestamp, not even the signer, asked now."""
        try:
            verify_stamp(draft.timestamp, draft.signature, await self._keys.authorities(newest=True))
        except UnknownAuthorityError:
            return True
        except NotVerifiedError:
            return False
        return False

    async def _entries(self, origin: str, start: int, limit: int) -> ListEntriesResponse:
        return await self._transparency.list_entries(ListEntriesRequest(origin, start, limit), timeout=self._timeout)

    async def _kept(self, after: str) -> list[KeptRecord]:
        """The next records: fewer at once where they are too large together for one message."""
        size = RECORDS
        while True:
            try:
                return (await self._metadata.list_kept(ListKeptRequest(after, size), timeout=self._timeout)).records
            except ResourceExhausted:
                if size == 1:
                    raise
                size = max(1, size // 16)


_LOST = bytes(32)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _draft(record: Record) -> Draft:
    return record.draft or Draft()
