"""HTTP/1.1 by uvicorn, with the bounds it lacks: on how long and how large a request's head may be."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from afdp.errors import InvalidArgument, NotaryError, Unavailable
from afdp.gateway.config import GatewaySettings
from afdp.gateway.exchange import request_id_from
from afdp.gateway.problems import MEDIA_TYPE, HeadersTooLarge, problem

logger = logging.getLogger(__name__)


async def serve_http(app: ASGIApp, settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT; then what is under way ends, within `drain_seconds`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_http(app, settings) as port:
        logger.info("serving", extra={"fields": {"host": settings.host, "port": port}})
        await stop.wait()
        logger.info("draining", extra={"fields": {"seconds": settings.drain_seconds}})


@asynccontextmanager
async def running_http(app: ASGIApp, settings: GatewaySettings) -> AsyncIterator[int]:
    """A server that runs while the context is open; gives the port it listens on."""
    server = _Server(app, settings)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        await server.listening.wait()
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True


# uvicorn tells of each start, stop and broken request; what matters of it is said here and counted in the metrics.
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class _Server(uvicorn.Server):
    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        bounds = (settings.header_timeout_seconds, settings.max_header_bytes, settings.max_connections)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="none",
            http=bounded_protocol(*bounds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
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


def bounded_protocol(head_seconds: float, head_bytes: int, max_connections: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for clients that are slow, or many, or say too much before they say what they want.

    Args:
        head_seconds: from a connection's begin, or the first byte of a further request, to the end of the head; also
            how long the rest of a request may take that was answered before it was complete.
        head_bytes: request line and headers.
        max_connections: open at once; requests on further ones are refused.
    """

    class BoundedProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timer: asyncio.TimerHandle | None = None
            self._in_head = True
            self._head = 0  # bytes of the head that is being read
            self._refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head += len(data)
                self._start_timer()
            super().data_received(data)
            if self._in_head and self._head > head_bytes:
                self._refuse(_head_too_large(head_bytes))

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self._in_head, self._head = False, 0
            if len(self.connections) > max_connections:
                self._refuse(Unavailable("too many connections are open; try again", retry_after=1.0))
            elif len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > head_bytes:
                self._refuse(_head_too_large(head_bytes))
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_head = True
            self._stop_timer()
            if not self._refused:
                super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._in_head:
                self._start_timer()

        def send_400_response(self, msg: str) -> None:
            self._refuse(InvalidArgument("this is not an HTTP/1.1 request"))

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(head_seconds, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, error: NotaryError) -> None:
            """Answers without the application and closes: what else is on the connection cannot be told apart."""
            self._refused = True
            if not self.transport.is_closing():
                self.transport.write(_refusal(error))
                self.transport.close()

    return BoundedProtocol


def _head_too_large(limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the request's line and headers are over {limit} bytes")


def _refusal(error: NotaryError) -> bytes:
    request_id = request_id_from(None)
    body = orjson.dumps(problem(error, request_id))
    retry = "retry-after: 1\r\n" if error.retry_after else ""
    head = (
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n{retry}"
        "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return STATUS_LINE[error.http_status] + head.encode() + body
