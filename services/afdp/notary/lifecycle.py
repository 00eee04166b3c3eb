"""Each key version is itself notarised when it appears, and each revocation: the log then knows since when it was so.

A record says what the signer says of a version: its key's hash as the artifact, named by its key ID. It is made once,
however many notaries run and however often they start: what is on record already is found by what it speaks of, and
two who make it at once share an idempotency key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

import uuid_utils
from prometheus_client import Counter

from afdp.errors import AlreadyExists, NotaryError
from afdp.formats.evidence import SPEC_VERSION, Actor, Artifact, EvidencePackage, checked_evidence
from afdp.formats.statement import DEFAULT_TENANT, Submitter
from afdp.formats.timestamps import format_timestamp
from afdp.messages.metadata import SearchRecordsRequest, SearchRecordsResponse
from afdp.messages.signer import PublicKey, Revocation
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.service import Notarised
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

CREATED = "afdp.key.version.created"
REVOKED = "afdp.key.version.revoked"
ITSELF = Principal(DEFAULT_TENANT, Submitter("afdp-notary", "key-lifecycle", "service"))
"""Who submits these: the notary, on nobody's behalf."""

RETRY = 2.0  # seconds, doubled up to the interval

_notarised = Counter("afdp_notary_key_records", "Key versions and revocations that were notarised.", ["event"])


class Directory(Protocol):
    """The keys (`keys.py`)."""

    changed: asyncio.Event

    async def versions(self) -> list[PublicKey]:
        """Every key version."""


class Office(Protocol):
    """Where records are made and found (`service.py`)."""

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package."""

    async def search(self, principal: Principal, request: SearchRecordsRequest) -> SearchRecordsResponse:
        """Records of the principal's tenant."""


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """Something that happened to a key version.

    Attributes:
        name: unique for ever; also the idempotency key.
        evidence: what is notarised of it; always the same for a revocation, while who may use a key can change.
    """

    name: str
    evidence: EvidencePackage


class KeyLifecycle:
    """Looks for key versions and revocations that have no record yet, and makes it."""

    def __init__(self, keys: Directory, office: Office, interval: float) -> None:
        self._keys = keys
        self._office = office
        self._interval = interval
        self._done: set[str] = set()

    async def run(self) -> None:
        """Looks at the start, when a key was changed through this notary, and now and then, until cancelled."""
        pause = RETRY
        while True:
            request_id.set(f"keys-{uuid_utils.uuid7()}")
            self._keys.changed.clear()
            if await self._look():
                pause = RETRY
                await self._until_changed(self._interval)
            else:
                await self._until_changed(pause)
                pause = min(2 * pause, self._interval)

    async def _until_changed(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._keys.changed.wait()
        except TimeoutError:
            return

    async def _look(self) -> bool:
        """One pass over all events; whether each has its record."""
        try:
            waiting = [event for event in events(await self._keys.versions()) if event.name not in self._done]
        except NotaryError as error:
            logger.info("the keys cannot be asked", extra={"fields": {"code": error.code, "reason": str(error)}})
            return False
        clean = True
        for event in waiting:
            try:
                await self._settle(event)
            except NotaryError as error:
                fields = {"event": event.name, "code": error.code, "reason": str(error)}
                logger.info("a key's record waits", extra={"fields": fields})
                clean = False
        return clean

    async def _settle(self, event: KeyEvent) -> None:
        evidence = _checked(event.evidence)
        if not await self._on_record(evidence):
            try:
                await self._office.sign(Order(evidence, ITSELF, idempotency_key=event.name), wait=True)
            except AlreadyExists:  # another notary was faster, and has seen other tenants
                pass
            else:
                _notarised.labels(event.evidence.event_type).inc()
                logger.info("a key event is notarised", extra={"fields": {"event": event.name}})
        self._done.add(event.name)

    async def _on_record(self, evidence: CheckedEvidence) -> bool:
        """Whether it was notarised before, be it longer ago than idempotency keys are kept."""
        package = evidence.package
        wanted = SearchRecordsRequest(page_size=1, event_type=package.event_type)
        if package.event_type == CREATED:
            wanted.artifact_hash = bytes.fromhex(package.artifacts[0].hash_sha256)
        else:
            wanted.evidence_hash = evidence.hash
        return bool((await self._office.search(ITSELF, wanted)).records)


def events(versions: Iterable[PublicKey]) -> Iterator[KeyEvent]:
    """What has happened to these versions, oldest first: each began, and some were revoked."""
    known = sorted((key for key in versions if key.valid_from), key=lambda key: (key.valid_from, key.key_id))
    for key in known:
        yield _created(key)
    for key in known:
        if key.revoked is not None and key.revoked.at is not None:
            yield _revoked(key, key.revoked)


def _created(key: PublicKey) -> KeyEvent:
    began = key.valid_from or datetime.now(UTC)
    evidence = _package(CREATED, began, key, valid_from=format_timestamp(began), tenants=sorted(key.tenants))
    return KeyEvent(f"key-version/{sha256(key.spki).hexdigest()}", evidence)


def _revoked(key: PublicKey, revocation: Revocation) -> KeyEvent:
    """A revocation that is made stricter is another event, of the same moment."""
    at, since = revocation.at or datetime.now(UTC), revocation.compromised_since
    compromised = format_timestamp(since) if since else None
    evidence = _package(
        REVOKED, at, key, revoked_at=format_timestamp(at), compromised_since=compromised, reason=revocation.reason
    )
    return KeyEvent(f"key-revocation/{sha256(key.spki).hexdigest()}/{compromised or 'retired'}", evidence)


def _package(event_type: str, time: datetime, key: PublicKey, **facts: object) -> EvidencePackage:
    return EvidencePackage(
        spec_version=SPEC_VERSION,
        timestamp_utc=time,
        event_type=event_type,
        actor=Actor("service", ITSELF.submitter.issuer),
        artifacts=(Artifact(key.key_id, sha256(key.spki).hexdigest()),),
        metadata={
            "key_id": key.key_id,
            "purpose": (key.purpose.name or str(key.purpose.value)).lower(),
            "algorithm": key.algorithm,
            **facts,
        },
    )


def _checked(package: EvidencePackage) -> CheckedEvidence:
    canonical = checked_evidence(package, now=datetime.now(UTC))
    return CheckedEvidence(package, canonical, sha256(canonical).digest())
