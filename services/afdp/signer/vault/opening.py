"""From settings to Vault: both identities, each with its method of logging in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import SecretStr

from afdp.errors import FailedPrecondition
from afdp.signer.vault.access import VaultAccess, open_access
from afdp.signer.vault.login import AppRoleLogin, CertificateLogin, KubernetesLogin, Login, TokenLogin, read
from afdp.signer.vault.settings import VaultSettings
from afdp.signer.vault.transport import ClientCertificate, VaultAddress

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
    signer, admin = _Identity(settings, "vault_", settings.vault_auth), None
    if method := settings.vault_admin_auth or ("token" if settings.vault_admin_token_file else None):
        identity = _Identity(settings, "vault_admin_", method)
        admin = identity.address(), identity.login()
    address, login = signer.address(), signer.login()
    login.credentials()
    async with open_access(address, login, SIGNER) as access:
        yield Vault(access, settings.vault_mount, admin)


class _Identity:
    """The settings of one of the two: those whose names begin with its prefix."""

    def __init__(self, settings: VaultSettings, prefix: str, method: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._method = method

    def address(self) -> VaultAddress:
        """Where and how Vault is reached; with a client certificate where there is one, whatever the method."""
        settings, certificate = self._settings, None
        if self._value("cert_file") or self._method == "cert":
            certificate = ClientCertificate(self._required("cert_file"), self._required("cert_key_file"))
        if certificate and not settings.vault_addr.startswith("https:"):
            raise FailedPrecondition(f"VAULT_ADDR must begin with https: where {self._names('cert_file')} is set")
        return VaultAddress(
            url=settings.vault_addr,
            namespace=settings.vault_namespace,
            ca_file=settings.vault_ca_file,
            certificate=certificate,
            connect_timeout=settings.vault_connect_timeout_seconds,
            timeout=settings.vault_timeout_seconds,
        )

    def login(self) -> Login:
        """The method, with what it needs."""
        return {
            "token": self._token,
            "approle": self._approle,
            "kubernetes": self._kubernetes,
            "cert": self._certificate,
        }[self._method]()

    def _token(self) -> Login:
        token: SecretStr | None = getattr(self._settings, self._prefix + "token", None)
        if token is not None and self._value("token_file") is None:
            return TokenLogin(token.get_secret_value, "VAULT_TOKEN")
        return TokenLogin(self._file("token_file"), self._names("token_file"))

    def _approle(self) -> Login:
        role_id: str | None = self._value("role_id")
        role = self._file("role_id_file") if role_id is None else partial(str, role_id)
        names = self._names("role_id" if role_id else "role_id_file", "secret_id_file")
        return AppRoleLogin(role, self._file("secret_id_file"), self._mount(), names)

    def _kubernetes(self) -> Login:
        names = self._names("role", "jwt_file")
        return KubernetesLogin(self._required("role"), self._file("jwt_file"), self._mount(), names)

    def _certificate(self) -> Login:
        files = self._required("cert_file"), self._required("cert_key_file")
        return CertificateLogin(self._required("role"), files, self._mount(), self._names("role", "cert_file"))

    def _mount(self) -> str:
        mount: str = self._value("auth_mount") or self._method
        return mount

    def _file(self, name: str) -> Callable[[], str]:
        return partial(read, self._required(name), self._names(name))

    def _required(self, name: str) -> Any:
        value = self._value(name)
        if value is None:
            raise FailedPrecondition(f"{self._names('auth')}={self._method} needs {self._names(name)}")
        return value

    def _value(self, name: str) -> Any:
        return getattr(self._settings, self._prefix + name)

    def _names(self, *names: str) -> str:
        return " and ".join("AFDP_" + (self._prefix + name).upper() for name in names)
