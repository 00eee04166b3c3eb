"""Watching receipts: what every transport does when a stream ends, which is to go on from the last cursor."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import aclosing, closing
from typing import Any, Protocol

import orjson

from afdp.client.errors import TimedOut, UnexpectedAnswer
from afdp.client.retry import Retry
from afdp.client.values import Receipt, WatchedReceipt
from afdp.errors import (
    BY_CODE,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotaryError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from afdp.formats.members import Members
from afdp.formats.receipt import FIELDS

PATH = "/api/v1/receipts:watch"
SILENCE = 60.0
"""Seconds in which the notary says something, if only how far it has come; a stream that says nothing is lost."""

Answer = Mapping[str, Any]
"""A `WatchReceiptsResponse` as the REST API prints it; one without receipt and error has a cursor alone."""

_MEMBERS = ("cursor", "receipt_id", "receipt", "error")
_WORTH_A_RETRY = (Unavailable, ResourceExhausted, DeadlineExceeded, TimedOut)


class Watchable(Protocol):
    """A transport that can watch, blocking."""

    def watch(self, cursor: str) -> Generator[Answer, None, None]:
        """One stream. Raises NotaryError where it ends."""


class AsyncWatchable(Protocol):
    """A transport that can watch, for asyncio."""

    def watch(self, cursor: str) -> AsyncGenerator[Answer, None]:
        """One stream. Raises NotaryError where it ends."""


def watch(transport: Watchable, cursor: str, retry: Retry) -> Iterator[WatchedReceipt]:
    """Stream after stream, each from where the last one has come to."""
    patience = _Patience(retry, cursor)
    while True:
        try:
            with closing(transport.watch(patience.cursor)) as answers:
                for answer in answers:
                    if (told := patience.told(answer)) is not None:
                        yield told
            error: NotaryError = Unavailable("the notary ended the stream")
        except NotaryError as ended:
            error = ended
        time.sleep(patience.wait(error))


async def watch_async(transport: AsyncWatchable, cursor: str, retry: Retry) -> AsyncIterator[WatchedReceipt]:
    """As `watch`."""
    patience = _Patience(retry, cursor)
    while True:
        try:
            async with aclosing(transport.watch(patience.cursor)) as answers:
                async for answer in answers:
                    if (told := patience.told(answer)) is not None:
                        yield told
            error: NotaryError = Unavailable("the notary ended the stream")
        except NotaryError as ended:
            error = ended
        await asyncio.sleep(patience.wait(error))


class _Patience:
    """Where a watcher has come to, and how long it waits before it comes back.

    Once it has a cursor it comes back for as long as it takes, for it misses nothing; before, as often as a call is
    tried.
    """

    def __init__(self, retry: Retry, cursor: str) -> None:
        self.cursor = cursor
        self._retry = retry
        self._begun = False
        self._heard = False  # something, on this stream
        self._failures = 0

    def told(self, answer: Answer) -> WatchedReceipt | None:
        """What an answer says; None: how far it has come. Raises UnexpectedAnswer."""
        try:
            return self._read(answer)
        except InvalidArgument as error:
            raise UnexpectedAnswer("an answer is not one of a notary") from error

    def _read(self, answer: Answer) -> WatchedReceipt | None:
        read = Members(dict(answer))
        self.cursor = read.string("cursor")
        self._begun = self._heard = True
        self._failures = 0
        receipt_id = read.string("receipt_id", empty=True)
        if answer.get("receipt") is not None:
            members = {name: value for name, value in answer["receipt"].items() if name in FIELDS}
            return WatchedReceipt(self.cursor, receipt_id, Receipt.from_object(members, path="receipt"))
        if answer.get("error") is not None:
            said = read.object("error")
            kind = BY_CODE.get(said.string("code"), Internal)
            return WatchedReceipt(self.cursor, receipt_id, None, kind(said.string("detail", empty=True)))
        return None

    def wait(self, error: NotaryError) -> float:
        """Seconds, after a stream has ended so.

        Raises:
            NotaryError: the error, where it would be the same again.
        """
        self._failures += 1
        # A credential that ended with the stream may have a successor.
        again = isinstance(error, _WORTH_A_RETRY) or (isinstance(error, Unauthenticated) and self._heard)
        if not again or (not self._begun and self._failures >= self._retry.attempts):
            raise error
        self._heard = False
        most = self._retry.longest_delay
        delay = min(self._retry.first_delay * float(1 << min(self._failures - 1, 16)), most)
        return max(min(error.retry_after or 0.0, most), delay * (500 + secrets.randbelow(501)) / 1000)


class Events:
    """Lines of server-sent events to answers, one line at a time."""

    def __init__(self) -> None:
        self._kind = self._data = self._id = ""

    def answer(self, line: str) -> Answer | None:
        """The answer that a line completes.

        Raises:
            NotaryError: why the stream ends.
            UnexpectedAnswer: it is none of a notary.
        """
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data += value
        elif not line:
            return self._complete()
        return None

    def _complete(self) -> Answer | None:
        kind, data, cursor = self._kind, self._data, self._id
        self._kind = self._data = self._id = ""
        if not data:
            return {"cursor": cursor, "receipt_id": ""} if cursor else None
        try:
            document = Members(orjson.loads(data))
            end = BY_CODE.get(document.string("code"), Internal)(document.string("detail")) if kind == "end" else None
        except (orjson.JSONDecodeError, InvalidArgument) as error:
            raise UnexpectedAnswer("an event is not one of a notary") from error
        if end is not None:
            raise end
        return {name: document.take(name) for name in _MEMBERS if document.has(name)}
