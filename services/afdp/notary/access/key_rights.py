"""Whose keys a caller sees and may change, once policies have let it in as an administrator of keys.

An operator's tenant: all of them. Another tenant: the keys of its own, which sign for nobody else, are its to rotate
and to revoke; common ones, which sign for everybody, it sees, as anybody can in the trust root. Others are not there
for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from afdp.errors import NotFound, PermissionDenied
from afdp.messages.signer import KeyPurpose, PublicKey
from afdp.notary.model import Principal

_ALL = "*"


@dataclass(frozen=True, slots=True)
class KeyRights:
    """The rights of tenants on keys; `operators` are those tenants whose administrators look after all of them."""

    operators: frozenset[str]

    def seen(self, principal: Principal, keys: Iterable[PublicKey]) -> list[PublicKey]:
        """Those that a caller may know of; of the tenants that share one with it, only itself is named."""
        if principal.tenant in self.operators:
            return list(keys)
        mine = (principal.tenant, _ALL)
        return [
            replace(key, tenants=[each for each in key.tenants if each in mine])
            for key in keys
            if _is_common(key) or principal.tenant in key.tenants
        ]

    def require_operator(self, principal: Principal) -> None:
        """Refuses what concerns all tenants to those who do not look after all of them. Raises PermissionDenied."""
        if principal.tenant not in self.operators:
            raise PermissionDenied("this concerns every tenant: it is for the operator's administrators")

    def require_version(self, principal: Principal, key: PublicKey | None) -> None:
        """Refuses to have a version changed that is not the caller's.

        Raises:
            NotFound: there is none that it may know of.
            PermissionDenied: it signs for others too.
        """
        if principal.tenant not in self.operators:
            self._require(principal, [] if key is None else [key], "there is no such key version")

    def require_key(self, principal: Principal, versions: Iterable[PublicKey], name: str) -> None:
        """Refuses to have a key rotated that is not the caller's; without a name it is a common one.

        Raises:
            NotFound: there is none of this name that it may know of.
            PermissionDenied: it signs for others too.
        """
        if principal.tenant in self.operators:
            return
        wanted = [key for key in versions if (_name(key) == name if name else _is_common(key))]
        self._require(principal, wanted, "there is no such key")

    def _require(self, principal: Principal, keys: list[PublicKey], missing: str) -> None:
        if not self.seen(principal, keys):
            raise NotFound(missing)
        if not all(key.purpose == KeyPurpose.EVIDENCE and key.tenants == [principal.tenant] for key in keys):
            raise PermissionDenied("this key signs for others too: it is its operator's to change")


def _is_common(key: PublicKey) -> bool:
    return key.purpose != KeyPurpose.EVIDENCE or _ALL in key.tenants


def _name(key: PublicKey) -> str:
    return key.key_id.rpartition(":")[0]
