"""What every request gets, whatever answers it: an ID, a trace, a bound, security headers, a count, a log line."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Literal

from opentelemetry import trace
from opentelemetry.propagate import extract
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afdp.errors import Internal, ResourceExhausted
from afdp.gateway.addresses import address_of
from afdp.gateway.exchange import KEY, Exchange, request_id_from
from afdp.gateway.metrics import IN_FLIGHT, IN_FLIGHT_LIMIT, REFUSED, observe
from afdp.gateway.rekor import error_response
from afdp.gateway.security import HEADERS, strict_transport
from afdp.refusals import REFUSALS, Step
from afdp.rpc import answer as notarys
from afdp.telemetry import context

logger = logging.getLogger(__name__)

AccessLog = Literal["all", "errors", "off"]

_ALWAYS_SERVED = frozenset({"/health", "/metrics"})
_CLIENT_WENT_AWAY = 499
_UNAUTHENTICATED = 401


class Edge:
    """The outermost layer of the application.

    Args:
        app: what answers.
        max_in_flight: requests served at once; further ones are refused at once.
        access_log: which requests are logged.
        hsts_seconds: how long browsers shall stay at TLS, once they had an answer over it.
        is_proxy: whether an address is a proxy of ours, which says for whom it speaks.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_in_flight: int,
        access_log: AccessLog,
        hsts_seconds: int,
        is_proxy: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._app = app
        self._is_proxy = is_proxy
        self._headers = {"http": HEADERS, "https": dict([*HEADERS.items(), strict_transport(hsts_seconds)])}
        self.free = max_in_flight
        IN_FLIGHT_LIMIT.set(max_in_flight)
        self._logged_from = {"all": 100, "errors": 400, "off": 1000}[access_log]
        self._tracer = trace.get_tracer("afdp.gateway")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        traceparent, request_id = _asked(scope)
        exchange = scope[KEY] = Exchange(request_id_from(request_id))
        context.request_id.set(exchange.request_id)
        notarys.begin()
        answer = _Answer(send, exchange, self._headers[scope["scheme"]])
        place = _Place(self)
        exchange.stand_aside = place.give_up
        span = self._tracer.start_span(
            scope["method"], extract({"traceparent": traceparent}) if traceparent else None, trace.SpanKind.SERVER
        )
        exchange.join(span.get_span_context())
        try:
            await self._serve(scope, receive, answer)
        finally:
            place.give_up()
            seconds = perf_counter() - started
            observe(scope["method"], exchange.endpoint, answer.status, seconds)
            if span.is_recording():
                span.update_name(f"{scope['method']} {exchange.endpoint}")
                span.set_attribute("http.response.status_code", answer.status)
            span.end()
            if answer.status >= self._logged_from:
                _log(scope, exchange, answer, seconds)
            if exchange.refusal and 400 <= answer.status < 500:
                step: Step = "authentication" if answer.status == _UNAUTHENTICATED else "limit"
                address = address_of(scope, self._is_proxy)
                REFUSALS.add(step, exchange.refusal, address=address, request_id=exchange.request_id)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if self.free < 0 and scope["path"] not in _ALWAYS_SERVED:
            REFUSED.inc()
            refusal = ResourceExhausted("too many requests are being served; try again", retry_after=1.0)
            await error_response(scope, refusal, answer.request_id)(scope, receive, answer)
            return
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            answer.status = _CLIENT_WENT_AWAY
        except Exception as error:  # the last line: a fault of ours, whatever it is, is answered and logged as one
            # Where it happened, not its text: that may quote what a caller sent.
            frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
            logger.error(
                "unexpected error",
                extra={"fields": {"error": type(error).__name__, "at": frames[-8:]}},
            )
            if not answer.started:
                fault = Internal("an internal error; its cause is in the log under the request ID")
                await error_response(scope, fault, answer.request_id)(scope, receive, answer)


class _Place:
    """One among the requests that are served at once."""

    __slots__ = ("_edge", "_taken")

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._taken = True
        edge.free -= 1
        IN_FLIGHT.inc()

    def give_up(self) -> None:
        if self._taken:
            self._taken = False
            self._edge.free += 1
            IN_FLIGHT.dec()


class _Answer:
    """Sends the answer on, with the headers that every answer has, and remembers its status."""

    def __init__(self, send: Send, exchange: Exchange, headers: Mapping[bytes, bytes]) -> None:
        self._send = send
        self._headers = headers
        self._exchange = exchange
        self.request_id = exchange.request_id
        self.started = False
        self.status = _CLIENT_WENT_AWAY
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = self._exchange.status = message["status"]
            headers = message["headers"]
            if told := notarys.told():
                if self.status >= 400:  # what the gateway itself says of errors, the notary may know better
                    headers[:] = _without(headers, told)
                headers.extend([(name.encode(), value.encode()) for name, value in told])
            present = {name for name, _ in headers}
            headers.extend(item for item in self._headers.items() if item[0] not in present)
            headers.append((b"x-request-id", self.request_id.encode()))
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


def _without(headers: list[tuple[bytes, bytes]], told: notarys.Headers) -> list[tuple[bytes, bytes]]:
    names = {name.encode() for name, _ in told}
    return [each for each in headers if each[0] not in names]


def _asked(scope: Scope) -> tuple[str | None, str | None]:
    traceparent = request_id = None
    for name, value in scope["headers"]:
        if name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
    return traceparent, request_id


def _log(scope: Scope, exchange: Exchange, answer: _Answer, seconds: float) -> None:
    """Which route, how it went, how long it took, why it was refused here: no query, no variable, no body."""
    fields = {
        "method": scope["method"] if len(scope["method"]) <= 16 else "other",
        "endpoint": exchange.endpoint,
        "status": answer.status,
        "ms": round(seconds * 1000, 2),
        "bytes": answer.size,
    }
    if exchange.refusal:
        fields["reason"] = exchange.refusal
    if exchange.trace_id:
        fields["trace_id"] = exchange.trace_id
    logger.info("request", extra={"fields": fields})
