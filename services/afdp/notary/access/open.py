"""Access where authentication is off: everybody may do everything, as nobody in particular, and that is on record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from afdp.errors import NotaryError, PermissionDenied
from afdp.notary.access import acts
from afdp.notary.access.audit import AuditEvent, AuditTrail
from afdp.notary.access.given import Given, Listed
from afdp.notary.access.permissions import PERMISSIONS
from afdp.notary.model import CheckedEvidence, Held, Principal
from afdp.rpc.caller import caller
from afdp.rpc.descriptors import Method
from afdp.tls.plain import is_loopback

logger = logging.getLogger(__name__)

_is_here = lru_cache(4096)(is_loopback)


class OnThisMachine:
    """As `Admit` of the server: lets in who calls from this machine, also through a gateway that others reach."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._told = False

    async def admit(self, method: Method, refused: NotaryError | None = None) -> None:
        """Raises PermissionDenied where a call that takes a permission comes from elsewhere, or none can say whence."""
        address = caller.get().address
        if refused is not None or not method.permission or _is_here(address):
            return
        self._trail.record(
            AuditEvent(
                "authentication", "deny", method.name, method.permission, "not from this machine", address=address
            )
        )
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

    def may_read(self, principal: Principal, evidence_hash: bytes, evidence: bytes, receipt_id: str = "") -> bool:
        """Any evidence."""
        self.about(principal, "evidence.read", "receipt", receipt_id)
        return True

    def may_list(self, principal: Principal, many: Sequence[Listed]) -> list[bool]:
        """Any evidence."""
        return [True] * len(many)

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        """Is on record with the act of the call."""
        act = acts.current.get()
        if act is not None:
            act.hears(AuditEvent("act", "allow", "", permission, resource=given.resource, more=given.members()))

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """Every permission, and no policies."""
        return [Held(each, True) for each in sorted(PERMISSIONS)], ""

    def require_unexpired(self, principal: Principal, permission: str) -> None:
        """Has no credential."""

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Is on record with the act of the call."""
        resource = f"{kind}:{named if isinstance(named, str) else sha256(named).hexdigest()}"
        act = acts.current.get()
        if act is not None:
            act.hears(AuditEvent("act", "deny" if refused else "allow", "", permission, refused, resource=resource))


class NoCharges:
    """Counts nothing."""

    def charge(self, principal: Principal, permission: str, count: int) -> None:
        """Any number."""

    async def hold(self, principal: Principal, permission: str) -> None:
        """Never."""
