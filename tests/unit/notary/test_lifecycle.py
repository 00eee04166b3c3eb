"""Which key events get a record, and that each gets one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from afdp.errors import AlreadyExists, FailedPrecondition, NotaryError, Unavailable
from afdp.messages.metadata import RecordSummary, SearchRecordsRequest, SearchRecordsResponse, Workflow
from afdp.messages.notary import NotarizationReceipt
from afdp.messages.signer import KeyPurpose, PublicKey, Revocation
from afdp.notary.lifecycle import CREATED, REVOKED, KeyLifecycle, events
from afdp.notary.model import Order, Principal
from afdp.notary.service import Notarised

BEGAN = datetime(2026, 1, 24, 4, 9, 28, tzinfo=UTC)
LATER = BEGAN + timedelta(days=1)


def key(number: int = 1, **changes: object) -> PublicKey:
    fields: dict[str, object] = {
        "key_id": f"afdp-file-key:{number}",
        "purpose": KeyPurpose.EVIDENCE,
        "algorithm": "PKIX_ECDSA_P256_SHA_256",
        "spki": b"spki %d" % number,
        "valid_from": BEGAN + timedelta(hours=number),
        "tenants": ["zoo", "acme"],
        **changes,
    }
    return PublicKey(**fields)  # type: ignore[arg-type]


@dataclass
class Keys:
    """The directory."""

    known: list[PublicKey]
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def versions(self) -> list[PublicKey]:
        return self.known


@dataclass
class Records:
    """What every notary of a deployment shares: records, by idempotency key; keys may be forgotten, records not."""

    orders: dict[str, Order] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    failing: NotaryError | None = None
    signed: asyncio.Event = field(default_factory=asyncio.Event)
    searching: asyncio.Barrier | None = None  # so that two look before one of them signs

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        if self.failing:
            raise self.failing
        known = self.keys.setdefault(order.idempotency_key, order.evidence.hash)
        if known != order.evidence.hash:
            raise AlreadyExists("other evidence")
        self.orders.setdefault(f"{order.idempotency_key} {order.evidence.hash.hex()}", order)
        self.signed.set()
        return Notarised(Workflow(), NotarizationReceipt())

    async def search(self, principal: Principal, request: SearchRecordsRequest) -> SearchRecordsResponse:
        found = [
            RecordSummary(evidence_hash=order.evidence.hash)
            for order in self.orders.values()
            if request.event_type == order.evidence.package.event_type
            and request.evidence_hash in (b"", order.evidence.hash)
            and request.artifact_hash.hex() in ("", order.evidence.package.artifacts[0].hash_sha256)
        ]
        if self.searching:
            await self.searching.wait()
        return SearchRecordsResponse(found[:1])

    @property
    def event_types(self) -> list[str]:
        return [order.evidence.package.event_type for order in self.orders.values()]


@asynccontextmanager
async def running(*lifecycles: KeyLifecycle) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(lifecycle.run()) for lifecycle in lifecycles]
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        for task in tasks:
            task.cancel()


async def until(records: Records, count: int) -> None:
    while len(records.orders) < count:
        records.signed.clear()
        await records.signed.wait()


async def test_the_evidence_says_what_the_version_is() -> None:
    records = Records()
    async with running(KeyLifecycle(Keys([key(7)]), records, 60)):
        await until(records, 1)

    [order] = records.orders.values()
    package = order.evidence.package
    assert (package.event_type, package.timestamp_utc) == (CREATED, BEGAN + timedelta(hours=7))
    assert package.actor is not None
    assert (package.actor.actor_type, package.actor.id) == ("service", "afdp-notary")
    [artifact] = package.artifacts
    assert (artifact.name, artifact.hash_sha256) == ("afdp-file-key:7", sha256(b"spki 7").hexdigest())
    assert package.metadata == {
        "key_id": "afdp-file-key:7",
        "purpose": "evidence",
        "algorithm": "PKIX_ECDSA_P256_SHA_256",
        "valid_from": "2026-01-24T11:09:28Z",
        "tenants": ["acme", "zoo"],
    }
    submitter = order.principal.submitter
    assert (submitter.issuer, submitter.subject, submitter.method) == ("afdp-notary", "key-lifecycle", "service")


async def test_a_revocation_is_an_event_and_a_stricter_one_another() -> None:
    retired, compromised = Revocation(LATER, None, "old"), Revocation(LATER, BEGAN, "stolen")
    names = [[event.name for event in events([key(revoked=revoked)])] for revoked in (None, retired, compromised)]

    assert [len(each) for each in names] == [1, 2, 2]
    assert len({name for each in names for name in each}) == 3
    event = list(events([key(revoked=compromised)]))[1].evidence
    assert (event.event_type, event.timestamp_utc) == (REVOKED, LATER)
    assert event.metadata["compromised_since"] == "2026-01-24T04:09:28Z"
    assert event.metadata["reason"] == "stolen"


async def test_names_are_idempotency_keys_whatever_the_key_is_called() -> None:
    odd = key(key_id="schlüssel" * 50 + ":1", revoked=Revocation(LATER, BEGAN, "x"))

    assert all(event.name.isascii() and len(event.name) <= 255 for event in events([odd]))


async def test_each_version_gets_one_record_over_restarts_and_after_idempotency_keys_are_forgotten() -> None:
    keys, records = Keys([key(1), key(2, revoked=Revocation(LATER, None, "old"))]), Records()
    for _ in range(3):
        async with running(KeyLifecycle(keys, records, 60)):
            await until(records, 3)
            await asyncio.sleep(0)
        records.keys.clear()

    async with running(KeyLifecycle(keys, records, 0.001)):
        keys.known.append(key(3))
        await until(records, 4)
    assert sorted(records.event_types) == [CREATED] * 3 + [REVOKED]


async def test_two_notaries_that_see_a_version_at_once_make_one_record() -> None:
    records = Records(searching=asyncio.Barrier(2))
    # The second was started with another setting of the tenants.
    ours, theirs = Keys([key()]), Keys([key(tenants=["acme"])])
    async with running(KeyLifecycle(ours, records, 60), KeyLifecycle(theirs, records, 60)):
        await until(records, 1)
        for _ in range(10):
            await asyncio.sleep(0)

    assert records.event_types == [CREATED]


async def test_a_change_through_this_notary_is_seen_at_once() -> None:
    keys, records = Keys([key(1)]), Records()
    async with running(KeyLifecycle(keys, records, 3600)):
        await until(records, 1)
        keys.known.append(key(2))
        keys.changed.set()
        await until(records, 2)


@pytest.mark.parametrize("error", [Unavailable("the log is away"), FailedPrecondition("the version is revoked")])
async def test_what_cannot_be_notarised_now_is_notarised_later(
    monkeypatch: pytest.MonkeyPatch, error: NotaryError
) -> None:
    monkeypatch.setattr("afdp.notary.lifecycle.RETRY", 0.001)
    keys, records = Keys([key(1), key(2)]), Records(failing=error)
    async with running(KeyLifecycle(keys, records, 3600)):
        await asyncio.sleep(0.01)
        assert not records.orders
        records.failing = None
        await until(records, 2)
