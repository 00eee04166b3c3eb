"""What belongs to one request from its first byte to the end of its answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.trace import SpanContext, format_span_id, format_trace_id
from starlette.types import Scope
from uuid_utils import uuid7

from afdp.gateway.metrics import OTHER

KEY = "afdp.exchange"

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Exchange:
    """The request's ID, the trace it is part of, the route it took, and the status of its answer (0: none so far).

    `passed_on`: it went to the notary, or to the log: what comes of it is theirs to put on record. `refusal`: why the
    gateway itself refused it, in a fixed sentence. `stand_aside`: it goes on for long, and no more takes a place among
    the requests that are served at once.
    """

    request_id: str
    trace_id: str = ""
    traceparent: str = ""
    endpoint: str = OTHER
    status: int = 0
    passed_on: bool = False
    refusal: str = ""
    stand_aside: Callable[[], None] = lambda: None

    def join(self, span: SpanContext) -> None:
        """Makes the exchange part of a trace; `traceparent` is what the next hop is told (W3C Trace Context)."""
        if span.is_valid:
            self.trace_id = format_trace_id(span.trace_id)
            self.traceparent = f"00-{self.trace_id}-{format_span_id(span.span_id)}-{int(span.trace_flags):02x}"


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of a request, from its ASGI scope."""
    found: Exchange = scope[KEY]
    return found


def request_id_from(header: str | None) -> str:
    """The caller's ID where it is well-formed, else a new one."""
    return header if header is not None and _WELL_FORMED.fullmatch(header) else str(uuid7())
