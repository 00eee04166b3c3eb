"""A collector of events by HTTP, on loopback, which answers as a test wants it to."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import orjson

from tests.local_tls import TlsAuthority


@dataclass(frozen=True)
class Post:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events in it, one a line."""
        return [orjson.loads(line) for line in self.body.splitlines()]


@dataclass
class Collector:
    """What was posted, and how the next requests are answered.

    Attributes:
        taken: posts that were answered with 200.
        refused: those that were not.
        answers: status and headers of the next answers; then 200.
        most: bytes of a body, beyond which it answers 413.
        padding: bytes of each answer's body.
        going: while it is not set, no request is answered.
        lets_through: posts that it answers before it waits for `going` to be set anew, and `waits`.
    """

    url: str = ""
    taken: list[Post] = field(default_factory=list)
    refused: list[Post] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    most: int = 2**30
    padding: int = 2
    going: Event = field(default_factory=Event)
    lets_through: int = 2**30
    waits: Event = field(default_factory=Event)

    @property
    def uids(self) -> list[str]:
        """Of the events that it has taken, in order."""
        return [event["metadata"]["uid"] for post in self.taken for event in post.events]


@contextmanager
def running_collector(authority: TlsAuthority | None = None, *, clients: bool = False) -> Iterator[Collector]:
    """One for the length of a block; with an authority over TLS, and asking for certificates if `clients`."""
    collector = Collector()
    collector.going.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(405, {}, 0)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            post = Post(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if len(collector.taken) >= collector.lets_through and not collector.waits.is_set():
                collector.going.clear()
                collector.waits.set()
            collector.going.wait(120)
            status, headers = (413, {}) if len(body) > collector.most else (200, {})
            if collector.answers:
                status, headers = collector.answers.popleft()
            (collector.taken if status == 200 else collector.refused).append(post)
            self._answer(status, headers, collector.padding)

        def _answer(self, status: int, headers: dict[str, str], length: int) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"." * length)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who goes away is no error here
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("collector"))
        if clients:
            context.load_verify_locations(authority.file)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    collector.url = f"http{'s' if authority else ''}://127.0.0.1:{server.server_address[1]}/events"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield collector
    finally:
        collector.going.set()
        server.shutdown()
        server.server_close()
