"""How we are let in: by a token, as an AppRole, as a Kubernetes service account, or by a TLS client certificate.

Each method reads its files at every login, so that what is replaced in them is taken up by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hvac.exceptions import Forbidden

from afdp.errors import FailedPrecondition

Connect = Callable[[str], Any]  # a client of hvac for a token; for "" one that can only log in


@dataclass(frozen=True, slots=True)
class Lease:
    """A token and for how long it holds."""

    token: str = field(repr=False)
    ttl: float | None  # seconds from `since`; None where it does not end, or does not say
    renewable: bool
    made: bool  # by our login, so that it is ours to end
    known: bool = True  # to Vault, as far as it told
    since: float = field(default_factory=time.monotonic)

    def remaining(self) -> float | None:
        """Seconds that are left."""
        return None if self.ttl is None else max(0.0, self.since + self.ttl - time.monotonic())


class Login(Protocol):
    """A method of authentication."""

    @property
    def method(self) -> str:
        """Its name, as in `AFDP_VAULT_AUTH`."""

    @property
    def settings(self) -> str:
        """The settings to look at where it is refused."""

    def credentials(self) -> object:
        """What it would show now: equal to what it showed before, where nothing was replaced. Blocks.

        Raises:
            FailedPrecondition: a file cannot be read; it is named.
        """

    def __call__(self, connect: Connect) -> Lease:
        """Logs in. Blocks.

        Raises:
            FailedPrecondition: a file cannot be read; it is named.
            VaultError, urllib3.exceptions.HTTPError: Vault refused, or gave no answer.
        """


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """A token that somebody else made and gives to us."""

    token: Callable[[], str]
    settings: str
    method: str = "token"

    def credentials(self) -> object:
        """As `Login.credentials`."""
        return self.token()

    def __call__(self, connect: Connect) -> Lease:
        """As `Login.__call__`: asks how long it holds."""
        token = self.token()
        try:
            data = connect(token).auth.token.lookup_self()["data"]
        except Forbidden:  # it does not hold, or may not ask: whoever uses it will hear
            return Lease(token, None, renewable=False, made=False, known=False)
        return Lease(token, data["ttl"] or None, renewable=data["renewable"], made=False)


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """A role's ID with a secret ID."""

    role_id: Callable[[], str]
    secret_id: Callable[[], str]
    mount: str
    settings: str
    method: str = "approle"

    def credentials(self) -> object:
        """As `Login.credentials`."""
        return self.role_id(), self.secret_id()

    def __call__(self, connect: Connect) -> Lease:
        """As `Login.__call__`."""
        approle = connect("").auth.approle
        return _lease(approle.login(self.role_id(), self.secret_id(), use_token=False, mount_point=self.mount))


@dataclass(frozen=True, slots=True)
class KubernetesLogin:
    """The service account that the pod runs under."""

    role: str
    jwt: Callable[[], str]
    mount: str
    settings: str
    method: str = "kubernetes"

    def credentials(self) -> object:
        """As `Login.credentials`."""
        return self.jwt()

    def __call__(self, connect: Connect) -> Lease:
        """As `Login.__call__`."""
        kubernetes = connect("").auth.kubernetes
        return _lease(kubernetes.login(self.role, self.jwt(), use_token=False, mount_point=self.mount))


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """The client certificate of the TLS connection itself."""

    role: str
    files: tuple[Path, Path]
    mount: str
    settings: str
    method: str = "cert"

    def credentials(self) -> object:
        """As `Login.credentials`."""
        return tuple(read(file, self.settings) for file in self.files)

    def __call__(self, connect: Connect) -> Lease:
        """As `Login.__call__`."""
        # not hvac's own method, which makes a session of requests beside our connections
        answer = connect("").adapter.post(f"/v1/auth/{self.mount}/login", json={"name": self.role})
        return _lease(answer)


def read(path: Path, setting: str) -> str:
    """A file's text without the white space around it.

    Raises:
        FailedPrecondition: it cannot be read, or is empty; the setting is named.
    """
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FailedPrecondition(f"{setting}: {path} cannot be read: {reason}") from None
    if not text:
        raise FailedPrecondition(f"{setting}: {path} is empty")
    return text


def _lease(answer: Any) -> Lease:
    auth = answer["auth"]
    return Lease(auth["client_token"], auth["lease_duration"] or None, renewable=auth["renewable"], made=True)
