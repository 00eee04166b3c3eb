"""Events by HTTP POST, to a collector that says by its status that it has them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from afdp.audit.event import RecordedEvent
from afdp.metadata.sinks.formats import FORMATS
from afdp.metadata.sinks.settings import HttpSettings
from afdp.metadata.sinks.sink import OwnThread, SinkError
from afdp.metadata.sinks.tls import client_context, why_not
from afdp.secrets import SecretError, secret_in
from afdp.version import VERSION

MOST_PATIENCE = 3600.0
"""Seconds for which a collector may ask to be left alone; what it asks for beyond that is not granted."""

_MOST_ANSWER = 64 * 1024  # bytes of a body, in which nothing is looked for
_TYPES = {"ocsf": {"lines": "application/x-ndjson", "array": "application/json"}, "cef": {"lines": "text/plain"}}
_TOO_MUCH = 413
_MEANINGS = {401: ": it does not take the token", 403: ": it does not take the token", 429: ": it is asked too often"}


class HttpSink:
    """A collector. Each batch has a connection of its own, and so what the files of TLS and of the token hold then."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._thread = OwnThread(f"http {settings.name}")
        self._form = FORMATS[settings.format]
        parts = urlsplit(settings.url)
        self._place = f"{parts.scheme}://{parts.netloc}"  # what follows may hold a token

    async def deliver(self, events: Sequence[RecordedEvent]) -> None:
        """As `Sink.deliver`. What is too much for one request is sent in halves."""
        async with self._client() as client:
            await self._post(client, await asyncio.to_thread(lambda: [self._form(event) for event in events]))

    async def probe(self) -> str:
        """As `Sink.probe`: whatever answers to HEAD is there. Whether it takes our token only a POST can tell."""
        async with self._client() as client:
            status, _ = await self._answer(client, client.build_request("HEAD", self._settings.url))
        return f"{self._place} answers, with status {status}"

    async def _post(self, client: httpx.AsyncClient, told: Sequence[bytes]) -> None:
        request = client.build_request("POST", self._settings.url, content=self._body(told), headers=self._headers())
        status, retry_after = await self._answer(client, request)
        if 200 <= status < 300:
            return
        if status == _TOO_MUCH and len(told) > 1:
            middle = len(told) // 2
            await self._post(client, told[:middle])
            await self._post(client, told[middle:])
            return
        raise SinkError(f"{self._place} answers with status {status}{_MEANINGS.get(status, '')}", retry_after)

    def _body(self, told: Sequence[bytes]) -> bytes:
        if self._settings.body == "array":
            return b"[" + b",".join(told) + b"]"
        return b"".join(line + b"\n" for line in told)

    def _headers(self) -> dict[str, str]:
        found = {"content-type": _TYPES[self._settings.format][self._settings.body]}
        if (file := self._settings.token_file) is not None:
            try:
                token = secret_in(file)
            except SecretError as error:
                raise SinkError(f"the token: {error}") from None
            if not token.isascii() or not token.isprintable():
                raise SinkError(f"the token: {file} holds what no header can")
            found["authorization"] = f"{self._settings.token_scheme} {token}"
        return found

    async def _answer(self, client: httpx.AsyncClient, request: httpx.Request) -> tuple[int, float | None]:
        """The status, and for how many seconds it asks to be left alone. Of the body no more than a little is read."""
        response = await client.send(request, stream=True)
        try:
            read = 0
            async for part in response.aiter_raw():
                read += len(part)
                if read > _MOST_ANSWER:
                    break
        finally:
            await response.aclose()
        return response.status_code, _patience(response.headers.get("retry-after", ""))

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        seconds = self._settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                context = await self._context(seconds)
                agent = {"user-agent": f"afdp-notary/{VERSION}"}
                async with httpx.AsyncClient(
                    verify=context, timeout=seconds, trust_env=False, headers=agent, follow_redirects=False
                ) as client:
                    yield client
        except TimeoutError:
            raise SinkError(f"{self._place} does not answer within {seconds:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # the last: TLS, where our certificate is refused
            raise SinkError(f"{self._place}: {_why(error)}") from None

    async def _context(self, seconds: float) -> ssl.SSLContext | bool:
        settings = self._settings
        if not settings.url.startswith("https:"):
            return True  # on loopback, where there is none
        return await self._thread.run(lambda: client_context(settings.ca, settings.cert, settings.key), seconds)


def _patience(text: str) -> float | None:
    """Retry-After of RFC 9110, section 10.2.3, in seconds from now; None where there is none that can be read."""
    text = text.strip()
    try:
        if text.isascii() and text.isdigit():
            seconds = float(text[:10])
        else:
            when = parsedate_to_datetime(text)
            seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MOST_PATIENCE)


def _why(error: Exception) -> str:
    """httpx's own words may quote what was sent; those of the socket below it do not."""
    innermost: OSError | None = None
    below: BaseException | None = error
    while below is not None:
        innermost = below if isinstance(below, OSError) else innermost
        below = below.__cause__ or below.__context__
    if innermost is not None:
        return why_not(innermost)
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time"
    return "nobody answers there" if isinstance(error, httpx.ConnectError) else "it breaks the connection off"
