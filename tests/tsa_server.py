"""An RFC 3161 server over HTTP for tests: it answers what it is told to, also what no server should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

REPLY = "application/timestamp-reply"


@dataclass
class TsaServer:
    """How it answers may be changed while it runs.

    Attributes:
        reply: TimeStampResp, DER, for a TimeStampReq; runs in a thread.
        status, kind: of the HTTP answer.
        answers: cleared while it is to take requests and not answer them.
        resets: whether it closes connections instead of answering.
        queries, headers: what it was sent.
        asked: released with each query.
    """

    reply: Callable[[bytes], bytes]
    status: int = 200
    kind: str = REPLY
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    resets: bool = False
    queries: list[bytes] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
            query = await reader.readexactly(int(lines[b"content-length"]))
            self.queries.append(query)
            self.headers.append(head)
            self.asked.release()
            await self.answers.wait()
            if not self.resets:
                body = await asyncio.to_thread(self.reply, query)
                writer.write(
                    f"HTTP/1.1 {self.status} Said\r\nContent-Type: {self.kind}\r\nConnection: close\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the signer has given up
        finally:
            writer.close()


@asynccontextmanager
async def tsa_server(reply: Callable[[bytes], bytes]) -> AsyncIterator[TsaServer]:
    """A server on a free port of 127.0.0.1 while the context is open."""
    served = TsaServer(reply)
    served.answers.set()
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    try:
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/tsr"
        yield served
    finally:
        served.answers.set()
        server.close()
        await server.wait_closed()
