"""HTTP/1.1 by uvicorn, with the bounds it lacks: on how long and how large a request's head may be."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from afdp.bounded_http import Bounds, bounded_protocol
from afdp.errors import NotaryError
from afdp.gateway.config import GatewaySettings
from afdp.gateway.exchange import request_id_from
from afdp.gateway.problems import MEDIA_TYPE, headers_of, problem
from afdp.gateway.security import HEADERS, strict_transport
from afdp.tls.files import TlsFiles
from afdp.tls.serving import TlsServer, tls_options

logger = logging.getLogger(__name__)


async def serve_http(
    app: ASGIApp, settings: GatewaySettings, tls: TlsFiles | None = None, leave: Callable[[], None] = lambda: None
) -> None:
    """Serves until SIGTERM or SIGINT; then what is under way ends, within `drain_seconds`. `leave` is called first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_http(app, settings, tls) as port:
        logger.info("serving", extra={"fields": {"host": settings.host, "port": port}})
        await stop.wait()
        logger.info("draining", extra={"fields": {"seconds": settings.drain_seconds}})
        leave()


@asynccontextmanager
async def running_http(app: ASGIApp, settings: GatewaySettings, tls: TlsFiles | None = None) -> AsyncIterator[int]:
    """A server that runs while the context is open; gives the port it listens on."""
    server = _Server(app, settings, tls)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        await server.listening.wait()
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True


# uvicorn tells of each start, stop and broken request; what matters of it is said here and counted in the metrics.
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class _Server(TlsServer):
    def __init__(self, app: ASGIApp, settings: GatewaySettings, tls: TlsFiles | None) -> None:
        bounds = Bounds(
            settings.header_timeout_seconds,
            settings.max_header_bytes,
            settings.max_connections,
            settings.max_headers,
            settings.max_connections_per_address,
            settings.max_pipelined,
            trusted=settings.is_proxy,
        )
        security = {**HEADERS, **(dict([strict_transport(settings.hsts_seconds)]) if tls is not None else {})}
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="none",
            http=bounded_protocol(bounds, partial(_refusal, security=security)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            **tls_options(tls, settings.tls_client_auth),
        )
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would take the signals from the loop and raise them again at the end, and so cut short what closes
        # after it: whoever starts the server sees to them.
        yield


def _refusal(error: NotaryError, security: Mapping[bytes, bytes]) -> bytes:
    request_id = request_id_from(None)
    body = orjson.dumps(problem(error, request_id))
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        "x-request-id": request_id,
        **headers_of(error),
        "connection": "close",
    }
    lines = [*((name.encode(), value.encode()) for name, value in headers.items()), *security.items()]
    head = b"".join(b"%s: %s\r\n" % line for line in lines)
    return STATUS_LINE[error.http_status] + head + b"\r\n" + body
