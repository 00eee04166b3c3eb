"""Where a log's files are read from: an address or a folder. Every wait and every size is bounded.

What is read comes from strangers: a body longer than the file can be is a fault of the log, redirects are not followed,
and no encoding is taken, since what is hashed is what was sent. A request has one time for all of it, so that a server
that sends a byte now and then has no longer than one that sends nothing. That needs something that can be ended from
outside: requests are made on an event loop, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from afdp.client.tls import ClientTls
from afdp.errors import FailedPrecondition, InvalidArgument, Unavailable
from afdp.verify.tile_files import BrokenLogError, Fault, TileSource, largest

_ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 5.0  # seconds
_LONGEST_SENTENCE = 300  # bytes
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are fetched.

    Attributes:
        timeout: seconds for one request, from the connection that it may need to the last byte read.
        in_flight: files at a time.
        attempts: for each file; what a server cannot do now is asked again.
    """

    timeout: float = 30.0
    in_flight: int = 8
    attempts: int = _ATTEMPTS


def is_url(source: str) -> bool:
    """Whether a source is an address; else it is a folder."""
    return source.startswith(("http://", "https://"))


@contextmanager
def open_source(source: str, reading: Reading | None = None) -> Iterator[TileSource]:
    """The files of a log.

    Args:
        source: the URL that `checkpoint` and `tile/…` are under (of Rekor v2 that is `…/api/v2`), or a folder.

    Raises:
        FailedPrecondition: it is neither.
    """
    if not is_url(source):
        folder = Path(source)
        if not folder.is_dir():
            raise FailedPrecondition(f"{source} is neither a URL (http:// or https://) nor a folder")
        yield FolderSource(folder)
        return
    reading = reading or Reading()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_client(source, reading)) as client:
        yield UrlSource(client, portal, reading)


@asynccontextmanager
async def _client(source: str, reading: Reading) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=reading.in_flight, max_keepalive_connections=reading.in_flight)
    headers = {"Accept-Encoding": "identity", "User-Agent": "afdp-monitor"}
    # Logs of others may have any certificate that the system believes, and may be read in plain text: all is verified.
    tls = ClientTls.from_environment()
    verify = tls.context() if tls.is_given and source.startswith("https:") else True
    try:
        client = httpx.AsyncClient(
            base_url=source.rstrip("/") + "/", timeout=reading.timeout, limits=limits, headers=headers, verify=verify
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise FailedPrecondition(f"{source} is not a URL: {error}") from error
    async with client:
        yield client


class FolderSource:
    """A folder of tiles."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        """A file of the log."""
        file, most = self._folder / path, largest(path)
        try:
            with file.open("rb") as opened:
                data = opened.read(most + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise InvalidArgument(f"{file}: {error.strerror}") from error
        return _bounded(path, data, most)

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Files of the log."""
        return map(self.read, paths)


class UrlSource:
    """A log over HTTP: one connection pool, some requests ahead."""

    def __init__(self, client: httpx.AsyncClient, portal: BlockingPortal, reading: Reading) -> None:
        self._client = client
        self._portal = portal
        self._reading = reading
        self._room = asyncio.Semaphore(reading.in_flight)

    def read(self, path: str) -> bytes | None:
        """A file of the log; what a server cannot do now is asked for again, a few times."""
        return self._asked(path).result()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Files of the log, some read ahead."""
        ahead: deque[Future[bytes | None]] = deque()
        try:
            for path in paths:
                ahead.append(self._asked(path))
                if len(ahead) >= 2 * self._reading.in_flight:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for each in ahead:
                each.cancel()

    def _asked(self, path: str) -> Future[bytes | None]:
        return self._portal.start_task_soon(self._read, path)

    async def _read(self, path: str) -> bytes | None:
        delay = _FIRST_DELAY
        for attempt in range(1, self._reading.attempts + 1):
            try:
                async with self._room:
                    return await self._requested(path)
            except Unavailable as error:
                wait = max(error.retry_after or 0.0, delay * (500 + secrets.randbelow(501)) / 1000)
                if error.retry_after is None or attempt == self._reading.attempts or wait > _LONGEST_DELAY:
                    raise
            await asyncio.sleep(wait)
            delay *= 2
        raise AssertionError("a file is asked for at least once")

    async def _requested(self, path: str) -> bytes | None:
        """One request. What may be asked again is `Unavailable` with a `retry_after`."""
        try:
            async with asyncio.timeout(self._reading.timeout), self._client.stream("GET", path) as response:
                if response.status_code in (404, 410):
                    return None
                await _require_plain(response)
                return await _body(path, response)
        except TimeoutError:
            took = f"{self._where(path)} took longer than {self._reading.timeout:g} s for one file"
            raise Unavailable(took, retry_after=0.0) from None
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._where(path)}: {_reason(error)}", retry_after=0.0) from error

    def _where(self, path: str) -> str:
        return f"{self._client.base_url}{path}"


async def _require_plain(response: httpx.Response) -> None:
    status, where = response.status_code, response.url
    if status in _AGAIN:
        raise Unavailable(f"{where} answers {status}{await _sentence(response)}", retry_after=_retry_after(response))
    if response.is_redirect:
        raise Unavailable(f"{where} answers {status}, to another place, where nobody is sent: name it by itself")
    if status != 200:
        raise Unavailable(f"{where} answers {status}{await _sentence(response)}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise Unavailable(f"{where} answers in an encoding that was not asked for")


async def _body(path: str, response: httpx.Response) -> bytes:
    data, most = bytearray(), largest(path)
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > most:
            break
    return _bounded(path, bytes(data), most)


def _bounded(path: str, data: bytes, most: int) -> bytes:
    if len(data) > most:
        reason = f"is larger than any such file of a log can be ({most} bytes)"
        raise BrokenLogError(Fault(path, most, reason))
    return data


async def _sentence(response: httpx.Response) -> str:
    """What a server says of its refusal, if that is a short text."""
    if not response.headers.get("Content-Type", "").startswith("text/plain"):
        return ""
    said = b""
    async for chunk in response.aiter_raw():
        said += chunk
        if len(said) >= _LONGEST_SENTENCE:
            break
    text = " ".join(said[:_LONGEST_SENTENCE].decode("utf-8", "replace").split())
    return f": {text}" if text else ""


def _reason(error: BaseException) -> str:
    """What the system says where it says something: whoever hands it on says less."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0
