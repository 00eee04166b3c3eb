"""What the metadata service speaks of: drafts, records, log positions, workflows, and the questions asked about them.

Hashes are 32 raw bytes, times are aware datetimes, IDs are UUIDs of version 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from afdp.errors import AlreadyExists, NotaryError
from afdp.messages.metadata import WorkflowState, WorkflowType


@dataclass(frozen=True, slots=True)
class Principal:
    """Who submits, as authenticated. Without authentication: an empty issuer, `anonymous` and `none`."""

    tenant: str
    issuer: str
    subject: str
    method: str


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key under which its principal gets one answer, and the SHA-256 of what was asked for under it."""

    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class SearchTerms:
    """What search finds a record by."""

    event_type: str
    actor_type: str
    actor_id: str
    timestamp_utc: datetime
    artifact_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    """What is told of a record whose subject was erased.

    Attributes:
        at: when the subject's key was destroyed; None where only that is known (in a backup of before).
        certificate: the receipt ID of the notarised certificate; None while there is none.
    """

    at: datetime | None = None
    certificate: UUID | None = None


@dataclass(frozen=True, slots=True)
class Seal:
    """What a record that is sealed has beside: which key opens it, and, sealed too, what blind indexes stand for."""

    tenant: str
    data_key: UUID
    head: bytes
    terms: tuple[bytes, ...] = ()  # as it is written: what search finds its metadata by


@dataclass(frozen=True, slots=True)
class Draft:
    """A signed statement on its way into the log.

    Attributes:
        leaf_hash: its entry's, by RFC 6962.
        timestamp: the RFC 3161 response over the signature, DER; empty where there is none.
        external_stamp: whether an authority outside of the notary is to stamp the signature as well, later.
        log_origin: the log of ours that it goes to; empty: the first one.
        external_log: the log of others that it goes to instead of one of ours; empty: none.
        more_logs: logs of others that it goes to as well.
        retention_class: how long it is kept; empty: for as long as somebody likes.
        seal: where evidence and statement are sealed, and hashes, actor and submitter are blind indexes.
    """

    receipt_id: UUID
    submitter: Principal
    idempotency: Idempotency | None
    workflow_type: WorkflowType
    batch_id: UUID | None
    evidence: bytes
    evidence_hash: bytes
    terms: SearchTerms
    statement: bytes
    signature: bytes
    key_id: str
    leaf_hash: bytes
    notarized_at: datetime
    timestamp: bytes = b""
    dedupe: bool = False
    external_stamp: bool = False
    external_log: str = ""
    log_origin: str = ""
    more_logs: tuple[str, ...] = ()
    retention_class: str = ""
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The signed note of a log's tree."""

    origin: str
    tree_size: int
    note: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A record that is now in the log. `proof` is its audit path: hashes of 32 bytes, concatenated."""

    receipt_id: UUID
    log_index: int
    proof: bytes


@dataclass(frozen=True, slots=True)
class Rekor1Entry:
    """What an entry of a Rekor v1 has beside its place in the tree.

    Attributes:
        log_index: through all trees of the log.
        integrated_time: Unix seconds.
        promise: the signed entry timestamp.
    """

    body: bytes
    log_index: int
    integrated_time: int
    promise: bytes


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where an entry is in the log, with the proof for the tree of `checkpoint`."""

    origin: str
    log_index: int
    tree_size: int
    proof: bytes
    checkpoint: str
    rekor1: Rekor1Entry | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What was prepared (without what was asked of it then), and its place in the log once it has one.

    Attributes:
        external_timestamp: as `Draft.timestamp`, by an authority outside of the notary; empty while there is none.
        more: its places in further logs.
        erased: where its subject was erased: then evidence, statement, hashes, actor and submitter are empty.
    """

    draft: Draft
    log: LogPosition | None
    logged_at: datetime | None
    external_timestamp: bytes = b""
    more: tuple[LogPosition, ...] = ()
    erased: Erased | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it is kept, whole or not.

    Attributes:
        record: without its evidence; None where `has_head` or `has_content` is false.
        waits: whether it is PENDING, or queued for the log of others that is to make it LOGGED.
        evidence_fits: whether the evidence has the hash on record.
        faults: what rows beside it say against it, in sentences.
    """

    receipt_id: UUID
    has_head: bool
    has_content: bool
    waits: bool
    evidence_fits: bool
    record: Record | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactOf:
    """That a record has an artifact: the hash, 32 bytes."""

    tenant: str
    receipt_id: UUID
    artifact_hash: bytes


@dataclass(frozen=True, slots=True)
class Stray:
    """A row that contradicts a record, or that points to nothing: what it is called, and one sentence of why.

    Attributes:
        unless: what settles it, where the record is sealed and has to be opened first.
    """

    subject: str
    why: str
    unless: ArtifactOf | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record says that it is in a log; `leaf_hash` is the one on record, None where the record has lost it.

    One that has `expired` was there.
    """

    log_index: int
    receipt_id: UUID
    leaf_hash: bytes | None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class UnstampedSignature:
    """A signature that waits for a stamp by an authority outside of the notary.

    Attributes:
        statement: what it is over, as the payload of a DSSE envelope.
        attempts: how often it was taken to be stamped, this time included.
    """

    receipt_id: UUID
    statement: bytes
    signature: bytes
    key_id: str
    attempts: int
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """What a log of others needs of a record; `attempts` counts how often it was taken out of the queue."""

    receipt_id: UUID
    statement: bytes
    signature: bytes
    key_id: str
    attempts: int
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class StampBacklog:
    """How many signatures wait for such a stamp, and when the oldest was made."""

    waiting: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class QueuedCompletion:
    """A queued record that is now in a log of others."""

    receipt_id: UUID
    position: LogPosition


@dataclass(frozen=True, slots=True)
class QueueLength:
    """How many records wait for a log of others, and since when the oldest does."""

    log: str
    length: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """The draft is on record as PENDING: go on to the log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has had written on a day.

    Attributes:
        day: days since 1970, UTC.
        bytes: of evidence.
    """

    day: int
    records: int
    bytes: int


class KeyTaken(AlreadyExists):
    """Something else stands under a draft's idempotency key: `before`; None where it is not on record any more."""

    def __init__(self, message: str, before: Record | None) -> None:
        super().__init__(message)
        self.before = before


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may have been answered before; with `dedupe` the newest record of its evidence answers it, too."""

    submitter: Principal
    idempotency: Idempotency | None
    evidence: bytes
    evidence_hash: bytes
    dedupe: bool


# What became of a draft: written, answered by a record from before, or refused.
Outcome = Prepared | Record | NotaryError


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list shows of a record; `log_index` is None, and `log_origin` empty, while it is PENDING."""

    receipt_id: UUID
    evidence_hash: bytes
    terms: SearchTerms
    key_id: str
    notarized_at: datetime
    workflow_type: WorkflowType
    log_index: int | None
    log_origin: str = ""
    seal: Seal | None = None
    erased: Erased | None = None


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """What is told of a record that a key version signed; `log_index` is None while it is PENDING."""

    receipt_id: UUID
    evidence_hash: bytes
    notarized_at: datetime
    log_index: int | None
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a list a page ended: the next one begins right after it."""

    time: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class WholePage:
    """Whole records, and where the page ended; None: there are no more."""

    records: list[Record]
    ended: Position | None


@dataclass(frozen=True, slots=True)
class Search:
    """Which records of a tenant; None: any. `start_time` belongs to the span, `end_time` does not.

    Attributes:
        submitter: the subject of who submitted it.
        metadata: places in its metadata, dotted, and what stands there as text; all must hold.
        terms: in their place, where they are blind indexes.
        oldest_first: the order; else the newest comes first.
    """

    tenant: str
    evidence_hash: bytes | None = None
    artifact_hash: bytes | None = None
    event_type: str | None = None
    actor_id: str | None = None
    key_id: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    actor_type: str | None = None
    submitter: str | None = None
    log_index: int | None = None
    log_origin: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    oldest_first: bool = False
    terms: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch workflow as it begins. `item_hashes`: of each package, 32 bytes; empty where that is not told."""

    batch_id: UUID
    submitter: Principal
    idempotency: Idempotency | None
    item_count: int
    created_at: datetime
    item_hashes: bytes = b""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow as lists show it. Event type and actor are of simple workflows, the counts of batches."""

    type: WorkflowType
    id: UUID
    state: WorkflowState
    created_at: datetime
    completed_at: datetime | None = None
    error: str = ""
    event_type: str = ""
    actor_id: str = ""
    item_count: int = 0
    succeeded: int = 0
    failed: int = 0
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class WorkflowQuery:
    """Which workflows of a tenant; None: any. `start_time` belongs to the span, `end_time` does not."""

    tenant: str
    state: WorkflowState | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class TrustFile:
    """One file of the trust root's TUF repository, by the name that it is served under."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The newest publication of the trust root; revision 0 where there was none."""

    revision: int
    files: tuple[TrustFile, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """What follows the publication of `base_revision`: files that are new or changed, and names of those that stay."""

    base_revision: int
    files: tuple[TrustFile, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A record was made or upgraded; the cursor goes on after that."""

    receipt_id: UUID
    cursor: str


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of changes, the cursor that goes on after it, and whether there are more already."""

    changes: tuple[Change, ...]
    end: str
    more: bool


@dataclass(frozen=True, slots=True)
class News:
    """Which tenants have changes, and the cursor up to which that is said."""

    tenants: tuple[str, ...]
    head: str
