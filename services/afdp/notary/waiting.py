"""Callers who wait for a receipt that another log is to make LOGGED, which takes seconds, or as long as it is away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from afdp.errors import DeadlineExceeded, NotaryError, Unavailable
from afdp.messages import metadata as store

LOOK = 1.0  # seconds between two looks for what another notary has brought into the log
MOST_AT_ONCE = 64

_TIMEOUT = 5.0


class Answerable(Protocol):
    """A record and all who wait for it (`pipeline.Prepared`)."""

    @property
    def record(self) -> store.Record:
        """As it was when it was prepared."""

    def answer(self, outcome: store.Record | NotaryError) -> None:
        """Tells all who wait."""


@dataclass(eq=False, slots=True)
class _Waiter:
    answerable: Answerable
    since: float  # on the loop's clock


class Waiting:
    """Who waits for which receipt."""

    def __init__(self, metadata: store.MetadataServiceClient, longest: float) -> None:
        """`longest` is how long anybody waits, in seconds; then the receipt goes out as it is."""
        self._metadata = metadata
        self._longest = longest
        self._waiters: dict[str, list[_Waiter]] = {}
        self._some = asyncio.Event()

    def add(self, receipt_id: str, answerable: Answerable) -> None:
        """Has somebody wait for a receipt."""
        waiter = _Waiter(answerable, asyncio.get_running_loop().time())
        self._waiters.setdefault(receipt_id, []).append(waiter)
        self._some.set()

    def told(self, receipt_id: str, position: store.LogPosition) -> None:
        """Says where the entry of a receipt is."""
        for waiter in self._waiters.pop(receipt_id, ()):
            record = waiter.answerable.record
            waiter.answerable.answer(replace(record, state=store.RecordState.LOGGED, log=position))

    async def run(self) -> None:
        """Looks for what others have done, and lets nobody wait for too long, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(LOOK)
            self._give_up()
            await self._look_at_some()
            if not self._waiters:
                self._some.clear()

    def _give_up(self) -> None:
        until = asyncio.get_running_loop().time() - self._longest
        for receipt_id, waiters in list(self._waiters.items()):
            for waiter in [each for each in waiters if each.since <= until]:
                waiters.remove(waiter)
                waiter.answerable.answer(waiter.answerable.record)
            if not waiters:
                del self._waiters[receipt_id]

    async def _look_at_some(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        for receipt_id in list(self._waiters)[:MOST_AT_ONCE]:
            try:
                await self._look(receipt_id)
            except (Unavailable, DeadlineExceeded):
                return  # the metadata service is away, for all of them: the next round finds it
            if loop.time() - since >= LOOK:  # it is slow: nobody waits longer for that
                self._give_up()
                since = loop.time()

    async def _look(self, receipt_id: str) -> None:
        """Looks for one receipt.

        Raises:
            Unavailable, DeadlineExceeded: the metadata service is away.
        """
        waiters = self._waiters.pop(receipt_id, None)
        if not waiters:
            return
        # Whoever it is, they are told last in, last out: the next look is at others.
        self._waiters[receipt_id] = waiters
        draft = waiters[0].answerable.record.draft
        tenant = draft.submitter.tenant if draft is not None and draft.submitter is not None else ""
        try:
            request = store.GetRecordRequest(tenant, receipt_id)
            found = (await self._metadata.get_record(request, timeout=_TIMEOUT)).record
        except (Unavailable, DeadlineExceeded):
            raise
        except NotaryError:
            return  # nothing is said of this one: the next look may find it
        if found is not None and found.log is not None:
            self.told(receipt_id, found.log)
