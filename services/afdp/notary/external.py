"""Brings records into logs that others run: after their receipts have gone out as SIGNED, from a durable queue.

What is queued is on record since the transaction that wrote the record itself. Here it is taken out a few at once, each
for the length of a lease, brought to the log, and written down where it is; then those who wait for it are told. What a
notary has taken and not done another one does: the log takes an entry once, so that nothing is lost and nothing twice.

A log that is away makes the work pause, longer each time, and the queue grow. One entry is tried at a time then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import uuid_utils
from prometheus_client import Counter

from afdp.errors import DataLoss, Internal, InvalidArgument, NotaryError
from afdp.items import from_item
from afdp.messages import metadata as store
from afdp.messages.transparency import ExternalEntry, LogExternallyRequest, TransparencyServiceClient
from afdp.notary.keys import KeyDirectory
from afdp.notary.receipts import log_entry
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds in which nothing is tried, after a failure
LONGEST_WAIT = 3600.0  # seconds for an entry that the log or the store refuses again and again
LONGEST_WRITING_PAUSE = 8.0  # seconds between two attempts to write down where entries are
MOST_AT_ONCE = 256

_TIMEOUT = 10.0
_LOOK = 1.0  # seconds between two looks for what others left

_outcomes = Counter(
    "afdp_notary_external_entries", "Entries for logs of others, by what became of each try.", ["log", "outcome"]
)

Told = Callable[[str, store.LogPosition], None]
"""Takes the ID of a receipt and where its entry is."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done at once.

    Attributes:
        in_flight: entries that are on their way to one log.
        timeout: seconds that each may take.
    """

    in_flight: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Located:
    """What was queued, and where it is in the log."""

    queued: store.QueuedRecord
    entry: ExternalEntry


class Drain:
    """Works off the queue for one log."""

    def __init__(
        self,
        log: str,
        metadata: store.MetadataServiceClient,
        transparency: TransparencyServiceClient,
        keys: KeyDirectory,
        pace: Pace,
        told: Told,
    ) -> None:
        self.log = log
        self.trouble = ""  # why the log does not take entries; empty where it does
        self._metadata = metadata
        self._transparency = transparency
        self._keys = keys
        self._pace = pace
        self._told = told
        self._asked = asyncio.Event()
        self._taken: set[str] = set()  # receipt IDs
        self._room = asyncio.Event()
        self._done: dict[str, Located] = {}
        self._some_done = asyncio.Event()
        self._pause = FIRST_PAUSE
        self._resumes = 0.0  # on the loop's clock

    def ask(self) -> None:
        """Says that something waits."""
        self._asked.set()

    def nothing_waits(self) -> None:
        """Says that the queue is empty: whoever has emptied it, the log has taken what was tried here last."""
        self.trouble = ""

    async def run(self) -> None:
        """Works until cancelled."""
        request_id.set(f"drain-{uuid_utils.uuid7()}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_down())
            while True:
                await self._until_free()
                self._asked.clear()
                try:
                    leased = await self._lease()
                except NotaryError as error:
                    logger.info("a queue waits", extra={"fields": {"log": self.log, "reason": str(error)}})
                    self._hold_off()
                    continue
                for each in leased:
                    self._taken.add(each.receipt_id)
                    tasks.create_task(self._bring(each))
                if not leased:
                    await self._until_asked()

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _until_free(self) -> None:
        """Until something may be tried, and there is room for it."""
        await asyncio.sleep(max(0.0, self._resumes - asyncio.get_running_loop().time()))
        while len(self._taken) >= (1 if self.trouble else self._pace.in_flight):
            self._room.clear()
            await self._room.wait()

    async def _until_asked(self) -> None:
        try:
            async with asyncio.timeout(_LOOK):
                await self._asked.wait()
        except TimeoutError:
            return

    def _hold_off(self, least: float = 0.0) -> None:
        """Nothing is tried for a while, longer each time, and not by all notaries at once.

        The log may have said how long at least, in seconds.
        """
        now = asyncio.get_running_loop().time()
        if now < self._resumes:
            return  # it was under way when another one failed
        pause = max(min(least, LONGEST_PAUSE), self._pause)
        self._resumes = now + pause * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # --- working ------------------------------------------------------------------------------------------------------

    async def _lease(self) -> list[store.QueuedRecord]:
        room = 1 if self.trouble else min(self._pace.in_flight - len(self._taken), MOST_AT_ONCE)
        # Twice as long as the work may take: nobody else begins with it while it is done.
        request = store.LeaseQueuedRequest(self.log, room, min(3600, round(2 * self._pace.timeout) + 1))
        leased = (await self._metadata.lease_queued(request, timeout=_TIMEOUT)).records
        return [each for each in leased if each.receipt_id not in self._taken]

    async def _bring(self, queued: store.QueuedRecord) -> None:
        try:
            entry = await self._logged(queued)
        except NotaryError as error:
            await self._put_back(queued, error)
            return
        except Exception:  # a fault of ours must cost this entry's turn, not all that follow
            logger.exception("an entry failed unexpectedly", extra={"fields": {"receipt_id": queued.receipt_id}})
            await self._put_back(queued, Internal("an internal fault"))
            return
        self._pause, self.trouble = FIRST_PAUSE, ""
        self._done[queued.receipt_id] = Located(queued, entry)
        self._some_done.set()

    async def _logged(self, queued: store.QueuedRecord) -> ExternalEntry:
        key = await self._keys.evidence_key(queued.key_id)
        draft = store.Draft(statement=queued.statement, signature=queued.signature)
        whole = queued.statement if await self._keys.external.takes_envelopes(self.log) else b""
        request = LogExternallyRequest(self.log, log_entry(draft, key).body, whole)
        answer = await self._transparency.log_externally(request, timeout=self._pace.timeout)
        if answer.entry is None:
            raise Internal("the log service gave no entry")
        return answer.entry

    async def _put_back(self, queued: store.QueuedRecord, error: NotaryError) -> None:
        """Lets go of an entry: at once where nothing is wrong with it, since all of them wait then."""
        fields = {"log": self.log, "receipt_id": queued.receipt_id, "code": error.code, "reason": str(error)}
        wait = 0.0
        if isinstance(error, InvalidArgument | DataLoss | Internal):
            _outcomes.labels(self.log, "refused").inc()
            logger.error("an entry does not get into a log of others", extra={"fields": fields})
            wait = _longer(queued)
            if isinstance(error, InvalidArgument):  # the log has answered: it is there for others
                self._pause, self.trouble = FIRST_PAUSE, ""
        else:
            _outcomes.labels(self.log, "failed").inc()
            logger.info("a log of others does not take an entry", extra={"fields": fields})
            self.trouble = str(error)
            self._hold_off(error.retry_after or 0.0)
        await self._defer([store.Deferral(queued.receipt_id, round(wait * 1000))])
        self._let_go(queued.receipt_id)

    async def _defer(self, deferrals: list[store.Deferral]) -> None:
        """Tries for as long as the lease holds: then it is over anyway."""
        until = asyncio.get_running_loop().time() + self._pace.timeout
        while asyncio.get_running_loop().time() < until:
            try:
                await self._metadata.defer_queued(store.DeferQueuedRequest(self.log, deferrals), timeout=_TIMEOUT)
                return
            except NotaryError as away:
                logger.info("entries are not put back yet", extra={"fields": {"log": self.log, "reason": str(away)}})
            await asyncio.sleep(FIRST_PAUSE)

    def _let_go(self, receipt_id: str) -> None:
        self._taken.discard(receipt_id)
        self._room.set()

    # --- writing down -------------------------------------------------------------------------------------------------

    async def _write_down(self) -> None:
        """Writes where entries are, all that have come back meanwhile at once."""
        pause = FIRST_PAUSE
        while True:
            await self._some_done.wait()
            self._some_done.clear()
            while self._done:
                some = dict(list(self._done.items())[:MOST_AT_ONCE])
                try:
                    await self._complete(some)
                    pause = FIRST_PAUSE
                except NotaryError as error:  # they are in the log: nothing is lost, and it is tried again
                    logger.info("places are not written yet", extra={"fields": {"log": self.log, "reason": str(error)}})
                    await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - no secret
                    pause = min(2 * pause, LONGEST_WRITING_PAUSE)

    async def _complete(self, done: dict[str, Located]) -> None:
        completions = [store.QueuedCompletion(each, _position(located.entry)) for each, located in done.items()]
        request = store.CompleteQueuedRequest(self.log, completions)
        answer = await self._metadata.complete_queued(request, timeout=_TIMEOUT)
        refused = []
        for receipt_id, result in zip(done, answer.results, strict=True):
            located = self._done.pop(receipt_id)
            if result.log is not None:
                _outcomes.labels(self.log, "logged").inc()
                self._let_go(receipt_id)
                self._told(receipt_id, result.log)
                continue
            _outcomes.labels(self.log, "lost").inc()
            refused.append(store.Deferral(receipt_id, round(_longer(located.queued) * 1000)))
            error = from_item(result.error) if result.error is not None else Internal("nothing was said")
            fields = {"log": self.log, "receipt_id": receipt_id, "reason": str(error)}
            logger.error("a place in a log of others was not written", extra={"fields": fields})
        if refused:
            await self._defer(refused)
        for each in refused:
            self._let_go(each.receipt_id)


def _longer(queued: store.QueuedRecord) -> float:
    """Seconds until an entry that was refused is tried again: longer each time."""
    return min(2.0 ** min(queued.attempts, 12), LONGEST_WAIT) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _position(entry: ExternalEntry) -> store.LogPosition:
    rekor1 = None
    if entry.promise:
        rekor1 = store.Rekor1Entry(entry.body, entry.log_index, entry.integrated_time, entry.promise)
    return store.LogPosition(
        origin=entry.origin,
        log_index=entry.tree_index,
        tree_size=entry.tree_size,
        proof=entry.proof,
        checkpoint=entry.checkpoint,
        rekor1=rekor1,
    )
