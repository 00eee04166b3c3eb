"""The log's read path: static files by their look, computed from what is stored (C2SP tlog-tiles).

Only what is published is served, and every path has one spelling. Nothing here is negotiated: no compression, no
ranges (RFC 9110, section 14.3), and `no-transform` for those in between, so that what a client hashes is what the log
hashed. A page in a browser may read the log from anywhere: it is for strangers, and no request to it carries a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from typing import Protocol

import orjson
import uvicorn
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from afdp.bounded_http import Bounds, bounded_protocol
from afdp.errors import NotaryError, NotFound
from afdp.formats.tiles import WIDTH, TileError, parse_tile_path
from afdp.formats.timestamps import format_timestamp
from afdp.tls.files import TlsFiles
from afdp.tls.serving import TlsServer, tls_options
from afdp.transparency.config import TransparencySettings
from afdp.transparency.service import TransparencyLog
from afdp.transparency.values import KnownLog

logger = logging.getLogger(__name__)

# A refusal may be wrong in a second: what is not there yet must not be remembered as missing.
_FORGET = "no-store"
# What changes may be kept, and is asked for each time: the answer is a 304 while it is the same.
_FRESH = "public, no-cache, no-transform"
# A partial tile never changes either, but its path goes out of use once the full tile is there.
_PARTIAL = "public, max-age=60, no-transform"
_FULL = "public, max-age=31536000, immutable, no-transform"
_LIST = "public, max-age=10, no-transform"
_EVERYWHERE = {
    "Accept-Ranges": "none",
    "Access-Control-Allow-Origin": "*",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HEAD_BYTES = 16 * 1024
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"

_LOG_PREFIX = "/logs/{origin}"

_reads = Counter("afdp_log_reads", "Requests to the read path.", ["resource", "code"])

_Endpoint = Callable[[TransparencyLog, Request], Awaitable[Response]]
_Answer = Callable[["Served", Request], Awaitable[Response]]


class Served(Protocol):
    """What is served: `logs.py`."""

    @property
    def first(self) -> TransparencyLog:
        """The log at the root, which is found under its origin, too."""

    def known(self, origin: str) -> TransparencyLog:
        """The log under `/logs/ORIGIN`. Raises NotFound."""

    async def seen(self) -> Sequence[KnownLog]:
        """Every log, the first one first. Raises Unavailable."""

    def base_url(self, known: KnownLog) -> str:
        """Where readers find a log."""


def application(logs: Served, timeout: float) -> Starlette:
    """The read path as an ASGI application. `timeout` is each request's deadline, in seconds."""

    def of_log(endpoint: _Endpoint) -> _Answer:
        async def answer(logs: Served, request: Request) -> Response:
            origin = request.path_params.get("origin")
            return await endpoint(logs.first if origin is None else logs.known(origin), request)

        return answer

    def route(path: str, resource: str, answer: _Answer) -> Route:
        async def handle(request: Request) -> Response:
            response = await _answered(answer, logs, request, timeout)
            response.headers.update(_EVERYWHERE)
            _reads.labels(resource, response.status_code).inc()
            return response

        return Route(path, handle, methods=["GET", "HEAD"])

    routes = [
        route(f"{prefix}/{path}", resource, of_log(endpoint))
        for prefix in ("", _LOG_PREFIX)
        for path, resource, endpoint in (
            ("checkpoint", "checkpoint", _checkpoint),
            ("tile/{path:path}", "tile", _tile),
            ("vkey", "vkey", _vkey),
            ("health", "health", _health),
        )
    ]
    routes.append(route("/logs", "logs", _list))
    unmatched: ExceptionHandler = _unmatched  # type: ignore[assignment]  # called with HTTPException only
    app = Starlette(routes=routes, exception_handlers={HTTPException: unmatched})
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def serving_reads(
    logs: Served, settings: TransparencySettings, tls: TlsFiles | None = None
) -> AsyncIterator[int]:
    """The read path on its port for the length of a block, on this event loop; gives the port.

    Raises:
        OSError: the address is taken or not ours.
    """
    listener = socket.create_server((settings.host, settings.http_port), backlog=1024, reuse_port=False)
    bounds = Bounds(settings.http_header_timeout_seconds, _HEAD_BYTES, settings.http_max_connections)
    config = uvicorn.Config(
        application(logs, settings.request_timeout_seconds),
        http=bounded_protocol(bounds, _refusal),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        **tls_options(tls, settings.http_client_auth),
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


class _Server(TlsServer):
    """Leaves the process's signals to gRPC's side, which ends both."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _answered(answer: _Answer, logs: Served, request: Request, timeout: float) -> Response:
    try:
        async with asyncio.timeout(timeout):
            return await answer(logs, request)
    except NotaryError as error:
        return _said(error.http_status, error.message, error.retry_after)
    except TimeoutError:
        return _said(504, "the request's time ran out")
    except Exception:  # whatever it is, the reader gets a sentence and never its text
        logger.exception("a read failed unexpectedly")
        return _said(500, "an internal fault; the log of the service has it")


async def _checkpoint(log: TransparencyLog, request: Request) -> Response:
    return _file(request, (await log.checkpoint()).note.encode(), _TEXT, _FRESH)


async def _tile(log: TransparencyLog, request: Request) -> Response:
    # As it was sent: an escaped character would be a second spelling of the same path.
    path = request.scope["raw_path"].decode("latin-1").removeprefix("/")
    if origin := request.path_params.get("origin"):
        path = path.removeprefix(f"logs/{origin}/")
    try:
        ref = parse_tile_path(path)
    except TileError as error:
        raise NotFound(str(error)) from None
    return _file(request, await log.tile(ref), _BYTES, _FULL if ref.width == WIDTH else _PARTIAL)


async def _vkey(log: TransparencyLog, request: Request) -> Response:
    return _file(request, f"{log.identity().vkey}\n".encode(), _TEXT, _FRESH)


async def _list(logs: Served, request: Request) -> Response:
    """Which logs there are. Whose entries each takes is nobody's business but the tenants'."""
    known = [_to_object(each, logs.base_url(each)) for each in await logs.seen()]
    return _file(request, orjson.dumps({"logs": known}), "application/json", _LIST)


def _to_object(known: KnownLog, url: str) -> dict[str, object]:
    return {
        "origin": known.origin,
        "vkey": str(known.identity.vkey),
        "state": known.state.value,
        "path": f"logs/{known.origin}/" if known.opened_at else "",
        "url": url,
        "predecessor": known.predecessor,
        "successor": known.successor,
        "opened_at": known.opened_at and format_timestamp(known.opened_at),
        "frozen_at": known.frozen_at and format_timestamp(known.frozen_at),
    }


async def _health(log: TransparencyLog, request: Request) -> Response:
    """200 while the log can be read; whether it can be appended to is said beside."""
    await log.check_reads()
    try:
        await log.check()
        appends = "ok"
    except NotaryError as error:
        appends = error.message
    return JSONResponse({"reads": "ok", "appends": appends}, headers={"Cache-Control": _FORGET})


async def _unmatched(request: Request, error: HTTPException) -> Response:
    _reads.labels("none", error.status_code).inc()
    response = _said(error.status_code, error.detail)
    response.headers.update({**(error.headers or {}), **_EVERYWHERE})
    return response


def _file(request: Request, data: bytes, media_type: str, caching: str) -> Response:
    """The whole file; 304 to whom has it already (RFC 9110, section 13.1.2)."""
    tag = f'"{sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": caching}
    asked = ",".join(request.headers.getlist("if-none-match"))
    if any(each.strip().removeprefix("W/") in (tag, "*") for each in asked.split(",")):
        return Response(None, 304, headers)
    return Response(data, 200, headers, media_type)


def _said(status: int, sentence: str, retry_after: float | None = None) -> Response:
    headers = {"Cache-Control": _FORGET}
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    return Response(f"{sentence}\n".encode(), status, headers, media_type=_TEXT)


def _refusal(error: NotaryError) -> bytes:
    """A whole answer to a request that does not reach the application."""
    _reads.labels("none", error.http_status).inc()
    response = _said(error.http_status, error.message, error.retry_after)
    response.headers.update({**_EVERYWHERE, "Connection": "close"})
    head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in response.raw_headers)
    return STATUS_LINE[error.http_status] + f"{head}\r\n".encode() + bytes(response.body)
