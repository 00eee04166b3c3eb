"""A gRPC proxy between two services, which passes every call on as it is and can act at one call's beginning or end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from afdp.embedded.process import LOOPBACK


class Proxy(grpc.GenericRpcHandler):
    """Passes unary calls on. `arm` sets what happens, once, before or after the next call of a method."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._armed: dict[tuple[str, str], Callable[[], None]] = {}
        self.fired = asyncio.Event()
        self.port = 0

    def arm(self, method: str, moment: str, act: Callable[[], None]) -> None:
        """`moment` is `before` the call is passed on, or `after` its answer came, before that is passed back."""
        self._armed = {(method, moment): act}
        self.fired.clear()

    def service(self, details: Any) -> Any:
        """Every method has the same handler."""
        name = details.method

        async def forward(data: bytes, context: Any) -> bytes:
            self._act(name, "before")
            metadata = [
                (key, value) for key, value in context.invocation_metadata() if not key.startswith(("grpc-", "user-"))
            ]
            try:
                answer: bytes = await self._channel.unary_unary(name)(
                    data, timeout=context.time_remaining(), metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
                raise
            self._act(name, "after")
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)

    def _act(self, name: str, moment: str) -> None:
        act = self._armed.pop((name.rpartition("/")[2], moment), None)
        if act is not None:
            act()
            self.fired.set()


@asynccontextmanager
async def running_proxy(target: str) -> AsyncIterator[Proxy]:
    """A proxy to `host:port`, on a free port."""
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        proxy = Proxy(channel)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((proxy,))
        proxy.port = server.add_insecure_port(f"{LOOPBACK}:0")
        await server.start()
        try:
            yield proxy
        finally:
            await server.stop(0)
