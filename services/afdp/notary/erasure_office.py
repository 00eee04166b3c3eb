"""Erasure of subjects, when somebody asks for it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from afdp.errors import InvalidArgument, NotaryError
from afdp.formats.evidence import MAX_NAME_BYTES
from afdp.messages import metadata as store
from afdp.notary.model import Held, Principal
from afdp.notary.retention_office import HOLDS, bounded

logger = logging.getLogger(__name__)

ERASURE = "erasure.admin"

_MAX_REASON = 4096  # bytes
_TIMEOUT = 10.0  # seconds
_ID = re.compile(r"[0-9a-f]{32}")


class Access(Protocol):
    """Who puts on record what calls are about (`access/gate.py`)."""

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Hears what a call is about, and why it is refused, where it is. Raises Unavailable."""

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """Each permission, and the hash of the policies that were asked."""


class Settling(Protocol):
    """Who does it (`erasing.py`)."""

    async def settle(self, erasure: store.Erasure) -> store.Erasure:
        """Goes on with an erasure as far as that is possible now; gives how it stands."""


@dataclass(frozen=True, slots=True)
class Told:
    """An erasure, and the case numbers of holds as its reader may know them."""

    erasure: store.Erasure
    cases: Sequence[str]


class ErasureOffice:
    """What the public API promises about erasures."""

    def __init__(self, metadata: store.MetadataServiceClient, access: Access, erasing: Settling) -> None:
        self._metadata = metadata
        self._access = access
        self._erasing = erasing

    async def erase(self, principal: Principal, subject: str, erasure_id: str, reason: str) -> Told:
        """Puts on record that a subject is to be erased, and has it done unless something keeps its records.

        On record a subject is named by its blind index alone. What was put there is done by a later run where it cannot
        be done now.

        Raises:
            InvalidArgument: names the field that is wrong.
            FailedPrecondition: records are not encrypted.
            Unavailable: it is not on record.
        """
        if erasure_id:
            _require_id(erasure_id)
        if bool(subject) == bool(erasure_id):
            raise InvalidArgument.field("subject", "must be given, or the erasure_id, and not both")
        if subject:
            bounded("subject", subject, 2 * MAX_NAME_BYTES + 1)
        bounded("reason", reason, _MAX_REASON)
        who = f"{principal.submitter.issuer} {principal.submitter.subject}".strip()
        request = store.RequestErasureRequest(principal.tenant, subject, erasure_id, who, reason)
        asked = (await self._metadata.request_erasure(request, timeout=_TIMEOUT)).erasure or store.Erasure()
        self._access.about(principal, ERASURE, "subject", asked.erasure_id)
        try:
            return self._told(principal, await self._erasing.settle(asked))
        except NotaryError as error:  # a later run goes on with it
            fields = {"erasure_id": asked.erasure_id, "code": error.code, "reason": str(error)}
            logger.warning("an erasure waits", extra={"fields": {"tenant": asked.tenant, **fields}})
        return await self.one(principal, asked.erasure_id)

    async def one(self, principal: Principal, erasure_id: str) -> Told:
        """An erasure of the caller's tenant.

        Raises:
            NotFound: it has none of this ID.
        """
        request = store.GetErasureRequest(principal.tenant, _require_id(erasure_id))
        found = (await self._metadata.get_erasure(request, timeout=_TIMEOUT)).erasure
        self._access.about(principal, ERASURE, "subject", erasure_id)
        return self._told(principal, found or store.Erasure())

    async def page(self, principal: Principal, size: int, token: str) -> tuple[list[Told], str]:
        """Erasures of the caller's tenant, and where the next page begins."""
        after = f"{principal.tenant}/{_require_id(token, 'page_token')}" if token else ""
        request = store.ListErasuresRequest(principal.tenant, size, after)
        found = (await self._metadata.list_erasures(request, timeout=_TIMEOUT)).erasures
        told = [self._told(principal, each) for each in found]
        return told, found[-1].erasure_id if len(found) == size else ""

    def _told(self, principal: Principal, erasure: store.Erasure) -> Told:
        cases = erasure.deferral.cases if erasure.deferral is not None else []
        if cases and not any(each.allowed and each.permission == HOLDS for each in self._access.held(principal)[0]):
            cases = []
        return Told(erasure, cases)


def _require_id(text: str, field: str = "erasure_id") -> str:
    if not _ID.fullmatch(text):
        raise InvalidArgument.field(field, "must be 32 hex digits in lower case")
    return text
