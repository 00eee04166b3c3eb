"""The notary, as bytes in and bytes out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from afdp.errors import NotaryError
from afdp.gateway.metrics import UPSTREAM_ERRORS
from afdp.rpc import answer, open_channel
from afdp.rpc.status import from_rpc_error
from afdp.tls.files import TlsFiles

Metadata = list[tuple[str, str]]

PEER = "notary"


class Upstream:
    """Unary calls over one channel. A call fails at once while the notary is away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
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
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = self._channel.unary_unary(path)
        under_way = call(request, timeout=timeout, metadata=metadata)
        try:
            reply: bytes = await under_way
        except grpc.aio.AioRpcError as error:
            answer.tell(*answer.heard(error.trailing_metadata()))
            raise _counted(path, from_rpc_error(error, PEER)) from None
        answer.tell(*answer.heard(await under_way.trailing_metadata()))
        return reply


@asynccontextmanager
async def open_upstream(address: str, max_message_bytes: int, tls: TlsFiles | None = None) -> AsyncIterator[Upstream]:
    """The notary at `host:port`, for as long as the context is open."""
    async with open_channel(address, max_message_bytes, tls=tls, service=PEER) as channel:
        yield Upstream(channel)


def _counted(path: str, error: NotaryError) -> NotaryError:
    UPSTREAM_ERRORS.labels(path.rpartition("/")[2], error.code).inc()
    return error
