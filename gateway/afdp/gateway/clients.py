"""Who is at the other end of a request over TLS, and what of it the notary is told.

A client is known by the certificate of its own handshake. Where an ingress ends TLS before us, it is the one whose
certificate we see; it alone may say whom it serves, by `Client-Cert` (RFC 9440) and `X-Forwarded-For`. From anybody
else these headers are as if they were not there.
"""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from afdp.errors import InvalidArgument, NotaryError, Unauthenticated
from afdp.gateway.exchange import exchange_of
from afdp.gateway.rekor import error_response
from afdp.rpc.peers import FORWARDED_ADDRESS, FORWARDED_CERTIFICATE
from afdp.tls.files import TlsFiles
from afdp.tls.peers import Peer, PeerRefused, Peers
from afdp.tls.serving import client_certificate

logger = logging.getLogger(__name__)

_KEY = "afdp.client"
_INGRESS = "ingress"


class Clients:
    """Judges the certificate of each request's client, whatever is asked for."""

    def __init__(self, app: ASGIApp, tls: TlsFiles, ingress: Iterable[str]) -> None:
        """`ingress`: the DNS names and URIs of who ends TLS before us, by its certificate."""
        self._app = app
        self._peers = Peers(tls, {_INGRESS: tuple(ingress)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "http":
            try:
                scope[_KEY] = self._told(scope)
            except NotaryError as error:
                exchange = exchange_of(scope)
                if isinstance(error.__cause__, PeerRefused):
                    exchange.refusal = str(error.__cause__)
                await error_response(scope, error, exchange.request_id)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _told(self, scope: Scope) -> list[tuple[str, str]]:
        shown = client_certificate(scope)
        client = self._peer(shown) if shown else None
        address = (scope.get("client") or ("",))[0]
        if client is not None and client.service == _INGRESS:
            handed_on = _certificate_of(scope)
            client = self._peer(handed_on) if handed_on else None
            address = _address_of(scope)
        told = [(FORWARDED_ADDRESS, address)] if address else []
        if client is not None:
            told.append((FORWARDED_CERTIFICATE, b64encode(client.der).decode("ascii")))
        return told

    def _peer(self, certificate: bytes) -> Peer:
        try:
            return self._peers.of(certificate)
        except PeerRefused as refused:
            fields = {"reason": str(refused), "serial": refused.serial}
            logger.warning("a client is refused", extra={"fields": fields})
            raise Unauthenticated("the credentials are missing or not valid") from refused


def told_of_client(scope: Scope) -> list[tuple[str, str]]:
    """What the notary is told of who asks, as metadata; nothing over plain text."""
    found: list[tuple[str, str]] = scope.get(_KEY, [])
    return found


def _certificate_of(scope: Scope) -> bytes | None:
    """The certificate that the ingress hands on, as DER; None where its client has shown none."""
    values = _values(scope, b"client-cert")
    if not values:
        return None
    text = values[0].strip()
    if len(values) > 1 or len(text) < 3 or not (text[:1] == text[-1:] == b":"):
        raise InvalidArgument.field("client-cert", "must be one certificate, as RFC 9440 has it")
    try:
        return b64decode(text[1:-1], validate=True)
    except ValueError:
        raise InvalidArgument.field("client-cert", "must be one certificate, as RFC 9440 has it") from None


def _address_of(scope: Scope) -> str:
    """The address that the ingress itself has seen, which is the last; empty where it tells none."""
    values = _values(scope, b"x-forwarded-for")
    try:
        return str(ip_address(values[-1].rpartition(b",")[2].strip().decode("ascii"))) if values else ""
    except ValueError:
        return ""


def _values(scope: Any, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
