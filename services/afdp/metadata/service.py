"""What the metadata service promises, whatever keeps the records.

Knows drafts, records and workflows. Knows no gRPC and no SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import accumulate
from typing import Protocol, TypeVar
from uuid import UUID

from afdp.errors import InvalidArgument, NotaryError, NotFound
from afdp.formats.note import Note, NoteError
from afdp.messages.metadata import WorkflowType
from afdp.metadata import pages
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.differences import say_what_differs
from afdp.metadata.pages import PageToken
from afdp.metadata.values import (
    Asked,
    Batch,
    Changes,
    Checkpoint,
    Completion,
    Draft,
    Kept,
    KeyTaken,
    LogPosition,
    News,
    Outcome,
    Place,
    Position,
    Publication,
    Queued,
    QueuedCompletion,
    QueueLength,
    Record,
    Search,
    SignedRecord,
    StampBacklog,
    Stray,
    Summary,
    TrustFiles,
    UnstampedSignature,
    Usage,
    WholePage,
    Workflow,
    WorkflowQuery,
)

# A page of summaries ends early where their artifact hashes would fill a message.
MAX_PAGE_BYTES = 4 * 1024 * 1024
_SUMMARY_BYTES = 2 * 1024  # more than a summary takes without its artifacts

T = TypeVar("T", Draft, Completion, QueuedCompletion)
R = TypeVar("R")


class Store(Protocol):
    """One technology that keeps records: `postgres/`. Its writes may be repeated; each is one transaction.

    Every method raises Unavailable while the technology cannot be reached.
    """

    async def prepare(
        self, drafts: Sequence[Draft], usage: dict[str, Usage] | None = None, rows: Sequence[NewRow] = ()
    ) -> list[Outcome]:
        """Write drafts as PENDING records: one outcome per draft, in order; one that is refused fails alone.

        With `usage` what is written counts as its tenant's use of the day, which is put there. The rows of the audit
        trail are written with them.
        """

    async def complete(
        self, checkpoint: Checkpoint, completions: Sequence[Completion], rows: Sequence[NewRow] = ()
    ) -> list[LogPosition | NotaryError]:
        """Turn PENDING records into LOGGED ones: the position on record per completion, in order.

        Raises:
            FailedPrecondition: another tree of the same size is on record for this log.
        """

    async def list_pending(self, limit: int, after: UUID | None, before: datetime | None) -> list[Record]:
        """PENDING records of all tenants by ascending receipt ID."""

    async def kept(self, limit: int, after: UUID | None) -> list[Kept]:
        """Records of all tenants by ascending receipt ID, whole or not; fewer where they are large, none at the end."""

    async def places(self, origin: str, start: int, end: int) -> list[Place]:
        """Which records say that they are in this part of a log, by ascending index."""

    async def strays(self, table: str, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """What is amiss with the next rows of a table, and where they end; an empty end: there are no more.

        Raises:
            InvalidArgument: there is no such table, or it has another key.
        """

    async def reopen(self, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
        """Make a record PENDING that has no place and waits for none; whether that was done."""

    async def lease_queued(self, log: str, limit: int, lease: timedelta) -> list[Queued]:
        """Take records that are due out of a queue, for the length of the lease; fewer where they are large."""

    async def complete_queued(
        self, log: str, completions: Sequence[QueuedCompletion]
    ) -> list[LogPosition | NotaryError]:
        """Write where queued records are: the position on record per completion, in order."""

    async def defer_queued(self, log: str, waits: Mapping[UUID, timedelta]) -> None:
        """Put queued records back for these times; what is not in the queue is passed over."""

    async def queues(self) -> list[QueueLength]:
        """The queues that are not empty."""

    async def get_record(self, tenant: str, receipt_id: UUID) -> Record | None:
        """One record, whole."""

    async def get_records(self, tenant: str, receipt_ids: Sequence[UUID]) -> list[Record]:
        """Those of them that this tenant has, whole."""

    async def changes(self, tenant: str, cursor: str, limit: int) -> Changes:
        """The changes of a tenant's records after a cursor, in order; without one: none yet, from now on.

        Raises:
            InvalidArgument: the cursor was never given.
            OutOfRange: changes after it were forgotten.
        """

    async def news(self, cursor: str) -> News:
        """Which tenants have changes after a cursor. Raises as `changes`."""

    async def note_witnessed(self, origin: str, tree_size: int) -> int:
        """A change of all records that are in a cosigned tree for the first time; gives the size of the largest one."""

    async def find_evidence(self, tenant: str, evidence_hash: bytes, signature: bytes) -> tuple[Record, int] | None:
        """The newest record of the evidence, LOGGED before PENDING, and how many records of it there are.

        With a signature that is not empty the record is one that has it; it does not change the number.
        """

    async def find_answer(self, asked: Asked) -> Record | NotaryError | None:
        """What stands under a request's key, or is the newest of its evidence where it dedupes; None: nothing does."""

    async def search(self, query: Search, after: Position | None, limit: int) -> list[Summary]:
        """Records that match, in order, from right after a position.

        Raises:
            InvalidArgument: it asks for a place in metadata that is not searchable.
        """

    async def read(self, query: Search, after: Position | None, limit: int) -> WholePage:
        """As `search`, the records whole, and fewer where they are large."""

    async def signed(self, query: Search, after: Position | None, limit: int) -> list[SignedRecord]:
        """As `search`, with no more told than which records they are."""

    async def notarized_at(self, tenant: str, receipt_id: UUID) -> datetime | None:
        """When a record of a tenant was notarised; None where there is no such record."""

    async def claim_stamps(self, limit: int, lease: timedelta) -> list[UnstampedSignature]:
        """Signatures that wait for a stamp by an authority outside, for this caller alone until the lease is over."""

    async def keep_stamp(self, receipt_id: UUID, timestamp: bytes) -> None:
        """Adds such a stamp to a record that waits for one."""

    async def postpone_stamps(self, receipt_ids: Sequence[UUID], wait: timedelta) -> None:
        """Gives signatures back that could not be stamped: nobody gets them before the wait is over."""

    async def stamp_backlog(self) -> StampBacklog:
        """How many signatures wait for a stamp, and since when."""

    async def create_batch(self, batch: Batch) -> tuple[UUID, bool]:
        """The batch of this idempotency key and whether another request made it before.

        Raises:
            AlreadyExists: the key, or the ID, stands for something else.
        """

    async def finish_batch(self, tenant: str, batch_id: UUID, succeeded: int, failed: int) -> None:
        """End a batch with its counts; the last word counts.

        Raises:
            NotFound: this tenant has no such batch.
            InvalidArgument: the counts are more than its packages.
        """

    async def get_workflow(self, tenant: str, kind: WorkflowType, workflow_id: UUID) -> Workflow | None:
        """One workflow as it stands."""

    async def list_workflows(self, query: WorkflowQuery, after: Position | None, limit: int) -> list[Workflow]:
        """Workflows that match, newest first, from right after a position."""

    async def count_workflows(self, query: WorkflowQuery) -> int:
        """How many match in all."""

    async def page_key(self) -> bytes:
        """What page tokens are sealed under: 32 bytes, the same for whoever shares the records, for ever."""

    async def get_trust_files(self, known: int) -> TrustFiles:
        """The newest publication of the trust root; without its files where its revision is `known`."""

    async def get_trust_file(self, name: str) -> bytes | None:
        """One file of the trust root, also one that was retired a short while ago."""

    async def put_trust_files(self, publication: Publication) -> int:
        """Write a publication of the trust root; gives its revision.

        Raises:
            Aborted: another one was written since its base.
            FailedPrecondition: it keeps a file that there is not.
        """


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Records, newest first; an empty token: there are no more."""

    records: list[Summary]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class WorkflowPage:
    """Workflows, newest first, and how many there were in all when the first page was made."""

    workflows: list[Workflow]
    next_page_token: str
    total: int


class Metadata:
    """The records of what was notarised, each read confined to one tenant."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._page_key = b""

    async def prepare(
        self,
        drafts: Sequence[Draft | NotaryError],
        usage: dict[str, Usage] | None = None,
        rows: Sequence[NewRow] = (),
    ) -> list[Outcome]:
        """Write drafts as PENDING records: one outcome per draft, in order. What is an error already stays one.

        With `usage` what is written counts as its tenant's use of the day, which is put there. The rows of the audit
        trail are written in the same transaction.
        """
        checked = [_with_its_hash(draft, index) for index, draft in enumerate(drafts)]
        good = [draft for draft in checked if not isinstance(draft, NotaryError)]
        outcomes: list[Outcome] = await self._store.prepare(good, usage, rows) if good or rows else []
        told = [
            say_what_differs(outcome, draft) if isinstance(outcome, KeyTaken) else outcome
            for outcome, draft in zip(outcomes, good, strict=True)
        ]
        return _merged(checked, told)

    async def complete(
        self,
        checkpoint: Checkpoint,
        completions: Sequence[Completion | NotaryError],
        rows: Sequence[NewRow] = (),
    ) -> list[LogPosition | NotaryError]:
        """Turn PENDING records into LOGGED ones: the position on record per completion, in order.

        The rows of the audit trail are written in the same transaction. A record that is LOGGED already keeps its
        position.

        Raises:
            InvalidArgument: the checkpoint is not a note of this log and size.
            FailedPrecondition: another tree of the same size is on record for this log.
        """
        _require_note_of(checkpoint)
        checked = [_within(checkpoint, completion, index) for index, completion in enumerate(completions)]
        good = [completion for completion in checked if not isinstance(completion, NotaryError)]
        return _merged(checked, await self._store.complete(checkpoint, good, rows) if good else [])

    async def list_pending(self, limit: int, after: UUID | None, before: datetime | None) -> list[Record]:
        """PENDING records of all tenants, oldest first; fewer than `limit`: there are no more."""
        return await self._store.list_pending(limit, after, before)

    async def kept(self, limit: int, after: UUID | None) -> list[Kept]:
        """Records of all tenants by ascending receipt ID, those too that have lost a part; none: there are no more."""
        return await self._store.kept(limit, after)

    async def places(self, origin: str, start: int, end: int) -> list[Place]:
        """Which records say that they are in this part of a log, by ascending index."""
        return await self._store.places(origin, start, end)

    async def strays(self, table: str, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """What is amiss with the next rows of a table beside the records, and where they end."""
        return await self._store.strays(table, after, limit)

    async def reopen(self, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
        """Make a record PENDING again that has no place in a log and waits for none; whether that was done."""
        return await self._store.reopen(receipt_id, log_origin, external_log)

    async def lease_queued(self, log: str, limit: int, lease: timedelta) -> list[Queued]:
        """Take records that are due out of the queue for a log of others, for the length of the lease."""
        return await self._store.lease_queued(log, limit, lease)

    async def complete_queued(
        self, log: str, completions: Sequence[QueuedCompletion | NotaryError]
    ) -> list[LogPosition | NotaryError]:
        """Write where queued records are in a log of others: the position on record per completion, in order.

        A record that has a position there already keeps it.
        """
        checked = [_noted(completion, index) for index, completion in enumerate(completions)]
        good = [completion for completion in checked if not isinstance(completion, NotaryError)]
        return _merged(checked, await self._store.complete_queued(log, good) if good else [])

    async def defer_queued(self, log: str, waits: Mapping[UUID, timedelta]) -> None:
        """Put queued records back for these times."""
        await self._store.defer_queued(log, waits)

    async def queues(self) -> list[QueueLength]:
        """The queues for logs of others that are not empty."""
        return await self._store.queues()

    async def get_record(self, tenant: str, receipt_id: UUID) -> Record:
        """One record, whole. Raises NotFound where this tenant has none."""
        return _found(await self._store.get_record(tenant, receipt_id), "no record has this receipt ID")

    async def get_records(self, tenant: str, receipt_ids: Sequence[UUID]) -> list[Record]:
        """Those of some records that this tenant has, whole."""
        return await self._store.get_records(tenant, receipt_ids)

    async def changes(self, tenant: str, cursor: str, limit: int) -> Changes:
        """The changes of a tenant's records after a cursor. Raises InvalidArgument, OutOfRange."""
        return await self._store.changes(tenant, cursor, limit)

    async def news(self, cursor: str) -> News:
        """Which tenants have changes after a cursor. Raises InvalidArgument, OutOfRange."""
        return await self._store.news(cursor)

    async def note_witnessed(self, origin: str, tree_size: int) -> int:
        """The log says that a tree is cosigned: those who watch are told of its records. Size 0 only asks.

        Gives the size of the largest that was ever noted; 0: none was.
        """
        return await self._store.note_witnessed(origin, tree_size)

    async def find_evidence(self, tenant: str, evidence_hash: bytes, signature: bytes = b"") -> tuple[Record, int]:
        """The newest record of the evidence, LOGGED before PENDING, and how many there are. Raises NotFound."""
        found = await self._store.find_evidence(tenant, evidence_hash, signature)
        return _found(found, "no record has this evidence" + (" with this signature" if signature else ""))

    async def find_answer(self, asked: Asked) -> Record | None:
        """What answers a request already; None: nothing does.

        Raises:
            AlreadyExists: something else stands under its key.
            FailedPrecondition: what stood there was deleted.
        """
        found = await self._store.find_answer(asked)
        if isinstance(found, KeyTaken):
            raise say_what_differs(found, asked)
        if isinstance(found, NotaryError):
            raise found
        return found

    async def search(self, query: Search, page_size: int, page_token: str) -> SearchPage:
        """A page of the records that match, in order; it may be shorter than asked for and still not the last.

        Raises:
            InvalidArgument: the token is damaged or belongs to another query, or the query asks for a place in metadata
                that is not searchable.
        """
        key = await self._key()
        token = pages.decode(page_token, query, key)
        found = await self._store.search(query, token.position if token else None, page_size + 1)
        shown = found[: min(page_size, _fitting(found))]
        if len(shown) == len(found):
            return SearchPage(shown, "")
        position = Position(shown[-1].notarized_at, shown[-1].receipt_id)
        return SearchPage(shown, pages.encode(PageToken(position), query, key))

    async def read(self, query: Search, page_size: int, after: UUID | Position | None) -> WholePage:
        """Records that match, whole, in order, from right after one of them.

        Raises:
            InvalidArgument: there is no record to go on after, or the query asks for a place in metadata that is not
                searchable.
        """
        return await self._store.read(query, await self._position(query, after), page_size)

    async def signed(self, query: Search, page_size: int, after: UUID | None) -> list[SignedRecord]:
        """The records that a key version signed, newest first, from right after one of them.

        Raises:
            InvalidArgument: there is no record to go on after.
        """
        return await self._store.signed(query, await self._position(query, after), page_size)

    async def _position(self, query: Search, after: UUID | Position | None) -> Position | None:
        if not isinstance(after, UUID):
            return after
        time = await self._store.notarized_at(query.tenant, after)
        if time is None:
            raise InvalidArgument.field("after", "is not the ID of a receipt")
        return Position(time, after)

    async def claim_stamps(self, limit: int, lease: timedelta) -> list[UnstampedSignature]:
        """Signatures that wait for a stamp by an authority outside, for this caller alone until the lease is over."""
        return await self._store.claim_stamps(limit, lease)

    async def keep_stamp(self, receipt_id: UUID, timestamp: bytes) -> None:
        """Adds such a stamp to a record that waits for one; may be repeated, and the first counts."""
        await self._store.keep_stamp(receipt_id, timestamp)

    async def postpone_stamps(self, receipt_ids: Sequence[UUID], wait: timedelta) -> None:
        """Gives signatures back that could not be stamped: nobody gets them before the wait is over."""
        await self._store.postpone_stamps(receipt_ids, wait)

    async def stamp_backlog(self) -> StampBacklog:
        """How many signatures wait for a stamp, and since when."""
        return await self._store.stamp_backlog()

    async def create_batch(self, batch: Batch) -> tuple[UUID, bool]:
        """Begin a batch, or find the one of its idempotency key; True: another request made it before.

        Raises:
            AlreadyExists: the key, or the ID, stands for something else.
        """
        return await self._store.create_batch(batch)

    async def finish_batch(self, tenant: str, batch_id: UUID, succeeded: int, failed: int) -> None:
        """End a batch with its counts; may be repeated, and the last word counts. Raises NotFound, InvalidArgument."""
        await self._store.finish_batch(tenant, batch_id, succeeded, failed)

    async def get_workflow(self, tenant: str, kind: WorkflowType, workflow_id: UUID) -> Workflow:
        """One workflow as it stands. Raises NotFound where this tenant has none."""
        return _found(await self._store.get_workflow(tenant, kind, workflow_id), "no workflow has this ID")

    async def list_workflows(self, query: WorkflowQuery, page_size: int, page_token: str) -> WorkflowPage:
        """A page of the workflows that match, newest first. The total is counted once, with the first page.

        Raises:
            InvalidArgument: the token is damaged or belongs to another query.
        """
        key = await self._key()
        token = pages.decode(page_token, query, key)
        total = token.total if token else await self._store.count_workflows(query)
        found = await self._store.list_workflows(query, token.position if token else None, page_size + 1)
        shown = found[:page_size]
        if len(shown) == len(found):
            return WorkflowPage(shown, "", total)
        position = Position(shown[-1].created_at, shown[-1].id)
        return WorkflowPage(shown, pages.encode(PageToken(position, total), query, key), total)

    async def _key(self) -> bytes:
        if not self._page_key:
            self._page_key = await self._store.page_key()
        return self._page_key

    async def get_trust_files(self, known: int) -> TrustFiles:
        """The newest publication of the trust root; without its files where its revision is `known`."""
        return await self._store.get_trust_files(known)

    async def get_trust_file(self, name: str) -> bytes:
        """One file of the trust root. Raises NotFound."""
        return _found(await self._store.get_trust_file(name), "the trust root has no file of this name")

    async def put_trust_files(self, publication: Publication) -> int:
        """Write a publication of the trust root; gives its revision.

        Raises:
            Aborted: another one was written since its base.
            FailedPrecondition: it keeps a file that there is not.
        """
        return await self._store.put_trust_files(publication)


def _with_its_hash(draft: Draft | NotaryError, index: int) -> Draft | NotaryError:
    if isinstance(draft, Draft) and sha256(draft.evidence).digest() != draft.evidence_hash:
        return InvalidArgument.field(f"drafts[{index}].evidence_hash", "must be the SHA-256 of evidence")
    return draft


def _require_note_of(checkpoint: Checkpoint) -> None:
    """Root and signatures are the business of others; here the note must be of the tree that it is filed under."""
    try:
        lines = Note.parse(checkpoint.note).text.split("\n")
    except NoteError as error:
        raise InvalidArgument.field("checkpoint", str(error)) from None
    if lines[:2] != [checkpoint.origin, str(checkpoint.tree_size)]:
        raise InvalidArgument.field("checkpoint", "must be the note of the given origin and tree_size")


def _within(checkpoint: Checkpoint, completion: Completion | NotaryError, index: int) -> Completion | NotaryError:
    if isinstance(completion, Completion) and completion.log_index >= checkpoint.tree_size:
        return InvalidArgument.field(f"completions[{index}].log_index", "must be less than tree_size")
    return completion


def _noted(completion: QueuedCompletion | NotaryError, index: int) -> QueuedCompletion | NotaryError:
    if isinstance(completion, NotaryError):
        return completion
    path, at = f"completions[{index}].position", completion.position
    try:
        _require_note_of(Checkpoint(at.origin, at.tree_size, at.checkpoint))
    except InvalidArgument as error:
        return InvalidArgument.field(f"{path}.checkpoint", error.fields[0].message)
    if at.log_index >= at.tree_size:
        return InvalidArgument.field(f"{path}.log_index", "must be less than tree_size")
    return completion


def _merged(items: Sequence[T | NotaryError], answers: Sequence[R]) -> list[R | NotaryError]:
    """Answers to the items that are no errors, and the errors, in the items' order."""
    remaining = iter(answers)
    return [item if isinstance(item, NotaryError) else next(remaining) for item in items]


def _fitting(summaries: Sequence[Summary]) -> int:
    """How many summaries fit in a page, at least one."""
    sizes = accumulate(_SUMMARY_BYTES + 32 * len(summary.terms.artifact_hashes) for summary in summaries)
    return max(1, sum(size <= MAX_PAGE_BYTES for size in sizes))


def _found(value: R | None, message: str) -> R:
    if value is None:
        raise NotFound(message)
    return value
