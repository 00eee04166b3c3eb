"""Access where authentication is off: everybody may do everything, and nothing of it is on record."""

from __future__ import annotations

import logging
from functools import lru_cache

from afdp.errors import NotaryError, PermissionDenied
from afdp.notary.access.permissions import PERMISSIONS
from afdp.notary.model import CheckedEvidence, Held, Principal
from afdp.rpc.caller import caller
from afdp.rpc.descriptors import Method
from afdp.tls.plain import is_loopback

logger = logging.getLogger(__name__)

_is_here = lru_cache(4096)(is_loopback)


class OnThisMachine:
    """As `Admit` of the server: lets in who calls from this machine, also through a gateway that others reach."""

    def __init__(self) -> None:
        self._told = False

    async def admit(self, method: Method, refused: NotaryError | None = None) -> None:
        """Raises PermissionDenied where a call that takes a permission comes from elsewhere, or none can say whence."""
        address = caller.get().address
        if refused is not None or not method.permission or _is_here(address):
            return
        if not self._told:
            self._told = True  # once: who calls from elsewhere could fill the log
            logger.error(
                "calls from other machines are refused, because AFDP_AUTH is off: set it to required",
                extra={"fields": {"address": address or "not known", "method": method.name}},
            )
        raise PermissionDenied("this notary serves nobody but its own machine")


class OpenAccess:
    """Permits whatever is asked."""

    asks_for_labels = False

    def require_create(self, principal: Principal, evidence: CheckedEvidence) -> None:
        """Any evidence."""

    def may_read(self, principal: Principal, evidence_hash: bytes, evidence: bytes) -> bool:
        """Any evidence."""
        return True

    def may_list(self, principal: Principal, event_type: str, evidence: bytes | None) -> bool:
        """Any evidence."""
        return True

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """Every permission, and no policies."""
        return [Held(each, True) for each in sorted(PERMISSIONS)], ""

    def omitted(self, principal: Principal, count: int) -> None:
        """Never any."""

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Is not on record."""


class NoCharges:
    """Counts nothing."""

    def charge(self, principal: Principal, permission: str, count: int) -> None:
        """Any number."""

    async def hold(self, principal: Principal, permission: str) -> None:
        """Never."""
