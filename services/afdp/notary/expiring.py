"""Lets go what is past its retention and under no hold, and notarises that it went.

What goes is decided and done by the store, a month of records at a time, in one transaction in the end that also says
what went. The audit trail says before that it is about to happen, and afterwards what went: what nobody has announced
was not let go by this service, and gets no certificate. From then on that waits for its certificate: evidence that the
notary submits itself, for the tenant whose records they were. It is the same evidence whoever makes it and however
often, so that there is one certificate of each.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import uuid_utils
from prometheus_client import Counter, Gauge

from afdp.audit.rows import INTENT, OUTCOME, acts_of, parted, write_row
from afdp.errors import Aborted, AlreadyExists, NotaryError
from afdp.formats.evidence import SPEC_VERSION, Actor, Artifact, EvidencePackage, checked_evidence
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.notary.access.acts import Written
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.retention_policy import RetentionPolicy
from afdp.notary.service import Notarised
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

EXPIRED = "afdp.records.expired"
EXPIRE = "ExpireMonth"
"""What the audit trail calls it."""
ITSELF = Submitter("afdp-notary", "retention", "service")

RETRY = 60.0  # seconds

_TIMEOUT = 10.0
_LONG = 6 * 3600.0  # what stays of a month is written anew
_AGAIN = 5
_PAGE = 1000

_gone = Counter("afdp_notary_records_expired", "Records that went because their retention was over.")
_unannounced = Gauge("afdp_notary_expiries_unannounced", "Expiries that the audit trail did not announce.")
_uncertified = Gauge("afdp_notary_expiries_uncertified", "Expiries whose certificate is not notarised yet.")
_ran = Gauge("afdp_notary_retention_last_run_timestamp_seconds", "When retention came to its end last; 0: not yet.")


class Office(Protocol):
    """Where records are made and found (`service.py`)."""

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package."""

    async def search(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        """Records of the principal's tenant."""


class Trail(Protocol):
    """The audit trail (`access/durable_trail.py`)."""

    def put(self, row: bytes) -> Written:
        """Puts a row on its way. Raises Unavailable where it takes none."""


class Expiring:
    """Looks daily, and when it is asked to."""

    def __init__(
        self,
        metadata: store.MetadataServiceClient,
        office: Office,
        policy: RetentionPolicy,
        interval: float,
        trail: Trail,
        operators: str,
    ) -> None:
        """`operators` is the tenant of those whose acts these are."""
        self._trail = trail
        self._operators = operators
        self._metadata = metadata
        self._office = office
        self._policy = policy
        self._interval = interval
        self._busy = asyncio.Lock()
        self._left: set[str] = set()  # expiries that nobody announced, as far as can be seen

    async def run(self) -> None:
        """Until cancelled. Classes are told at the start; what is due goes at other times in each replica."""
        told = False
        while True:
            request_id.set(f"retention-{uuid_utils.uuid7()}")
            pause = self._interval * random.uniform(0.5, 1)  # noqa: S311 - only to spread replicas
            try:
                if told:
                    await self.expire()
                else:
                    await self._tell_classes()
                    await self._certify()
                    told = True
            except NotaryError as error:
                logger.info("retention waits", extra={"fields": {"code": error.code, "reason": str(error)}})
                pause = min(RETRY, self._interval)
            if self._left:
                pause = min(RETRY, self._interval)
            await asyncio.sleep(pause)

    async def due(self) -> list[store.DueRecords]:
        """What would go now."""
        await self._tell_classes()
        return (await self._metadata.plan_expiry(store.PlanExpiryRequest(), timeout=_LONG)).due

    async def expire(self) -> list[store.Expiry]:
        """Lets go what is due; gives all of it that was not certified before, with its certificates.

        Raises:
            Unavailable: a peer is away. What went is on record, and certified by a later run.
        """
        async with self._busy:
            for month in dict.fromkeys(each.month for each in await self.due()):
                await self._expire_month(month)
            certified = await self._certify()
        _ran.set_to_current_time()
        return certified

    async def _expire_month(self, month: str) -> None:
        for attempt in range(_AGAIN):
            act = str(uuid_utils.uuid7())
            named = [{"resource": f"retention:{month}"}]
            await self._trail.put(self._row(act, INTENT, "allow", "", named)).settled()
            request = store.ExpireMonthRequest(month, act)
            try:
                answer = await self._metadata.expire_month(request, timeout=_LONG)
            except Aborted as error:  # somebody writes into this month, or places a hold
                self._trail.put(self._row(act, OUTCOME, "error", error.message, named))
                if attempt == _AGAIN - 1:
                    raise
                await asyncio.sleep(1)
            else:
                await self._say_what_went(act, answer.expiries)
                _gone.inc(sum(each.records for each in answer.expiries))
                return

    async def _say_what_went(self, act: str, expiries: Sequence[store.Expiry]) -> None:
        said = f"{sum(each.records for each in expiries)} records have gone"
        names = [{"act": act, "resource": f"expiry:{each.expiry_id}"} for each in expiries]
        for some in parted(names) or [[]]:
            await self._trail.put(self._row(act, OUTCOME, "allow", said, some)).settled()

    def _row(self, act: str, phase: str, result: str, reason: str, items: Sequence[dict[str, Any]]) -> bytes:
        who = {"issuer": ITSELF.issuer, "subject": ITSELF.subject, "method": ITSELF.method, "tenant": self._operators}
        row: dict[str, Any] = {"rpc": EXPIRE, "permission": "retention.admin", **who, "step": "act", "phase": phase}
        row |= {"result": result, "reason": reason, "time": datetime.now(UTC), "request_id": request_id.get()}
        return (
            write_row(row, items) if len(items) > 1 else write_row({**row, "act": act, **(items[0] if items else {})})
        )

    async def _tell_classes(self) -> None:
        if not self._policy.classes:
            return
        request = store.PutRetentionClassesRequest(self._policy.classes)
        for name in (await self._metadata.put_retention_classes(request, timeout=_TIMEOUT)).longer:
            logger.warning(
                "records of this class are kept for longer than the settings say: that was promised before",
                extra={"fields": {"class": name}},
            )

    async def _certify(self) -> list[store.Expiry]:
        done: list[store.Expiry] = []
        left: set[str] = set()
        while waiting := [each for each in await self._uncertified() if each.expiry_id not in left]:
            _uncertified.set(len(waiting))
            for expiry in waiting:
                if not await self._was_announced(expiry):
                    left.add(expiry.expiry_id)
                    unknown = {"expiry": expiry.expiry_id, "month": expiry.month}
                    logger.error("an expiry is on record that nobody has announced", extra={"fields": unknown})
                    continue
                expiry.certificate = await self._certificate(expiry)
                request = store.CertifyExpiryRequest(expiry.expiry_id, expiry.certificate)
                await self._metadata.certify_expiry(request, timeout=_TIMEOUT)
                fields = {"month": expiry.month, "records": expiry.records, "certificate": expiry.certificate}
                logger.info("records have expired", extra={"fields": fields})
                done.append(expiry)
        self._left = left
        _uncertified.set(len(left))
        _unannounced.set(len(left))
        return done

    async def _uncertified(self) -> list[store.Expiry]:
        return (await self._metadata.list_expiries(store.ListExpiriesRequest(), timeout=_TIMEOUT)).expiries

    async def _was_announced(self, expiry: store.Expiry) -> bool:
        """Whether the trail has the intent; the outcome is told there, where whoever let it go did not come to it."""
        if not expiry.act:
            return False
        announced, before = False, 0
        while not announced:
            asked = store.ListAuditRowsRequest(self._operators, _PAGE, before, resource=f"retention:{expiry.month}")
            rows = (await self._metadata.list_audit_rows(asked, timeout=_TIMEOUT)).rows
            if not rows:
                return False
            announced = any(acts_of(row.row) == (INTENT, [expiry.act]) for row in rows)
            before = rows[-1].sequence
        asked = store.ListAuditRowsRequest(self._operators, 1, resource=f"expiry:{expiry.expiry_id}")
        if not (await self._metadata.list_audit_rows(asked, timeout=_TIMEOUT)).rows:
            await self._say_what_went(expiry.act, [expiry])
        return True

    async def _certificate(self, expiry: store.Expiry) -> str:
        """The receipt ID of the certificate, which is there already where somebody was interrupted."""
        evidence, itself = certificate_of(expiry), of_tenant(expiry.tenant)
        wanted = store.SearchRecordsRequest(page_size=1, event_type=EXPIRED, evidence_hash=evidence.hash)
        if found := (await self._office.search(itself, wanted)).records:
            return found[0].receipt_id
        order = Order(evidence, itself, idempotency_key=f"expiry/{expiry.expiry_id}")
        try:
            return (await self._office.sign(order, wait=True)).receipt.receipt_id
        except AlreadyExists:
            return (await self._office.search(itself, wanted)).records[0].receipt_id


def of_tenant(tenant: str) -> Principal:
    """Who submits a certificate: the notary, for a tenant."""
    return Principal(tenant, ITSELF)


def certificate_of(expiry: store.Expiry) -> CheckedEvidence:
    """What is notarised of an expiry; the same whenever it is made."""
    package = EvidencePackage(
        spec_version=SPEC_VERSION,
        timestamp_utc=expiry.expired_at or datetime.now(UTC),
        event_type=EXPIRED,
        actor=Actor("service", "afdp-notary"),
        artifacts=(Artifact(f"records of {expiry.month[:7]}", expiry.root.hex()),),
        metadata={
            "expiry_id": expiry.expiry_id,
            "month": expiry.month[:7],
            "records": expiry.records,
            "kept": expiry.kept,
            "held": expiry.held,
            "classes": {each.name: each.records for each in expiry.classes},
            "first_receipt_id": expiry.first_receipt_id,
            "last_receipt_id": expiry.last_receipt_id,
            "tree_root": expiry.root.hex(),
        },
    )
    canonical = checked_evidence(package, now=datetime.now(UTC))
    return CheckedEvidence(package, canonical, sha256(canonical).digest())
