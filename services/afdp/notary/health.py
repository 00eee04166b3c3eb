"""Whether the notary's peers are there, asked in the background so that an answer costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from afdp.errors import Unavailable
from afdp.rpc.health import reason_in

EVERY = 1.0  # seconds
TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class PeerHealth:
    """What a peer said last."""

    name: str
    healthy: bool
    response_time: float  # seconds
    error: str
    reachable: bool = True


class PeerWatch:
    """Asks each peer's `grpc.health.v1` once a second."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._stubs: dict[str, Any] = {name: HealthStub(channel) for name, channel in channels.items()}
        self._seen = {name: PeerHealth(name, False, 0.0, "not asked yet", False) for name in channels}
        self._first = asyncio.Event()
        self._started = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            answers = await asyncio.gather(*(self._ask(name) for name in self._stubs))
            self._seen = {answer.name: answer for answer in answers}
            self._first.set()
            await asyncio.sleep(EVERY)

    async def peers(self) -> list[PeerHealth]:
        """What each peer said last; waits for the first answers."""
        await self._first.wait()
        return list(self._seen.values())

    async def check(self) -> None:
        """Raises `Unavailable` while reads do not work."""
        for peer in await self.peers():
            if peer.name == "metadata" and not peer.healthy:
                raise Unavailable(f"metadata: {peer.error}", retry_after=EVERY)

    async def _ask(self, name: str) -> PeerHealth:
        began = time.monotonic()
        try:
            call = self._stubs[name].Check(HealthCheckRequest(), timeout=TIMEOUT)
            answer, reason = await call, reason_in(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            away = "cannot be reached" if error.code() == grpc.StatusCode.UNAVAILABLE else "does not answer in time"
            return PeerHealth(name, False, time.monotonic() - began, away, reachable=False)
        healthy = answer.status == HealthCheckResponse.SERVING
        said = "" if healthy else reason or "says that it cannot serve"
        return PeerHealth(name, healthy, time.monotonic() - began, said)
