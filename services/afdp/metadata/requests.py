"""Reads requests: from messages to values, every field checked, every fault named by its path in the proto."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.tenant import TENANT_RULE, is_tenant
from afdp.messages import metadata as messages
from afdp.messages.metadata import WorkflowState, WorkflowType
from afdp.metadata.values import (
    Batch,
    Checkpoint,
    Completion,
    Draft,
    Idempotency,
    LogPosition,
    Principal,
    Publication,
    QueuedCompletion,
    Rekor1Entry,
    Search,
    SearchTerms,
    TrustFile,
    WorkflowQuery,
)

MAX_ITEMS = 1024  # drafts, completions, pending records
MAX_PAGE_SIZE = 1000
MAX_SIGNED = 10_000  # records in columns
MAX_NAME_BYTES = 512
MAX_EVIDENCE_BYTES = 512 * 1024
MAX_STATEMENT_BYTES = 1024 * 1024
MAX_SIGNATURE_BYTES = 1024
MAX_TIMESTAMP_BYTES = 16 * 1024
MAX_EXTERNAL_TIMESTAMP_BYTES = 128 * 1024  # such an authority may send every certificate it has
MAX_CLAIMED = 16
MAX_ARTIFACTS = 1000
MAX_PROOF_HASHES = 64
MAX_CHECKPOINT_BYTES = 64 * 1024
MAX_MORE_LOGS = 8
MAX_PLACES = 4096
MAX_ENTRY_BYTES = 64 * 1024
MAX_TRUST_FILES = 20_000
MAX_TRUST_FILE_BYTES = 4 * 1024 * 1024

_METHODS = ("mtls", "none", "oidc", "service")
_HOUR_MS = 3_600_000
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")
_NIL = UUID(int=0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_prepare(request: messages.PrepareRequest) -> list[Draft | InvalidArgument]:
    """The drafts; one that is wrong is an error in its place.

    Raises:
        InvalidArgument: there are none, or too many.
    """
    _require_count("drafts", request.drafts)
    return [_read_draft(draft, f"drafts[{index}].") for index, draft in enumerate(request.drafts)]


def _read_draft(draft: messages.Draft, path: str) -> Draft | InvalidArgument:
    fields = _Fields(path)
    read = Draft(
        receipt_id=fields.uuid7("receipt_id", draft.receipt_id),
        submitter=fields.principal("submitter", draft.submitter),
        idempotency=fields.idempotency("idempotency", draft.idempotency),
        workflow_type=fields.workflow_type("workflow_type", draft.workflow_type),
        batch_id=fields.optional_uuid7("batch_id", draft.batch_id),
        evidence=fields.blob("evidence", draft.evidence, MAX_EVIDENCE_BYTES),
        evidence_hash=fields.digest("evidence_hash", draft.evidence_hash),
        terms=fields.terms("terms", draft.terms),
        statement=fields.blob("statement", draft.statement, MAX_STATEMENT_BYTES),
        signature=fields.blob("signature", draft.signature, MAX_SIGNATURE_BYTES),
        key_id=fields.text("key_id", draft.key_id),
        leaf_hash=fields.digest("leaf_hash", draft.leaf_hash),
        notarized_at=fields.moment("notarized_at", draft.notarized_at),
        timestamp=fields.blob("timestamp", draft.timestamp, MAX_TIMESTAMP_BYTES, least=0),
        dedupe=draft.dedupe,
        external_stamp=draft.external_stamp,
        external_log=fields.text("external_log", draft.external_log, least=0),
        log_origin=fields.text("log_origin", draft.log_origin, least=0),
        more_logs=fields.log_names("more_logs", draft.more_logs),
    )
    return fields.error() or read


def read_complete(request: messages.CompleteRequest) -> tuple[Checkpoint, list[Completion | InvalidArgument]]:
    """The checkpoint, and the completions; one that is wrong is an error in its place.

    Raises:
        InvalidArgument: the checkpoint's fields are wrong, or there are no completions, or too many.
    """
    _require_count("completions", request.completions)
    fields = _Fields()
    checkpoint = Checkpoint(
        origin=fields.text("origin", request.origin),
        tree_size=fields.number("tree_size", request.tree_size, 1, _INT64),
        note=fields.text("checkpoint", request.checkpoint, MAX_CHECKPOINT_BYTES),
    )
    fields.require()
    items = enumerate(request.completions)
    return checkpoint, [_read_completion(completion, f"completions[{index}].") for index, completion in items]


def _read_completion(completion: messages.Completion, path: str) -> Completion | InvalidArgument:
    fields = _Fields(path)
    read = Completion(
        receipt_id=fields.uuid7("receipt_id", completion.receipt_id),
        log_index=fields.number("log_index", completion.log_index, 0, _INT64),
        proof=fields.digests("proof", completion.proof, MAX_PROOF_HASHES),
    )
    return fields.error() or read


def read_lease_queued(request: messages.LeaseQueuedRequest) -> tuple[str, int, timedelta]:
    """The log's name, how many records, and for how long."""
    fields = _Fields()
    log = fields.text("log", request.log)
    limit = fields.number("limit", request.limit, 1, MAX_ITEMS)
    seconds = fields.number("lease_seconds", request.lease_seconds, 1, 3600)
    fields.require()
    return log, limit, timedelta(seconds=seconds)


def read_complete_queued(
    request: messages.CompleteQueuedRequest,
) -> tuple[str, list[QueuedCompletion | InvalidArgument]]:
    """The log's name, and the completions; one that is wrong is an error in its place."""
    _require_count("completions", request.completions)
    fields = _Fields()
    log = fields.text("log", request.log)
    fields.require()
    return log, [_read_queued(each, f"completions[{index}].") for index, each in enumerate(request.completions)]


def _read_queued(completion: messages.QueuedCompletion, path: str) -> QueuedCompletion | InvalidArgument:
    fields = _Fields(path)
    read = QueuedCompletion(
        receipt_id=fields.uuid7("receipt_id", completion.receipt_id),
        position=fields.position("position", completion.position),
    )
    return fields.error() or read


def read_defer_queued(request: messages.DeferQueuedRequest) -> tuple[str, dict[UUID, timedelta]]:
    """The log's name, and for how long each record waits."""
    _require_count("deferrals", request.deferrals)
    fields = _Fields()
    log = fields.text("log", request.log)
    waits = {
        fields.uuid7(f"deferrals[{index}].receipt_id", each.receipt_id): timedelta(
            milliseconds=fields.number(f"deferrals[{index}].milliseconds", each.milliseconds, 0, 86_400_000)
        )
        for index, each in enumerate(request.deferrals)
    }
    fields.require()
    return log, waits


def read_list_pending(request: messages.ListPendingRequest) -> tuple[int, UUID | None, datetime | None]:
    """How many, after which, notarised before when."""
    fields = _Fields()
    limit = fields.number("page_size", request.page_size, 1, MAX_ITEMS)
    after = fields.optional_uuid7("after_receipt_id", request.after_receipt_id)
    before = fields.optional_moment("before", request.before)
    fields.require()
    return limit, after, before


def read_list_kept(request: messages.ListKeptRequest) -> tuple[int, UUID | None]:
    """How many, and after which."""
    fields = _Fields()
    limit = fields.number("page_size", request.page_size, 1, MAX_ITEMS)
    after = fields.uuid("after_receipt_id", request.after_receipt_id) if request.after_receipt_id else None
    fields.require()
    return limit, after


def read_list_places(request: messages.ListPlacesRequest) -> tuple[str, int, int]:
    """The log's origin, the first index and the one after the last."""
    fields = _Fields()
    origin = fields.text("origin", request.origin)
    start = fields.number("start", request.start, 0, _INT64)
    end = fields.number("end", request.end, start, min(start + MAX_PLACES, _INT64))
    fields.require()
    return origin, start, end


def read_reopen_record(request: messages.ReopenRecordRequest) -> tuple[UUID, str, str]:
    """The receipt ID, the origin of a log of ours, the name of one of others."""
    fields = _Fields()
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    log_origin = fields.text("log_origin", request.log_origin, least=0)
    external_log = fields.text("external_log", request.external_log, least=0)
    fields.require()
    return receipt_id, log_origin, external_log


def read_get_record(request: messages.GetRecordRequest) -> tuple[str, UUID]:
    """The tenant and the receipt ID."""
    fields = _Fields()
    tenant = fields.tenant("tenant", request.tenant)
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return tenant, receipt_id


def read_find_evidence(request: messages.FindEvidenceRequest) -> tuple[str, bytes, bytes]:
    """The tenant, the evidence hash, and the signature or nothing."""
    fields = _Fields()
    tenant = fields.tenant("tenant", request.tenant)
    evidence_hash = fields.digest("evidence_hash", request.evidence_hash)
    signature = fields.blob("signature", request.signature, MAX_SIGNATURE_BYTES, least=0)
    fields.require()
    return tenant, evidence_hash, signature


def read_search(request: messages.SearchRecordsRequest) -> tuple[Search, int, str]:
    """The query, the page size and the page token."""
    fields = _Fields()
    query = Search(
        tenant=fields.tenant("tenant", request.tenant),
        evidence_hash=fields.optional_digest("evidence_hash", request.evidence_hash),
        artifact_hash=fields.optional_digest("artifact_hash", request.artifact_hash),
        event_type=fields.optional_text("event_type", request.event_type),
        actor_id=fields.optional_text("actor_id", request.actor_id),
        key_id=fields.optional_text("key_id", request.key_id),
        start_time=fields.optional_moment("start_time", request.start_time),
        end_time=fields.optional_moment("end_time", request.end_time),
    )
    page_size = fields.number("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    fields.require()
    return query, page_size, request.page_token


def read_list_signed(request: messages.ListSignedRecordsRequest) -> tuple[Search, int, UUID | None]:
    """The query, how many, and after which record."""
    fields = _Fields()
    query = Search(
        tenant=fields.tenant("tenant", request.tenant),
        key_id=fields.text("key_id", request.key_id),
        start_time=fields.optional_moment("start_time", request.start_time),
    )
    page_size = fields.number("page_size", request.page_size, 1, MAX_SIGNED)
    after = fields.optional_uuid7("after", request.after)
    fields.require()
    return query, page_size, after


def read_claim_stamps(request: messages.ClaimStampsRequest) -> tuple[int, timedelta]:
    """How many, and for how long."""
    fields = _Fields()
    limit = fields.number("limit", request.limit, 1, MAX_CLAIMED)
    lease = fields.number("lease_ms", request.lease_ms, 1, _HOUR_MS)
    fields.require()
    return limit, timedelta(milliseconds=lease)


def read_keep_stamp(request: messages.KeepStampRequest) -> tuple[UUID, bytes]:
    """The receipt ID and the stamp."""
    fields = _Fields()
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    timestamp = fields.blob("timestamp", request.timestamp, MAX_EXTERNAL_TIMESTAMP_BYTES)
    fields.require()
    return receipt_id, timestamp


def read_postpone_stamps(request: messages.PostponeStampsRequest) -> tuple[list[UUID], timedelta]:
    """The receipt IDs, and for how long."""
    fields = _Fields()
    receipt_ids = [fields.uuid7(f"receipt_ids[{index}]", each) for index, each in enumerate(request.receipt_ids)]
    fields.number("receipt_ids", len(receipt_ids), 1, MAX_CLAIMED)
    wait = fields.number("wait_ms", request.wait_ms, 0, 24 * _HOUR_MS)
    fields.require()
    return receipt_ids, timedelta(milliseconds=wait)


def read_create_batch(request: messages.CreateBatchRequest) -> Batch:
    """The batch."""
    fields = _Fields()
    batch = Batch(
        batch_id=fields.uuid7("batch_id", request.batch_id),
        submitter=fields.principal("submitter", request.submitter),
        idempotency=fields.idempotency("idempotency", request.idempotency),
        item_count=fields.number("item_count", request.item_count, 1, _INT32),
        created_at=fields.moment("created_at", request.created_at),
        item_hashes=fields.digests("item_hashes", request.item_hashes, MAX_ITEMS),
    )
    fields.require()
    return batch


def read_finish_batch(request: messages.FinishBatchRequest) -> tuple[str, UUID, int, int]:
    """The tenant, the batch ID, and how many succeeded and failed."""
    fields = _Fields()
    tenant = fields.tenant("tenant", request.tenant)
    batch_id = fields.uuid7("batch_id", request.batch_id)
    succeeded = fields.number("succeeded", request.succeeded, 0, _INT32)
    failed = fields.number("failed", request.failed, 0, _INT32)
    fields.require()
    return tenant, batch_id, succeeded, failed


def read_get_workflow(request: messages.GetWorkflowRequest) -> tuple[str, WorkflowType, UUID]:
    """The tenant, the workflow's type and its ID."""
    fields = _Fields()
    tenant = fields.tenant("tenant", request.tenant)
    kind = fields.workflow_type("type", request.type)
    workflow_id = fields.uuid7("id", request.id)
    fields.require()
    return tenant, kind, workflow_id


def read_list_workflows(request: messages.ListWorkflowsRequest) -> tuple[WorkflowQuery, int, str]:
    """The query, the page size and the page token."""
    fields = _Fields()
    query = WorkflowQuery(
        tenant=fields.tenant("tenant", request.tenant),
        state=fields.optional_state("state", request.state),
        start_time=fields.optional_moment("start_time", request.start_time),
        end_time=fields.optional_moment("end_time", request.end_time),
    )
    page_size = fields.number("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    fields.require()
    return query, page_size, request.page_token


def read_get_trust_files(request: messages.GetTrustFilesRequest) -> int:
    """The revision that is known already."""
    fields = _Fields()
    known = fields.number("known_revision", request.known_revision, 0, _INT64)
    fields.require()
    return known


def read_get_trust_file(request: messages.GetTrustFileRequest) -> str:
    """The file's name."""
    fields = _Fields()
    name = fields.text("name", request.name)
    fields.require()
    return name


def read_put_trust_files(request: messages.PutTrustFilesRequest) -> Publication:
    """The publication."""
    fields = _Fields()
    files = tuple(
        TrustFile(
            fields.text(f"files[{index}].name", file.name),
            fields.blob(f"files[{index}].content", file.content, MAX_TRUST_FILE_BYTES),
        )
        for index, file in enumerate(request.files)
    )
    kept = tuple(fields.text(f"kept[{index}]", name) for index, name in enumerate(request.kept))
    base = fields.number("base_revision", request.base_revision, 0, _INT64)
    fields.names("files", [*(file.name for file in files), *kept], MAX_TRUST_FILES)
    fields.require()
    return Publication(base, files, kept)


def _require_count(field: str, items: Sequence[object]) -> None:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidArgument.field(field, f"must have 1 to {MAX_ITEMS:,} items")


class _Fields:
    """Reads the fields of one message and remembers what is wrong with them.

    Each method gives the value, or a harmless one where it is wrong; `require` or `error` tells at the end.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._wrong: list[FieldViolation] = []

    def error(self) -> InvalidArgument | None:
        """All that is wrong."""
        return InvalidArgument("the request is not valid", fields=self._wrong) if self._wrong else None

    def require(self) -> None:
        """Raise InvalidArgument if anything is wrong."""
        if error := self.error():
            raise error

    def _refuse(self, name: str, message: str) -> None:
        self._wrong.append(FieldViolation(self._path + name, message))

    def text(self, name: str, value: str, limit: int = MAX_NAME_BYTES, *, least: int = 1) -> str:
        if not value.isascii():
            return self._foreign_text(name, value, limit)
        if not least <= len(value) <= limit:
            self._refuse(name, f"must have {least} to {limit:,} bytes")
        elif "\0" in value:  # PostgreSQL has no such character
            self._refuse(name, "must not contain U+0000")
        return value

    def _foreign_text(self, name: str, value: str, limit: int) -> str:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            self._refuse(name, "must not contain lone surrogates")
            return ""
        if size > limit:
            self._refuse(name, f"must have at most {limit:,} bytes of UTF-8")
        elif "\0" in value:
            self._refuse(name, "must not contain U+0000")
        return value

    def optional_text(self, name: str, value: str) -> str | None:
        return self.text(name, value) if value else None

    def tenant(self, name: str, value: str) -> str:
        if not is_tenant(value):
            self._refuse(name, TENANT_RULE)
        return value

    def blob(self, name: str, value: bytes, limit: int, *, least: int = 1) -> bytes:
        if not least <= len(value) <= limit:
            self._refuse(name, f"must have {least} to {limit:,} bytes")
        return value

    def names(self, name: str, values: Sequence[str], limit: int) -> None:
        if not 1 <= len(values) <= limit:
            self._refuse(name, f"must be 1 to {limit:,}, with those that are kept")
        elif len(set(values)) != len(values):
            self._refuse(name, "must not have the same name twice, nor one that is kept")

    def digest(self, name: str, value: bytes) -> bytes:
        if len(value) != 32:
            self._refuse(name, "must have 32 bytes")
        return value

    def log_names(self, name: str, values: Sequence[str]) -> tuple[str, ...]:
        if len(values) > MAX_MORE_LOGS or len(set(values)) != len(values):
            self._refuse(name, f"must be at most {MAX_MORE_LOGS} names, each once")
        return tuple(self.text(f"{name}[{index}]", each) for index, each in enumerate(values))

    def position(self, name: str, value: messages.LogPosition | None) -> LogPosition:
        if value is None:
            self._refuse(name, "must be given")
            value = messages.LogPosition()
        within = self._within(name)
        return LogPosition(
            origin=within.text("origin", value.origin),
            log_index=within.number("log_index", value.log_index, 0, _INT64),
            tree_size=within.number("tree_size", value.tree_size, 1, _INT64),
            proof=within.digests("proof", value.proof, MAX_PROOF_HASHES),
            checkpoint=within.text("checkpoint", value.checkpoint, MAX_CHECKPOINT_BYTES),
            rekor1=within.rekor1("rekor1", value.rekor1),
        )

    def rekor1(self, name: str, value: messages.Rekor1Entry | None) -> Rekor1Entry | None:
        if value is None:
            return None
        within = self._within(name)
        return Rekor1Entry(
            body=within.blob("body", value.body, MAX_ENTRY_BYTES),
            log_index=within.number("log_index", value.log_index, 0, _INT64),
            integrated_time=within.number("integrated_time", value.integrated_time, 0, _INT64),
            promise=within.blob("promise", value.promise, MAX_SIGNATURE_BYTES),
        )

    def optional_digest(self, name: str, value: bytes) -> bytes | None:
        return self.digest(name, value) if value else None

    def digests(self, name: str, value: bytes, limit: int) -> bytes:
        if len(value) % 32 or len(value) > 32 * limit:
            self._refuse(name, f"must be at most {limit} hashes of 32 bytes, concatenated")
        return value

    def number(self, name: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            self._refuse(name, f"must be {least:,} to {most:,}")
        return value

    def uuid7(self, name: str, value: str) -> UUID:
        try:
            read = UUID(value) if len(value) == 36 else _NIL
        except ValueError:
            read = _NIL
        if read.version != 7:
            self._refuse(name, "must be a UUID of version 7 in its text form")
        return read

    def uuid(self, name: str, value: str) -> UUID:
        """Of any version: what is found in tables may be anything."""
        try:
            return UUID(value)
        except ValueError:
            self._refuse(name, "must be a UUID in its text form")
            return _NIL

    def optional_uuid7(self, name: str, value: str) -> UUID | None:
        return self.uuid7(name, value) if value else None

    def moment(self, name: str, value: datetime | None) -> datetime:
        if value is None:
            self._refuse(name, "must be given")
        elif value.tzinfo is None:
            self._refuse(name, "must have a time zone")
        else:
            return value
        return _EPOCH

    def optional_moment(self, name: str, value: datetime | None) -> datetime | None:
        return None if value is None else self.moment(name, value)

    def workflow_type(self, name: str, value: WorkflowType) -> WorkflowType:
        if value not in _TYPES:
            self._refuse(name, "must be one of the workflow types")
        return value

    def optional_state(self, name: str, value: WorkflowState) -> WorkflowState | None:
        if value == WorkflowState.UNSPECIFIED:
            return None
        if value not in _STATES:
            self._refuse(name, "must be one of the workflow states")
        return value

    def principal(self, name: str, value: messages.Principal | None) -> Principal:
        if value is None:
            self._refuse(name, "must be given")
            value = messages.Principal()
        within = self._within(name)
        read = Principal(
            tenant=within.tenant("tenant", value.tenant),
            issuer=within.text("issuer", value.issuer, least=0),
            subject=within.text("subject", value.subject),
            method=value.method,
        )
        if value.method not in _METHODS:
            within._refuse("method", f"must be one of {', '.join(_METHODS)}")
        return read

    def idempotency(self, name: str, value: messages.Idempotency | None) -> Idempotency | None:
        if value is None:
            return None
        within = self._within(name)
        if not _PRINTABLE.fullmatch(value.key):
            within._refuse("key", "must have 1 to 255 printable ASCII characters")
        return Idempotency(value.key, within.digest("fingerprint", value.fingerprint))

    def terms(self, name: str, value: messages.SearchTerms | None) -> SearchTerms:
        if value is None:
            self._refuse(name, "must be given")
            value = messages.SearchTerms(timestamp_utc=_EPOCH)
        within = self._within(name)
        if len(value.artifact_hashes) > MAX_ARTIFACTS:
            within._refuse("artifact_hashes", f"must have at most {MAX_ARTIFACTS:,} items")
        for index, artifact_hash in enumerate(value.artifact_hashes):
            if len(artifact_hash) != 32:
                within._refuse(f"artifact_hashes[{index}]", "must have 32 bytes")
        return SearchTerms(
            event_type=within.text("event_type", value.event_type),
            actor_type=within.text("actor_type", value.actor_type),
            actor_id=within.text("actor_id", value.actor_id),
            timestamp_utc=within.moment("timestamp_utc", value.timestamp_utc),
            artifact_hashes=tuple(value.artifact_hashes),
        )

    def _within(self, name: str) -> _Fields:
        within = _Fields(f"{self._path}{name}.")
        within._wrong = self._wrong
        return within


_TYPES = frozenset({WorkflowType.SIMPLE_SIGNING, WorkflowType.APPROVAL_SIGNING, WorkflowType.BATCH_SIGNING})
_STATES = frozenset(WorkflowState(number) for number in range(1, 8))

Fields = _Fields
