"""The log's read path: static files by their look, computed from what is stored (C2SP tlog-tiles).

Only what is published is served, and every path has one spelling. Nothing here is negotiated: no compression, no
ranges, so that what a client hashes is what the log hashed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import uvicorn
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from afdp.errors import NotaryError, NotFound
from afdp.formats.tiles import WIDTH, TileError, parse_tile_path
from afdp.transparency.config import TransparencySettings
from afdp.transparency.service import TransparencyLog

logger = logging.getLogger(__name__)

# Neither what is new in a second nor what is not there yet may be remembered.
_FRESH = {"Cache-Control": "no-store"}
# A partial tile never changes either, but its path goes out of use once the full tile is there.
_PARTIAL = {"Cache-Control": "public, max-age=60"}
_FULL = {"Cache-Control": "public, max-age=31536000, immutable"}
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"

_LOG_PREFIX = "/logs/{origin}"

_reads = Counter("afdp_log_reads", "Requests to the read path.", ["resource", "code"])

_Endpoint = Callable[[TransparencyLog, Request], Awaitable[Response]]


class Served(Protocol):
    """What is served: `logs.py`."""

    @property
    def first(self) -> TransparencyLog:
        """The log at the root, which is found under its origin, too."""

    def known(self, origin: str) -> TransparencyLog:
        """The log under `/logs/ORIGIN`. Raises NotFound."""


def application(logs: Served, timeout: float) -> Starlette:
    """The read path as an ASGI application. `timeout` is each request's deadline, in seconds."""

    def route(path: str, resource: str, endpoint: _Endpoint) -> Route:
        async def handle(request: Request) -> Response:
            response = await _answered(endpoint, logs, request, timeout)
            response.headers["X-Content-Type-Options"] = "nosniff"
            _reads.labels(resource, response.status_code).inc()
            return response

        return Route(path, handle, methods=["GET", "HEAD"])

    routes = [
        route(f"{prefix}/{path}", resource, endpoint)
        for prefix in ("", _LOG_PREFIX)
        for path, resource, endpoint in (
            ("checkpoint", "checkpoint", _checkpoint),
            ("tile/{path:path}", "tile", _tile),
            ("vkey", "vkey", _vkey),
            ("health", "health", _health),
        )
    ]
    unmatched: ExceptionHandler = _unmatched  # type: ignore[assignment]  # called with HTTPException only
    app = Starlette(routes=routes, exception_handlers={HTTPException: unmatched})
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def serving_reads(logs: Served, settings: TransparencySettings) -> AsyncIterator[int]:
    """The read path on its port for the length of a block, on this event loop; gives the port.

    Raises:
        OSError: the address is taken or not ours.
    """
    listener = socket.create_server((settings.host, settings.http_port), backlog=1024, reuse_port=False)
    config = uvicorn.Config(
        application(logs, settings.request_timeout_seconds),
        http="httptools",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        limit_concurrency=settings.http_max_connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


class _Server(uvicorn.Server):
    """Leaves the process's signals to gRPC's side, which ends both."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _answered(endpoint: _Endpoint, logs: Served, request: Request, timeout: float) -> Response:
    try:
        origin = request.path_params.get("origin")
        log = logs.first if origin is None else logs.known(origin)
        async with asyncio.timeout(timeout):
            return await endpoint(log, request)
    except NotaryError as error:
        headers = dict(_FRESH)
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return _said(error.http_status, error.message, headers)
    except TimeoutError:
        return _said(504, "the request's time ran out", _FRESH)
    except Exception:  # whatever it is, the reader gets a sentence and never its text
        logger.exception("a read failed unexpectedly")
        return _said(500, "an internal fault; the log of the service has it", _FRESH)


async def _checkpoint(log: TransparencyLog, request: Request) -> Response:
    return Response((await log.checkpoint()).note.encode(), media_type=_TEXT, headers=_FRESH)


async def _tile(log: TransparencyLog, request: Request) -> Response:
    # As it was sent: an escaped character would be a second spelling of the same path.
    path = request.scope["raw_path"].decode("latin-1").removeprefix("/")
    if origin := request.path_params.get("origin"):
        path = path.removeprefix(f"logs/{origin}/")
    try:
        ref = parse_tile_path(path)
    except TileError as error:
        raise NotFound(str(error)) from None
    return Response(await log.tile(ref), media_type=_BYTES, headers=_FULL if ref.width == WIDTH else _PARTIAL)


async def _vkey(log: TransparencyLog, request: Request) -> Response:
    return Response(f"{log.identity().vkey}\n".encode(), media_type=_TEXT, headers=_FRESH)


async def _health(log: TransparencyLog, request: Request) -> Response:
    """200 while the log can be read; whether it can be appended to is said beside."""
    await log.check_reads()
    try:
        await log.check()
        appends = "ok"
    except NotaryError as error:
        appends = error.message
    return JSONResponse({"reads": "ok", "appends": appends}, headers=_FRESH)


async def _unmatched(request: Request, error: HTTPException) -> Response:
    headers = {**(error.headers or {}), **_FRESH, "X-Content-Type-Options": "nosniff"}
    _reads.labels("none", error.status_code).inc()
    return _said(error.status_code, error.detail, headers)


def _said(status: int, sentence: str, headers: dict[str, str]) -> Response:
    return Response(f"{sentence}\n".encode(), status, headers, media_type=_TEXT)
