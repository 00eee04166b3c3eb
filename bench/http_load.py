"""A bounded number of HTTP/1.1 connections, each sending its next request when its last was answered.

A client of its own on bare asyncio protocols, because a full HTTP client would take more of the two cores than the
service does. Servers of Go answer in chunks where ours says the length, so both are read.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: how long all of it took and each answer, in seconds, what this client took, and the bodies."""

    seconds: float
    cpu: float
    latencies: list[float]
    bodies: list[bytes]


async def put_under_load(url: str, requests: Iterator[bytes], status: int, seconds: float, connections: int) -> Load:
    """Sends whole requests until the time is over or there are no more; the last answers are waited for.

    Raises:
        RuntimeError: an answer has another status, or cannot be read.
    """
    loop = asyncio.get_running_loop()
    target = urlsplit(url)
    began, cpu = time.perf_counter(), time.process_time()
    made = []
    for _ in range(connections):
        connection = _Connection(requests, status, began + seconds, loop.create_future())
        await loop.create_connection(lambda connection=connection: connection, target.hostname, target.port)
        made.append(connection)
    await asyncio.gather(*(each.done for each in made))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    latencies = [latency for each in made for latency in each.latencies]
    return Load(took, cpu, latencies, [body for each in made for body in each.bodies])


class _Connection(asyncio.Protocol):
    """One connection: request, answer, request."""

    def __init__(self, requests: Iterator[bytes], status: int, until: float, done: asyncio.Future[None]) -> None:
        self._requests, self._until, self.done = requests, until, done
        self._status = b"HTTP/1.1 %d" % status
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.bodies: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        request = next(self._requests, None) if self._sent < self._until else None
        if request is None:
            self._transport.close()
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        try:
            body = self._body(head + b"\r\n", rest)
        except RuntimeError as error:
            self.done.set_exception(error)
            self._transport.abort()
            return
        if body is None:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        self.bodies.append(body)
        self._buffer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)

    def _body(self, head: bytes, rest: bytes) -> bytes | None:
        """The whole body; None while some of it is on its way."""
        if not head.startswith(self._status):
            raise RuntimeError(f"not {self._status.decode()}: {self._buffer[:600]!r}")
        if length := _LENGTH.search(head):
            return rest if len(rest) >= int(length[1]) else None
        if not _CHUNKED.search(head):
            raise RuntimeError(f"neither a length nor chunks: {head!r}")
        return _unchunked(rest)


def _unchunked(rest: bytes) -> bytes | None:
    parts = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return None
        if not int(size, 16):
            return b"".join(parts)
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
