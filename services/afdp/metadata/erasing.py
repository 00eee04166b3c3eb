"""Erasure of a subject: its keys are destroyed, so that nobody can open its records any more, and the proofs stay.

It goes by steps, each on record before the next, and each may be repeated by anybody: who finds an erasure half done
goes on with it. Whether records may be erased is decided where they are, once nothing more can be sealed for the
subject. Then its key is destroyed at its holder, which no backup of the database undoes; then the data keys here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from afdp.errors import FailedPrecondition, InvalidArgument, NotFound
from afdp.metadata.record_keys import FRESH_SECONDS, KeptKey, RecordKeys, Scope
from afdp.metadata.subjects import OWN

_MARGIN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a subject's records must not be erased now.

    Attributes:
        classes: those of retention that keep some of them.
        until: when the last of these lets go; None: none keeps any, or one keeps them for ever.
        cases: the case numbers of the holds that name some of them.
        unfinished: how many wait for a log or for a stamp.
    """

    classes: tuple[str, ...] = ()
    until: datetime | None = None
    for_ever: bool = False
    cases: tuple[str, ...] = ()
    unfinished: int = 0


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a subject is to be erased, or was.

    Attributes:
        subject: its blind index, 16 bytes.
        waiting: what kept it when it was tried last.
        closing_since: since when nothing is sealed for it.
        decided_at: since when nothing stands in its way, and there is no way back.
        erased_at: when its keys were destroyed; then `records`, `first_id`, `last_id` and `root` say what they sealed.
        root: of the tree (RFC 6962) whose leaves are, by ascending receipt ID, its 16 bytes and the entry's leaf hash.
        act: of the audit trail, which had said that this was about to happen; None: none did.
        certificate: the receipt ID of what certifies it; None: nothing does yet.
    """

    tenant: str
    subject: bytes
    requested_at: datetime
    requested_by: str
    reason: str
    waiting: Waiting | None = None
    closing_since: datetime | None = None
    decided_at: datetime | None = None
    erased_at: datetime | None = None
    records: int = 0
    first_id: UUID | None = None
    last_id: UUID | None = None
    root: bytes = b""
    act: UUID | None = None
    certificate: UUID | None = None

    @property
    def scope(self) -> Scope:
        """Whose keys are destroyed."""
        return Scope(self.tenant, self.subject)


@dataclass(frozen=True, slots=True)
class Wish:
    """Who is to be erased: by name, or by the ID of an erasure that was asked for before, elsewhere or here."""

    tenant: str
    subject: str
    erasure_id: bytes
    requested_by: str
    reason: str


class ErasureStore(Protocol):
    """One technology that keeps all this: `postgres/erasures.py`. Each write is one transaction, and may be repeated.

    Every method raises Unavailable while the technology cannot be reached.
    """

    async def add(self, scope: Scope, requested_by: str, reason: str) -> Erasure:
        """Puts on record that a subject is to be erased; gives what stands there, the first of them."""

    async def get(self, scope: Scope) -> Erasure | None:
        """One erasure."""

    async def page(self, tenant: str, after: Scope | None, limit: int, uncertified: bool) -> list[Erasure]:
        """A tenant's, or without a tenant those of all, by tenant and subject; or those that have no certificate."""

    async def defer(self, scope: Scope) -> Waiting | None:
        """Writes what keeps the subject's records, if anything does, where nothing is decided; gives it."""

    async def close(self, scope: Scope) -> datetime:
        """Writes that nothing is to be sealed for the subject any more; gives since when that stands there."""

    async def decide(self, scope: Scope, closing_since: datetime) -> Waiting | None:
        """Decides that it is erased, or, where something keeps its records, opens it again and gives that.

        No hold is placed meanwhile.

        Raises:
            Aborted: it was opened since.
        """

    async def wipe(self, scope: Scope, act: UUID) -> Erasure:
        """Empties the data keys of a subject whose erasure is decided, and counts what they had sealed."""

    async def renew(self, scope: Scope, requested_by: str, reason: str) -> None:
        """Puts on record that a subject's erasure is decided, which is known from its key."""

    async def key_of(self, tenant: str, receipt_id: UUID) -> KeptKey | None:
        """The data key of a record; None: there is none."""

    async def certify(self, scope: Scope, receipt_id: UUID) -> None:
        """Writes which record certifies it; the first one stays."""


class Erasing:
    """The part of the service that is about this."""

    def __init__(
        self,
        store: ErasureStore,
        keys: RecordKeys | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`keys`: None where records lie in plain, and nobody can be erased."""
        self._store = store
        self._record_keys = keys
        self._sleep = sleep

    async def request(self, wish: Wish) -> Erasure:
        """Puts on record that a subject is to be erased; asked again, it finds the first one.

        Raises:
            InvalidArgument: it names nobody who can be erased.
            FailedPrecondition: records are not sealed.
        """
        keys = self._keys
        if wish.subject == OWN:
            raise InvalidArgument.field("subject", "must be one: what is about nobody in particular is not erased")
        subject = wish.erasure_id or (await keys.index_of(wish.tenant)).subject(wish.subject)
        return await self._store.add(Scope(wish.tenant, subject), wish.requested_by, wish.reason)

    async def erase(self, scope: Scope, act: UUID | None) -> Erasure:
        """Goes on with an erasure as far as that is possible now; gives how it stands. Without an act it only looks.

        From its return on no service answers with what the keys had sealed.

        Raises:
            NotFound: nobody has asked for it.
            Aborted: another one that went on with it found that something keeps the records: ask again.
            Unavailable: the signer is away; what was decided stays so.
        """
        keys = self._keys
        found = await self.get(scope)
        if found.erased_at is not None:
            return found
        if found.decided_at is None:
            if await self._store.defer(scope) is not None or act is None:
                return await self.get(scope)
            closing_since = await self._store.close(scope)
            await self._sleep(FRESH_SECONDS + _MARGIN)  # until every service knows it
            if await self._store.decide(scope, closing_since) is not None:
                return await self.get(scope)
        if act is None:
            return found
        await keys.destroy(scope)
        return await self._store.wipe(scope, act)

    async def renew(self, tenant: str, receipt_id: UUID) -> Erasure:
        """Puts on record again that a record's subject is erased: its key is destroyed, the database of before.

        Raises:
            NotFound: there is no such record, or it is not sealed.
            FailedPrecondition: its key is not destroyed.
        """
        kept = await self._store.key_of(tenant, receipt_id)
        if kept is None:
            raise NotFound("there is no such record, or it is not sealed")
        if kept.erased is None:
            if not await self._keys.is_destroyed(kept):
                raise FailedPrecondition("the key of this record's subject is not destroyed")
            await self._store.renew(kept.scope, "afdp-notary", "its key was destroyed: the database is of before")
        return await self.get(kept.scope)

    async def get(self, scope: Scope) -> Erasure:
        """One erasure. Raises NotFound."""
        found = await self._store.get(scope)
        if found is None:
            raise NotFound("there is no such erasure")
        return found

    async def page(self, tenant: str, after: Scope | None, limit: int, uncertified: bool = False) -> list[Erasure]:
        """As `ErasureStore.page`."""
        return await self._store.page(tenant, after, limit, uncertified)

    async def certify(self, scope: Scope, receipt_id: UUID) -> None:
        """As `ErasureStore.certify`."""
        await self._store.certify(scope, receipt_id)

    @property
    def _keys(self) -> RecordKeys:
        if self._record_keys is None:
            raise FailedPrecondition("records are not encrypted, so that nobody can be erased: AFDP_ENCRYPTION is off")
        return self._record_keys
