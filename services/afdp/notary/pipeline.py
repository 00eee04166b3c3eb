"""One batch through four stages, as a unit: sign, prepare, append, complete.

There is no timer: a batch starts when the last one ends, with all that arrived meanwhile. A lone caller therefore never
waits, and under load batches grow by themselves. An item that is refused fails alone; what was prepared and then met a
failure stays PENDING and is finished by `recovery.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import uuid_utils
from opentelemetry import trace
from prometheus_client import Histogram

from afdp.errors import Internal, NotaryError
from afdp.formats.statement import statement_bytes
from afdp.items import from_item
from afdp.messages import metadata as store
from afdp.messages.notary import ReceiptState
from afdp.messages.signer import SignerServiceClient, SignStatementsRequest, Statement
from afdp.notary.access.acts import on_record
from afdp.notary.allowances import Allowances
from afdp.notary.ids import SIMPLE_SIGNING
from afdp.notary.keys import KeyDirectory
from afdp.notary.logs import Appended
from afdp.notary.model import Order, Outcome, Submission
from afdp.notary.pipeline_rows import PipelineRows
from afdp.notary.queue import FairQueue
from afdp.notary.receipts import Entry, log_entry, stamped_at, unreadable
from afdp.notary.tenant_labels import TenantLabels
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

_sizes = Histogram(
    "afdp_notary_batch_items", "Evidence packages in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
_seconds = Histogram(
    "afdp_notary_stage_duration_seconds",
    "How long each stage of a batch took.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes into one batch."""

    items: int
    size: int  # bytes of evidence


class Pipeline:
    """Takes orders, gives records."""

    def __init__(
        self, queue: FairQueue[Submission], stages: Stages, limits: Limits, on_unfinished: Callable[[], None]
    ) -> None:
        self._queue = queue
        self._stages = stages
        self._limits = limits
        self._on_unfinished = on_unfinished

    async def notarise(self, order: Order, *, wait: bool = False) -> Outcome:
        """The record of an order, once it has come as far as the order's `wait_for`.

        With `wait`, a full queue holds the caller back instead of refusing.

        Raises:
            ResourceExhausted: the queue is full.
            AlreadyExists: other evidence stands under this idempotency key.
            Unavailable, DeadlineExceeded: a peer is away. It may yet be notarised; a retry with the same idempotency
                key finds out.
        """
        submission = Submission(order)
        await self._queue.put(submission, wait=wait)
        return await submission.outcome

    async def run(self) -> None:
        """Runs batches until cancelled."""
        while True:
            batch = await self._queue.take(self._limits.items, self._limits.size)
            request_id.set(f"batch-{uuid_utils.uuid7()}")
            _sizes.observe(len(batch))
            try:
                with tracer.start_as_current_span("batch", attributes={"afdp.batch.items": len(batch)}):
                    await self._run(batch)
            except NotaryError as error:
                logger.warning("a batch failed", extra={"fields": {"code": error.code, "reason": str(error)}})
                _fail(batch, error)
            except Exception:  # a fault of ours must cost this batch, not all that follow
                logger.exception("a batch failed unexpectedly")
                _fail(batch, Internal(f"an internal fault; the log has it under {request_id.get()}"))

    async def _run(self, batch: Sequence[Submission]) -> None:
        sizes = self._stages.log_sizes()
        signed = await self._stages.sign(batch)
        prepared = self._stages.without_queued(await self._stages.prepare(signed))
        if not prepared:
            return
        try:
            fresh = all(each.fresh for each in prepared)
            outcomes = await self._stages.log([each.record for each in prepared], sizes if fresh else {})
            # Not now: callers who wake would make their receipts before the next batch is on its way to the signer.
            asyncio.get_running_loop().call_soon(_answer_all, prepared, outcomes)
        except NotaryError:
            self._on_unfinished()
            raise
        if any(isinstance(outcome, NotaryError) for outcome in outcomes):
            self._on_unfinished()


def _answer_all(prepared: Sequence[Prepared], outcomes: Sequence[store.Record | NotaryError]) -> None:
    for each, outcome in zip(prepared, outcomes, strict=True):
        each.answer(outcome)


def _fail(batch: Sequence[Submission], error: NotaryError) -> None:
    for submission in batch:
        submission.fail(error)


@dataclass(frozen=True, slots=True)
class Signed:
    """A submission with its signed draft."""

    submission: Submission
    draft: store.Draft


@dataclass(frozen=True, slots=True)
class Prepared:
    """A PENDING record and all who wait for it: a retry under the same idempotency key waits for the same one."""

    record: store.Record
    fresh: bool
    submissions: list[Submission]

    def answer(self, outcome: store.Record | NotaryError) -> None:
        """Tells all who wait."""
        for submission in self.submissions:
            if isinstance(outcome, NotaryError):
                submission.fail(outcome)
            else:
                submission.succeed(outcome, fresh=self.fresh)


Logged = store.Record | NotaryError
"""A record that is in its log, or why it is not."""


class StampDesk(Protocol):
    """Where receipts are stamped outside that a policy names (`stamps.py`)."""

    def asks_for(self, tenant: str, event_type: str) -> bool:
        """Whether the policy wants this one stamped."""

    def ask(self) -> None:
        """Says that something waits."""


class ExternalLogs(Protocol):
    """The logs of others that records go to (`external_queue.py`)."""

    @property
    def main(self) -> str:
        """The one that makes a record LOGGED; empty: one of ours does."""

    @property
    def more(self) -> tuple[str, ...]:
        """Those that records go to as well."""

    def wait(self, waiting: Sequence[Prepared]) -> None:
        """Takes those who wait for records that are queued."""

    def ask(self) -> None:
        """Says that something was queued."""


class Stages:
    """The four stages, each one call to one peer."""

    def __init__(
        self,
        signer: SignerServiceClient,
        metadata: store.MetadataServiceClient,
        keys: KeyDirectory,
        stamps: StampDesk,
        external: ExternalLogs,
        timeout: float,
        allowances: Allowances | None = None,
        rows: PipelineRows | None = None,
        class_of: Callable[[Order], str] = lambda order: "",
    ) -> None:
        self._class_of = class_of
        self._allowances = allowances or Allowances({}, TenantLabels(0))
        self._rows = rows or PipelineRows()
        self._external = external
        self._signer = signer
        self._metadata = metadata
        self._keys = keys
        self._stamps = stamps
        self._timeout = timeout
        self._log_sizes: dict[str, int] = {}

    def log_sizes(self) -> Mapping[str, int]:
        """The size of each log as seen last, by origin: what is signed from now on is in no tree of that size."""
        return dict(self._log_sizes)

    async def sign(self, batch: Sequence[Submission]) -> list[Signed]:
        """Stage 1: statements, signed. What the signer refuses fails here."""
        batch, origins = await self._routed(batch)
        if not batch:
            return []
        now = datetime.now(UTC)
        drafts = [
            _draft(submission.order, now, destination, self._external.more, self._class_of(submission.order))
            for submission, destination in zip(batch, origins, strict=True)
        ]
        statements = [Statement(_tenant(draft), draft.statement) for draft in drafts]
        with _timed("sign"):
            answer = await self._signer.sign_statements(SignStatementsRequest(statements), timeout=self._timeout)
        signed = []
        for submission, draft, result in zip(batch, drafts, answer.results, strict=True):
            if result.signature is None:
                submission.fail(
                    from_item(result.error) if result.error is not None else Internal("the signer gave none")
                )
                continue
            made = result.signature
            draft.signature, draft.key_id, draft.timestamp = made.value, made.key_id, made.timestamp
            try:
                await stamped_at(draft, self._keys, fresh=True)
            except NotaryError as error:
                submission.fail(error)
                continue
            draft.leaf_hash = (await self._entry(draft)).leaf_hash
            draft.external_stamp = self._stamps.asks_for(_tenant(draft), submission.order.evidence.package.event_type)
            signed.append(Signed(submission, draft))
        return signed

    async def prepare(self, signed: Sequence[Signed]) -> list[Prepared]:
        """Stage 2: PENDING records, durable. What the store refuses fails here; what it knows already is answered."""
        if not signed:
            return []
        with _timed("prepare"):
            rows = self._rows.intents([(each.draft, each.submission.order.act) for each in signed])
            request = store.PrepareRequest([each.draft for each in signed], self._allowances.counted, audit_rows=rows)
            try:
                answer = await self._metadata.prepare(request, timeout=self._timeout)
            except NotaryError:
                self._rows.forget(each.draft for each in signed)
                raise
        self._allowances.told(answer.usage)
        if any(each.draft.external_stamp for each in signed):
            self._stamps.ask()
        pending: dict[str, Prepared] = {}
        for each, result in zip(signed, answer.results, strict=True):
            if result.error is not None:
                error = from_item(result.error)
                self._rows.refused(each.draft, error)
                each.submission.fail(on_record(error))
                continue
            record, fresh = result.existing, result.existing is None
            if record is not None:
                self._rows.answered(each.draft, "an earlier record answers it", _whole(record).receipt_id)
            elif each.draft.external_log:
                self._rows.answered(each.draft, "it waits for a log of others")
            if record is None:
                record = store.Record(draft=each.draft, state=store.RecordState.PENDING)
            if record.erased is not None:
                each.submission.fail(on_record(unreadable(record.erased)))
                continue
            if record.state == store.RecordState.LOGGED:
                each.submission.succeed(record, fresh=False)
                continue
            if each.submission.order.wait_for == ReceiptState.SIGNED:
                each.submission.succeed(record, fresh=fresh)
            prepared = pending.setdefault(_whole(record).receipt_id, Prepared(record, fresh, []))
            prepared.submissions.append(each.submission)
        return list(pending.values())

    def without_queued(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Those whose records go to a log of ours. The others are queued already, and their callers wait elsewhere."""
        if self._external.main or self._external.more:
            self._external.ask()
        queued = [each for each in prepared if _whole(each.record).external_log]
        waited_for = [each for each in queued if not all(submission.outcome.done() for submission in each.submissions)]
        self._external.wait(waited_for)
        return [each for each in prepared if not _whole(each.record).external_log]

    async def log(self, records: Sequence[store.Record], made_after: Mapping[str, int] | None = None) -> list[Logged]:
        """Stages 3 and 4: into their logs, side by side, then LOGGED on record. One answer per record, in order.

        May be repeated for the same records at any time, by anyone: the log appends no leaf twice, and a record that is
        LOGGED keeps its position. `made_after` are the logs' sizes from before the records were made, if known: what is
        older is not searched for them.
        """
        of_log: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            of_log.setdefault(_whole(record).log_origin, []).append(index)
        if len(of_log) == 1:
            return await self._log(next(iter(of_log)), records, made_after or {})
        outcomes: list[Logged] = [Internal("the record went nowhere")] * len(records)
        async with asyncio.TaskGroup() as tasks:
            for origin, indices in of_log.items():
                tasks.create_task(self._log_beside(origin, records, indices, made_after or {}, outcomes))
        return outcomes

    async def _log_beside(
        self,
        origin: str,
        records: Sequence[store.Record],
        indices: Sequence[int],
        made_after: Mapping[str, int],
        outcomes: list[Logged],
    ) -> None:
        """The records of one log, beside those of others: its failure is theirs alone."""
        try:
            found = await self._log(origin, [records[index] for index in indices], made_after)
        except NotaryError as error:
            found = [error] * len(indices)
        for index, outcome in zip(indices, found, strict=True):
            outcomes[index] = outcome

    async def _log(self, origin: str, records: Sequence[store.Record], made_after: Mapping[str, int]) -> list[Logged]:
        entries = [await self._entry(_whole(record)) for record in records]
        with _timed("append"):
            bodies = [entry.body for entry in entries]
            appended = await self._keys.logs.append(origin, bodies, self._timeout, made_after)
        outcomes: list[Logged] = [Internal("the record was not completed")] * len(records)
        for each in appended:
            if each.checkpoint is not None:
                known = self._log_sizes.get(each.origin, 0)
                self._log_sizes[each.origin] = max(each.checkpoint.size, known)
            await self._complete(each, records, outcomes)
        return outcomes

    async def _complete(self, appended: Appended, records: Sequence[store.Record], outcomes: list[Logged]) -> None:
        """What one log has taken is LOGGED on record; `outcomes` has what became of it."""
        completions: dict[int, store.Completion] = {}
        for index, result in appended.results.items():
            found = result.inclusion
            if found is None:
                outcomes[index] = from_item(result.error) if result.error is not None else Internal("the log gave none")
                continue
            receipt_id = _whole(records[index]).receipt_id
            completions[index] = store.Completion(receipt_id, found.leaf_index, found.proof)
        if not completions or appended.checkpoint is None:
            return
        log = await self._keys.log(appended.origin)
        logged = [(_whole(records[index]), each.log_index) for index, each in completions.items()]
        with _timed("complete"):
            answer = await self._metadata.complete(
                store.CompleteRequest(
                    origin=log.trusted.origin,
                    tree_size=appended.checkpoint.size,
                    checkpoint=appended.checkpoint.note,
                    completions=list(completions.values()),
                    audit_rows=self._rows.outcomes(logged, log.trusted.origin),
                ),
                timeout=self._timeout,
            )
        for index, done in zip(completions, answer.results, strict=True):
            if done.error is not None:
                outcomes[index] = from_item(done.error)
            elif done.log is not None:
                outcomes[index] = replace(records[index], state=store.RecordState.LOGGED, log=done.log)

    async def _routed(self, batch: Sequence[Submission]) -> tuple[list[Submission], list[Destination]]:
        """Those that have a log to go to, with the log; the others fail here, before anything is signed."""
        found: dict[str, Destination | NotaryError] = {}
        for tenant in {submission.tenant for submission in batch}:
            try:
                found[tenant] = await self._destination(tenant)
            except NotaryError as error:  # a tenant's own log may be there while that of the others is not
                found[tenant] = error
        routed: list[Submission] = []
        origins: list[Destination] = []
        for submission in batch:
            origin = found[submission.tenant]
            if isinstance(origin, NotaryError):
                submission.fail(origin)
            else:
                routed.append(submission)
                origins.append(origin)
        return routed, origins

    async def _destination(self, tenant: str) -> Destination:
        """A tenant's own log, else that of others where the settings name one, else the one of ours for all."""
        if self._external.main and not await self._keys.logs.has_own(tenant):
            await self._keys.external_log(self._external.main)  # a receipt names it: nothing is signed before it can
            return Destination("", self._external.main)
        return Destination(await self._keys.logs.of_tenant(tenant), "")

    async def _entry(self, draft: store.Draft) -> Entry:
        return log_entry(draft, await self._keys.evidence_key(draft.key_id))


@dataclass(frozen=True, slots=True)
class Destination:
    """The log that makes a record LOGGED: one of ours by its origin, or one of others by its name."""

    origin: str
    external: str


def _draft(
    order: Order, now: datetime, destination: Destination, more_logs: Sequence[str], retention_class: str
) -> store.Draft:
    receipt_id = str(uuid_utils.uuid7())
    evidence, principal = order.evidence, order.principal
    package = evidence.package
    statement = statement_bytes(
        evidence.canonical,
        evidence.hash.hex(),
        [(artifact.name, artifact.hash_sha256) for artifact in package.artifacts],
        principal.tenant,
        principal.submitter,
        SIMPLE_SIGNING + receipt_id,
        now,
        os.urandom(32),
    )
    submitter = principal.submitter
    key = order.idempotency_key
    return store.Draft(
        receipt_id=receipt_id,
        submitter=store.Principal(principal.tenant, submitter.issuer, submitter.subject, submitter.method),
        idempotency=store.Idempotency(key, evidence.hash) if key else None,
        workflow_type=store.WorkflowType.SIMPLE_SIGNING,
        batch_id=order.batch_id,
        evidence=evidence.canonical,
        evidence_hash=evidence.hash,
        terms=store.SearchTerms(
            event_type=package.event_type,
            actor_type=package.actor.actor_type if package.actor else "",
            actor_id=package.actor.id if package.actor else "",
            timestamp_utc=package.timestamp_utc,
            artifact_hashes=[bytes.fromhex(artifact.hash_sha256) for artifact in package.artifacts],
        ),
        statement=statement,
        notarized_at=now,
        dedupe=order.dedupe,
        log_origin=destination.origin,
        external_log=destination.external,
        more_logs=list(more_logs),
        retention_class=retention_class,
    )


def _tenant(draft: store.Draft) -> str:
    return "" if draft.submitter is None else draft.submitter.tenant


def _whole(record: store.Record) -> store.Draft:
    if record.draft is None:
        raise Internal("the store gave a record without its draft")
    return record.draft


@contextmanager
def _timed(stage: str) -> Iterator[None]:
    with _seconds.labels(stage).time():
        yield
