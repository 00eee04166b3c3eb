"""`grpc.health.v1` that also says why a service cannot serve: in the trailing metadata of `Check`."""

from __future__ import annotations

from typing import Any

import grpc.aio
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

_REASON = "afdp-reason-bin"
_MAX_BYTES = 1024


class ReasonedHealth(health_aio.HealthServicer):
    """The health of a service, with the reason where it is not good."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802 - gRPC's name
        """Answers as its base does."""
        if self.reason:
            context.set_trailing_metadata(((_REASON, self.reason.encode()[:_MAX_BYTES]),))
        answer: HealthCheckResponse = await super().Check(request, context)
        return answer


def reason_in(metadata: grpc.aio.Metadata) -> str:
    """The reason that came with an answer; empty where none did."""
    value = metadata.get(_REASON, b"")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
