"""Watching receipts: whoever does is told each that is made or upgraded, at least once, and where to go on from.

A cursor is handed out with each answer. Whoever comes back with it, here or at another notary, gets what came after it;
nothing is kept of who watches.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from afdp.errors import NotaryError, Unavailable
from afdp.messages.notary import NotarizationReceipt
from afdp.notary.access.given import Given, Listed, receipts_given
from afdp.notary.feed import PASSING, Feed, Page, Tenant, Told
from afdp.notary.model import Principal

READ = "evidence.read"

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds, where changes cannot be read
_SOONEST_LOOK = 1.0  # seconds, at credentials that are about to end
_GIVEN, _TELL_AFTER = 1024, 10.0  # receipts, seconds: then it is put on record what was given
_FROM_HERE = 100  # heartbeats after which it is read on from the last one


class Watched(Protocol):
    """Who may see what (`access/gate.py`)."""

    @property
    def asks_for_labels(self) -> bool:
        """Whether `may_list` has to be given the evidence."""

    def may_list(self, principal: Principal, many: Sequence[Listed]) -> list[bool]:
        """Which of many a list may name. Puts on record what it has to leave out. Raises Unavailable."""

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        """Hears what an answer gives of many things. Raises Unavailable."""

    def require_unexpired(self, principal: Principal, permission: str) -> None:
        """Raises Unauthenticated where the credential has ended since the call began."""


Event = tuple[str, str, NotarizationReceipt | NotaryError | None]
"""A cursor, the receipt's ID and the receipt, or why it is withheld; without a receipt it says only how far it got."""


class Watching:
    """Tells those who watch."""

    def __init__(self, feed: Feed, access: Watched, heartbeat: float) -> None:
        """`heartbeat` is the longest time, in seconds, in which a watcher hears nothing."""
        self._feed = feed
        self._access = access
        self._heartbeat = heartbeat

    async def watch(self, principal: Principal, cursor: str) -> AsyncGenerator[Event, None]:
        """What becomes of the tenant's receipts after a cursor; without one: from now on. First a cursor alone.

        Raises:
            InvalidArgument: the cursor was never given.
            OutOfRange: what came after it was forgotten.
            Unauthenticated: the credential has ended.
            Unavailable: this notary stops, or nothing can be read at the start; it goes on with the last cursor.
        """
        with self._feed.watched(principal.tenant) as tenant:
            now = await self._feed.open()
            reader = _Reader(self._feed, tenant, cursor or now)
            page = await reader.read()
            given = _Given(self._access, principal, cursor or now)
            yield (cursor or now), "", None
            try:
                while True:
                    for event in self._seen(principal, page.told):
                        self._require_going_on(principal)  # whoever is slow takes long over a page
                        given.add(event)
                        yield event
                    self._require_going_on(principal)
                    if not page.more:
                        while not await reader.something_new(self._patience(principal)):
                            self._require_going_on(principal)
                            given.tell_if_due()
                            yield reader.reached(), "", None
                    self._require_going_on(principal)
                    page = await self._read(reader, principal)
            finally:
                given.tell()

    async def _read(self, reader: _Reader, principal: Principal) -> Page:
        """The next page, once it can be read: whoever watches need not know that something was away."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await reader.read()
            except PASSING:
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
                pause = min(2 * pause, _LONGEST_PAUSE)
            self._require_going_on(principal)

    def _seen(self, principal: Principal, told: Sequence[Told]) -> list[Event]:
        labelled = self._access.asks_for_labels
        many = [Listed(each.receipt_id, each.event_type, each.evidence if labelled else None) for each in told]
        seen = self._access.may_list(principal, many)
        return [(each.cursor, each.receipt_id, each.receipt) for each, may in zip(told, seen, strict=True) if may]

    def _require_going_on(self, principal: Principal) -> None:
        if self._feed.leaving:
            raise Unavailable("this notary stops: watch on from your last cursor", retry_after=0.1)
        self._access.require_unexpired(principal, READ)

    def _patience(self, principal: Principal) -> float:
        """How long to wait for something new, in seconds."""
        ends = principal.attributes.expires_at
        if ends is None:
            return self._heartbeat
        left = (ends - datetime.now(UTC)).total_seconds()
        return min(self._heartbeat, max(left, _SOONEST_LOOK))


class _Given:
    """What somebody who watches was given and is not on record yet.

    A row for each receipt and each of thousands who watch would be more than the receipts themselves: it is one for
    each few seconds, and one at the end. What a sudden end loses lies behind the last one's cursor, in one tenant.
    """

    def __init__(self, access: Watched, principal: Principal, after: str) -> None:
        self._access = access
        self._principal = principal
        self._after = self._reached = after
        self._receipt_ids: list[str] = []
        self._since = 0.0

    def add(self, event: Event) -> None:
        """It leaves next."""
        if not self._receipt_ids:
            self._since = asyncio.get_running_loop().time()
        self._reached = event[0]
        self._receipt_ids.append(event[1])
        self.tell_if_due()

    def tell_if_due(self) -> None:
        """Puts it on record, where it is much, or some time ago that the first was given."""
        age = asyncio.get_running_loop().time() - self._since
        if len(self._receipt_ids) >= _GIVEN or (self._receipt_ids and age >= _TELL_AFTER):
            self._tell()

    def tell(self) -> None:
        """Puts it on record with the end of the call."""
        if self._receipt_ids:
            with suppress(NotaryError):  # it ends anyway
                self._tell()

    def _tell(self) -> None:
        given = receipts_given(self._receipt_ids, {"after": self._after})
        self._after, self._receipt_ids = self._reached, []
        self._access.gave(self._principal, READ, given)


class _Reader:
    """Where one who watches has come to."""

    def __init__(self, feed: Feed, tenant: Tenant, cursor: str) -> None:
        self._feed = feed
        self._tenant = tenant
        self._cursor = cursor
        self._reached = cursor
        self._version = tenant.version
        self._looks = 0
        self._heartbeats = 0

    async def read(self) -> Page:
        """The next page."""
        version, looks = self._tenant.version, self._feed.looks
        page = await self._feed.page(self._tenant, self._cursor)
        self._version, self._looks = version, looks
        self._cursor = self._reached = page.end
        return page

    async def something_new(self, patience: float) -> bool:
        """Waits for it, for so many seconds at most."""
        if self._tenant.version != self._version:
            return True
        try:
            async with asyncio.timeout(patience):
                await self._tenant.changed.wait()
        except TimeoutError:
            return self._tenant.version != self._version
        return True

    def reached(self) -> str:
        """A cursor behind all that was told, and before all that is not known.

        It is read on from where the last page ended, which many have in common, but not from long ago.
        """
        self._reached = self._feed.head_since(self._looks) or self._reached
        self._heartbeats += 1
        if self._heartbeats % _FROM_HERE == 0:
            self._cursor = self._reached
        return self._reached
