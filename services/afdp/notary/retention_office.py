"""Legal holds, and retention when an operator asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import uuid_utils

from afdp.errors import InvalidArgument, NotaryError
from afdp.messages import metadata as store
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.expiring import Expiring
from afdp.notary.ids import parse_hash, require_uuid
from afdp.notary.model import Principal

HOLDS = "holds.admin"
RETENTION = "retention.admin"

_MAX_NAME, _MAX_REASON = 512, 4096  # bytes
_TIMEOUT = 10.0  # seconds
_COUNTING = 60.0


class Access(Protocol):
    """Who puts on record what calls are about (`access/gate.py`)."""

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Hears what a call is about, and why it is refused, where it is. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be held, as somebody asks for it."""

    case_number: str
    reason: str
    artifact_hash: str = ""
    actor_id: str = ""
    event_type: str = ""
    subject: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None


class RetentionOffice:
    """What the public API promises about holds and retention."""

    def __init__(
        self, metadata: store.MetadataServiceClient, access: Access, key_rights: KeyRights, expiring: Expiring
    ) -> None:
        self._metadata = metadata
        self._access = access
        self._key_rights = key_rights
        self._expiring = expiring

    async def place(self, principal: Principal, wanted: Wanted) -> tuple[store.Hold, int]:
        """Places a hold in the caller's tenant; gives it, and how many records it names now.

        Raises:
            InvalidArgument: names the field that is wrong.
            Aborted: records are expiring at this moment: try again.
        """
        hold = store.Hold(
            hold_id=str(uuid_utils.uuid7()),
            tenant=principal.tenant,
            case_number=bounded("case_number", wanted.case_number, _MAX_NAME),
            reason=bounded("reason", wanted.reason, _MAX_REASON),
            artifact_hash=parse_hash("artifact_hash", wanted.artifact_hash) if wanted.artifact_hash else b"",
            actor_id=bounded("actor_id", wanted.actor_id, _MAX_NAME, least=0),
            event_type=bounded("event_type", wanted.event_type, _MAX_NAME, least=0),
            subject=bounded("subject", wanted.subject, _MAX_NAME, least=0),
            start_time=wanted.start_time,
            end_time=wanted.end_time,
            placed_by=_who(principal),
        )
        if hold.start_time is not None and hold.end_time is not None and hold.end_time <= hold.start_time:
            raise InvalidArgument.field("end_time", "must be after start_time")
        self._access.about(principal, HOLDS, "hold", hold.hold_id)
        answer = await self._metadata.place_hold(store.PlaceHoldRequest(hold), timeout=_COUNTING)
        return answer.hold or hold, answer.records

    async def release(self, principal: Principal, hold_id: str, reason: str) -> store.Hold:
        """Ends a hold of the caller's tenant.

        Raises:
            NotFound: it has none of this ID.
            FailedPrecondition: it has ended before.
        """
        request = store.ReleaseHoldRequest(
            principal.tenant, require_uuid("hold_id", hold_id), _who(principal), bounded("reason", reason, _MAX_REASON)
        )
        try:
            released = (await self._metadata.release_hold(request, timeout=_TIMEOUT)).hold
        except NotaryError as refused:
            self._access.about(principal, HOLDS, "hold", hold_id, refused.message)
            raise
        self._access.about(principal, HOLDS, "hold", hold_id)
        return released or store.Hold()

    async def holds(
        self, principal: Principal, *, released: bool, size: int, token: str
    ) -> tuple[Sequence[store.Hold], str]:
        """Holds of the caller's tenant, newest first, and where the next page begins."""
        before = require_uuid("page_token", token) if token else ""
        request = store.ListHoldsRequest(principal.tenant, released, size, before)
        found = (await self._metadata.list_holds(request, timeout=_TIMEOUT)).holds
        return found, found[-1].hold_id if len(found) == size else ""

    async def due(self, principal: Principal) -> list[store.DueRecords]:
        """What would go now, of all tenants.

        Raises:
            PermissionDenied: the caller does not look after all of them.
        """
        self._require_operator(principal, "plan")
        return await self._expiring.due()

    async def run(self, principal: Principal) -> list[store.Expiry]:
        """Lets go what is due, of all tenants.

        Raises:
            PermissionDenied: the caller does not look after all of them.
        """
        self._require_operator(principal, "run")
        return await self._expiring.expire()

    def _require_operator(self, principal: Principal, what: str) -> None:
        try:
            self._key_rights.require_operator(principal)
        except NotaryError as refused:
            self._access.about(principal, RETENTION, "retention", what, refused.message)
            raise
        self._access.about(principal, RETENTION, "retention", what)


def _who(principal: Principal) -> str:
    return f"{principal.submitter.issuer} {principal.submitter.subject}".strip()


def bounded(name: str, value: str, most: int, *, least: int = 1) -> str:
    """The text, if it has as many bytes as it may. Raises InvalidArgument."""
    if not least <= len(value.encode(errors="surrogatepass")) <= most or "\0" in value:
        raise InvalidArgument.field(name, f"must be {least} to {most:,} bytes, without U+0000")
    return value
