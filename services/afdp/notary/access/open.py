"""Access where authentication is off: everybody may do everything, and nothing of it is on record."""

from __future__ import annotations

from afdp.notary.model import CheckedEvidence, Principal


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
