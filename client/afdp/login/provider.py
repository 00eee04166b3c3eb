"""Asking an identity provider for tokens: discovery (RFC 8414), device flow (RFC 8628), client credentials, refresh."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from afdp.errors import InvalidArgument, NotaryError, Unauthenticated, Unavailable
from afdp.formats.canonical import strict_json
from afdp.urls import check_private_url

_TIMEOUT = 10.0
_MAX_BYTES = 256 * 1024
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER = 5.0  # RFC 8628, section 3.5
_DEFAULT_LIFETIME = 300.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a provider gave.

    Attributes:
        access_token: the token to show.
        expires_at: when it ends, in seconds since 1970.
        refresh_token: for another one; empty: none was given.
    """

    access_token: str
    expires_at: float
    refresh_token: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """What a person is asked to do elsewhere, in a browser.

    Attributes:
        url, code: where to go, and what to enter there.
        whole_url: where to go with the code in the URL; empty: the provider has none.
        device_code: what we ask with meanwhile.
        interval: seconds between two questions.
        expires_in: seconds until it is too late.
    """

    url: str
    code: str
    whole_url: str
    device_code: str
    interval: float
    expires_in: float


class LoginProvider:
    """An identity provider. A context manager that closes its connections."""

    def __init__(self, issuer: str, client_id: str, ca_file: Path | None = None) -> None:
        """Raises InvalidArgument: the issuer is no URL to send secrets to, or the authorities cannot be read."""
        try:
            self._issuer = check_private_url(issuer)
            tls = ssl.create_default_context(cafile=ca_file)
        except ValueError as error:
            raise InvalidArgument.field("issuer", str(error)) from None
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument.field("issuer_ca", f"cannot be read: {error}") from None
        self._client_id = client_id
        self._http = httpx.Client(verify=tls, follow_redirects=False, timeout=_TIMEOUT)
        self._endpoints: Mapping[str, Any] = {}

    def device(self, scope: str) -> Device:
        """Begins the device flow.

        Raises:
            NotaryError: the provider is away, does not know it, or refuses.
        """
        answer = self._post("device_authorization_endpoint", {"client_id": self._client_id, "scope": scope})
        return Device(
            url=_text(answer, "verification_uri"),
            code=_text(answer, "user_code"),
            whole_url=str(answer.get("verification_uri_complete", "")),
            device_code=_text(answer, "device_code"),
            interval=min(max(_number(answer, "interval", _SLOWER), 1.0), 60.0),
            expires_in=min(max(_number(answer, "expires_in", 600.0), 1.0), 3600.0),
        )

    def device_tokens(self, device: Device, sleep: Callable[[float], None] = time.sleep) -> Tokens:
        """Waits until somebody has agreed, as often as the provider wants to be asked.

        Raises:
            Unauthenticated: nobody did, or they did not agree.
        """
        interval, ends = device.interval, time.monotonic() + device.expires_in
        form = {"grant_type": _DEVICE_GRANT, "device_code": device.device_code, "client_id": self._client_id}
        while time.monotonic() < ends:
            sleep(interval)
            try:
                return _tokens(self._post("token_endpoint", form))
            except _OAuthError as error:
                if error.error == "slow_down":
                    interval += _SLOWER
                elif error.error != "authorization_pending":
                    raise
        raise Unauthenticated("nobody agreed to the login in time")

    def client_tokens(self, secret: str, scope: str) -> Tokens:
        """A client's own token.

        Raises:
            NotaryError: the provider is away, or refuses.
        """
        form = {"grant_type": "client_credentials", "client_id": self._client_id, "client_secret": secret}
        return _tokens(self._post("token_endpoint", {**form, "scope": scope}))

    def refreshed(self, refresh_token: str) -> Tokens:
        """New tokens for the ones that end; the refresh token may be a new one too.

        Raises:
            NotaryError: the provider is away, or the login has ended.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._client_id}
        tokens = _tokens(self._post("token_endpoint", form))
        return tokens if tokens.refresh_token else Tokens(tokens.access_token, tokens.expires_at, refresh_token)

    def revoke(self, refresh_token: str) -> bool:
        """Ends a login at the provider (RFC 7009); whether it could be told so."""
        try:
            self._post("revocation_endpoint", {"token": refresh_token, "client_id": self._client_id})
        except NotaryError:
            return False
        return True

    def __enter__(self) -> LoginProvider:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def _post(self, endpoint: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        status, answer = self._ask("POST", self._endpoint(endpoint), form)
        if status == httpx.codes.OK:
            return answer
        if isinstance(error := answer.get("error"), str) and status < 500:
            raise _OAuthError(error, str(answer.get("error_description", "")))
        raise Unavailable(f"the identity provider answers {status}")

    def _endpoint(self, name: str) -> str:
        if not self._endpoints:
            status, found = self._ask("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", None)
            if status != httpx.codes.OK:
                raise Unavailable(f"{self._issuer} has no discovery document: it answers {status}")
            if found.get("issuer") != self._issuer:
                raise InvalidArgument.field("issuer", "must be as the provider itself writes it, slashes included")
            self._endpoints = found
        try:
            return check_private_url(str(self._endpoints.get(name, "")))
        except ValueError as error:
            raise Unavailable(
                f"the identity provider offers no {name.replace('_', ' ')}, or one that {error}"
            ) from None

    def _ask(self, verb: str, url: str, form: Mapping[str, str] | None) -> tuple[int, Mapping[str, Any]]:
        try:
            with self._http.stream(verb, url, data=form, headers={"Accept": "application/json"}) as reply:
                body = bytearray()
                for piece in reply.iter_bytes():
                    body += piece
                    if len(body) > _MAX_BYTES:
                        raise Unavailable("the identity provider's answer is too large")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"the identity provider cannot be reached: {type(error).__name__}") from None
        if not body:
            return reply.status_code, {}
        try:
            answer = strict_json(bytes(body))
        except InvalidArgument:
            answer = None
        if not isinstance(answer, dict):
            raise Unavailable(f"the identity provider answers {reply.status_code}, and not in JSON")
        return reply.status_code, answer


class _OAuthError(Unauthenticated):
    """RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"the identity provider refuses: {error}{': ' if description else ''}{description}")
        self.error = error


def _tokens(answer: Mapping[str, Any]) -> Tokens:
    if str(answer.get("token_type", "")).lower() != "bearer":
        raise Unavailable("the identity provider gives tokens that are no bearer tokens")
    ends = time.time() + _number(answer, "expires_in", _DEFAULT_LIFETIME)
    return Tokens(_text(answer, "access_token"), ends, str(answer.get("refresh_token", "")))


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise Unavailable(f"the identity provider's answer has no {name}")
    return value


def _number(answer: Mapping[str, Any], name: str, default: float) -> float:
    value = answer.get(name, default)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else default
