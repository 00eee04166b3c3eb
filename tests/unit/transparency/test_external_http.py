"""What is taken from a log over HTTP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from afdp.transparency.external.http import MAX_BYTES, Calls, Connections, Reply
from afdp.transparency.external.values import UnreadableAnswer


@asynccontextmanager
async def server(body: bytes, *headers: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """One that answers everything alike: its address, and the requests that it got."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}/", requests


async def got(url: str) -> Reply:
    connections = Connections(1)
    try:
        return await Calls(connections, 30.0).get(url)
    finally:
        await connections.close()


async def test_an_answer_is_asked_for_uncompressed() -> None:
    async with server(b"yes") as (url, requests):
        assert (await got(url)).body == b"yes"
    assert b"accept-encoding: identity\r\n" in requests[0].lower()


async def test_a_compressed_answer_is_refused_whatever_its_size() -> None:
    async with server(gzip.compress(bytes(64 * MAX_BYTES)), "Content-Encoding: gzip") as (url, _):
        with pytest.raises(UnreadableAnswer, match="compressed"):
            await got(url)


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async with server(bytes(MAX_BYTES + 1)) as (url, _):
        with pytest.raises(UnreadableAnswer, match="larger"):
            await got(url)
