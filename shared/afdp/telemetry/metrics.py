"""The metrics' port: Prometheus' text over HTTP, and over TLS 1.3 where the service speaks it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore, Lock, Thread
from time import monotonic
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app, start_http_server
from prometheus_client.exposition import ThreadingWSGIServer

from afdp.config import ServiceSettings
from afdp.tls import handshakes
from afdp.tls.files import TlsFiles
from afdp.tls.http import HANDSHAKE_SECONDS, Clients, context_of
from afdp.tls.peers import PeerRefused, Peers

logger = logging.getLogger(__name__)

_MOST = 32  # connections at once; who comes then is not known yet
_CONNECTION_SECONDS = 20.0  # all that one may take, handshake and answer


def start_metrics(settings: ServiceSettings) -> WSGIServer:
    """Serves on a thread of its own until it is shut down.

    Raises:
        OSError: the address is taken or not ours.
        FailedPrecondition: the files of TLS do not serve.
    """
    files = TlsFiles.of(settings)
    if files is None:
        server, _ = start_http_server(settings.metrics_port, addr=settings.host)
        return server
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    server = _TlsServer((settings.host, settings.metrics_port), family, files, settings.metrics_client_auth)
    server.set_app(make_wsgi_app())
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class _TlsServer(ThreadingWSGIServer):
    """Each connection has its own thread, handshake and all: a slow one holds up no other, and not for ever."""

    def __init__(
        self, address: tuple[str, int], family: socket.AddressFamily, files: TlsFiles, clients: Clients
    ) -> None:
        self.address_family = family
        self._files, self._clients = files, clients
        self._peers = Peers(files)
        self._room = BoundedSemaphore(_MOST)
        self._lock = Lock()
        self._until: dict[socket.socket, float] = {}
        super().__init__(address, _SilentHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Makes a connection's thread, or closes it where there are too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread, to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def service_actions(self) -> None:
        """Ends what takes too long; called twice a second. Its thread then finds the connection closed."""
        now = monotonic()
        with self._lock:
            for connection, until in self._until.items():
                if now >= until:
                    with suppress(OSError):
                        socket.socket.shutdown(connection, socket.SHUT_RDWR)

    @contextmanager
    def _bounded(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._until[connection] = monotonic() + _CONNECTION_SECONDS
        try:
            yield
        finally:
            with self._lock:  # before it is closed, and its number another's
                del self._until[connection]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """One connection, in its thread."""
        request.settimeout(HANDSHAKE_SECONDS)
        self._files.refresh()  # Prometheus comes every few seconds
        try:
            context = context_of(self._files.material, self._clients)
            with (
                context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as connection,
                self._bounded(connection),
            ):
                connection.do_handshake()
                if shown := connection.getpeercert(binary_form=True):
                    self._peers.of(shown)
                super().finish_request(connection, client_address)
        except OSError as error:  # a failed handshake, or a client that went away
            handshakes.tell(error, client_address[0])
        except PeerRefused as refused:
            fields = {"reason": str(refused), "serial": refused.serial, "address": client_address[0]}
            logger.warning("a client of the metrics is refused", extra={"fields": fields})


class _SilentHandler(WSGIRequestHandler):
    log_message: Callable[..., None] = lambda *_: None
