"""Calls over gRPC, by the adapter that the services use themselves (extra `rpc`).

A call's fields become a request message and the answer becomes the JSON that REST would give, so that both transports
give the same values.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import fields
from datetime import datetime
from enum import Enum
from threading import Thread
from typing import Any, TypeVar

import betterproto2
import grpc
import orjson

from afdp.client.calls import Call, evidence_object, read_answer
from afdp.client.tls import ClientTls
from afdp.client.token import BearerToken, authorization
from afdp.client.watching import Answer
from afdp.errors import NotaryError
from afdp.formats.encoding import b64
from afdp.formats.evidence import evidence_from_json
from afdp.formats.timestamps import format_timestamp
from afdp.pb.google.protobuf import Struct
from afdp.rpc.client import GrpcCaller, open_channel
from afdp.rpc.codec import plain
from afdp.rpc.descriptors import message_class, method
from afdp.telemetry.context import request_id
from afdp.tls.plain import stays_here

T = TypeVar("T")

_SERVICE = "afdp.notary.v1.NotaryService"
_ENUM_PREFIXES = {
    "wait_for": "RECEIPT_STATE_",
    "status_filter": "WORKFLOW_STATUS_",
    "purpose": "KEY_PURPOSE_",
    "format": "EXPORT_FORMAT_",
}


class GrpcTransport:
    """For asyncio, one channel, opened with the first call."""

    def __init__(
        self, address: str, timeout: float, token: BearerToken | None = None, tls: ClientTls | None = None
    ) -> None:
        self._address = address
        self._tls = tls or ClientTls.from_environment()
        self._timeout = timeout
        self._token = token
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._caller: GrpcCaller | None = None

    async def perform(self, call: Call[T]) -> T | NotaryError:
        """One attempt."""
        name = f"/{_SERVICE}/{call.rpc}"
        # Chosen here, so that an error can say what the notary's logs know the call by; kept inside of a service's own.
        known = request_id.get() or uuid.uuid4().hex
        token = request_id.set(known)
        try:
            request = _message(name, call.fields)
            shown = None if self._token is None else await authorization(self._token)
            answer = await (await self._connected()).unary_unary(name, request, self._timeout, authorization=shown)
        except NotaryError as error:
            error.metadata.setdefault("request_id", known)
            return error
        finally:
            request_id.reset(token)
        if call.raw is not None:
            return read_answer(call, {call.raw.answer_field: getattr(answer, call.raw.answer_field)}, self._address)
        return read_answer(call, rest_object(answer), self._address)

    async def stream(self, call: Call[bytes]) -> AsyncGenerator[bytes, None]:
        """The answers to a call of raw bytes, as they come. Raises NotaryError, also in their midst."""
        name, field = f"/{_SERVICE}/{call.rpc}", call.raw.answer_field if call.raw is not None else ""
        shown = None if self._token is None else await authorization(self._token)
        answers = (await self._connected()).unary_stream(name, _message(name, call.fields), None, authorization=shown)
        async with aclosing(answers):
            async for answer in answers:
                yield getattr(answer, field) or b""

    async def watch(self, cursor: str) -> AsyncGenerator[Answer, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""
        name = f"/{_SERVICE}/WatchReceipts"
        shown = None if self._token is None else await authorization(self._token)
        request = _message(name, {"cursor": cursor})
        stream = (await self._connected()).unary_stream(name, request, None, authorization=shown)
        async with aclosing(stream) as answers:
            async for answer in answers:
                yield rest_object(answer)

    async def close(self) -> None:
        """Closes the channel."""
        await self._stack.aclose()

    async def _connected(self) -> GrpcCaller:
        async with self._opening:
            if self._caller is None:
                channel = open_channel(self._address, tls=self._credentials())
                self._caller = GrpcCaller(await self._stack.enter_async_context(channel))
            return self._caller

    def _credentials(self) -> grpc.ChannelCredentials | None:
        """None for plain text, which needs nothing and does not leave the machine."""
        if not self._tls.is_given and stays_here(self._address):
            return None
        return grpc.ssl_channel_credentials(*self._tls.pem())


class BlockingGrpcTransport:
    """Blocking: the same over an event loop in a thread of its own."""

    def __init__(
        self, address: str, timeout: float, token: BearerToken | None = None, tls: ClientTls | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="afdp-grpc", daemon=True)
        self._thread.start()
        self._inner = GrpcTransport(address, timeout, token, tls)

    def perform(self, call: Call[T]) -> T | NotaryError:
        """One attempt; the call's own deadline ends the wait."""
        attempt = self._inner.perform(call)
        return asyncio.run_coroutine_threadsafe(attempt, self._loop).result()

    def stream(self, call: Call[bytes]) -> Generator[bytes, None, None]:
        """The answers to a call of raw bytes, as they come. Raises NotaryError, also in their midst."""
        answers = self._inner.stream(call)
        try:
            while (each := self._wait(anext(answers, None))) is not None:
                yield each
        finally:
            self._wait(answers.aclose())

    def _wait(self, what: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await what

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

    def watch(self, cursor: str) -> Generator[Answer, None, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""
        answers = self._inner.watch(cursor)
        try:
            while True:
                try:
                    yield asyncio.run_coroutine_threadsafe(_next(answers), self._loop).result()
                except _Ended:
                    return
        finally:
            asyncio.run_coroutine_threadsafe(answers.aclose(), self._loop).result()

    def close(self) -> None:
        """Closes the channel and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._inner.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Ended(Exception):
    """There are no more answers."""


async def _next(answers: AsyncGenerator[Answer, None]) -> Answer:
    try:
        return await anext(answers)
    except StopAsyncIteration:  # which no task may raise
        raise _Ended from None


def rest_object(message: Any) -> dict[str, Any]:
    """A betterproto2 message as the REST API prints it; absent messages are None."""
    return {field.name: _plain(getattr(message, field.name)) for field in fields(message)}


def _plain(value: Any) -> Any:
    match value:
        case Struct():
            return plain(value)
        case betterproto2.Message():
            return rest_object(value)
        case Enum():
            return (value.name or str(value.value)).lower()
        case list():
            return [_plain(each) for each in value]
        case bytes():  # all bytes of the API but raw bodies are JSON: bundles
            return orjson.loads(value) if value else None
        case datetime():
            return format_timestamp(value)
        case _:
            return value


def _message(name: str, given: Mapping[str, object]) -> betterproto2.Message:
    prepared = {field: _prepared(field, value) for field, value in given.items()}
    made: betterproto2.Message = message_class(method(name).request).from_dict(prepared)
    return made


def _prepared(field: str, value: Any) -> object:
    """The field in proto3's JSON; evidence is read strictly first, for betterproto2 drops what it does not know."""
    if isinstance(value, bytes):
        return b64(value)
    if field in _ENUM_PREFIXES:
        return _ENUM_PREFIXES[field] + str(value).upper()
    if field == "evidence_package":
        return evidence_object(evidence_from_json(value, prefix="evidence_package."))
    if field == "evidence_packages":
        return [
            evidence_object(evidence_from_json(each, prefix=f"evidence_packages[{at}]."))
            for at, each in enumerate(value)
        ]
    return value
