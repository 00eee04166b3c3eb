"""Seals of the audit trail are made each second where there is something to seal, and each is itself notarised.

One notary does it at a time; which one, metadata knows. The rows about a seal's own notarisation are no reason for
another one. A seal that could not be notarised is not made up for: the next one names it, and stands for it too.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Protocol

import uuid_utils
from prometheus_client import Counter, Gauge

from afdp.audit.seals import ISSUER, TENANT, seal_evidence, seal_hash
from afdp.errors import NotaryError
from afdp.formats.evidence import checked_evidence
from afdp.formats.statement import Submitter
from afdp.messages.metadata import AnchorAuditSealRequest, AuditSeal, MetadataServiceClient, SealAuditTrailRequest
from afdp.messages.notary import ReceiptState
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.pipeline_rows import SILENT
from afdp.notary.service import Notarised
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

ITSELF = Principal(TENANT, Submitter(ISSUER, SILENT, "service"))

_LEASE = timedelta(seconds=10)
_TIMEOUT = 30.0

_oldest = Gauge("afdp_audit_unsealed_seconds", "Age of the oldest row of the audit trail that no seal covers.")
_anchored = Counter("afdp_audit_anchors", "Seals of the audit trail that were notarised.")
_failures = Counter("afdp_audit_seal_failures", "Times that the audit trail could not be sealed, or a seal notarised.")


class Office(Protocol):
    """Where records are made (`service.py`)."""

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package."""


class AuditSealer:
    """Sees to it that the trail is sealed."""

    def __init__(self, metadata: MetadataServiceClient, office: Office, interval: float, *, anchors: bool) -> None:
        """`interval` in seconds; without `anchors` seals are made, and not notarised."""
        self._metadata = metadata
        self._office = office
        self._interval = interval
        self._anchors = anchors
        self._holder = str(uuid_utils.uuid7())
        self._failing = False

    async def run(self) -> None:
        """Seals until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            request_id.set(f"audit-{uuid_utils.uuid7()}")
            try:
                await self.seal()
                self._failing = False
            except NotaryError as error:
                self._fail(error)

    async def seal(self) -> None:
        """Seals what waits, if this notary is the one to do it, and notarises the seal.

        Raises:
            NotaryError: that cannot be done now.
        """
        lease = max(_LEASE, timedelta(seconds=4 * self._interval)) // timedelta(milliseconds=1)
        state = await self._metadata.seal_audit_trail(SealAuditTrailRequest(self._holder, lease), timeout=_TIMEOUT)
        oldest = state.oldest_unsealed
        _oldest.set(max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0)
        if self._anchors and state.held and state.unanchored is not None:
            await self._anchor(state.unanchored)

    async def _anchor(self, seal: AuditSeal) -> None:
        """Notarises a seal. Another notary that does it too gets the same receipt, for the key is the same."""
        evidence = seal_evidence(seal.body)
        canonical = checked_evidence(evidence, now=datetime.now(UTC))
        checked = CheckedEvidence(evidence, canonical, sha256(canonical).digest())
        key = f"audit-seal/{seal.number}/{seal_hash(seal.body).hex()}"
        made = await self._office.sign(Order(checked, ITSELF, key, wait_for=ReceiptState.SIGNED), wait=True)
        request = AnchorAuditSealRequest(seal.number, made.receipt.receipt_id)
        await self._metadata.anchor_audit_seal(request, timeout=_TIMEOUT)
        _anchored.inc()

    def _fail(self, error: NotaryError) -> None:
        _failures.inc()
        if not self._failing:
            self._failing = True
            fields = {"code": error.code, "reason": str(error)}
            logger.warning("the audit trail cannot be sealed", extra={"fields": fields})
