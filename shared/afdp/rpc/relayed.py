"""The server's end of the relay: many unary calls on one stream, each served by the handler that serves it alone too.

A gRPC call of its own costs two Python processes 450 µs of CPU, ten times what it takes to hand a call over that
came with others. All that is particular to a call (its metadata, its deadline, its end) is in `_Call`, which looks to a
handler as gRPC's own context does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import grpc
import grpc.aio
import uuid_utils
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from afdp.errors import NotaryError
from afdp.rpc.client import MAX_ANSWER_BYTES
from afdp.rpc.descriptors import method, pool
from afdp.rpc.peers import PeerCheck
from afdp.rpc.status import DETAILS_KEY, to_status

if TYPE_CHECKING:  # generic in their stubs only
    _Context = grpc.aio.ServicerContext[bytes, bytes]
    _Handle = grpc.RpcMethodHandler[bytes, bytes]

logger = logging.getLogger(__name__)

SERVICE = "afdp.relay.v1.RelayService"
MESSAGE_BYTES = 1024 * 1024
"""From this size on, what is still to be sent goes into a further message."""

_METHOD = method(f"/{SERVICE}/Relay")
_MOST = 4096  # calls of one stream that are under way, or whose answers nobody has taken; further ones are not read

# Of protobuf's own runtime: these messages are many and small.
Request: Any = GetMessageClass(pool().FindMessageTypeByName("afdp.relay.v1.RelayRequest"))
Response: Any = GetMessageClass(pool().FindMessageTypeByName("afdp.relay.v1.RelayResponse"))

Find = Callable[[grpc.HandlerCallDetails], Awaitable["_Handle | None"]]
"""The handler of a call, as gRPC itself would find it, interceptors and all."""


class Relay:
    """afdp.relay.v1.RelayService, for the other services of one server."""

    def __init__(
        self, find: Find, stream_seconds: float, max_message_bytes: int, peers: PeerCheck | None = None
    ) -> None:
        """For the calls of one server.

        Args:
            find: finds the handlers.
            stream_seconds: how old a stream may become.
            max_message_bytes: the server's bound on messages, which clients are told.
            peers: judges who opens a stream; none: there is no TLS.
        """
        self._find = find
        self._max_message_bytes = max_message_bytes
        self._peers = peers
        self._stream_seconds = stream_seconds
        self._instance = str(uuid_utils.uuid7())
        self._leaving = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {"Relay": grpc.stream_stream_rpc_method_handler(self._relay)}
        )

    def leave(self) -> None:
        """Asks every client to take its further calls elsewhere."""
        self._leaving.set()

    async def _relay(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        await self._require_caller(context)
        stream = _Stream(
            self._find, context, Response(instance=self._instance, max_message_bytes=self._max_message_bytes)
        )
        async with asyncio.TaskGroup() as tasks:
            mover = tasks.create_task(self._move_on(stream))
            tasks.create_task(stream.write())
            await stream.serve(requests)
            mover.cancel()

    async def _require_caller(self, context: _Context) -> None:
        try:
            if self._peers is not None:
                self._peers.caller(_METHOD, context, "", ())
        except NotaryError as error:
            await context.abort(*to_status(error))

    async def _move_on(self, stream: _Stream) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stream_seconds):
                await self._leaving.wait()
        stream.move_on()


class _Stream:
    """One client's calls. Answers that are ready in the same turn of the loop go out in one message."""

    def __init__(self, find: Find, context: _Context, greeting: Any) -> None:
        self._find = find
        self._context = context
        self._greeting = greeting
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._answers: list[_Answer] = []
        self._some = asyncio.Event()
        self._moves_on = False
        self._over = False

    async def serve(self, requests: AsyncIterator[bytes]) -> None:
        """Serves calls until the client sends no more and all are answered."""
        async with asyncio.TaskGroup() as tasks:
            async for data in requests:
                request = await self._read(data)
                for number in request.given_up:
                    if (task := self._under_way.get(number)) is not None:
                        task.cancel()
                for call in request.calls:
                    self._begin(call, tasks)
                await self._room.wait()
        self._over = True
        self._some.set()

    async def write(self) -> None:
        """Sends answers until the last one."""
        with suppress(grpc.aio.BaseError):  # the client is gone: gRPC cancels all of this
            await self._context.write(self._greeting.SerializeToString())
            while not self._over:
                await self._some.wait()
                self._some.clear()
                while self._answers or self._moves_on:
                    await self._context.write(self._message())

    def move_on(self) -> None:
        """Tells the client to take another stream."""
        self._moves_on = True
        self._some.set()

    async def _read(self, data: bytes) -> Any:
        try:
            return Request.FromString(data)
        except DecodeError:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message could not be read")

    def _begin(self, call: Any, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + call.timeout_ms / 1000
        task = self._under_way[call.id] = tasks.create_task(self._serve(call, until))
        expiry = loop.call_at(until, task.cancel)
        task.add_done_callback(lambda _: self._end(call.id, expiry))
        self._see_room()

    def _end(self, number: int, expiry: asyncio.TimerHandle) -> None:
        expiry.cancel()
        self._under_way.pop(number, None)
        self._see_room()

    def _see_room(self) -> None:
        if len(self._under_way) + len(self._answers) < _MOST:
            self._room.set()
        else:
            self._room.clear()

    async def _serve(self, call: Any, until: float) -> None:
        metadata = tuple(Metadatum(header.name, header.value) for header in call.headers)
        context = _Call(metadata, until, self._context)
        answer = _Answer(call.id)
        try:
            # The stubs know handlers of gRPC's threads only.
            handler: Any = await self._find(_Details(call.method, metadata))
            if handler is None or handler.unary_unary is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
            else:
                response = await handler.unary_unary(call.request, context)
                if len(response) > MAX_ANSWER_BYTES - MESSAGE_BYTES:  # the stream would end, with all that is on it
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large")
                answer.response, answer.trailing = response, context.trailing
        except _Aborted as aborted:
            answer.trailing = aborted.trailing
            answer.status = aborted.status
        except Exception:  # a fault of ours must cost this call, not all that share the stream
            logger.exception("a relayed call failed unexpectedly", extra={"fields": {"method": call.method}})
            answer.status = _status(grpc.StatusCode.UNKNOWN, "")
        self._answers.append(answer)
        self._some.set()

    def _message(self) -> bytes:
        message = Response(move_on=self._moves_on)
        self._moves_on = False
        size = taken = 0
        for answer in self._answers:
            if taken and size + len(answer.response or b"") > MESSAGE_BYTES:  # a large one goes alone
                break
            size += answer.write(message.answers.add())
            taken += 1
        del self._answers[:taken]
        self._see_room()
        data: bytes = message.SerializeToString()
        return data


class Metadatum(NamedTuple):
    """One entry of metadata, as gRPC has it."""

    key: str
    value: str | bytes


Trailing = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: tuple[Metadatum, ...]


class _Aborted(grpc.aio.AbortError):
    """A handler has ended its call with an error."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Trailing) -> None:
        super().__init__(details)
        self.trailing = trailing
        details_of = dict(trailing).get(DETAILS_KEY)
        self.status = details_of if isinstance(details_of, bytes) else _status(code, details)


class _Call:
    """As much of `grpc.aio.ServicerContext` as the handlers of unary calls use; who calls is told by the stream's."""

    def __init__(self, metadata: tuple[Metadatum, ...], until: float, stream: _Context) -> None:
        self.trailing: Trailing = ()
        self._metadata = metadata
        self._until = until
        self._stream = stream

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        return self._metadata

    def time_remaining(self) -> float:
        return self._until - asyncio.get_running_loop().time()

    def set_trailing_metadata(self, trailing: Trailing) -> None:
        self.trailing = trailing

    def peer(self) -> str:
        return self._stream.peer()

    def auth_context(self) -> Any:
        return self._stream.auth_context()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Trailing = ()) -> NoReturn:
        raise _Aborted(code, details, trailing)


@dataclass(slots=True)
class _Answer:
    """What became of a call."""

    number: int
    response: bytes | None = None
    status: bytes = b""
    trailing: Trailing = ()

    def write(self, message: Any) -> int:
        """Into a message; gives its size, near enough."""
        message.id = self.number
        if self.response is not None:
            message.response = self.response
        else:
            message.status = self.status
        for name, value in self.trailing:
            if isinstance(value, str):
                message.headers.add(name=name, value=value)
        return len(self.response or self.status) + 64


def _status(code: grpc.StatusCode, message: str) -> bytes:
    """A status that has no details, as the transport's own have none."""
    data: bytes = Status(code=code.value[0], message=message).SerializeToString()
    return data
