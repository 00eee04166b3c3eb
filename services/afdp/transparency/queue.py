"""What waits to be appended, bounded; and what waits to be signed."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Gauge

from afdp.errors import NotaryError, ResourceExhausted
from afdp.transparency.values import Leaf, Logged

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0  # seconds between attempts
_FULL_RETRY = 0.25  # seconds; some groups' worth of time

_waiting_entries = Gauge("afdp_log_queue_entries", "Entries that wait to be appended.", ["log"])
_waiting_bytes = Gauge("afdp_log_queue_bytes", "Bytes of the entries that wait to be appended.", ["log"])
_limit_entries = Gauge("afdp_log_queue_entries_limit", "Most entries that may wait.", ["log"])
_limit_bytes = Gauge("afdp_log_queue_bytes_limit", "Most bytes that may wait.", ["log"])


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much goes into one group; a single call may be larger than either."""

    queue_entries: int
    queue_bytes: int
    group_entries: int
    group_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Leaves that one caller waits for, none of them in the tree of the size `made_after`, and its answer to come."""

    leaves: Sequence[Leaf]
    made_after: int
    size: int
    answer: asyncio.Future[Logged]

    def succeed(self, logged: Logged) -> None:
        """Answers a caller that still waits."""
        if not self.answer.done():
            self.answer.set_result(logged)

    def fail(self, error: NotaryError) -> None:
        """Answers a caller that still waits. Each gets an error of its own: a traceback grows on each raise."""
        if not self.answer.done():
            self.answer.set_exception(again(error))


class Queue:
    """Calls that wait for one log, bounded by entries and by bytes."""

    def __init__(self, limits: Limits, origin: str) -> None:
        self._limits = limits
        self._calls: deque[Call] = deque()
        self._entries = self._bytes = 0
        _limit_entries.labels(origin).set(limits.queue_entries)
        _limit_bytes.labels(origin).set(limits.queue_bytes)
        self._shown = _waiting_entries.labels(origin), _waiting_bytes.labels(origin)

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, leaves: Sequence[Leaf], made_after: int = 0) -> asyncio.Future[Logged]:
        """Lets a call wait; what it gets is its future answer.

        Raises:
            ResourceExhausted: too much waits already.
        """
        size = sum(len(leaf.entry) for leaf in leaves)
        limits = self._limits
        full = self._entries + len(leaves) > limits.queue_entries or self._bytes + size > limits.queue_bytes
        if self._calls and full:
            raise ResourceExhausted("too many entries wait to be appended", retry_after=_FULL_RETRY)
        call = Call(leaves, made_after, size, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._count(len(leaves), size)
        return call.answer

    def take(self) -> list[Call]:
        """The next group, of whole calls in their order. Callers that gave up are dropped."""
        group: list[Call] = []
        entries = size = 0
        while self._calls:
            call = self._calls[0]
            if not call.answer.done():
                entries, size = entries + len(call.leaves), size + call.size
                if group and (entries > self._limits.group_entries or size > self._limits.group_bytes):
                    break
                group.append(call)
            self._calls.popleft()
            self._count(-len(call.leaves), -call.size)
        return group

    def _count(self, entries: int, size: int) -> None:
        self._entries += entries
        self._bytes += size
        for shown, value in zip(self._shown, (self._entries, self._bytes), strict=True):
            shown.set(value)


class Backlog:
    """Whether the tree is ahead of its checkpoint, why, and when signing it is tried again."""

    def __init__(self) -> None:
        self.error: NotaryError | None = None
        self._due: float | None = None
        self._pauses = pauses()
        self._noticed: int | None = None

    def begin(self, error: NotaryError | None = None) -> None:
        """The tree is unsigned. Without an error it is due at once."""
        self.error = error
        self._due = asyncio.get_running_loop().time() + (next(self._pauses) if error else 0)

    def end(self) -> None:
        """The tree is signed."""
        self.error = self._due = None
        self._pauses = pauses()

    def notice(self, unsigned: int | None) -> bool:
        """Whether the tree was seen at this size, unsigned, the last time too: then whoever made it so is gone."""
        again_there = unsigned is not None and unsigned == self._noticed
        self._noticed = unsigned
        if again_there and self._due is None:
            self.begin()
        return again_there

    def due_in(self) -> float | None:
        """Seconds until the next attempt; None while there is nothing to sign."""
        return None if self._due is None else max(0.0, self._due - asyncio.get_running_loop().time())

    def is_due(self) -> bool:
        """Whether it is time for an attempt."""
        return self.due_in() == 0.0


def pauses() -> Iterator[float]:
    """Seconds to wait between attempts: growing, and not in step with other replicas."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        pause = min(pause * 2, _LAST_PAUSE)


def again(error: NotaryError) -> NotaryError:
    """A fresh copy of an error that is raised more than once."""
    return type(error)(error.message, fields=error.fields, retry_after=error.retry_after, metadata=error.metadata)
