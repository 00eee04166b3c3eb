"""For how long records are kept: classes, legal holds, and what goes in the end.

Whatever may go is decided where the records are, by what stands there: nobody who asks for it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from afdp.errors import NotFound


@dataclass(frozen=True, slots=True)
class Hold:
    """Records of a tenant that must stay: those for which all that is given holds. None: any.

    Attributes:
        artifact_hash: SHA-256 of an artifact, 32 bytes.
        subject: who submitted.
        start_time, end_time: when it was notarised; the end is not part of it.
        placed_by, released_by: issuer and subject of who did.
        released_at: None while it is in force.
        asked: where reason, artifact, actor and subject are sealed, and these are empty and blind indexes.
    """

    hold_id: UUID
    tenant: str
    case_number: str
    reason: str
    placed_by: str
    artifact_hash: bytes | None = None
    actor_id: str | None = None
    event_type: str | None = None
    subject: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    placed_at: datetime | None = None
    released_by: str | None = None
    release_reason: str | None = None
    released_at: datetime | None = None
    asked: bytes | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a hold: by whom, and why."""

    tenant: str
    hold_id: UUID
    released_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Period:
    """How long something is kept from when it was notarised; nothing at all: for ever."""

    years: int = 0
    months: int = 0
    days: int = 0

    @property
    def iso(self) -> str | None:
        """As ISO 8601 has it, such as P7Y0M0D; None: for ever."""
        return f"P{self.years}Y{self.months}M{self.days}D" if self.years or self.months or self.days else None


@dataclass(frozen=True, slots=True)
class Due:
    """How many records of a month (its first day, UTC) and tenant are due, and how many stay, by what keeps them."""

    month: date
    tenant: str
    due: int
    kept: int
    held: int


@dataclass(frozen=True, slots=True)
class Expiry:
    """That records of a month and tenant have gone.

    Attributes:
        kept, held: how many of them stayed because of their class, or because of a hold.
        classes: how many of which class went.
        root: of the tree (RFC 6962) whose leaves are, by ascending receipt ID, its 16 bytes and the entry's leaf hash.
        act: the act of the audit trail that announced it; None: nobody did.
        certificate: the receipt ID of what certifies it; None: nothing does yet.
    """

    expiry_id: UUID
    tenant: str
    month: date
    records: int
    kept: int
    held: int
    classes: Mapping[str, int]
    first_id: UUID
    last_id: UUID
    root: bytes
    expired_at: datetime
    certificate: UUID | None
    act: UUID | None = None


@dataclass(frozen=True, slots=True)
class Deferral:
    """Why records must not be erased now.

    Attributes:
        until: when the last of them may be, as far as classes say; None: no class keeps one, or they keep one for ever.
        for_ever: whether a class keeps one for ever.
        cases: the case numbers of the holds that name one.
    """

    until: datetime | None
    for_ever: bool
    cases: tuple[str, ...]


class Deferring(Protocol):
    """Who knows whether records may be erased."""

    async def deferred(self, tenant: str, receipt_ids: Sequence[UUID]) -> Deferral | None:
        """What keeps any of these records from being erased now; None: nothing does."""


class RetentionStore(Deferring, Protocol):
    """One technology that keeps all this: `postgres/retention.py`. Each write is one transaction.

    Every method raises Unavailable while the technology cannot be reached.
    """

    async def place_hold(self, hold: Hold) -> tuple[Hold, int]:
        """Puts a hold on record; gives it as it stands, and how many records it names now.

        Raises:
            AlreadyExists: another one stands under this ID.
            Aborted: records are expiring at this moment.
        """

    async def release_hold(self, release: Release) -> Hold | None:
        """Ends a hold; None: the tenant has none of this ID.

        Raises:
            FailedPrecondition: it has ended before.
            Aborted: records are expiring at this moment.
        """

    async def holds(self, tenant: str, *, released: bool, before: UUID | None, limit: int) -> list[Hold]:
        """A tenant's holds, newest first, from right after one of them; with `released`, those too that have ended."""

    async def put_classes(self, classes: Mapping[str, Period]) -> list[str]:
        """Says how long classes are kept; gives the names of those that were promised longer before, and stay so."""

    async def due(self) -> list[Due]:
        """Where something is due, oldest month first."""

    async def expire_month(self, month: date, act: UUID | None = None) -> list[Expiry]:
        """Lets go what is due of a month; `act` is what the audit trail announces it as.

        Raises:
            Aborted: others were in the way.
        """

    async def uncertified(self, limit: int) -> list[Expiry]:
        """What went and has no certificate, oldest first."""

    async def expired(self, tenant: str, receipt_id: UUID) -> list[Expiry]:
        """What went of a tenant in the month of this receipt ID."""

    async def all_expired(self, after: UUID | None, limit: int) -> list[Expiry]:
        """What went of all tenants, by ascending ID."""

    async def certify(self, expiry_id: UUID, receipt_id: UUID) -> None:
        """Writes which record certifies an expiry; the first one stays."""


class Retention:
    """The part of the service that is about this."""

    def __init__(self, store: RetentionStore) -> None:
        self._store = store

    async def place_hold(self, hold: Hold) -> tuple[Hold, int]:
        """As `RetentionStore.place_hold`."""
        return await self._store.place_hold(hold)

    async def release_hold(self, release: Release) -> Hold:
        """As `RetentionStore.release_hold`.

        Raises:
            NotFound: the tenant has none of this ID.
        """
        released = await self._store.release_hold(release)
        if released is None:
            raise NotFound("no hold has this ID")
        return released

    async def holds(self, tenant: str, released: bool, before: UUID | None, limit: int) -> list[Hold]:
        """As `RetentionStore.holds`."""
        return await self._store.holds(tenant, released=released, before=before, limit=limit)

    async def put_classes(self, classes: Mapping[str, Period]) -> list[str]:
        """As `RetentionStore.put_classes`."""
        return await self._store.put_classes(classes)

    async def due(self) -> list[Due]:
        """As `RetentionStore.due`."""
        return await self._store.due()

    async def expire_month(self, month: date, act: UUID | None) -> list[Expiry]:
        """As `RetentionStore.expire_month`."""
        return await self._store.expire_month(month, act)

    async def all_expired(self, after: UUID | None) -> list[Expiry]:
        """As `RetentionStore.all_expired`."""
        return await self._store.all_expired(after, 1000)

    async def expiries(self, tenant: str, receipt_id: UUID | None) -> list[Expiry]:
        """What went: of a tenant in the month of a receipt ID, or of all tenants what has no certificate."""
        if receipt_id is None:
            return await self._store.uncertified(1000)
        return await self._store.expired(tenant, receipt_id)

    async def certify(self, expiry_id: UUID, receipt_id: UUID) -> None:
        """As `RetentionStore.certify`."""
        await self._store.certify(expiry_id, receipt_id)
