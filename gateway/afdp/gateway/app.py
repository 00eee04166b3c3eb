"""The application: its routes, and how its errors are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from afdp.errors import Internal, NotaryError, NotFound
from afdp.gateway.addresses import AddressLimits
from afdp.gateway.body import BodyReader, Pace
from afdp.gateway.clients import Clients
from afdp.gateway.config import GatewaySettings
from afdp.gateway.descriptors import Api
from afdp.gateway.docs import documentation
from afdp.gateway.edge import Edge
from afdp.gateway.events import EventStreams
from afdp.gateway.exchange import exchange_of
from afdp.gateway.gathering import EntryCalls
from afdp.gateway.health import health, judge_readiness
from afdp.gateway.log_proxy import LogProxy
from afdp.gateway.problems import MethodNotAllowed
from afdp.gateway.rekor import error_response
from afdp.gateway.security import with_origins
from afdp.gateway.transcoder import Limits, Transcoder
from afdp.gateway.trust_files import TrustFiles
from afdp.gateway.upstream import Upstream
from afdp.tls.files import TlsFiles


def build_app(
    settings: GatewaySettings,
    api: Api,
    upstream: Upstream,
    log: LogProxy,
    tls: TlsFiles | None = None,
    streams: EventStreams | None = None,
) -> ASGIApp:
    """Everything that answers under the gateway's port. `streams` are those that end when it is told to stop."""
    pace = Pace(settings.request_timeout_seconds, settings.header_timeout_seconds, settings.min_body_bytes_per_second)
    bodies = BodyReader(settings.max_body_bytes, settings.max_buffered_bytes, pace)
    limits = Limits(
        message_bytes=settings.max_message_bytes,
        timeout=settings.request_timeout_seconds,
        timeouts={"HealthCheck": settings.ready_timeout_seconds},
    )
    routes = [
        Transcoder(
            api,
            upstream,
            bodies,
            limits,
            judges={"HealthCheck": judge_readiness},
            calls={"AddLogEntry": EntryCalls(api, upstream).call},
            streams=streams or EventStreams(settings.max_event_streams),
        ),
        _page("/health", health),
        _page("/metrics", metrics),
        *log.routes(),
        TrustFiles(api, upstream, settings.request_timeout_seconds).route(),
        *(_page(path, serve) for path, serve in documentation(api).items()),
    ]
    handlers = {NotaryError: _notary_error, HTTPException: _http_error, Exception: _unexpected}
    served: ASGIApp = Starlette(routes=routes, exception_handlers=handlers)
    if settings.address_rate is not None or settings.auth_failures is not None:
        served = AddressLimits(served, settings.address_rate, settings.auth_failures, settings.is_proxy)
    if tls is not None:
        served = Clients(served, tls, settings.ingress_names)
    return Edge(
        with_origins(served, settings.cors_origins),
        max_in_flight=settings.max_in_flight,
        access_log=settings.access_log,
        hsts_seconds=settings.hsts_seconds,
        is_proxy=settings.is_proxy,
    )


async def metrics(request: Request) -> Response:
    """What Prometheus scrapes. Made beside the event loop: it takes milliseconds."""
    return Response(await asyncio.to_thread(generate_latest), headers={"content-type": CONTENT_TYPE_LATEST})


Serve = Callable[[Request], Awaitable[Response]]


def _page(path: str, serve: Serve) -> Route:
    async def counted(request: Request) -> Response:
        exchange_of(request.scope).endpoint = path
        return await serve(request)

    return Route(path, counted, methods=["GET"])


async def _notary_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotaryError)  # noqa: S101 - Starlette's handlers are typed for any exception
    return error_response(request.scope, error, exchange_of(request.scope).request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no route, or not under this verb."""
    allow = getattr(error, "headers", None) or {}
    if getattr(error, "status_code", 0) == 405:
        allowed = allow.get("Allow", "")
        return await _notary_error(request, MethodNotAllowed(f"this path takes {allowed}", metadata={"allow": allowed}))
    return await _notary_error(
        request, NotFound("there is nothing under this path; GET /openapi.json lists what there is")
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours; `edge` logs it."""
    return await _notary_error(request, Internal("an internal error; its cause is in the log under the request ID"))
