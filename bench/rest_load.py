"""Load over REST: a bounded number of connections, each sending its next request when its last was answered.

A client of its own on bare asyncio streams' protocols, because a full HTTP client would take more of the two cores than
the service does.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop

from afdp.formats.trust import TrustRoot
from bench.child import leave_result, result_of
from bench.figures import Run, run_of
from bench.packages import evidence
from bench.verified import require_verified

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


async def run_rest(
    url: str, kind: str, seconds: float, connections: int, trust: TrustRoot, state: str = "logged", token: str = ""
) -> Run:
    """One run in a process of its own; every answer is verified after it."""
    result = await result_of("bench.rest_load", url, kind, str(seconds), str(connections), token)
    if kind == "sign":
        answers = [orjson.loads(body)["receipt"] for body in result["answers"]]
        assert require_verified(answers, trust, state) == len(result["latencies"])
    return run_of(result["latencies"], result["seconds"])


class _Connection(asyncio.Protocol):
    """One connection: request, answer, request, until the time is over."""

    def __init__(self, requests: Any, until: float, done: asyncio.Future[None]) -> None:
        self._requests, self._until, self._done = requests, until, done
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.answers: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._until:
            self._transport.close()
            return
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head + b"\r\n")
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            self._done.set_exception(RuntimeError(f"not a 200: {self._buffer[:600]!r}"))
            self._transport.abort()
            return
        if len(rest) < int(length[1]):
            return
        self.latencies.append(time.perf_counter() - self._sent)
        self.answers.append(rest)
        self._buffer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error) if error else self._done.set_result(None)


def _requests(host: str, kind: str, seconds: float, token: str) -> Iterator[bytes]:
    """Encoded before the run: a client's own cost is not the service's."""
    if kind == "empty":
        return itertools.repeat(f"GET /ready HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    ready = [_request(host, token) for _ in range(int(seconds * 2500))]
    return itertools.chain(ready, (_request(host, token) for _ in itertools.count()))


def _request(host: str, token: str) -> bytes:
    body = orjson.dumps({"evidence_package": evidence()})
    credentials = f"authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /api/v1/evidence/sign HTTP/1.1\r\nhost: {host}\r\n{credentials}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(url: str, kind: str, seconds: float, connections: int, token: str) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    target = urlsplit(url)
    requests = _requests(target.netloc, kind, seconds, token)
    began, cpu = time.perf_counter(), time.process_time()
    protocols = []
    for _ in range(connections):
        done = loop.create_future()
        made = await loop.create_connection(
            lambda done=done: _Connection(requests, began + seconds, done), target.hostname, target.port
        )
        protocols.append((made[1], done))
    await asyncio.gather(*(done for _, done in protocols))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    latencies = [latency for protocol, _ in protocols for latency in protocol.latencies]
    answers = [answer.decode() for protocol, _ in protocols for answer in protocol.answers] if kind == "sign" else []
    return {"seconds": took, "cpu": cpu, "latencies": latencies, "answers": answers}


if __name__ == "__main__":
    file, url, kind, seconds, connections, *more = sys.argv[1:]
    token = more[0] if more else ""
    leave_result(file, uvloop.run(_load(url, kind, float(seconds), int(connections), token)))
