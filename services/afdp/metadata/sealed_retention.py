"""Holds that find sealed records: what they ask for stands as blind indexes, and sealed what it was.

Who reads a hold sees what was asked. Whoever reads the database sees that there is a hold, its case number and times,
and who placed and released it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from uuid import UUID

import orjson

from afdp.errors import AlreadyExists, DataLoss, Internal
from afdp.metadata.blind import IndexKey
from afdp.metadata.record_keys import DataKey, Opener, RecordKeys, Scope, raised
from afdp.metadata.retention import Deferral, Due, Expiry, Hold, Period, Release, RetentionStore
from afdp.metadata.sealing import NONCE_BYTES, Column, seal, unseal
from afdp.metadata.values import Erased, Seal

_KEY_BYTES = 16  # the ID of the data key, before what it seals


class SealedRetention:
    """The promises are those of `afdp.metadata.retention.RetentionStore`; what it does not seal it passes on.

    Beside them placing and reading holds may raise Unavailable where the signer is away, and DataLoss where what is
    kept is not what was sealed.
    """

    def __init__(self, store: RetentionStore, keys: RecordKeys) -> None:
        self._store = store
        self._keys = keys

    async def place_hold(self, hold: Hold) -> tuple[Hold, int]:
        """Puts a hold on record, sealed."""
        index = await self._keys.index_of(hold.tenant)
        scope = Scope(hold.tenant)
        key = raised((await self._keys.sealing([scope]))[scope])
        kept, count = await self._store.place_hold(_sealed(hold, index, key))
        [placed] = await self._opened([kept])
        if placed.reason != hold.reason:
            raise AlreadyExists("another hold stands under this ID")
        return placed, count

    async def release_hold(self, release: Release) -> Hold | None:
        """Ends a hold."""
        released = await self._store.release_hold(release)
        return None if released is None else (await self._opened([released]))[0]

    async def holds(self, tenant: str, *, released: bool, before: UUID | None, limit: int) -> list[Hold]:
        """A tenant's holds, opened."""
        found = await self._store.holds(tenant, released=released, before=before, limit=limit)
        return await self._opened(found)

    async def put_classes(self, classes: Mapping[str, Period]) -> list[str]:
        """Says how long classes are kept."""
        return await self._store.put_classes(classes)

    async def due(self) -> list[Due]:
        """Where something is due."""
        return await self._store.due()

    async def expire_month(self, month: date, act: UUID | None = None) -> list[Expiry]:
        """Lets go what is due of a month."""
        return await self._store.expire_month(month, act)

    async def all_expired(self, after: UUID | None, limit: int) -> list[Expiry]:
        """What went of all tenants."""
        return await self._store.all_expired(after, limit)

    async def uncertified(self, limit: int) -> list[Expiry]:
        """What went and has no certificate."""
        return await self._store.uncertified(limit)

    async def expired(self, tenant: str, receipt_id: UUID) -> list[Expiry]:
        """What went of a tenant in the month of this receipt ID."""
        return await self._store.expired(tenant, receipt_id)

    async def certify(self, expiry_id: UUID, receipt_id: UUID) -> None:
        """Writes which record certifies an expiry."""
        await self._store.certify(expiry_id, receipt_id)

    async def deferred(self, tenant: str, receipt_ids: Sequence[UUID]) -> Deferral | None:
        """What keeps any of these records from being erased now."""
        return await self._store.deferred(tenant, receipt_ids)

    async def _opened(self, holds: Sequence[Hold]) -> list[Hold]:
        seals = [Seal(each.tenant, _key_of(each.asked), b"") for each in holds if each.asked]
        openers = await self._keys.opening(seals) if seals else {}
        return [each if each.asked is None else _opened(each, each.asked, openers) for each in holds]


def _opened(hold: Hold, kept: bytes, openers: Mapping[UUID, Opener]) -> Hold:
    if len(kept) <= _KEY_BYTES:
        raise DataLoss(f"hold {hold.hold_id} does not open: it was altered")
    opener = openers[_key_of(kept)]
    if isinstance(opener, Erased):
        raise Internal("the tenant's own key was destroyed")
    plain = unseal(raised(opener), kept[_KEY_BYTES:], hold.hold_id, hold.tenant.encode(), Column.HOLD)
    asked = orjson.loads(plain)
    artifact = asked["artifact_hash"]
    return replace(
        hold,
        reason=asked["reason"],
        artifact_hash=None if artifact is None else bytes.fromhex(artifact),
        actor_id=asked["actor_id"],
        subject=asked["subject"],
        asked=None,
    )


def _key_of(kept: bytes) -> UUID:
    return UUID(bytes=kept[:_KEY_BYTES].ljust(_KEY_BYTES, b"\0"))


def _sealed(hold: Hold, index: IndexKey, key: DataKey) -> Hold:
    asked = {
        "reason": hold.reason,
        "artifact_hash": None if hold.artifact_hash is None else hold.artifact_hash.hex(),
        "actor_id": hold.actor_id,
        "subject": hold.subject,
    }
    plain, nonce = orjson.dumps(asked), os.urandom(NONCE_BYTES)
    sealed = seal(key.cipher, nonce, plain, hold.hold_id, hold.tenant.encode(), Column.HOLD)
    return replace(
        hold,
        reason="",
        artifact_hash=None if hold.artifact_hash is None else index.artifact(hold.artifact_hash),
        actor_id=None if hold.actor_id is None else index.actor(hold.actor_id),
        subject=None if hold.subject is None else index.submitter(hold.subject),
        asked=key.id.bytes + sealed,
    )
