"""What stands before a Rekor 2: it serves the tiles of its folder, as Rekor 2 itself does not, and can be made to fail.

front.next(Reply(502))              # the next write is answered so, and goes no further
front.next(lost=True)               # the next write reaches the log, and its answer never comes back
front.rewrite = lambda entry: ...   # what comes back of writes is another entry
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx

from afdp.embedded.process import LOOPBACK

_PREFIX = "/api/v2/"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that the log has not given."""

    status: int
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one write: answered by `reply`, late by `delay` seconds, or `lost` after it was passed on."""

    reply: Reply | None = None
    delay: float = 0.0
    lost: bool = False


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # as many as write at once; of more than its own 5 the system may let some go


@dataclass
class RekorFront:
    """An HTTP server in threads."""

    folder: Path
    upstream: str
    rewrite: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    rewrite_reads: Callable[[str, bytes], bytes] | None = None
    writes: int = 0
    faults: deque[Fault] = field(default_factory=deque)
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        front = self

        class Handler(_Handler):
            FRONT = front

        self._server = _Server((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.client = httpx.Client(trust_env=False, timeout=60.0, limits=httpx.Limits(max_connections=1024))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def next(self, reply: Reply | None = None, *, delay: float = 0.0, lost: bool = False) -> None:
        """Says what becomes of the next write that has no fault yet."""
        self.faults.append(Fault(reply, delay, lost))

    def well(self) -> None:
        """No fault any more."""
        self.faults.clear()
        self.rewrite = self.rewrite_reads = None

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self.client.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    FRONT: ClassVar[RekorFront]

    def do_GET(self) -> None:
        path = self.path.removeprefix(_PREFIX)
        file = (self.FRONT.folder / path).resolve()
        if not self.path.startswith(_PREFIX) or self.FRONT.folder.resolve() not in file.parents or not file.is_file():
            return self._answer(Reply(404))
        data = file.read_bytes()
        if self.FRONT.rewrite_reads is not None:
            data = self.FRONT.rewrite_reads(path, data)
        return self._answer(Reply(200, data))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.FRONT.writes += 1
        fault = self.FRONT.faults.popleft() if self.FRONT.faults else Fault()
        time.sleep(fault.delay)
        if fault.reply is not None:
            return self._answer(fault.reply)
        try:
            answer = self.FRONT.client.post(
                f"{self.FRONT.upstream}{self.path}", content=body, headers={"Content-Type": "application/json"}
            )
        except httpx.TransportError:
            return self._answer(Reply(502))
        if fault.lost:
            self.close_connection = True
            return None
        content = answer.content
        if self.FRONT.rewrite is not None and answer.is_success:
            content = json.dumps(self.FRONT.rewrite(answer.json())).encode()
        return self._answer(Reply(answer.status_code, content))

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
