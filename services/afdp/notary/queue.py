"""The queue before the pipeline: bounded by items and bytes, and fair between tenants."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import Gauge

from afdp.errors import ResourceExhausted

RETRY_AFTER = 1.0  # seconds


class Waiting(Protocol):
    """What can wait: it belongs to a tenant, weighs some bytes, and its caller waits for an outcome."""

    @property
    def tenant(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def outcome(self) -> asyncio.Future[Any]: ...


Item = TypeVar("Item", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Depth:
    """The metrics of one queue: how many wait, and how many may."""

    items: Gauge
    limit: Gauge


EVIDENCE_DEPTH = Depth(
    Gauge("afdp_notary_queue_items", "Evidence packages that wait for their batch."),
    Gauge("afdp_notary_queue_items_limit", "How many may wait."),
)


class FairQueue(Generic[Item]):
    """Takes submissions as they come and gives them out round-robin by tenant."""

    def __init__(self, max_items: int, max_bytes: int, depth: Depth = EVIDENCE_DEPTH) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._depth = depth
        self._tenants: dict[str, deque[Item]] = {}
        self._items = 0
        self._bytes = 0
        self._work = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()  # who waits for room, in order
        depth.limit.set(max_items)

    async def put(self, submission: Item, *, wait: bool) -> None:
        """Adds a submission.

        With `wait`, a full queue holds the caller back, until the caller's own time runs out.

        Raises:
            ResourceExhausted: the queue is full, and the caller does not want to wait.
        """
        while not self._fits(submission):
            if not wait:
                raise ResourceExhausted("the notary has as much work as it may queue", retry_after=RETRY_AFTER)
            await self._room()
        tenant = submission.tenant
        self._tenants.setdefault(tenant, deque()).append(submission)
        self._count(1, submission.size)
        self._work.set()

    async def take(self, max_items: int, max_bytes: int) -> list[Item]:
        """Waits until there is work, then gives all of it, up to the bounds; at least one submission.

        What its caller has given up is dropped. There is one taker.
        """
        while True:
            taken = self._round_robin(max_items, max_bytes)
            self._make_room()
            if taken:
                return taken
            self._work.clear()
            await self._work.wait()

    async def _room(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._make_room()  # the turn was given and is not used: to the next
            raise

    def _make_room(self) -> None:
        room = self._max_items - self._items
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its caller has given up
                turn.set_result(None)
                room -= 1

    def _round_robin(self, max_items: int, max_bytes: int) -> list[Item]:
        taken: list[Item] = []
        size = 0
        while self._tenants and len(taken) < max_items:
            tenant, waiting = next(iter(self._tenants.items()))
            if taken and size + waiting[0].size > max_bytes:
                break
            submission = waiting.popleft()
            del self._tenants[tenant]
            if waiting:
                self._tenants[tenant] = waiting  # to the end of the round
            self._count(-1, -submission.size)
            if not submission.outcome.done():
                taken.append(submission)
                size += submission.size
        return taken

    def _fits(self, submission: Item) -> bool:
        fits_bytes = not self._items or self._bytes + submission.size <= self._max_bytes
        return self._items < self._max_items and fits_bytes

    def _count(self, items: int, size: int) -> None:
        self._items += items
        self._bytes += size
        self._depth.items.set(self._items)
