"""Load on Rekor v2's API: a bounded number of connections, each sending its next entry when its last was answered.

Every entry has a key, a digest and a signature of its own, made before the clock starts. Servers of Go answer in chunks
where ours says the length, so both are read.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.encoding import b64
from bench.child import leave_result

PATH = "/api/v2/log/entries"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_ECDSA = ec.ECDSA(Prehashed(hashes.SHA256()))


def entry_request() -> bytes:
    """A hashedrekord 0.0.2 of a key that signs nothing else."""
    key, digest = ec.generate_private_key(ec.SECP256R1()), os.urandom(32)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    verifier = {"publicKey": {"rawBytes": b64(spki)}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    signature = {"content": b64(key.sign(digest, _ECDSA)), "verifier": verifier}
    return orjson.dumps({"hashedRekordRequestV002": {"digest": b64(digest), "signature": signature}})


class _Connection(asyncio.Protocol):
    """One connection: request, answer, request, until the time is over or there are no more."""

    def __init__(self, requests: Iterator[bytes], until: float, done: asyncio.Future[None]) -> None:
        self._requests, self._until, self._done = requests, until, done
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.answers: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        self._sent = time.perf_counter()
        if request is None or self._sent >= self._until:
            self._transport.close()
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 201"):
            self._done.set_exception(RuntimeError(f"not a 201: {self._buffer[:600]!r}"))
            self._transport.abort()
            return
        body = _body(head + b"\r\n", rest)
        if body is None:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        self.answers.append(body)
        self._buffer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error) if error else self._done.set_result(None)


def _body(head: bytes, rest: bytes) -> bytes | None:
    """The whole body; None while some of it is on its way."""
    if length := _LENGTH.search(head):
        return rest if len(rest) >= int(length[1]) else None
    if not _CHUNKED.search(head):
        raise RuntimeError(f"neither a length nor chunks: {head!r}")
    parts = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return None
        if not int(size, 16):
            return b"".join(parts)
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


async def _load(url: str, seconds: float, connections: int, most: int) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    target = urlsplit(url)
    head = f"POST {PATH} HTTP/1.1\r\nhost: {target.netloc}\r\ncontent-type: application/json\r\ncontent-length: "
    bodies = [entry_request() for _ in range(most)]
    requests = iter([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    began = time.perf_counter()
    protocols = []
    for _ in range(connections):
        done = loop.create_future()
        made = await loop.create_connection(
            lambda done=done: _Connection(requests, began + seconds, done), target.hostname, target.port
        )
        protocols.append((made[1], done))
    await asyncio.gather(*(done for _, done in protocols))
    took = time.perf_counter() - began
    latencies = [latency for protocol, _ in protocols for latency in protocol.latencies]
    answers = [answer.decode() for protocol, _ in protocols for answer in protocol.answers]
    return {"seconds": took, "latencies": latencies, "answers": answers}


if __name__ == "__main__":
    file, url, seconds, connections, most = sys.argv[1:]
    leave_result(file, uvloop.run(_load(url, float(seconds), int(connections), int(most))))
