"""From a servicer's methods to gRPC handlers, for all four cardinalities.

What every call gets stands here once: its request ID and deadline, the codec, its error as a status, its metrics.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio
import uuid_utils
from prometheus_client import Counter, Gauge, Histogram

from afdp.errors import DeadlineExceeded, Internal, NotaryError, ResourceExhausted, Unimplemented
from afdp.rpc import answer
from afdp.rpc.caller import Caller, caller
from afdp.rpc.codec import decoder, encoder
from afdp.rpc.descriptors import Method
from afdp.rpc.peers import PeerCheck, address_of, plain_caller
from afdp.rpc.status import to_status
from afdp.telemetry.context import deadline, request_id, traceparent

if TYPE_CHECKING:  # generic in their stubs only
    _Context = grpc.aio.ServicerContext[bytes, bytes]
    _Handle = grpc.RpcMethodHandler[bytes, bytes]

logger = logging.getLogger(__name__)

_calls = Counter("afdp_grpc_requests", "Calls served.", ["service", "method", "code"])
_calls_under_way = Gauge("afdp_grpc_calls_under_way", "Calls that are being served.")
_calls_limit = Gauge("afdp_grpc_calls_limit", "How many calls are served at once at most.")
_seconds = Histogram(
    "afdp_grpc_request_duration_seconds",
    "How long calls took.",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Admitted(Protocol):
    """A call that was let in, to be told how it ends."""

    async def answering(self) -> None:
        """An answer leaves, one of a stream or a refusal, if this raises nothing."""

    async def done(self) -> None:
        """It succeeds, if this raises nothing."""

    def failed(self, error: BaseException) -> None:
        """It fails, or is given up."""


Admit = Callable[[Method, NotaryError | None], Awaitable[Admitted | None]]
"""Lets the call that is being served, whose `caller` is set, go on to its method, or raises why not.

Given an error, it is only told: the call is refused by that already, for its peer is nobody that may call, or there is
no room for it.
"""


def method_handlers(
    servicer: Any,
    methods: Iterable[Method],
    timeout: float,
    admit: Admit | None = None,
    peers: PeerCheck | None = None,
    room: Room | None = None,
    stalled: float = 30.0,
) -> dict[str, _Handle]:
    """A handler per method, by name.

    Args:
        servicer: has a method for each.
        methods: those of its service.
        timeout: the deadline, in seconds, of a unary call that brings none.
        admit: is asked before a request is read; none: whoever reaches the port is let in.
        peers: judges who is at the other end, before that; none: the port speaks plain text.
        room: for calls that are served at once; further ones are refused before anything else is done for them.
        stalled: how long, in seconds, who is sent a stream of answers to one request may take none.
    """
    room = room or Room(4096)
    bounds = timeout, stalled
    return {method.name: _Handler(servicer, method, bounds, admit, peers, room).handler() for method in methods}


class Room:
    """For `most` calls at once, of all services of one server."""

    __slots__ = ("left", "most")

    def __init__(self, most: int) -> None:
        self.most = self.left = most
        _calls_limit.set(most)
        _calls_under_way.set_function(lambda: self.most - self.left)

    def enter(self) -> None:
        """Raises ResourceExhausted where it is full; `left` is to be raised again in either case."""
        self.left -= 1
        if self.left < 0:
            raise ResourceExhausted(f"{self.most} calls are being served; try again", retry_after=1.0)


class _Handler:
    def __init__(
        self,
        servicer: Any,
        method: Method,
        bounds: tuple[float, float],
        admit: Admit | None,
        peers: PeerCheck | None,
        room: Room,
    ) -> None:
        timeout, self._stalled = bounds
        service = method.full_name.split("/")[1]
        self._method = method
        self._admit, self._peers = admit, peers
        self._open = admit is None and peers is None
        self._room = room
        self._behaviour = getattr(servicer, _snake(method.name))
        # What a client sends must be understood whole; services of one deployment may differ by a version.
        self._decode = decoder(method.request, strict=service.startswith("afdp.notary."))
        self._encode = encoder(method.response)
        self._timeout = None if method.client_streaming or method.server_streaming else timeout
        self._seconds = _seconds.labels(service, method.name)
        self._ok = _calls.labels(service, method.name, "OK")
        self._labels = (service, method.name)

    def handler(self) -> _Handle:
        """The handler of this method's cardinality. Bytes go in and out: the codec's errors are told apart here."""
        shape = (self._method.client_streaming, self._method.server_streaming)
        return {
            (False, False): lambda: grpc.unary_unary_rpc_method_handler(self._unary_unary),
            (False, True): lambda: grpc.unary_stream_rpc_method_handler(self._unary_stream),
            (True, False): lambda: grpc.stream_unary_rpc_method_handler(self._stream_unary),
            (True, True): lambda: grpc.stream_stream_rpc_method_handler(self._stream_stream),
        }[shape]()

    async def _unary_unary(self, data: bytes, context: _Context) -> bytes:
        return await self._reply(lambda: self._behaviour(self._decode(data)), context)

    async def _stream_unary(self, data: AsyncIterator[bytes], context: _Context) -> bytes:
        return await self._reply(lambda: self._behaviour(self._decoded(data, context)), context)

    async def _reply(self, begin: Callable[[], Awaitable[Any]], context: _Context) -> bytes:
        started, limit = self._begin(context)
        admitted: Admitted | None = None
        try:
            await self._enter(context)
            # Not cheap, so only where gRPC itself does not end the call in time.
            async with nullcontext() if limit is None else asyncio.timeout(limit):
                if not self._open:
                    admitted = await self._let_in(context)
                reply = self._encode(await begin())
                if admitted is not None:
                    await admitted.done()
        except BaseException as error:
            if admitted is not None:
                admitted.failed(error)
            if isinstance(error, Exception):
                await self._abort(context, await _recorded(admitted, error))
            raise
        finally:
            self._end(started)
        self._succeed(context)
        return reply

    async def _unary_stream(self, data: bytes, context: _Context) -> None:
        await self._answer(lambda: self._behaviour(self._decode(data)), context)

    async def _stream_stream(self, data: AsyncIterator[bytes], context: _Context) -> None:
        await self._answer(lambda: self._behaviour(self._decoded(data, context)), context)

    async def _answer(self, begin: Callable[[], AsyncGenerator[Any, None]], context: _Context) -> None:
        """Answers are written, not yielded: of a caller who goes away, gRPC tells a coroutine, and no generator."""
        started, _ = self._begin(context)
        admitted: Admitted | None = None
        try:
            await self._enter(context)
            if not self._open:
                admitted = await self._let_in(context)
            async with aclosing(begin()) as replies:
                async for reply in replies:
                    if admitted is not None:
                        await admitted.answering()
                    if self._method.client_streaming:
                        await context.write(self._encode(reply))
                    else:
                        await self._require_peer(context)
                        await self._write(context, self._encode(reply))
            if admitted is not None:
                await admitted.done()
        except BaseException as error:
            if admitted is not None:
                admitted.failed(error)
            if isinstance(error, Exception):
                await self._abort(context, await _recorded(admitted, error))
            raise
        finally:
            self._end(started)
        self._succeed(context)

    async def _write(self, context: _Context, answer: bytes) -> None:
        """Writes to one who only listens, and holds what the answers take for no longer than that."""
        try:
            async with asyncio.timeout(self._stalled):
                await context.write(answer)
        except TimeoutError:
            raise ResourceExhausted("no answer was taken for too long: go on where you have come to") from None

    async def _enter(self, context: _Context) -> None:
        try:
            self._room.enter()
        except NotaryError as refused:
            if self._admit is not None:
                caller.set(Caller(address=address_of(context)))
                await self._admit(self._method, refused)
            raise

    async def _let_in(self, context: _Context) -> Admitted | None:
        try:
            caller.set(self._caller(context))
        except NotaryError as refused:
            if self._admit is not None:
                caller.set(Caller(address=address_of(context)))
                await self._admit(self._method, refused)
            raise
        return await self._admit(self._method, None) if self._admit is not None else None

    def _caller(self, context: _Context) -> Caller:
        metadata = context.invocation_metadata() or ()
        authorization = caller.get().authorization
        if self._peers is None:
            return plain_caller(context, authorization, metadata)
        return self._peers.caller(self._method, context, authorization, metadata)

    async def _decoded(self, data: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
        async for item in data:
            await self._require_peer(context)
            yield self._decode(item)

    async def _require_peer(self, context: _Context) -> None:
        """Looks again whether the peer's certificate counts: a stream may outlive it, or its revocation."""
        if self._peers is None:
            return
        try:
            self._caller(context)
        except NotaryError as refused:
            if self._admit is not None:
                await self._admit(self._method, refused)
            raise

    def _begin(self, context: _Context) -> tuple[float, float | None]:
        """When the call began, and the time it may take where its caller has set none."""
        started = asyncio.get_running_loop().time()
        _set_metadata(context)
        remaining = context.time_remaining()
        limit = self._timeout if remaining is None else remaining
        deadline.set(None if limit is None else started + limit)
        return started, limit if remaining is None else None

    def _end(self, started: float) -> None:
        self._room.left += 1
        if isinstance(sys.exception(), asyncio.CancelledError):
            _calls.labels(*self._labels, "CANCELLED").inc()
        self._seconds.observe(asyncio.get_running_loop().time() - started)

    def _succeed(self, context: _Context) -> None:
        if headers := answer.told():
            context.set_trailing_metadata(headers)
        self._ok.inc()

    async def _abort(self, context: _Context, error: Exception) -> None:
        told = self._told(error)
        _calls.labels(*self._labels, told.code).inc()
        code, message, trailing = to_status(told, request_id.get())
        await context.abort(code, message, (*trailing, *answer.told()))

    def _told(self, error: Exception) -> NotaryError:
        """What the caller is told of an error: whatever it is, a status, and never a foreign text."""
        if isinstance(error, NotaryError):
            return error
        if isinstance(error, NotImplementedError):
            return Unimplemented(self._method.planned or f"{self._method.name} is not part of this release")
        if isinstance(error, TimeoutError):
            return DeadlineExceeded("the call's time ran out")
        logger.error("a call failed unexpectedly", exc_info=error, extra={"fields": {"method": self._method.full_name}})
        return Internal(f"an internal fault; the log has it under {request_id.get()}")


async def _recorded(admitted: Admitted | None, error: Exception) -> Exception:
    """What a call is answered that failed: that, or that it could not be put on record."""
    try:
        if admitted is not None:
            await admitted.answering()
    except NotaryError as unrecorded:
        return unrecorded
    return error


def _set_metadata(context: _Context) -> None:
    """Keeps the request's ID, or makes one, the trace that it is part of, and what tells who calls."""
    request, trace, authorization = "", "", ""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            request = value
        elif key == "traceparent" and isinstance(value, str):
            trace = value
        elif key == "authorization" and isinstance(value, str):
            # Two are read as one (RFC 9110, 5.3), which nobody believes: else it would be ours to choose between them.
            authorization = f"{authorization}, {value}" if authorization else value
    caller.set(Caller(authorization))
    answer.begin()
    request_id.set(request or str(uuid_utils.uuid7()))
    traceparent.set(trace)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
