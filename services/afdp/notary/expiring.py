"""Lets go what is past its retention and under no hold, and notarises that it went.

What goes is decided and done by the store, a month of records at a time, each in one transaction that also says what
went. From then on that waits for its certificate: evidence that the notary submits itself, for the tenant whose records
they were. It is the same evidence whoever makes it and however often, so that there is one certificate of each.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

import uuid_utils
from prometheus_client import Counter, Gauge

from afdp.errors import Aborted, AlreadyExists, NotaryError
from afdp.formats.evidence import SPEC_VERSION, Actor, Artifact, EvidencePackage, checked_evidence
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.retention_policy import RetentionPolicy
from afdp.notary.service import Notarised
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

EXPIRED = "afdp.records.expired"
RETRY = 60.0  # seconds

_TIMEOUT = 10.0
_LONG = 6 * 3600.0  # what stays of a month is written anew
_AGAIN = 5

_gone = Counter("afdp_notary_records_expired", "Records that went because their retention was over.")
_uncertified = Gauge("afdp_notary_expiries_uncertified", "Expiries whose certificate is not notarised yet.")
_ran = Gauge("afdp_notary_retention_last_run_timestamp_seconds", "When retention came to its end last; 0: not yet.")


class Office(Protocol):
    """Where records are made and found (`service.py`)."""

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package."""

    async def search(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        """Records of the principal's tenant."""


class Expiring:
    """Looks daily, and when it is asked to."""

    def __init__(
        self, metadata: store.MetadataServiceClient, office: Office, policy: RetentionPolicy, interval: float
    ) -> None:
        self._metadata = metadata
        self._office = office
        self._policy = policy
        self._interval = interval
        self._busy = asyncio.Lock()

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
            try:
                answer = await self._metadata.expire_month(store.ExpireMonthRequest(month), timeout=_LONG)
            except Aborted:  # somebody writes into this month, or places a hold
                if attempt == _AGAIN - 1:
                    raise
                await asyncio.sleep(1)
            else:
                _gone.inc(sum(each.records for each in answer.expiries))
                return

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
        while waiting := (await self._metadata.list_expiries(store.ListExpiriesRequest(), timeout=_TIMEOUT)).expiries:
            _uncertified.set(len(waiting))
            for expiry in waiting:
                expiry.certificate = await self._certificate(expiry)
                request = store.CertifyExpiryRequest(expiry.expiry_id, expiry.certificate)
                await self._metadata.certify_expiry(request, timeout=_TIMEOUT)
                fields = {"month": expiry.month, "records": expiry.records, "certificate": expiry.certificate}
                logger.info("records have expired", extra={"fields": fields})
                done.append(expiry)
        _uncertified.set(0)
        return done

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
    return Principal(tenant, Submitter("afdp-notary", "retention", "service"))


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
