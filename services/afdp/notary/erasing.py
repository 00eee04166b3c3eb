"""Goes on with erasures that wait, and notarises each that is done.

What is erased is decided and done by the store, where the keys of records are known. The audit trail says before that
it is about to happen, and afterwards what became of it: what nobody has announced was not erased by this service, and
gets no certificate. From then on it waits for its certificate: evidence that the notary submits itself, for the tenant
whose subject it was. It is the same evidence whoever makes it and however often, so that there is one certificate of
each. Nobody is named: the subject is its blind index.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

import uuid_utils
from prometheus_client import Counter, Gauge

from afdp.audit.rows import INTENT, OUTCOME, acts_of, write_row
from afdp.errors import Aborted, AlreadyExists, NotaryError
from afdp.formats.evidence import SPEC_VERSION, Actor, Artifact, EvidencePackage, checked_evidence
from afdp.formats.statement import Submitter
from afdp.formats.timestamps import format_timestamp
from afdp.messages import metadata as store
from afdp.notary.access.acts import Trail
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.service import Notarised
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

ERASED = "afdp.subject.erased"
ITSELF = Submitter("afdp-notary", "erasure", "service")
RETRY = 2.0  # seconds after something failed; twice as many each time that it fails again
SOON = 60.0  # seconds in which an erasure is found that somebody began and did not finish

_TIMEOUT = 10.0
_LONG = 600.0  # what was sealed is counted
_PAGE = 256
_ROWS = 1000
_AGAIN = 3

_erased = Counter("afdp_notary_subjects_erased", "Subjects whose erasure was certified by this notary.")
_waiting = Gauge("afdp_notary_erasures_waiting", "Erasures that are not certified yet, by why.", ["reason"])
_ran = Gauge("afdp_notary_erasures_last_run_timestamp_seconds", "When all that wait were looked at last; 0: not yet.")


class Office(Protocol):
    """Where records are made and found (`service.py`)."""

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package."""

    async def search(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        """Records of the principal's tenant."""


class Erasing:
    """Looks now and then; whoever asks for an erasure has it done at once."""

    def __init__(self, metadata: store.MetadataServiceClient, office: Office, interval: float, trail: Trail) -> None:
        self._trail = trail
        self._metadata = metadata
        self._office = office
        self._interval = interval
        self._failed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled: from the start on, at other times in each replica.

        What keeps records is looked at anew once in the interval; what was begun and not finished is gone on with soon.
        """
        now = asyncio.get_running_loop().time
        all_at, retry = now(), RETRY
        while True:
            request_id.set(f"erasures-{uuid_utils.uuid7()}")
            self._failed.clear()
            looks_at_all = now() >= all_at
            if await self._look(begun=not looks_at_all):
                retry = RETRY
                spread = random.uniform(0.5, 1)  # noqa: S311 - replicas look at other times
                if looks_at_all:
                    _ran.set_to_current_time()
                    all_at = now() + self._interval * spread
                await self._until_failed(min(SOON * spread, max(0.0, all_at - now())))
            else:
                await asyncio.sleep(min(retry, self._interval))
                retry = min(2 * retry, SOON)

    async def _until_failed(self, seconds: float) -> None:
        """Waits, for no longer than a moment once somebody's erasure has failed."""
        try:
            async with asyncio.timeout(seconds):
                await self._failed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(RETRY, self._interval))

    async def settle(self, erasure: store.Erasure) -> store.Erasure:
        """Goes on with an erasure as far as that is possible now; gives how it stands.

        Raises:
            Unavailable, Aborted: it waits, and a later run goes on with it, soon.
        """
        try:
            return await self._settled(erasure)
        except NotaryError:
            self._failed.set()
            raise

    async def _settled(self, erasure: store.Erasure) -> store.Erasure:
        if not erasure.certificate and erasure.erased_at is None:
            erasure = await self._erase(erasure)
        if not erasure.certificate and erasure.erased_at is not None and await self._was_announced(erasure):
            certificate = await self._certificate(erasure)
            request = store.CertifyErasureRequest(erasure.tenant, erasure.erasure_id, certificate)
            await self._metadata.certify_erasure(request, timeout=_TIMEOUT)
            fields = {"tenant": erasure.tenant, "erasure_id": erasure.erasure_id, "certificate": certificate}
            logger.info("a subject is erased", extra={"fields": fields | {"records": erasure.records}})
            _erased.inc()
            asked = store.GetErasureRequest(erasure.tenant, erasure.erasure_id)
            return (await self._metadata.get_erasure(asked, timeout=_TIMEOUT)).erasure or erasure
        return erasure

    async def _look(self, *, begun: bool) -> bool:
        """One pass over all that wait, or over those alone that nothing keeps; whether nothing failed."""
        after = ""
        deferred = failed = 0
        while True:
            try:
                request = store.ListErasuresRequest(page_size=_PAGE, after=after, uncertified=True)
                page = (await self._metadata.list_erasures(request, timeout=_TIMEOUT)).erasures
            except NotaryError as error:
                logger.info("erasures wait", extra={"fields": {"code": error.code, "reason": str(error)}})
                return False
            for each in page:
                if begun and each.deferral is not None:
                    deferred += 1
                    continue
                try:
                    settled = await self.settle(each)
                    deferred += settled.erased_at is None
                    failed += settled.erased_at is not None and not settled.certificate
                except NotaryError as error:
                    fields = {"erasure_id": each.erasure_id, "code": error.code, "reason": str(error)}
                    logger.warning("an erasure waits", extra={"fields": {"tenant": each.tenant, **fields}})
                    failed += 1
            if len(page) < _PAGE:
                break
            after = f"{page[-1].tenant}/{page[-1].erasure_id}"
        _waiting.labels("deferred").set(deferred)
        _waiting.labels("failed").set(failed)
        return not failed

    async def _erase(self, erasure: store.Erasure) -> store.Erasure:
        request = store.EraseRequest(erasure.tenant, erasure.erasure_id)
        for attempt in range(_AGAIN):
            looked = (await self._metadata.erase(request, timeout=_LONG)).erasure or erasure
            if looked.deferral is not None or looked.erased_at is not None:
                return looked
            try:
                return await self._announced(replace(request, act=str(uuid_utils.uuid7())))
            except Aborted:  # another one goes on with it, too
                if attempt == _AGAIN - 1:
                    raise
                await asyncio.sleep(1)
        raise AssertionError("unreachable")

    async def _announced(self, request: store.EraseRequest) -> store.Erasure:
        """Erases, and has that put on record before and after."""
        await self._trail.put(_row(request, INTENT, "allow", "")).settled()
        try:
            found = (await self._metadata.erase(request, timeout=_LONG)).erasure or store.Erasure()
        except NotaryError as error:
            self._trail.put(_row(request, OUTCOME, "error", error.message))
            raise
        if found.erased_at is None:
            await self._trail.put(_row(request, OUTCOME, "deny", "something keeps records of the subject")).settled()
        else:
            await self._trail.put(_row(request, OUTCOME, "allow", _told(found))).settled()
        return found

    async def _was_announced(self, erasure: store.Erasure) -> bool:
        """Whether the trail has the intent; the outcome is told there, where whoever erased did not come to it."""
        phases: set[str] = set()
        resource, before = _resource(erasure.erasure_id), 0
        while erasure.act and INTENT not in phases:
            asked = store.ListAuditRowsRequest(erasure.tenant, _ROWS, before, resource=resource)
            rows = (await self._metadata.list_audit_rows(asked, timeout=_TIMEOUT)).rows
            if not rows:
                break
            phases |= {phase for phase, acts in (acts_of(row.row) for row in rows) if erasure.act in acts}
            before = rows[-1].sequence
        if INTENT not in phases:
            unknown = {"tenant": erasure.tenant, "erasure_id": erasure.erasure_id}
            logger.error("an erasure is on record that nobody has announced", extra={"fields": unknown})
            return False
        if OUTCOME not in phases:
            request = store.EraseRequest(erasure.tenant, erasure.erasure_id, erasure.act)
            await self._trail.put(_row(request, OUTCOME, "allow", _told(erasure))).settled()
        return True

    async def _certificate(self, erasure: store.Erasure) -> str:
        """The receipt ID of the certificate, which is there already where somebody was interrupted."""
        evidence, itself = certificate_of(erasure), of_tenant(erasure.tenant)
        wanted = store.SearchRecordsRequest(page_size=1, event_type=ERASED, evidence_hash=evidence.hash)
        if found := (await self._office.search(itself, wanted)).records:
            return found[0].receipt_id
        order = Order(evidence, itself, idempotency_key=f"erasure/{evidence.hash.hex()}")
        try:
            return (await self._office.sign(order, wait=True)).receipt.receipt_id
        except AlreadyExists:
            return (await self._office.search(itself, wanted)).records[0].receipt_id


def of_tenant(tenant: str) -> Principal:
    """Who submits a certificate: the notary, for a tenant."""
    return Principal(tenant, ITSELF)


def _row(request: store.EraseRequest, phase: str, result: str, reason: str) -> bytes:
    who = {"issuer": ITSELF.issuer, "subject": ITSELF.subject, "method": ITSELF.method, "tenant": request.tenant}
    what = {"rpc": "EraseSubject", "permission": "erasure.admin", "step": "act", "phase": phase, "act": request.act}
    row = {"result": result, "reason": reason, "time": datetime.now(UTC), "request_id": request_id.get()}
    return write_row({**what, **who, **row, "resource": _resource(request.erasure_id)})


def _resource(erasure_id: str) -> str:
    return f"subject:{erasure_id}"


def _told(erasure: store.Erasure) -> str:
    return f"{erasure.records} records can be read no more"


def certificate_of(erasure: store.Erasure) -> CheckedEvidence:
    """What is notarised of an erasure; the same whenever it is made."""
    erased_at = erasure.erased_at or datetime.now(UTC)
    package = EvidencePackage(
        spec_version=SPEC_VERSION,
        timestamp_utc=erased_at,
        event_type=ERASED,
        actor=Actor("service", "afdp-notary"),
        artifacts=(Artifact(f"records of {erasure.erasure_id}", erasure.root.hex()),),
        metadata={
            "erasure_id": erasure.erasure_id,
            "erased_at": format_timestamp(erased_at),
            "records": erasure.records,
            "first_receipt_id": erasure.first_receipt_id,
            "last_receipt_id": erasure.last_receipt_id,
            "tree_root": erasure.root.hex(),
        },
    )
    canonical = checked_evidence(package, now=datetime.now(UTC))
    return CheckedEvidence(package, canonical, sha256(canonical).digest())
