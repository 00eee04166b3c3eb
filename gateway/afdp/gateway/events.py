"""Streams of answers as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each answer is an event whose ID is its cursor: a client that comes back says the last one in `Last-Event-ID`, as
browsers do by themselves. An answer that is a cursor alone moves the ID on and is no event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from urllib.parse import quote

import orjson
from prometheus_client import Gauge
from starlette.types import Receive, Scope, Send

from afdp.errors import InvalidArgument, NotaryError, ResourceExhausted, Unavailable
from afdp.gateway.encode import ResponseEncoder
from afdp.gateway.exchange import exchange_of
from afdp.gateway.problems import problem
from afdp.gateway.streaming import first_of, gone

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
CURSOR = "cursor"
"""The field of request and answer that the IDs of events are."""

KEEP_ALIVE = 15.0  # seconds after which a comment is sent where there is nothing to say
RETRY = 1000  # milliseconds that a browser waits before it comes back

_streams = Gauge("afdp_gateway_event_streams", "Streams of server-sent events that are open.")
_limit = Gauge("afdp_gateway_event_streams_limit", "How many may be open.")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # for nginx, and what does as it does
]


class EventStreams:
    """Those of one gateway.

    Args:
        most: how many may be open at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        self._leaving = asyncio.Event()
        _limit.set(most)

    def leave(self) -> None:
        """Ends them all: their clients come back to another gateway."""
        self._leaving.set()

    async def serve(
        self,
        answers: AsyncGenerator[bytes, None],
        encode: ResponseEncoder,
        patience: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serves one stream, until it ends or its client goes.

        Args:
            answers: serialised; the first comes within `patience`, in seconds.
            encode: makes JSON of them.

        Raises:
            NotaryError: there is no first answer, and nothing was sent.
        """
        if self._open >= self._most:
            raise ResourceExhausted(f"{self._most} streams of events are open; try again", retry_after=1.0)
        self._open += 1
        _streams.inc()
        try:
            async with aclosing(answers):
                await self._serve(answers, encode, patience, scope, receive, send)
        finally:
            self._open -= 1
            _streams.dec()

    async def _serve(
        self,
        answers: AsyncGenerator[bytes, None],
        encode: ResponseEncoder,
        patience: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        first = await first_of(answers, patience)
        exchange = exchange_of(scope)
        exchange.stand_aside()
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        events = _Events(encode, send)
        await events.send(b"retry: %d\n\n" % RETRY)
        await events.tell(first)
        watches = [asyncio.create_task(gone(receive)), asyncio.create_task(self._leaving.wait())]
        telling = asyncio.create_task(_tell(answers, events))
        try:
            await asyncio.wait([telling, *watches], return_when=asyncio.FIRST_COMPLETED)
            if watches[0].done():
                return
            if not telling.done():
                telling.cancel()
                with suppress(asyncio.CancelledError):
                    await telling
                error: NotaryError | None = Unavailable("this gateway stops: come back with your last event's ID")
            else:
                error = telling.result()
            await events.end(error, exchange.request_id)
        finally:
            for task in (telling, *watches):
                task.cancel()
            await asyncio.gather(telling, *watches, return_exceptions=True)


def resumed(query: str, last_event_id: str | None) -> str:
    """The query with the cursor of the last event that a client has seen, where it says that: it is the newer one.

    Raises:
        InvalidArgument: it is no cursor.
    """
    if not last_event_id:
        return query
    if not last_event_id.isascii() or not last_event_id.isprintable():
        raise InvalidArgument.field(CURSOR, "Last-Event-ID must be the ID of an event")
    rest = [pair for pair in query.split("&") if pair and pair.partition("=")[0] != CURSOR]
    return "&".join([*rest, f"{CURSOR}={quote(last_event_id, safe='')}"])


class _Events:
    """Writes events. One is on its way at a time, and the next waits for it: a slow client slows the notary down."""

    def __init__(self, encode: ResponseEncoder, send: Send) -> None:
        self._encode = encode
        self._send = send

    async def tell(self, answer: bytes) -> None:
        """One answer of the notary."""
        plain = self._encode.plain(answer)
        cursor = str(plain[CURSOR])
        if plain["receipt"] is None and plain["error"] is None:
            await self.send(f": nothing new\nid: {cursor}\n\n".encode())
            return
        data = orjson.dumps(plain)
        lines = b"".join(b"data: %s\n" % line for line in data.split(b"\n"))
        kind = b"receipt" if plain["error"] is None else b"withheld"
        await self.send(b"id: %s\nevent: %s\n%s\n" % (cursor.encode(), kind, lines))

    async def end(self, error: NotaryError | None, request_id: str) -> None:
        """The last event says why there is no other."""
        if error is not None:
            document = orjson.dumps(problem(error, request_id))
            await self.send(b"event: end\ndata: %s\n\n" % document)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


async def _tell(answers: AsyncGenerator[bytes, None], events: _Events) -> NotaryError | None:
    """All answers; gives the error that ended them."""
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(answers))
            done, _ = await asyncio.wait([coming], timeout=KEEP_ALIVE)
            if not done:
                await events.send(b": keep-alive\n\n")
                continue
            answer, coming = coming.result(), None
            await events.tell(answer)
    except _Ended:
        return None
    except NotaryError as error:
        return error
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class _Ended(Exception):
    """There are no more answers."""


async def _next(answers: AsyncGenerator[bytes, None]) -> bytes:
    try:
        return await anext(answers)
    except StopAsyncIteration:  # which no task may raise
        raise _Ended from None
