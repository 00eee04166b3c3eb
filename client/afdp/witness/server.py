"""The witness as a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from afdp.bounded_http import Bounds, bounded_protocol
from afdp.errors import NotaryError, Unavailable
from afdp.tls.serving import TlsServer
from afdp.witness.config import STATE
from afdp.witness.folder import open_config, open_cosigner
from afdp.witness.http import application, refusal
from afdp.witness.service import Witness
from afdp.witness.state import open_state
from afdp.witness.tls import server_context

_HEAD_SECONDS, _REQUEST_SECONDS, _KEEP_ALIVE_SECONDS, _DRAIN_SECONDS = 5.0, 10.0, 75, 5
_HEAD_BYTES, _CONNECTIONS = 16 * 1024, 512


@asynccontextmanager
async def running_witness(
    folder: Path, listen: tuple[str, int] | None = None, clock: Callable[[], float] = time.time
) -> AsyncIterator[str]:
    """The folder's witness for the length of a block; gives its URL.

    Raises:
        FailedPrecondition: key, memory or address cannot be used.
    """
    config = open_config(folder)
    cosigner = open_cosigner(folder, config)
    host, port = listen or (config.host, config.port)
    with open_state(folder / STATE) as state:
        witness = Witness(config.logs, state, cosigner, clock)
        app = application(witness, cosigner.vkey, state.check, _REQUEST_SECONDS)
        context = server_context(*config.tls) if config.tls is not None else None
        async with _serving(app, host, port, context) as bound:
            yield f"{'http' if context is None else 'https'}://{f'[{host}]' if ':' in host else host}:{bound}"


async def run_witness(folder: Path, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `started` is told the URL."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_witness(folder) as url:
        started(url)
        await stop.wait()


@asynccontextmanager
async def _serving(app: ASGIApp, host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise Unavailable(f"{host}:{port} cannot be listened on: {error.strerror}") from None
    config = uvicorn.Config(
        app,
        loop="none",
        http=bounded_protocol(Bounds(_HEAD_SECONDS, _HEAD_BYTES, _CONNECTIONS), _refused),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
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
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Whoever starts the server sees to the signals: uvicorn would raise them again at its end.
        yield


def _refused(error: NotaryError) -> bytes:
    """A whole answer to a request that does not reach the application."""
    response = refusal(error)
    head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in response.raw_headers)
    return STATUS_LINE[error.http_status] + f"{head}connection: close\r\n\r\n".encode() + bytes(response.body)
