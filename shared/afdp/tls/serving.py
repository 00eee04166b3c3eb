"""uvicorn over TLS 1.3, with a bound on handshakes, and the client's certificate in each request's scope."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import uvicorn

from afdp.tls.files import TlsFiles
from afdp.tls.http import HANDSHAKE_SECONDS, Clients, server_context

_EXTENSION = "tls"  # of ASGI; ours tells the certificate only


class TlsServer(uvicorn.Server):
    """uvicorn's server, which over TLS waits for a handshake for `HANDSHAKE_SECONDS` and not for a minute."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, where it speaks plain text."""
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        loop, config = asyncio.get_running_loop(), self.config
        listening: list[dict[str, Any]] = [{"sock": each} for each in sockets or ()]
        self.servers = [
            await loop.create_server(
                self._protocol,
                ssl=config.ssl,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                backlog=config.backlog,
                **each,
            )
            for each in listening or [{"host": config.host, "port": config.port}]
        ]
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def tls_options(tls: TlsFiles | None, clients: Clients) -> dict[str, Any]:
    """What uvicorn's configuration is given besides; nothing where TLS is off."""
    if tls is None:
        return {}
    context = server_context(tls, clients)
    return {"ssl_context_factory": lambda _config, _default: context}


def extensions_of(transport: asyncio.BaseTransport) -> dict[str, Any]:
    """A request's `extensions` on a connection, as ASGI's TLS extension has them; empty over plain text."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return {} if connection is None else {_EXTENSION: {"client_cert": connection.getpeercert(binary_form=True)}}


def client_certificate(scope: Any) -> bytes | None:
    """The certificate that the handshake has verified, as DER; None where the client has shown none."""
    found: bytes | None = scope.get("extensions", {}).get(_EXTENSION, {}).get("client_cert")
    return found


def is_over_tls(scope: Any) -> bool:
    """Whether the request came over TLS."""
    return _EXTENSION in scope.get("extensions", {})
