"""The gateway's end of the relay: unary calls to the notary that share a stream (`afdp.relay.v1`).

What is called in the same turn of the loop goes out in one message, and so do the answers; a gRPC call for each would
cost more than all else that the gateway does for it. There is a stream to each replica, and calls take turns. Where
there is none, calls go by themselves: whoever calls sees to that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from prometheus_client import Gauge, Histogram

from afdp.errors import DeadlineExceeded
from afdp.rpc import answer
from afdp.rpc.relayed import MESSAGE_BYTES, SERVICE, Request, Response
from afdp.rpc.status import from_status, of_transport

logger = logging.getLogger(__name__)

Metadata = list[tuple[str, str]]

PEER = "notary"

LARGE = 128 * 1024
"""Bytes of a request from which on it goes by a call of its own, so that it holds up nobody else's."""

_LOOK_AGAIN = 5.0  # seconds between two looks for a replica that has no stream yet
_PAUSES = (0.1, 0.2, 0.5, 1.0)  # seconds before the next one, by how many brought no stream in a row
_UNKNOWN = 30.0  # seconds, where the notary knows no relay: it is older than we are
_GREETING = 5.0  # seconds for a stream to open

_streams = Gauge("afdp_gateway_relay_streams", "Streams to replicas of the notary that calls go by.")
_sizes = Histogram("afdp_gateway_relay_calls", "Calls in one message.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))


class LostError(Exception):
    """The stream ended before the answer came."""

    def __init__(self, *, sent: bool) -> None:
        """`sent`: the notary may have had the call."""
        super().__init__("the stream ended")
        self.sent = sent


class Relay:
    """The streams to all replicas behind one channel."""

    def __init__(self, channel: grpc.aio.Channel, max_message_bytes: int) -> None:
        """`max_message_bytes` is the channel's bound on requests; that of each replica holds, too."""
        self._max_message_bytes = max_message_bytes
        self._channel = channel
        self._open: Any = channel.stream_stream(f"/{SERVICE}/Relay")
        self._streams: list[Stream] = []
        self._turn = 0
        self._changed = asyncio.Event()

    def stream(self, size: int) -> Stream | None:
        """The one whose turn it is, if any is there and takes a request of this size, in bytes."""
        if not self._streams:
            return None
        self._turn = (self._turn + 1) % len(self._streams)
        found = self._streams[self._turn]
        return found if size < found.large else None

    async def run(self) -> None:
        """Keeps a stream to each replica, until cancelled.

        The channel gives streams to the replicas in turn: one that leads to a replica that has one says that all have,
        as far as the channel is connected to them by then.
        """
        pauses = iter(_PAUSES)
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                found = await self._opened()
                if isinstance(found, Stream) and not self._is_known(found):
                    self._streams.append(found)
                    _streams.set(len(self._streams))
                    tasks.create_task(self._kept(found))
                    pauses = iter(_PAUSES)
                elif isinstance(found, Stream):
                    await found.leave()
                    await self._until_changed(next(pauses, _LOOK_AGAIN))
                else:
                    unknown = found is grpc.StatusCode.UNIMPLEMENTED
                    await asyncio.sleep(_UNKNOWN if unknown else next(pauses, _PAUSES[-1]))

    def _is_known(self, found: Stream) -> bool:
        """Whether its replica has a stream. One on a channel that was replaced since, with its certificate, leaves."""
        known = next((each for each in self._streams if each.instance == found.instance), None)
        if known is None or known.channel is found.channel:
            return known is not None
        known.retire()
        return False

    async def _opened(self) -> Stream | grpc.StatusCode:
        """A further stream, to whichever replica is next, or why there is none."""
        channel = getattr(self._channel, "current", self._channel)  # of one that follows the files of TLS
        call = self._open()
        # Not awaited itself: while gRPC prepares a call, it swallows the cancellation of whoever reads.
        reading = asyncio.create_task(call.read())
        opened = None
        try:
            await asyncio.wait([reading], timeout=_GREETING)
            if reading.done() and not reading.cancelled() and isinstance(greeting := reading.result(), bytes):
                told = Response.FromString(greeting)
                most = min(self._max_message_bytes, told.max_message_bytes)
                opened = Stream(call, told.instance, most, self._drop)
                opened.channel = channel
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            if opened is None:
                call.cancel()
                reading.cancel()
        return opened or grpc.StatusCode.UNAVAILABLE

    async def _kept(self, stream: Stream) -> None:
        try:
            await stream.run()
        finally:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """No further calls go by it."""
        if stream in self._streams:
            self._streams.remove(stream)
            _streams.set(len(self._streams))
            self._changed.set()

    async def _until_changed(self, longest: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._changed.wait()


@dataclass(eq=False, slots=True)
class _Waiting:
    """A call, and what its caller waits for: an answer."""

    number: int
    path: str
    request: bytes
    timeout: float
    metadata: Metadata
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    sent: bool = False

    def write(self, message: Any) -> int:
        """Into a message; gives its size, near enough."""
        message.id, message.method, message.request = self.number, self.path, self.request
        left = self.timeout - (asyncio.get_running_loop().time() - self.began)  # it may have waited to be written
        message.timeout_ms = max(1, round(left * 1000) + 1)
        for name, value in self.metadata:
            message.headers.add(name=name, value=value)
        self.sent = True
        return len(self.request) + sum(len(name) + len(value) + 8 for name, value in self.metadata) + _AROUND

    def expire(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(of_transport(DeadlineExceeded, PEER))

    def lose(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(LostError(sent=self.sent))


class Stream:
    """One stream to one replica."""

    def __init__(self, call: Any, instance: str, max_message_bytes: int, on_leaving: Callable[[Stream], None]) -> None:
        """`max_message_bytes` is what both ends take; messages stay far below it, however long their headers are."""
        self.instance = instance
        self.channel: object = None
        self._message_bytes = min(MESSAGE_BYTES, max_message_bytes // 4)
        self.large = min(LARGE, self._message_bytes // 2)  # a request of so many bytes goes by a call of its own
        self._call = call
        self._on_leaving = on_leaving
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._unsent: list[_Waiting] = []
        self._given_up: list[int] = []
        self._some = asyncio.Event()
        self._leaving = False

    async def call(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        """As `Upstream.call`.

        Raises:
            NotaryError: what the notary said, or DeadlineExceeded with a sentence of ours.
            LostError: the stream ended.
        """
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting(number, path, request, timeout, metadata)
        self._unsent.append(waiting)
        self._some.set()
        expiry = asyncio.get_running_loop().call_later(timeout, waiting.expire)
        try:
            found = await waiting.answer
        except (DeadlineExceeded, asyncio.CancelledError):
            self._give_up(number)
            raise
        finally:
            expiry.cancel()
            self._forget(number)
        answer.tell(*((header.name, header.value) for header in found.headers if header.name in answer.NAMES))
        if found.WhichOneof("outcome") == "response":
            response: bytes = found.response
            return response
        raise from_status(found.status, PEER)

    async def run(self) -> None:
        """Carries calls and answers until the stream ends. Who still waits then is told that it did."""
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write())
                await self._read()
                writing.cancel()
        finally:
            self._call.cancel()
            self._leaving = True
            for waiting in self._waiting.values():
                waiting.lose()

    async def leave(self) -> None:
        """Ends one that has carried nothing."""
        try:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(_GREETING):
                    await self._call.done_writing()
                    while await self._call.read() is not grpc.aio.EOF:
                        pass
        finally:
            self._call.cancel()

    async def _read(self) -> None:
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                message = Response.FromString(data)
                for found in message.answers:
                    if (waiting := self._waiting.get(found.id)) is not None and not waiting.answer.done():
                        waiting.answer.set_result(found)
                if message.move_on:
                    self.retire()
        except grpc.aio.AioRpcError as error:
            logger.info("a stream to the notary ended", extra={"fields": {"code": error.code().name}})

    async def _write(self) -> None:
        try:
            while not (self._leaving and not self._waiting):
                await self._some.wait()
                self._some.clear()
                while self._unsent or self._given_up:
                    await self._call.write(self._message())
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # it has ended: reading says so as well

    def _message(self) -> bytes:
        message = Request(given_up=self._given_up)
        self._given_up.clear()
        size = taken = 0
        for waiting in self._unsent:
            taken += 1
            if not waiting.answer.done():  # else its caller has given up already
                size += waiting.write(message.calls.add())
            if size >= self._message_bytes:
                break
        del self._unsent[:taken]
        _sizes.observe(len(message.calls))
        data: bytes = message.SerializeToString()
        return data

    def retire(self) -> None:
        """Takes no further calls, and ends when those under way have."""
        self._leaving = True
        self._on_leaving(self)
        self._some.set()

    def _give_up(self, number: int) -> None:
        if self._waiting[number].sent:
            self._given_up.append(number)
            self._some.set()

    def _forget(self, number: int) -> None:
        del self._waiting[number]
        if self._leaving:
            self._some.set()


_AROUND = 128  # bytes of a call beside its request and headers, at most
