"""The notary, as bytes in and bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from afdp.errors import DeadlineExceeded, NotaryError, Unavailable
from afdp.gateway.metrics import UPSTREAM_ERRORS
from afdp.gateway.relay import PEER, LostError, Metadata, Relay, Stream
from afdp.rpc import answer, open_channel
from afdp.rpc.descriptors import method
from afdp.rpc.status import from_rpc_error, of_transport
from afdp.tls.files import TlsFiles

__all__ = ["Metadata", "Upstream", "open_upstream"]


class Upstream:
    """Unary calls over one channel. A call fails at once while the notary is away."""

    def __init__(self, channel: grpc.aio.Channel, relay: Relay) -> None:
        self._channel = channel
        self._relay = relay
        self._calls: dict[str, Any] = {}

    async def call(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        """One request, one answer, both serialised. The headers that come with it are told to the caller (`answer`).

        Args:
            path: "/package.Service/Method".
            request: the serialised request.
            timeout: seconds; travels with the call as its deadline.
            metadata: headers of the call.

        Raises:
            NotaryError: what the notary said, or Unavailable or DeadlineExceeded with a sentence of ours.
        """
        stream = self._relay.stream(len(request))
        try:
            if stream is None:
                return await self._alone(path, request, timeout, metadata)
            return await self._relayed(stream, path, request, timeout, metadata)
        except NotaryError as error:
            UPSTREAM_ERRORS.labels(path.rpartition("/")[2], error.code).inc()
            raise

    async def stream(self, path: str, request: bytes, metadata: Metadata) -> AsyncGenerator[bytes, None]:
        """One request, answers for as long as the notary has some: a call of its own, which may last for days.

        Raises:
            NotaryError: as of `call`.
        """
        method: Any = self._channel.unary_stream(path)  # generic in its stubs only
        call = method(request, metadata=metadata)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            answer.tell(*answer.heard(error.trailing_metadata()))
            told = from_rpc_error(error, PEER)
            UPSTREAM_ERRORS.labels(path.rpartition("/")[2], told.code).inc()
            raise told from None
        finally:
            call.cancel()

    async def _relayed(self, stream: Stream, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        """By a stream; what it did not bring to its end goes once more, alone, where that does no harm."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        try:
            return await stream.call(path, request, timeout, metadata)
        except LostError as lost:
            if lost.sent and not method(path).idempotent:
                raise of_transport(Unavailable, PEER) from None
        if (timeout := until - loop.time()) <= 0:
            raise of_transport(DeadlineExceeded, PEER)
        return await self._alone(path, request, timeout, metadata)

    async def _alone(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = self._channel.unary_unary(path)
        under_way = call(request, timeout=timeout, metadata=metadata)
        try:
            reply: bytes = await under_way
        except grpc.aio.AioRpcError as error:
            answer.tell(*answer.heard(error.trailing_metadata()))
            raise from_rpc_error(error, PEER) from None
        answer.tell(*answer.heard(await under_way.trailing_metadata()))
        return reply


@asynccontextmanager
async def open_upstream(address: str, max_message_bytes: int, tls: TlsFiles | None = None) -> AsyncIterator[Upstream]:
    """The notary at `host:port`, for as long as the context is open."""
    async with open_channel(address, max_message_bytes, tls=tls, service=PEER) as channel:
        relay = Relay(channel, max_message_bytes)
        async with asyncio.TaskGroup() as tasks:
            kept = tasks.create_task(relay.run())
            yield Upstream(channel, relay)
            kept.cancel()
