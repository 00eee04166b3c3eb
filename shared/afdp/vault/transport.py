"""What carries hvac's calls: a pool of urllib3, at half the CPU that requests' session, hvac's own choice, takes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hvac
import orjson
import urllib3
from hvac.adapters import Adapter
from hvac.exceptions import VaultError

from afdp.errors import FailedPrecondition

CONNECTIONS = 16  # kept open at most


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What we show in the TLS handshake, PEM."""

    file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where Vault is and how it is reached."""

    url: str
    namespace: str | None = None
    ca_file: Path | None = None  # PEM; the system's authorities where there is none
    certificate: ClientCertificate | None = None
    connect_timeout: float = 1.0  # seconds
    timeout: float = 3.0  # seconds for an answer


class Redirected(VaultError):
    """Vault sends us to another address. We do not follow: the token would be told to whoever is there."""


class PooledAdapter(Adapter):  # type: ignore[type-arg]  # generic in its stubs alone
    """hvac's way out, through the pool that stands where its `session` would."""

    def __init__(self, base_uri: str, token: str, session: urllib3.HTTPConnectionPool, **rest: Any) -> None:
        self.base_uri = base_uri
        self.token = token
        self.session: Any = session
        self.namespace = rest["namespace"]
        self._prefix = urlsplit(base_uri).path.rstrip("/")

    def get_login_token(self, response: Any) -> str:
        """As hvac's."""
        token: str = response["auth"]["client_token"]
        return token

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,
        *,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        **_: Any,
    ) -> Any:
        """The answer's JSON, or None where it has no body.

        Raises:
            VaultError: Vault answered with an error.
            urllib3.exceptions.HTTPError: it gave no answer.
        """
        query = "?" + "&".join(f"{name}={value}" for name, value in params.items()) if params else ""
        response = self.session.urlopen(
            method.upper(),
            f"{self._prefix}/{url.lstrip('/')}{query}",
            body=None if json is None else orjson.dumps(json),
            headers={**self._headers(), **(headers or {})},
            retries=False,
            redirect=False,
        )
        body = _parsed(response.data)
        if response.status >= 300:
            raise _refusal(response.status, body)
        return body

    def close(self) -> None:
        """Closes the connections."""
        self.session.close()

    def _headers(self) -> dict[str, str]:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        return headers


def open_pool(address: VaultAddress) -> urllib3.HTTPConnectionPool:
    """Connections to Vault, none of them open yet, past any proxy of the environment.

    Raises:
        FailedPrecondition: it is no URL, or a certificate, its key or the authorities' file cannot be read.
    """
    parts = urlsplit(address.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FailedPrecondition("AFDP_VAULT_ADDR must be the URL of Vault, as https://vault.example:8200")
    timeout = urllib3.Timeout(connect=address.connect_timeout, read=address.timeout)
    secured: dict[str, Any] = {"ssl_context": _tls(address)} if parts.scheme == "https" else {}
    return urllib3.connection_from_url(address.url, maxsize=CONNECTIONS, timeout=timeout, **secured)


def client(address: VaultAddress, pool: urllib3.HTTPConnectionPool, token: str = "") -> Any:
    """hvac's client (whose methods have no types), for one token; without one it can only log in."""
    session: Any = pool
    return hvac.Client(
        url=address.url, token=token, namespace=address.namespace, session=session, adapter=PooledAdapter
    )


def _tls(address: VaultAddress) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=address.ca_file)
    except OSError as error:
        raise FailedPrecondition(f"AFDP_VAULT_CA_FILE: {address.ca_file} cannot be used: {error.strerror}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if address.certificate:
        try:
            context.load_cert_chain(address.certificate.file, address.certificate.key_file)
        except OSError as error:
            files = f"{address.certificate.file} with {address.certificate.key_file}"
            raise FailedPrecondition(f"Vault's client certificate: {files} cannot be used: {error.strerror}") from None
    return context


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data) if data else None
    except ValueError:
        return data.decode(errors="replace")


def _refusal(status: int, body: Any) -> VaultError:
    errors = body.get("errors") if isinstance(body, dict) else None
    if status < 400:
        return Redirected(errors=errors)
    error: VaultError = VaultError.from_status(status, None, errors=errors, json=body)
    return error
