"""Callers of one entry each, gathered: what arrives while calls to the notary are under way goes on as one.

No timer and no task of its own: a few calls are under way at most, and when one ends, the first who waits leads all who
wait into the next. A lone caller's call goes out at once, and as it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from afdp.errors import BY_CODE, DeadlineExceeded, FieldViolation, Internal, NotaryError, Unavailable
from afdp.gateway import wire
from afdp.gateway.descriptors import NOTARY, Api
from afdp.gateway.rekor import LOG_INDEX
from afdp.gateway.upstream import Metadata, Upstream
from afdp.rpc import answer as notarys
from afdp.rpc.peers import FORWARDED_ADDRESS, FORWARDED_CERTIFICATE

UNDER_WAY = 2
"""Calls at a time: one that the notary verifies, one that the log appends. With more they are smaller and cost more."""

MOST = 256
"""Entries of one call."""

MOST_BYTES = 4 * 1024 * 1024
"""Of the entries of one call, beside its leader's."""

_METHOD = f"/{NOTARY}/AddLogEntries"
_REQUESTS = wire.tag(1, wire.LENGTH)
_TOLD = frozenset({"authorization", FORWARDED_CERTIFICATE, FORWARDED_ADDRESS})

_Credentials = tuple[tuple[str, str], ...]  # by their names: a value alone does not say what it shows


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request, and what its caller waits for: its answer, or its turn to lead, which is None."""

    request: bytes
    answer: asyncio.Future[bytes | NotaryError | None]
    headers: notarys.Headers = ()  # of the answer, which one who leads hears

    def settle(self, answer: bytes | NotaryError | None, headers: notarys.Headers = ()) -> None:
        if not self.answer.done():
            self.headers = headers
            self.answer.set_result(answer)


@dataclass(slots=True)
class _Lane:
    """Those who come with the same credentials: only they may share a call."""

    credentials: _Credentials
    waiting: deque[_Waiting] = field(default_factory=deque)
    under_way: int = 0

    def take(self) -> list[_Waiting]:
        """Those who share the next call with its leader."""
        taken: list[_Waiting] = []
        size = 0
        while self.waiting and len(taken) < MOST - 1 and size + len(self.waiting[0].request) <= MOST_BYTES:
            each = self.waiting.popleft()
            if not each.answer.done():  # else its caller has given up
                taken.append(each)
                size += len(each.request)
        return taken


class EntryCalls:
    """Calls of AddLogEntry. What is called is the same as of `Upstream`."""

    def __init__(self, api: Api, upstream: Upstream) -> None:
        self._read = api.message_class(f"{NOTARY.rpartition('.')[0]}.AddLogEntriesResponse").FromString
        self._upstream = upstream
        self._lanes: dict[_Credentials, _Lane] = {}

    async def call(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> bytes:
        """One entry's call, alone or with others.

        Raises:
            NotaryError: what became of this entry.
        """
        credentials = tuple((key, value) for key, value in metadata if key in _TOLD)
        lane = self._lanes.setdefault(credentials, _Lane(credentials))
        if lane.under_way < UNDER_WAY:
            lane.under_way += 1
        elif (answer := await self._turn(lane, request, timeout)) is not None:
            return answer
        try:
            others = lane.take()
            if not others:
                return await self._upstream.call(path, request, timeout, metadata)
            return await self._lead(request, others, timeout, metadata)
        finally:
            self._pass_on(lane)

    async def _turn(self, lane: _Lane, request: bytes, timeout: float) -> bytes | None:
        """What another's call brought; None where it is this one's turn to lead."""
        mine = _Waiting(request, asyncio.get_running_loop().create_future())
        lane.waiting.append(mine)
        try:
            async with asyncio.timeout(timeout):
                answer = await mine.answer
                notarys.tell(*mine.headers)
        except (TimeoutError, asyncio.CancelledError) as ended:
            if not mine.answer.cancelled() and mine.answer.done() and mine.answer.result() is None:
                self._pass_on(lane)  # the turn was given and is not used
            if isinstance(ended, TimeoutError):
                raise DeadlineExceeded("the notary did not answer in time") from None
            raise
        if isinstance(answer, NotaryError):
            raise answer
        return answer

    async def _lead(self, request: bytes, others: Sequence[_Waiting], timeout: float, metadata: Metadata) -> bytes:
        """Calls for all; gives the others their answers and returns the first one's."""
        bodies = [request, *(each.request for each in others)]
        message = b"".join(_REQUESTS + wire.length_delimited(body) for body in bodies)
        answers: list[bytes | NotaryError] = []
        try:
            answers = self._answers(await self._upstream.call(_METHOD, message, timeout, metadata), len(bodies))
        except NotaryError as error:
            answers = [_again(error) for _ in bodies]
        finally:  # whatever ends it, nobody is left waiting
            answers = answers or [Unavailable("the gateway is ending", retry_after=1.0) for _ in bodies]
            for each, answer in zip(others, answers[1:], strict=True):
                each.settle(answer, notarys.told())
        if isinstance(answers[0], NotaryError):
            raise answers[0]
        return answers[0]

    def _answers(self, response: bytes, count: int) -> list[bytes | NotaryError]:
        try:
            results = self._read(response).results
        except DecodeError:
            raise Internal("the notary's answer could not be read") from None
        if len(results) != count:
            raise Internal("the notary answered another number of entries than it was asked for")
        return [_error(each) if each.HasField("error") else each.response.SerializeToString() for each in results]

    def _pass_on(self, lane: _Lane) -> None:
        """One call has ended: the first who waits leads the next."""
        while lane.waiting:
            heir = lane.waiting.popleft()
            if not heir.answer.done():  # else its caller has given up
                heir.settle(None)
                return
        lane.under_way -= 1
        if not lane.under_way:
            self._lanes.pop(lane.credentials, None)


def _error(result: Any) -> NotaryError:
    item = result.error
    kind = BY_CODE.get(item.code, Internal)
    fields = [FieldViolation(each.field, each.message) for each in item.errors]
    facts = {LOG_INDEX: str(result.log_index)} if item.code == "ALREADY_EXISTS" else {}
    return kind(item.detail, fields=fields, retry_after=item.retry_after or None, metadata=facts)


def _again(error: NotaryError) -> NotaryError:
    """A copy for each: a traceback grows on each raise."""
    return type(error)(error.message, fields=error.fields, retry_after=error.retry_after, metadata=error.metadata)
