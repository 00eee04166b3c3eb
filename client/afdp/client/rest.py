"""Calls over REST: the request of a call, and its outcome from a reply. The two transports only move bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import orjson

from afdp.client.calls import Call, read_answer
from afdp.client.errors import NotConnected, TimedOut, UnexpectedAnswer, Unreachable
from afdp.client.tls import ClientTls, http_options
from afdp.client.token import BearerToken, authorization, require_private
from afdp.client.watching import PATH as WATCH
from afdp.client.watching import SILENCE, Answer, Events
from afdp.errors import (
    BY_CODE,
    Erased,
    FieldViolation,
    InvalidArgument,
    NotaryError,
    PayloadTooLarge,
    Unavailable,
    UnsupportedMediaType,
)
from afdp.formats.members import Members

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:3030"
DEFAULT_TIMEOUT = 60.0
_CONNECT_TIMEOUT = 5.0
_POOL = httpx.Limits(max_connections=64, max_keepalive_connections=64)
_BY_STATUS: Mapping[int, type[NotaryError]] = {410: Erased, 413: PayloadTooLarge, 415: UnsupportedMediaType}
_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a notary over REST.

    Attributes:
        url: its base URL.
        timeout: seconds for one attempt.
        headers: sent with every request.
        token: shown with every request; None: none is.
        tls: whom it believes, and what it shows; none: what the environment names.
    """

    url: str
    timeout: float
    headers: Mapping[str, str]
    token: BearerToken | None = None
    tls: ClientTls | None = None

    def __post_init__(self) -> None:
        if self.token is not None:
            require_private(self.url)

    def client_arguments(self) -> dict[str, Any]:
        """The arguments of either httpx client."""
        return {
            "base_url": self.url,
            "timeout": httpx.Timeout(self.timeout, connect=min(_CONNECT_TIMEOUT, self.timeout)),
            "limits": _POOL,
            "headers": {"accept": "application/json", **self.headers},
            **http_options(self.url, self.tls),
        }


class RestTransport:
    """Blocking, one connection pool."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.token
        self._client = httpx.Client(**settings.client_arguments())

    def perform(self, call: Call[T]) -> T | NotaryError:
        """One attempt."""
        try:
            request = _request(self._client, call)
            if self._token is not None:
                request.headers["authorization"] = self._token.header()
            reply = self._client.send(request)
        except NotaryError as error:
            return error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _lost(error, str(self._client.base_url))
        return _outcome(call, reply)

    def stream(self, call: Call[bytes]) -> Generator[bytes, None, None]:
        """The answer to a call of raw bytes as they come. Raises NotaryError, also in its midst."""
        try:
            request = _request(self._client, call)
            if self._token is not None:
                request.headers["authorization"] = self._token.header()
            reply = self._client.send(request, stream=True)
            with closing(reply):
                if reply.status_code != 200:
                    reply.read()
                _require_stream(call, reply)
                yield from reply.iter_bytes()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _lost(error, str(self._client.base_url)) from None

    def watch(self, cursor: str) -> Generator[Answer, None, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""
        headers = {"authorization": self._token.header()} if self._token is not None else {}
        events = Events()
        try:
            with self._client.stream("GET", WATCH, **_watching(cursor, headers)) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise _problem(reply)
                for line in reply.iter_lines():
                    if (found := events.answer(line)) is not None:
                        yield found
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _lost(error, str(self._client.base_url)) from error

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


class AsyncRestTransport:
    """For asyncio, one connection pool."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.token
        self._client = httpx.AsyncClient(**settings.client_arguments())

    async def perform(self, call: Call[T]) -> T | NotaryError:
        """One attempt."""
        try:
            request = _request(self._client, call)
            if self._token is not None:
                request.headers["authorization"] = await authorization(self._token)
            reply = await self._client.send(request)
        except NotaryError as error:
            return error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _lost(error, str(self._client.base_url))
        return _outcome(call, reply)

    async def stream(self, call: Call[bytes]) -> AsyncGenerator[bytes, None]:
        """The answer to a call of raw bytes as they come. Raises NotaryError, also in its midst."""
        try:
            request = _request(self._client, call)
            if self._token is not None:
                request.headers["authorization"] = await authorization(self._token)
            reply = await self._client.send(request, stream=True)
            async with aclosing(reply):
                if reply.status_code != 200:
                    await reply.aread()
                _require_stream(call, reply)
                async for each in reply.aiter_bytes():
                    yield each
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _lost(error, str(self._client.base_url)) from None

    async def watch(self, cursor: str) -> AsyncGenerator[Answer, None]:
        """One stream of `WatchReceipts`. Raises NotaryError where it ends."""
        headers = {"authorization": await authorization(self._token)} if self._token is not None else {}
        events = Events()
        try:
            async with self._client.stream("GET", WATCH, **_watching(cursor, headers)) as reply:
                if reply.status_code != 200:
                    await reply.aread()
                    raise _problem(reply)
                async for line in reply.aiter_lines():
                    if (found := events.answer(line)) is not None:
                        yield found
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _lost(error, str(self._client.base_url)) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _watching(cursor: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "params": {"cursor": cursor} if cursor else {},
        "headers": {"accept": "text/event-stream, application/json", **headers},
        "timeout": httpx.Timeout(SILENCE, connect=_CONNECT_TIMEOUT),
    }


def _request(client: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    fields: dict[str, Any] = dict(call.fields)
    path = _VARIABLE.sub(lambda name: quote(str(fields.pop(name[1], "")), safe=""), call.path)
    if call.verb == "GET":
        accept = {"accept": f"{call.raw.answer_media_type}, application/json"} if call.raw else None
        parameters = {
            name: [_text(each) for each in value] if isinstance(value, list) else _text(value)
            for name, value in fields.items()
        }
        return client.build_request("GET", path, params=parameters, headers=accept)
    if call.raw is not None:
        headers = {"content-type": call.raw.media_type, "accept": f"{call.raw.answer_media_type}, application/json"}
        return client.build_request(call.verb, path, content=fields[call.raw.field], headers=headers)
    body = orjson.dumps(fields)
    return client.build_request(call.verb, path, content=body, headers={"content-type": "application/json"})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outcome(call: Call[T], reply: httpx.Response) -> T | NotaryError:
    if reply.status_code != 200:
        return _problem(reply)
    if call.raw is not None:
        if reply.headers.get("content-type", "").partition(";")[0] != call.raw.answer_media_type:
            return UnexpectedAnswer(f"{reply.url} gave an answer that is not {call.raw.answer_media_type}")
        return read_answer(call, {call.raw.answer_field: reply.content}, str(reply.url))
    try:
        answer = orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        return UnexpectedAnswer(f"{reply.url} gave an answer that is not JSON")
    return read_answer(call, answer, str(reply.url))


def _require_stream(call: Call[bytes], reply: httpx.Response) -> None:
    if reply.status_code != 200:
        raise _problem(reply)
    if call.raw is None or reply.headers.get("content-type", "").partition(";")[0] != call.raw.answer_media_type:
        raise UnexpectedAnswer(f"{reply.url.copy_with(query=None)} gave an answer that is not what was asked for")


def _problem(reply: httpx.Response) -> NotaryError:
    """The error of a problem document (RFC 9457), or of what stands there instead of one."""
    retry_after = _retry_after(reply.headers.get("retry-after", ""))
    try:
        document = Members(orjson.loads(reply.content))
        code = document.string("code")
        kind = _BY_STATUS.get(reply.status_code) or BY_CODE.get(code, UnexpectedAnswer)
        message = document.string("detail")
        faults = document.objects("errors") if document.has("errors") else []
        fields = [FieldViolation(each.string("field"), each.string("message")) for each in faults]
        facts = [name for name in ("request_id", "erased_at", "certificate") if document.has(name)]
        metadata = {name: document.string(name, empty=True) for name in facts}
    except (orjson.JSONDecodeError, InvalidArgument):
        kind = Unavailable if reply.status_code in (502, 503, 504) else UnexpectedAnswer
        return kind(f"{reply.url} answered {reply.status_code}, not as a notary does", retry_after=retry_after)
    return kind(message, fields=fields, retry_after=retry_after, metadata=metadata)


def _retry_after(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _lost(error: httpx.HTTPError | httpx.InvalidURL, url: str) -> NotaryError:
    why = str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)):
        return NotConnected(f"the notary at {url} cannot be reached: {why}")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"the notary at {url} gave no answer in time")
    return Unreachable(f"the connection to the notary at {url} broke: {why}")
