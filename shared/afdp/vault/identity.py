"""From settings to a way into Vault."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import SecretStr

from afdp.errors import FailedPrecondition
from afdp.vault.login import AppRoleLogin, CertificateLogin, KubernetesLogin, Login, TokenLogin, read
from afdp.vault.settings import VaultAccessSettings
from afdp.vault.transport import ClientCertificate, VaultAddress


class VaultIdentity:
    """One way in: of the settings, those whose names begin with its prefix."""

    def __init__(self, settings: VaultAccessSettings, prefix: str, method: str) -> None:
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
