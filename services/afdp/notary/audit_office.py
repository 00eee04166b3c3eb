"""The audit trail as auditors get it: events to read, and rows with seals to verify. That they do is on record too."""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import ocsf_json
from afdp.audit.rows import INTENT, acts_of, events_of
from afdp.audit.seals import TENANT, proofs_of
from afdp.errors import InvalidArgument, NotaryError, NotFound
from afdp.formats.merkle import HASH_SIZE
from afdp.formats.timestamps import format_timestamp
from afdp.messages import metadata as store
from afdp.messages import notary as pb
from afdp.notary.access.given import Given
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.model import Principal
from afdp.notary.receipts import ReceiptOffice

READ = "audit.read"

_TIMEOUT = 10.0  # seconds
_MOST_SEALS = 100
_DEFAULT_SEALS = 50
_DEFAULT_ROWS = 500
_MOST_FILTER = 512  # bytes
_RESULTS = ("", "allow", "deny", "error")
_TOKEN = re.compile(rb"([0-9]{1,19})\.([0-9]{1,4})")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events of a tenant: empty is any."""

    start: datetime | None
    end: datetime | None
    actor: str
    resource: str
    result: str

    def asked(self) -> dict[str, str]:
        """As the trail has it. An actor is a caller, and a resource is as the trail names it itself."""
        times = {"start_time": format_timestamp(self.start) if self.start else ""}
        times["end_time"] = format_timestamp(self.end) if self.end else ""
        asked = {**times, "actor": self.actor, "resource": self.resource, "result": self.result}
        return {name: value for name, value in asked.items() if value}


class Access(Protocol):
    """Who puts on record what calls give (`access/gate.py`)."""

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        """Hears what an answer gives of many things. Raises Unavailable."""


class AuditOffice:
    """Shows the trail to those who may see it."""

    def __init__(
        self, metadata: store.MetadataServiceClient, office: ReceiptOffice, key_rights: KeyRights, access: Access
    ) -> None:
        self._access = access
        self._metadata = metadata
        self._office = office
        self._key_rights = key_rights

    async def events(self, principal: Principal, filters: Filters, size: int, token: str) -> tuple[list[str], str]:
        """A page of the caller's tenant's events, newest first, as OCSF JSON, and where the next one begins.

        Raises:
            InvalidArgument: a filter or the token is none.
        """
        _check(filters)
        before, skip = _place(token)
        request = store.ListAuditRowsRequest(
            tenant=principal.tenant,
            page_size=min(size + 1, 1000),
            before_sequence=before,
            inclusive=skip > 0,
            start_time=filters.start,
            end_time=filters.end,
            actor=filters.actor,
            resource=filters.resource,
            result=filters.result,
        )
        found = await self._metadata.list_audit_rows(request, timeout=_TIMEOUT)
        self._access.gave(principal, READ, _given(found.rows, filters.asked()))
        return await asyncio.to_thread(_page, found, filters, size, before, skip)

    async def rows(self, principal: Principal, after: int, size: int, *, all_tenants: bool) -> list[pb.AuditTrailRow]:
        """Sealed rows with their proofs, oldest first.

        Raises:
            PermissionDenied: those of all tenants are for operators.
            InvalidArgument: a number is out of range.
        """
        if all_tenants:
            self._key_rights.require_operator(principal)
        _within("after_sequence", after, 2**63 - 1)
        _within("page_size", size, 1000)
        request = store.ReadAuditTrailRequest(
            after, size or _DEFAULT_ROWS, True, "" if all_tenants else principal.tenant
        )
        rows = (await self._metadata.read_audit_trail(request, timeout=_TIMEOUT)).rows
        proven: list[pb.AuditTrailRow] = []
        while len(proven) < len(rows):
            waiting = rows[len(proven) :]
            asked = store.ReadAuditSealsRequest(0, _MOST_SEALS, waiting[0].sequence)
            seals = (await self._metadata.read_audit_seals(asked, timeout=_TIMEOUT)).seals
            if not (more := await asyncio.to_thread(_proven, waiting, seals)):
                break  # its seal is not as it was: what follows cannot be proven, and `audit verify` says so
            proven += more
        self._access.gave(principal, READ, _given(proven, {"all_tenants": True} if all_tenants else {}))
        return proven

    async def seals(self, after: int, size: int) -> list[pb.AuditTrailSeal]:
        """Seals, oldest first, each with the receipt of its own notarisation.

        Raises:
            InvalidArgument: a number is out of range.
        """
        _within("after_number", after, 2**63 - 1)
        _within("page_size", size, _MOST_SEALS)
        request = store.ReadAuditSealsRequest(after, size or _DEFAULT_SEALS)
        seals = (await self._metadata.read_audit_seals(request, timeout=_TIMEOUT)).seals
        anchors = await asyncio.gather(*(self._anchor(seal) for seal in seals))
        return [
            pb.AuditTrailSeal(seal.number, seal.body.decode(errors="replace"), anchor)
            for seal, anchor in zip(seals, anchors, strict=True)
        ]

    async def _anchor(self, seal: store.AuditSeal) -> pb.NotarizationReceipt | None:
        if not seal.anchor_receipt_id:
            return None
        try:
            asked = store.GetRecordRequest(TENANT, seal.anchor_receipt_id)
            record = (await self._metadata.get_record(asked, timeout=_TIMEOUT)).record
            return await self._office.later_receipt(record) if record is not None else None
        except (NotFound, InvalidArgument):
            return None
        except NotaryError as error:
            if error.http_status == 500:  # it does not hold: whoever verifies is to see that it is missing
                return None
            raise


def _given(rows: Sequence[store.AuditRow] | Sequence[pb.AuditTrailRow], asked: Mapping[str, Any]) -> Given:
    """Rows of the trail, as it tells that they were read: by their places."""
    ends = (str(rows[0].sequence), str(rows[-1].sequence)) if rows else ("", "")
    return Given("audit-rows", len(rows), *ends, asked)


def _proven(rows: Sequence[store.AuditRow], seals: Sequence[store.AuditSeal]) -> list[pb.AuditTrailRow]:
    """Those of the first rows that these seals cover, with their proofs."""
    proven: list[pb.AuditTrailRow] = []
    for seal in seals:
        places = {sequence: place for place, sequence in enumerate(seal.sequences)}
        covered = [row for row in rows[len(proven) :] if row.sequence in places]
        if not covered:
            continue
        leaves = [seal.leaves[at : at + HASH_SIZE] for at in range(0, len(seal.leaves), HASH_SIZE)]
        proofs = proofs_of(leaves, [places[row.sequence] for row in covered])
        for row, proof in zip(covered, proofs, strict=True):
            micros = ((row.recorded_at or _EPOCH) - _EPOCH) // timedelta(microseconds=1)
            text = row.row.decode(errors="replace")
            proven.append(
                pb.AuditTrailRow(row.sequence, micros, text, seal.number, places[row.sequence], b"".join(proof).hex())
            )
    return proven


def _page(
    found: store.ListAuditRowsResponse, filters: Filters, size: int, before: int, skip: int
) -> tuple[list[str], str]:
    unfinished = frozenset(found.unfinished)
    shown: list[str] = []
    last = before
    for row in found.rows:
        events = [event for event in _newest_first(row, unfinished) if _matches(event, filters)]
        begin = skip if row.sequence == before else 0
        for at, event in enumerate(events[begin:], begin):
            if len(shown) == size:
                return shown, _token(row.sequence, at) if at else _token(last, 0)
            shown.append(ocsf_json(event).decode())
        last = row.sequence
    return shown, _token(last, 0) if found.rows else ""


def _newest_first(row: store.AuditRow, unfinished: frozenset[str]) -> list[RecordedEvent]:
    events = events_of(row.row, row.sequence)
    phase, acts = acts_of(row.row)
    if phase == INTENT and unfinished.intersection(acts):
        events = [
            replace(event, further={**event.further, "unfinished": "true"}) if act in unfinished else event
            for event, act in zip(events, acts, strict=True)
        ]
    return events[::-1]


def _matches(event: RecordedEvent, filters: Filters) -> bool:
    return filters.resource in ("", event.resource) and filters.result in ("", event.result)


def _check(filters: Filters) -> None:
    if filters.start is not None and filters.end is not None and filters.end < filters.start:
        raise InvalidArgument.field("end_time", "must not be before start_time")
    for name, value in (("actor", filters.actor), ("resource", filters.resource)):
        if len(value.encode()) > _MOST_FILTER or "\0" in value:
            raise InvalidArgument.field(name, f"must be at most {_MOST_FILTER} bytes, without U+0000")
    if filters.result not in _RESULTS:
        raise InvalidArgument.field("result", "must be allow, deny or error")


def _within(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise InvalidArgument.field(name, f"must be 0 to {most:,}")


def _token(sequence: int, skip: int) -> str:
    return urlsafe_b64encode(b"%d.%d" % (sequence, skip)).rstrip(b"=").decode()


def _place(token: str) -> tuple[int, int]:
    """Before which row a page begins, or, with a number, how many events of that row were shown."""
    if not token:
        return 0, 0
    try:
        match = _TOKEN.fullmatch(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        match = None
    if match is None or not 0 < int(match[1]) < 2**63 - 1 or _token(int(match[1]), int(match[2])) != token:
        raise InvalidArgument.field("page_token", "is not one that this list gave: begin with the first page")
    return int(match[1]), int(match[2])
