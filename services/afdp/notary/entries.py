"""Entries that callers signed themselves, into the log: what Rekor v2's API takes.

As with evidence there is no timer: a batch starts when the last one ends, with all that arrived meanwhile, so that many
callers of one entry each share one append. Nothing is recorded of such an entry but the entry itself: what a failure
leaves between two steps is found in the log when its caller sends it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson
import uuid_utils
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from afdp.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotaryError,
    PermissionDenied,
    ResourceExhausted,
)
from afdp.formats.bundle import LogEntry, entry_object
from afdp.formats.entry_request import read_entry_request
from afdp.formats.merkle import HASH_SIZE
from afdp.items import from_item
from afdp.messages.transparency import AppendResult, Inclusion
from afdp.notary.entry_rules import EntryRules
from afdp.notary.keys import KeyDirectory, LogIdentity
from afdp.notary.logs import Appended
from afdp.notary.model import Principal
from afdp.notary.queue import Depth, FairQueue
from afdp.telemetry.context import request_id
from afdp.verify.entry_request import verify_entry_request
from afdp.verify.log import check_checkpoint, check_inclusion, signed_checkpoint
from afdp.verify.result import NotVerifiedError

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

MAX_REQUEST_BYTES = 96 * 1024
"""Of a request: an entry has 65,535 at most, and takes about as many here."""

MAX_REQUESTS = 1024

LOG_INDEX = "log_index"
"""Of the metadata of AlreadyExists: where the entry is."""

_IN_ONE_GO = 8  # signatures that are verified before the loop turns
_OVERHEAD = 1024  # what an entry and its answer take beside its bytes

_entries = Counter(
    "afdp_notary_entries", "Entries that callers signed themselves, by what became of them.", ["outcome"]
)
_sizes = Histogram(
    "afdp_notary_entry_batch_items",
    "Entries of callers in one append.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
DEPTH = Depth(
    Gauge("afdp_notary_entry_queue_items", "Entries of callers that wait for their append."),
    Gauge("afdp_notary_entry_queue_items_limit", "How many may wait."),
)


@dataclass(eq=False, slots=True)
class Submitted:
    """An entry on its way, and where its caller waits."""

    tenant: str
    entry: bytes
    outcome: asyncio.Future[LogEntry] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def size(self) -> int:
        """Its weight in the queue and in a batch, in bytes."""
        return len(self.entry) + _OVERHEAD

    def succeed(self, located: LogEntry) -> None:
        """Gives the place to the caller, if it still waits."""
        if not self.outcome.done():
            _entries.labels("added").inc()
            self.outcome.set_result(located)

    def fail(self, error: NotaryError) -> None:
        """Gives the error to the caller, if it still waits."""
        if not self.outcome.done():
            _entries.labels("duplicate" if isinstance(error, AlreadyExists) else "failed").inc()
            self.outcome.set_exception(error)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much goes into one append."""

    items: int
    size: int  # bytes


def check_count(count: int) -> None:
    """Whether so many entries may come in one request; raises InvalidArgument."""
    if not 1 <= count <= MAX_REQUESTS:
        raise InvalidArgument.field("requests", f"must be 1 to {MAX_REQUESTS} entries, not {count}")


class EntryDesk:
    """Takes requests of Rekor v2's API, gives entries with their place in the log."""

    def __init__(
        self,
        rules: EntryRules,
        queue: FairQueue[Submitted],
        keys: KeyDirectory,
        limits: BatchLimits,
        timeout: float,
    ) -> None:
        self._rules = rules
        self._queue = queue
        self._keys = keys
        self._limits = limits
        self._timeout = timeout

    async def add(self, principal: Principal, body: bytes) -> bytes:
        """Verifies the signature in a `CreateEntryRequest`, logs its entry, and gives the `TransparencyLogEntry`.

        Both are protobuf's JSON. Returns once a signed checkpoint covers the entry.

        Raises:
            PermissionDenied: this notary takes no such entries.
            InvalidArgument: names the member that is wrong; nothing was appended.
            AlreadyExists: the log has this entry; `log_index` in its metadata says where.
            ResourceExhausted: too many wait.
            Unavailable, DeadlineExceeded: the log is away. It may have been appended: sent again, it may be told to
                exist already.
        """
        submitted = Submitted(principal.tenant, self._checked(body))
        await self._queue.put(submitted, wait=False)
        return _json(await submitted.outcome)

    async def add_many(self, principal: Principal, bodies: Sequence[bytes]) -> list[bytes | NotaryError]:
        """The same for many at once; each fails alone, and answers are in order.

        Raises:
            InvalidArgument: none, or too many.
        """
        check_count(len(bodies))
        entries: list[bytes | NotaryError] = []
        for at, body in enumerate(bodies, 1):
            entries.append(_or_error(self._checked, body))
            if at % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
        # Only now, and without a pause, so that they share an append.
        waiting = [await self._queued(principal, each) if isinstance(each, bytes) else each for each in entries]
        try:
            return [await _outcome(each) if isinstance(each, Submitted) else each for each in waiting]
        finally:
            for each in waiting:
                if isinstance(each, Submitted):
                    each.outcome.cancel()  # where the caller has gone away

    async def _queued(self, principal: Principal, entry: bytes) -> Submitted | NotaryError:
        submitted = Submitted(principal.tenant, entry)
        try:
            await self._queue.put(submitted, wait=False)
        except ResourceExhausted as error:
            return error
        return submitted

    def _checked(self, body: bytes) -> bytes:
        """The entry that a request becomes, once its signature has been verified."""
        if not self._rules.accepted:
            raise PermissionDenied("this notary logs no entries but its own")
        try:
            if len(body) > MAX_REQUEST_BYTES:
                raise InvalidArgument.field("body", f"must have at most {MAX_REQUEST_BYTES} bytes")
            request = read_entry_request(body)
            self._rules.check(request)
            verify_entry_request(request)
        except InvalidArgument:
            _entries.labels("refused").inc()
            raise
        return request.entry()

    async def run(self) -> None:
        """Appends batches until cancelled."""
        while True:
            batch = await self._queue.take(self._limits.items, self._limits.size)
            request_id.set(f"entries-{uuid_utils.uuid7()}")
            _sizes.observe(len(batch))
            try:
                with tracer.start_as_current_span("entries", attributes={"afdp.batch.items": len(batch)}):
                    await self._append(batch)
            except NotaryError as error:
                logger.warning("entries were not logged", extra={"fields": {"code": error.code, "reason": str(error)}})
                _fail(batch, error)
            except Exception:  # a fault of ours must cost this batch, not all that follow
                logger.exception("entries were not logged, unexpectedly")
                _fail(batch, Internal(f"an internal fault; the log has it under {request_id.get()}"))

    async def _append(self, batch: Sequence[Submitted]) -> None:
        """Into the log that takes them, or into those of their tenants side by side."""
        of_log: dict[str, list[Submitted]] = {}
        for each in batch:
            try:
                origin = self._rules.log or await self._keys.logs.of_tenant(each.tenant)
                of_log.setdefault(origin, []).append(each)
            except FailedPrecondition as error:
                each.fail(error)
        async with asyncio.TaskGroup() as tasks:
            for origin, submitted in of_log.items():
                tasks.create_task(self._append_to(origin, submitted))

    async def _append_to(self, origin: str, batch: Sequence[Submitted]) -> None:
        callers: dict[bytes, list[Submitted]] = {}
        for each in batch:
            callers.setdefault(each.entry, []).append(each)
        entries = list(callers.items())
        try:
            for appended in await self._keys.logs.append(origin, list(callers), self._timeout):
                log = await self._keys.log(appended.origin)
                for at, result in appended.results.items():
                    entry, waiting = entries[at]
                    _tell(entry, waiting, appended, result, log)
        except NotaryError as error:
            logger.warning("entries were not logged", extra={"fields": {"code": error.code, "reason": str(error)}})
            _fail(batch, error)


def _json(located: LogEntry) -> bytes:
    return orjson.dumps(entry_object(located) | {"inclusionPromise": None})


async def _outcome(submitted: Submitted) -> bytes | NotaryError:
    try:
        return _json(await submitted.outcome)
    except NotaryError as error:
        return error


def _or_error(check: Callable[[bytes], bytes], body: bytes) -> bytes | NotaryError:
    """What a check gives; the error that it ends in as a value."""
    try:
        return check(body)
    except NotaryError as error:
        return error
    except Exception:  # a fault of ours must cost this entry, not all that came with it
        logger.exception("an entry could not be checked")
        return Internal("an internal fault while checking the entry; the log of the service has it")


def _tell(
    entry: bytes, waiting: Sequence[Submitted], appended: Appended, result: AppendResult, log: LogIdentity
) -> None:
    """Answers all who wait for an entry: the first one with its place, where it was new."""
    if result.inclusion is None:
        _fail(waiting, from_item(result.error) if result.error is not None else Internal("the log gave none"))
        return
    if not result.existing:
        _answer(waiting[0], entry, appended, result.inclusion, log)
        waiting = waiting[1:]
    _fail(waiting, _exists(result.inclusion.leaf_index))


def _answer(caller: Submitted, entry: bytes, answer: Appended, found: Inclusion, log: LogIdentity) -> None:
    """Gives an entry its place, once the proof and the checkpoint have been checked from the bytes that leave."""
    note = answer.checkpoint.note if answer.checkpoint is not None else ""
    try:
        checkpoint = signed_checkpoint(note, log.vkey)
        located = LogEntry(
            log_index=found.leaf_index,
            log_id=log.trusted.log_id,
            body=entry,
            tree_size=checkpoint.size,
            root_hash=checkpoint.root,
            hashes=[found.proof[at : at + HASH_SIZE] for at in range(0, len(found.proof), HASH_SIZE)],
            checkpoint=note,
        )
        check_inclusion(located)
        check_checkpoint(located, log.vkey)
    except NotVerifiedError as error:
        caller.fail(DataLoss(f"the entry's place is withheld: {error.reason}; an operator is needed"))
    else:
        caller.succeed(located)


def _exists(index: int) -> AlreadyExists:
    message = f"an equivalent entry already exists in the transparency log with index {index}"
    return AlreadyExists(message, metadata={LOG_INDEX: str(index)})


def _fail(batch: Sequence[Submitted], error: NotaryError) -> None:
    for submitted in batch:
        submitted.fail(error)
