"""Asking whether a service lives at an address, by grpc.health.v1."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from afdp.rpc.client import open_channel
from afdp.tls.files import TlsFiles

AWAY = "away"
FOREIGN = "foreign"
"""Something answers, and it is not this service."""

_TIMEOUT = 3.0  # seconds


async def probe(address: str, service: str, tls: TlsFiles | None = None) -> str:
    """What is at an address: `serving`, `not serving`, or one of the constants of this module.

    Args:
        address: as `open_channel` takes it; of several, one that answers is enough.
        service: `package.Service`.
        tls: as `open_channel` takes it.
    """
    try:
        async with open_channel(address, tls=tls, service=service.split(".")[1]) as channel:
            health: Any = HealthStub(channel)  # its stubs are of the generated code
            answer = await health.Check(HealthCheckRequest(service=service), timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return AWAY
        return FOREIGN
    return "serving" if answer.status == HealthCheckResponse.SERVING else "not serving"
