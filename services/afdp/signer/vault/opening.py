"""From settings to Vault: both identities, each with its method of logging in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from afdp.errors import FailedPrecondition
from afdp.signer.vault.access import VaultAccess, open_access
from afdp.signer.vault.settings import VaultSettings
from afdp.vault.identity import VaultIdentity
from afdp.vault.login import Login
from afdp.vault.transport import VaultAddress

T = TypeVar("T")

SIGNER, KEY_ADMIN = "signer", "key admin"


@dataclass(frozen=True, slots=True)
class Vault:
    """One Vault: the signer's way in, and the key admin's, who logs in for one thing at a time.

    await vault.call(lambda client: client.secrets.transit.read_key("afdp-log-key", mount_point=vault.mount))
    await vault.call_as_admin(lambda client: client.secrets.transit.rotate_key(name, mount_point=vault.mount))
    """

    access: VaultAccess
    mount: str
    admin: tuple[VaultAddress, Login] | None = None

    async def call(self, function: Callable[[Any], T]) -> T:
        """As `VaultAccess.call`, as the signer."""
        return await self.access.call(function)

    async def call_as_admin(self, function: Callable[[Any], T]) -> T:
        """As `VaultAccess.call`, as the key admin. `function` is not run again where its answer was lost.

        Raises:
            FailedPrecondition: the settings name no login for the key admin.
        """
        if self.admin is None:
            raise FailedPrecondition("this needs Vault's key admin: set AFDP_VAULT_ADMIN_AUTH and what it needs")
        access = VaultAccess(*self.admin, KEY_ADMIN)
        try:
            return await access.call(function, repeatable=False)
        finally:
            await access.leave()


@asynccontextmanager
async def open_vault(settings: VaultSettings) -> AsyncIterator[Vault]:
    """Vault as the settings tell, whether it is there just now or not.

    Raises:
        FailedPrecondition: a setting or a file is missing; it is named.
    """
    signer, admin = VaultIdentity(settings, "vault_", settings.vault_auth), None
    if method := settings.vault_admin_auth or ("token" if settings.vault_admin_token_file else None):
        identity = VaultIdentity(settings, "vault_admin_", method)
        admin = identity.address(), identity.login()
    address, login = signer.address(), signer.login()
    login.credentials()
    async with open_access(address, login, SIGNER) as access:
        yield Vault(access, settings.vault_mount, admin)
