"""The values that a client gives and gets, the same over REST and over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from afdp.errors import NotaryError
from afdp.formats.evidence import Actor, Artifact, EvidencePackage
from afdp.formats.receipt import Receipt

State = Literal["signed", "logged", "witnessed"]
"""How far a receipt has come."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of one evidence package.

    Attributes:
        workflow_id: `simple-signing-` and the receipt's UUID.
        status: `completed`, `failed`, …
        receipt: None only for an item of a batch that failed.
        error: only for an item of a batch that failed.
    """

    workflow_id: str
    status: str
    receipt: Receipt | None
    error: NotaryError | None = None


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """What became of a batch: one result per package, in the order of the request."""

    batch_workflow_id: str
    status: str
    results: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class WatchedReceipt:
    """A receipt that was made or upgraded.

    Attributes:
        cursor: goes on after it.
        receipt: as it stands now; None where the notary withholds it, for `error`.
    """

    cursor: str
    receipt_id: str
    receipt: Receipt | None
    error: NotaryError | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """What the notary found; a check that did not run is False and named in `warnings`."""

    is_valid: bool
    validation_error: str
    signature_valid: bool
    evidence_hash_valid: bool
    rekor_entry_valid: bool
    timestamp_valid: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """Evidence with its newest receipt, and how many receipts there are of it."""

    evidence_package: EvidencePackage
    receipt: Receipt
    receipt_count: int


@dataclass(frozen=True, slots=True)
class Erased:
    """That the subject of a record was erased.

    Attributes:
        erased_at: when; None where the service does not know.
        certificate: the receipt ID of the certificate; empty while there is none.
    """

    erased_at: datetime | None
    certificate: str


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """What a search shows of a piece of evidence; of one whose subject was erased there is no hash and no actor."""

    evidence_package_hash: str
    receipt_id: str
    workflow_id: str
    event_type: str
    actor_id: str
    timestamp_utc: datetime | None
    notarized_at: datetime | None
    state: str
    actor_type: str = ""
    key_id: str = ""
    log_index: int = 0
    log_origin: str = ""
    erased: Erased | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; the next begins at `next_page_token`, which is empty on the last.

    Attributes:
        total_count: of all pages, where the list knows it.
    """

    items: tuple[T, ...]
    next_page_token: str
    total_count: int | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """Where a workflow stands; `result` holds what came out, such as `receipt_id`."""

    workflow_id: str
    status: str
    created_at: datetime | None
    completed_at: datetime | None
    error_message: str
    result: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkflowSummary:
    """What a list shows of a workflow."""

    workflow_id: str
    workflow_type: str
    status: str
    created_at: datetime | None
    completed_at: datetime | None
    event_type: str
    actor_id: str


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """Why and since when a key version is not trusted."""

    at: datetime | None
    compromised_since: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Key:
    """One version of one key.

    Attributes:
        purpose: `evidence`, `log`, `timestamp` or `trust`.
        current: whether it signs now.
    """

    key_id: str
    purpose: str
    algorithm: str
    hint: str
    public_key_pem: str
    valid_from: datetime | None
    valid_until: datetime | None
    tenants: tuple[str, ...]
    revoked: KeyRevocation | None
    current: bool


@dataclass(frozen=True, slots=True)
class AffectedReceipt:
    """A receipt that a key version signed."""

    receipt_id: str
    evidence_package_hash: str
    notarized_at: datetime | None
    log_index: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Records that stay: those for which everything holds that is not empty.

    Attributes:
        artifact_hash: SHA-256 of an artifact, in hex.
        subject: who submitted.
        start_time, end_time: when it was notarised; the end is not part of it.
        placed_by, released_by: issuer and subject of who did.
        released_at: None while it is in force.
    """

    hold_id: str
    case_number: str
    reason: str
    artifact_hash: str
    actor_id: str
    event_type: str
    subject: str
    start_time: datetime | None
    end_time: datetime | None
    placed_by: str
    placed_at: datetime | None
    released_by: str
    release_reason: str
    released_at: datetime | None


@dataclass(frozen=True, slots=True)
class PlacedHold:
    """A hold, and how many records it named when it was placed."""

    hold: Hold
    records: int


@dataclass(frozen=True, slots=True)
class ErasureDeferral:
    """What keeps records of a subject from being erased now.

    Attributes:
        classes: those of retention that keep some.
        until: when the last of these lets go; None: none keeps any, or one does for ever.
        held: whether a legal hold keeps some; `cases` has their numbers for who may list holds.
        unfinished: how many wait for a log or a stamp.
    """

    classes: tuple[str, ...]
    until: datetime | None
    for_ever: bool
    held: bool
    cases: tuple[str, ...]
    unfinished: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a subject is to be erased, or was.

    Attributes:
        erasure_id: what stands for the subject, 32 hex digits.
        state: `requested`, `deferred` or `erased`.
        records: how many nobody can read any more.
        certificate: the receipt ID of the certificate; empty while there is none.
    """

    erasure_id: str
    state: str
    reason: str
    requested_by: str
    requested_at: datetime | None
    deferral: ErasureDeferral | None
    erased_at: datetime | None
    records: int
    certificate: str


@dataclass(frozen=True, slots=True)
class ExpiredRecords:
    """Records of a month (such as 2026-11) and tenant that went, or would go.

    Attributes:
        kept, held: how many stayed because of their class, or because of a hold.
        certificate: the receipt ID of what certifies it; empty where nothing went.
    """

    month: str
    tenant: str
    records: int
    kept: int
    held: int
    certificate: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A row of the audit trail, and its place under a seal.

    Attributes:
        recorded_at: microseconds since 1970, by the database's clock.
        row: JSON, as it was recorded.
        seal: the seal's number.
        proof: the inclusion proof from `leaf_index` to the seal's root: hashes of 32 bytes, concatenated.
    """

    sequence: int
    recorded_at: int
    row: str
    seal: int
    leaf_index: int
    proof: bytes


@dataclass(frozen=True, slots=True)
class AuditSeal:
    """A seal over rows: JSON, as it was made, and the receipt of its own notarisation, if it has one."""

    number: int
    body: str
    anchor: Receipt | None


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something that the notary depends on."""

    name: str
    healthy: bool
    response_time_ms: int
    error: str


@dataclass(frozen=True, slots=True)
class PartHealth:
    """Something that the signer stands on; its detail is empty where only operators may read it."""

    name: str
    good: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StatusPart:
    """Something that the service stands on.

    Attributes:
        service: which service says so.
        name: such as `clock` or `key afdp-notary-key`.
        good: whether it does what is asked of it.
        detail: what it is like.
        remedy: what to do where it is not good.
    """

    service: str
    name: str
    good: bool
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission, whether the caller has it, and the names of the policies that decide."""

    name: str
    allowed: bool
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the caller is for a notary, and what it may do.

    Attributes:
        tenant: whose evidence it sees.
        issuer, subject: who says who it is, and its name there.
        method: `oidc`, `mtls`, or `anonymous` where authentication is off.
        roles: in the words of the policies.
        scopes: what its token is for; None: its credential knows none.
        permissions: each there is.
        policy_hash: SHA-256 of the policies that decided, in hex; empty: none are asked.
        expires_at: when its credential ends, where that is known.
    """

    tenant: str
    issuer: str
    subject: str
    method: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...] | None
    permissions: tuple[Permission, ...]
    policy_hash: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class TrustVersions:
    """What is published of the trust root, in versions of its roles."""

    root: int
    targets: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Health:
    """`healthy`, `degraded` (reads work, writes do not) or `unhealthy`, the dependencies, and the signer's parts."""

    status: str
    version: str
    uptime_seconds: int
    dependencies: tuple[Dependency, ...]
    parts: tuple[PartHealth, ...] = ()


__all__ = [
    "Actor",
    "AffectedReceipt",
    "Artifact",
    "Dependency",
    "EvidencePackage",
    "EvidenceRecord",
    "EvidenceSummary",
    "Health",
    "Identity",
    "Key",
    "KeyRevocation",
    "Page",
    "PartHealth",
    "Permission",
    "Receipt",
    "Signed",
    "SignedBatch",
    "State",
    "StatusPart",
    "TrustVersions",
    "Validation",
    "WatchedReceipt",
    "Workflow",
    "WorkflowSummary",
]
