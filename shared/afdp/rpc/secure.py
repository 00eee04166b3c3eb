"""gRPC over TLS 1.3: what servers and channels are given, and a channel that follows its files.

`afdp.tls.modern` must have been imported before grpc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from afdp.errors import FailedPrecondition
from afdp.tls.files import TlsFiles
from afdp.tls.material import Material
from afdp.tls.modern import is_modern

_LEAVE = 360.0  # seconds for calls under way on a channel that was replaced; streams of the relay last up to 300


def server_credentials(tls: TlsFiles, *, ask_clients: bool, callers_from_outside: bool) -> grpc.ServerCredentials:
    """Of a server that asks, at each handshake, what the files hold now.

    Args:
        tls: the files.
        ask_clients: whether every client must show a certificate.
        callers_from_outside: whether those of `client_ca` are believed too, and not only services.

    Raises:
        FailedPrecondition: gRPC was loaded before it could be told to speak TLS 1.3 only.
    """
    if not is_modern():
        raise FailedPrecondition("gRPC was loaded too early to speak TLS 1.3 only: set GRPC_SSL_CIPHER_SUITES outside")

    def configuration(material: Material) -> grpc.ServerCertificateConfiguration:
        roots = material.authorities if callers_from_outside else material.services_pem
        return grpc.ssl_server_certificate_configuration([(material.key, material.chain)], roots)

    given = tls.material

    def newest() -> grpc.ServerCertificateConfiguration | None:
        """Asked before each handshake, on a thread of gRPC's; None: as before."""
        nonlocal given
        if tls.material is given:
            return None
        given = tls.material
        return configuration(given)

    # Its types do not know of the None that gRPC's documentation names.
    return grpc.dynamic_ssl_server_credentials(configuration(given), newest, ask_clients)  # type: ignore[arg-type]


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Of a client that believes the services' authorities, and shows its own certificate."""
    return grpc.ssl_channel_credentials(material.services_pem, material.key, material.chain)


class FollowingChannel(grpc.aio.Channel):
    """A channel that is replaced when the files of TLS change: new calls go on a new one, those under way end first."""

    def __init__(self, tls: TlsFiles, make: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]) -> None:
        self._make = make
        self.current = make(channel_credentials(tls.material))
        self._leaving: set[asyncio.Task[None]] = set()
        self._unsubscribe = tls.subscribe(self._replace)

    def _replace(self, material: Material) -> None:
        old, self.current = self.current, self._make(channel_credentials(material))
        task = asyncio.create_task(old.close(_LEAVE))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    # The four shapes differ in nothing here, and gRPC's own types of them are generic in its stubs only.

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio has it."""
        return _Calls(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio has it."""
        return _Calls(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio has it."""
        return _Calls(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """As grpc.aio has it."""
        return _Calls(self, "stream_stream", arguments, options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the newest channel."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the newest channel."""
        await self.current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the newest channel."""
        await self.current.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Ends all calls, those on channels that were replaced too."""
        self._unsubscribe()
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.gather(self.current.close(grace), *self._leaving, return_exceptions=True)

    async def __aenter__(self) -> FollowingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(None)


class _Calls:
    """One method, on whichever channel is the newest."""

    def __init__(self, owner: FollowingChannel, shape: str, arguments: Any, options: Any) -> None:
        self._owner = owner
        self._shape, self._arguments, self._options = shape, arguments, options
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self._channel is not self._owner.current:
            self._channel = self._owner.current
            self._stub = getattr(self._channel, self._shape)(*self._arguments, **self._options)
        return self._stub(*arguments, **options)
