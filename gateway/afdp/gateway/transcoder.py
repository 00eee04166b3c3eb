"""REST to gRPC: finds the method, makes its request, calls it, prints its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from afdp.errors import HeadersTooLarge, InvalidArgument, NotaryError, PayloadTooLarge, Unauthenticated, Unimplemented
from afdp.gateway.body import JSON, BodyReader, content_type_fault
from afdp.gateway.clients import told_of_client
from afdp.gateway.decode import Encoders
from afdp.gateway.descriptors import Api, HttpRule, Method
from afdp.gateway.downloads import Download
from afdp.gateway.encode import RawEncoder, Readers, ResponseEncoder
from afdp.gateway.events import EventStreams, resumed
from afdp.gateway.exchange import exchange_of
from afdp.gateway.problems import MethodNotAllowed
from afdp.gateway.request import RequestDecoder
from afdp.gateway.routes import Route, RouteTable
from afdp.gateway.upstream import Metadata, Upstream

Judge = Callable[[Any, dict[str, Any]], NotaryError | None]
"""What is answered instead, given a request message and its answer as JSON."""

Call = Callable[[str, bytes, float, Metadata], Awaitable[bytes]]
"""As `Upstream.call`."""

LARGE = 128 * 1024
"""Bytes from which on reading a body or printing an answer takes long enough to be done beside the event loop."""

_MATCHED = "afdp.matched"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one call.

    Attributes:
        message_bytes: of the request message, which may be larger than its JSON.
        timeout: seconds for a call; `timeouts` has those of methods that differ, by name.
    """

    message_bytes: int
    timeout: float
    timeouts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Binding:
    """One rule of one method, compiled."""

    method: Method
    decode: RequestDecoder
    encode: Callable[[bytes], bytes]
    media_type: str  # of the answer
    judged: Judged | None
    timeout: float
    call: Call
    printed: ResponseEncoder
    download: Download | None  # of many answers


@dataclass(frozen=True, slots=True)
class Judged:
    """A method whose answer is looked at before it is given."""

    judge: Judge
    request: Any  # the upb class
    encode: ResponseEncoder

    def __call__(self, request: bytes, answer: bytes) -> bytes:
        """The answer as JSON.

        Raises:
            NotaryError: the judge's verdict.
        """
        plain = self.encode.plain(answer)
        if (verdict := self.judge(self.request.FromString(request), plain)) is not None:
            raise verdict
        return orjson.dumps(plain)


class Transcoder(BaseRoute):
    """Every bound method as one route of a Starlette application."""

    def __init__(
        self,
        api: Api,
        upstream: Upstream,
        bodies: BodyReader,
        limits: Limits,
        judges: Mapping[str, Judge],
        calls: Mapping[str, Call],
        streams: EventStreams,
    ) -> None:
        self._upstream = upstream
        self._streams = streams
        self._bodies = bodies
        self._limits = limits
        encoders, readers = Encoders(api.raw_json), Readers(api.raw_json)

        def bind(method: Method, rule: HttpRule) -> Binding:
            raw, printed = rule.raw_response, ResponseEncoder(api, method.response, readers)
            judge = judges.get(method.name)
            return Binding(
                method,
                RequestDecoder(method, rule, encoders),
                RawEncoder(api, method.response, raw.field) if raw else printed,
                raw.media_type if raw else JSON,
                Judged(judge, api.message_class(method.request.full_name), printed) if judge else None,
                limits.timeouts.get(method.name, limits.timeout),
                calls.get(method.name, upstream.call),
                printed,
                Download(api, method.response) if method.tells and raw else None,
            )

        self._routes = RouteTable(
            Route(rule.verb, rule.template, bind(method, rule)) for method in api.methods for rule in method.rules
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Full where the path and verb are bound, partial where only the path is."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = scope["raw_path"].decode("ascii", "replace")
        if (matched := self._routes.match(scope["method"], path)) is not None:
            return Match.FULL, {_MATCHED: matched}
        return (Match.PARTIAL, {}) if self._routes.allowed(path) else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request that matched.

        Raises:
            NotaryError: whatever is to be answered as a problem.
        """
        matched = scope.get(_MATCHED)
        if matched is None:
            allow = ", ".join(self._routes.allowed(scope["raw_path"].decode("ascii", "replace")))
            raise MethodNotAllowed(f"this path takes {allow}", metadata={"allow": allow})
        binding: Binding = matched.route.target
        exchange = exchange_of(scope)
        exchange.endpoint = matched.route.template
        if binding.method.planned:
            raise Unimplemented(binding.method.planned)
        headers = _Headers.of(scope)
        if binding.method.tells:
            await self._tell(binding, matched.variables, headers, scope, receive, send)
            return
        body = await self._body(binding, headers, receive)
        try:
            answer = await self._answer(binding, body, matched.variables, headers, scope)
        finally:
            self._bodies.release(body)
        await Response(answer, binding.method.success, media_type=binding.media_type)(scope, receive, send)

    async def _tell(
        self,
        binding: Binding,
        variables: Mapping[str, str],
        headers: _Headers,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Many answers to one request, as one download or as server-sent events."""
        await self._body(binding, headers, receive)
        query = scope["query_string"].decode("ascii", "replace")
        if binding.download is None:
            query = resumed(query, headers.last_event_id)
        request = binding.decode(b"", variables, query, None)
        exchange = exchange_of(scope)
        metadata = headers.metadata(exchange.request_id, exchange.traceparent) + told_of_client(scope)
        exchange.passed_on = True
        answers = self._upstream.stream(binding.method.path, request, metadata)
        if binding.download is not None:
            await binding.download.serve(answers, binding.timeout, scope, receive, send)
            return
        await self._streams.serve(answers, binding.printed, binding.timeout, scope, receive, send)

    async def _body(self, binding: Binding, headers: _Headers, receive: Receive) -> bytes:
        if not binding.decode.takes_body:
            if headers.content_length not in (None, "0") or headers.chunked:
                raise InvalidArgument.field("body", "this method takes no body; its parameters stand in the URL")
            return b""
        wanted = binding.decode
        if (fault := content_type_fault(headers.content_type, headers.content_encoding, wanted.media_type)) is not None:
            raise fault
        return await self._bodies.read(receive, headers.content_length, wanted.max_bytes)

    async def _answer(
        self, binding: Binding, body: bytes, variables: Mapping[str, str], headers: _Headers, scope: Scope
    ) -> bytes:
        query = scope["query_string"].decode("ascii", "replace")
        arguments = (body, variables, query, headers.idempotency_key)
        request = (
            binding.decode(*arguments) if len(body) < LARGE else await asyncio.to_thread(binding.decode, *arguments)
        )
        if len(request) > self._limits.message_bytes:
            raise PayloadTooLarge(f"the request is over {self._limits.message_bytes} bytes as a message; send less")
        exchange = exchange_of(scope)
        metadata = headers.metadata(exchange.request_id, exchange.traceparent) + told_of_client(scope)
        exchange.passed_on = True
        answer = await binding.call(binding.method.path, request, binding.timeout, metadata)
        if binding.judged is not None:
            return binding.judged(request, answer)
        return binding.encode(answer) if len(answer) < LARGE else await asyncio.to_thread(binding.encode, answer)


@dataclass(slots=True)
class _Headers:
    """The headers that mean something here; a repeated one is refused where two could disagree."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_length: str | None = None
    idempotency_key: str | None = None
    authorization: str | None = None
    last_event_id: str | None = None
    chunked: bool = False

    @classmethod
    def of(cls, scope: Scope) -> _Headers:
        found = cls()
        for name, value in scope["headers"]:
            if name == b"transfer-encoding":
                found.chunked = True
            elif (attribute := _READ.get(name)) is not None:
                if getattr(found, attribute) is not None:
                    raise InvalidArgument.field(name.decode(), "the header stands more than once")
                setattr(found, attribute, value.decode("latin-1"))
        return found

    def metadata(self, request_id: str, traceparent: str) -> Metadata:
        """What goes on to the notary: the caller's credentials, the request's ID, the trace; nothing else."""
        metadata = [("x-request-id", request_id)]
        if traceparent:
            metadata.append(("traceparent", traceparent))
        if self.authorization is not None:
            if not self.authorization.isascii() or not self.authorization.isprintable():
                raise Unauthenticated("the Authorization header must be printable ASCII")
            if len(self.authorization) > _MAX_AUTHORIZATION:
                raise HeadersTooLarge(f"the Authorization header is over {_MAX_AUTHORIZATION} bytes")
            metadata.append(("authorization", self.authorization))
        return metadata


_MAX_AUTHORIZATION = 8192  # a gRPC server takes 16 KiB of metadata in all

_READ = {
    b"content-type": "content_type",
    b"content-encoding": "content_encoding",
    b"content-length": "content_length",
    b"idempotency-key": "idempotency_key",
    b"authorization": "authorization",
    b"last-event-id": "last_event_id",
}
