"""Calls to logs over HTTP: bounded in time and size, and what their answers mean."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from afdp.errors import DeadlineExceeded, InvalidArgument, NotaryError, Unavailable
from afdp.transparency.external.values import FrozenShard, UnreadableAnswer

MAX_BYTES = 512 * 1024

_POOL = 16  # connections
_MOMENT = 1.0  # seconds
_LONGEST = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Connections:
    """Many connections, in pools of a few: with hundreds in one of httpx's pools each request costs it 20 ms."""

    def __init__(self, most: int) -> None:
        self._room = asyncio.Semaphore(most)
        self._tls = ssl.create_default_context()
        self._pools: list[httpx.AsyncClient] = []
        self._free: list[httpx.AsyncClient] = []  # a pool stands here once for each connection that it may still open

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with a connection to spare, for the length of a block."""
        async with self._room:
            if not self._free:
                self._free = [self._opened()] * _POOL
            client = self._free.pop()
            try:
                yield client
            finally:
                self._free.append(client)

    async def close(self) -> None:
        """Closes all connections."""
        for pool in self._pools:
            await pool.aclose()

    def _opened(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL)
        pool = httpx.AsyncClient(timeout=None, follow_redirects=False, limits=limits, verify=self._tls)  # noqa: S113 - Calls bounds it
        self._pools.append(pool)
        return pool


class Calls:
    """One server. Every call has a deadline: sigstore's own clients have none."""

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout

    async def post(self, url: str, content: bytes) -> Reply:
        """Sends JSON."""
        return await self._call("POST", url, content)

    async def get(self, url: str) -> Reply:
        """Reads."""
        return await self._call("GET", url, None)

    async def _call(self, method: str, url: str, content: bytes | None) -> Reply:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | (
            {"Content-Type": "application/json"} if content is not None else {}
        )
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._connections.one() as client,
                client.stream(method, url, content=content, headers=headers) as response,
            ):
                return Reply(response.status_code, await _bounded(response), response.headers)
        except TimeoutError:
            raise DeadlineExceeded(f"the log does not answer within {self._timeout:g} seconds") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the log does not answer: {type(error).__name__}", retry_after=_MOMENT) from None


def refusal(reply: Reply) -> NotaryError:
    """What an answer means that is neither success nor a duplicate. The log's own words stay out of ours."""
    if reply.status in (405, 410, 501):
        return FrozenShard("the log is frozen")
    if reply.status in (400, 413, 415, 422):
        return InvalidArgument(f"the log refuses the entry: it answers {reply.status}")
    if reply.status == 429 or reply.status >= 500:
        return Unavailable(f"the log answers {reply.status}", retry_after=_retry_after(reply))
    return UnreadableAnswer(f"the log answers {reply.status}", retry_after=_MOMENT)


def _retry_after(reply: Reply) -> float:
    try:
        seconds = float(reply.headers.get("retry-after", ""))
    except ValueError:
        return _MOMENT
    return min(max(seconds, _MOMENT), _LONGEST) if math.isfinite(seconds) else _MOMENT


async def _bounded(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnreadableAnswer("the log's answer is compressed, which nobody asked for")  # a small one may be huge then
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            raise UnreadableAnswer(f"the log's answer is larger than {MAX_BYTES} bytes")
    return bytes(body)
