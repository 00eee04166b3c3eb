"""Reads requests: from messages to values, every field checked, every fault named by its path in the proto."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

from afdp.errors import InvalidArgument
from afdp.messages import metadata as messages
from afdp.messages.metadata import WorkflowType
from afdp.metadata.fields import MAX_CHECKPOINT_BYTES, MAX_PROOF_HASHES, MAX_SIGNATURE_BYTES, MOST, Fields
from afdp.metadata.values import (
    Asked,
    Batch,
    Checkpoint,
    Completion,
    Draft,
    Publication,
    QueuedCompletion,
    TrustFile,
    WorkflowQuery,
)

MAX_ITEMS = 1024  # drafts, completions, pending records
MAX_PAGE_SIZE = 1000
MAX_SIGNED = 10_000  # records in columns
MAX_EVIDENCE_BYTES = 512 * 1024
MAX_STATEMENT_BYTES = 1024 * 1024
MAX_TIMESTAMP_BYTES = 16 * 1024
MAX_EXTERNAL_TIMESTAMP_BYTES = 128 * 1024  # such an authority may send every certificate it has
MAX_CLAIMED = 16
MAX_PLACES = 4096
MAX_TRUST_FILES = 20_000
MAX_TRUST_FILE_BYTES = 4 * 1024 * 1024

_HOUR_MS = 3_600_000
_INT32 = 2**31 - 1


def read_prepare(request: messages.PrepareRequest) -> list[Draft | InvalidArgument]:
    """The drafts; one that is wrong is an error in its place.

    Raises:
        InvalidArgument: there are none, or too many.
    """
    _require_count("drafts", request.drafts)
    return [_read_draft(draft, f"drafts[{index}].") for index, draft in enumerate(request.drafts)]


def _read_draft(draft: messages.Draft, path: str) -> Draft | InvalidArgument:
    fields = Fields(path)
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
        retention_class=fields.text("retention_class", draft.retention_class, least=0),
    )
    return fields.error() or read


def read_complete(request: messages.CompleteRequest) -> tuple[Checkpoint, list[Completion | InvalidArgument]]:
    """The checkpoint, and the completions; one that is wrong is an error in its place.

    Raises:
        InvalidArgument: the checkpoint's fields are wrong, or there are no completions, or too many.
    """
    _require_count("completions", request.completions)
    fields = Fields()
    checkpoint = Checkpoint(
        origin=fields.text("origin", request.origin),
        tree_size=fields.number("tree_size", request.tree_size, 1, MOST),
        note=fields.text("checkpoint", request.checkpoint, MAX_CHECKPOINT_BYTES),
    )
    fields.require()
    items = enumerate(request.completions)
    return checkpoint, [_read_completion(completion, f"completions[{index}].") for index, completion in items]


def _read_completion(completion: messages.Completion, path: str) -> Completion | InvalidArgument:
    fields = Fields(path)
    read = Completion(
        receipt_id=fields.uuid7("receipt_id", completion.receipt_id),
        log_index=fields.number("log_index", completion.log_index, 0, MOST),
        proof=fields.digests("proof", completion.proof, MAX_PROOF_HASHES),
    )
    return fields.error() or read


def read_lease_queued(request: messages.LeaseQueuedRequest) -> tuple[str, int, timedelta]:
    """The log's name, how many records, and for how long."""
    fields = Fields()
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
    fields = Fields()
    log = fields.text("log", request.log)
    fields.require()
    return log, [_read_queued(each, f"completions[{index}].") for index, each in enumerate(request.completions)]


def _read_queued(completion: messages.QueuedCompletion, path: str) -> QueuedCompletion | InvalidArgument:
    fields = Fields(path)
    read = QueuedCompletion(
        receipt_id=fields.uuid7("receipt_id", completion.receipt_id),
        position=fields.position("position", completion.position),
    )
    return fields.error() or read


def read_defer_queued(request: messages.DeferQueuedRequest) -> tuple[str, dict[UUID, timedelta]]:
    """The log's name, and for how long each record waits."""
    _require_count("deferrals", request.deferrals)
    fields = Fields()
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
    fields = Fields()
    limit = fields.number("page_size", request.page_size, 1, MAX_ITEMS)
    after = fields.optional_uuid7("after_receipt_id", request.after_receipt_id)
    before = fields.optional_moment("before", request.before)
    fields.require()
    return limit, after, before


def read_list_kept(request: messages.ListKeptRequest) -> tuple[int, UUID | None]:
    """How many, and after which."""
    fields = Fields()
    limit = fields.number("page_size", request.page_size, 1, MAX_ITEMS)
    after = fields.uuid("after_receipt_id", request.after_receipt_id) if request.after_receipt_id else None
    fields.require()
    return limit, after


def read_list_places(request: messages.ListPlacesRequest) -> tuple[str, int, int]:
    """The log's origin, the first index and the one after the last."""
    fields = Fields()
    origin = fields.text("origin", request.origin)
    start = fields.number("start", request.start, 0, MOST)
    end = fields.number("end", request.end, start, min(start + MAX_PLACES, MOST))
    fields.require()
    return origin, start, end


def read_list_strays(request: messages.ListStraysRequest) -> tuple[str, list[str], int]:
    """The table, where the page before ended, and how many rows to look at."""
    fields = Fields()
    table = fields.text("table", request.table)
    after = [fields.text(f"after[{index}]", each) for index, each in enumerate(request.after)]
    limit = fields.number("page_size", request.page_size, 1, MAX_PLACES)
    fields.require()
    return table, after, limit


def read_reopen_record(request: messages.ReopenRecordRequest) -> tuple[UUID, str, str]:
    """The receipt ID, the origin of a log of ours, the name of one of others."""
    fields = Fields()
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    log_origin = fields.text("log_origin", request.log_origin, least=0)
    external_log = fields.text("external_log", request.external_log, least=0)
    fields.require()
    return receipt_id, log_origin, external_log


def read_get_record(request: messages.GetRecordRequest) -> tuple[str, UUID]:
    """The tenant and the receipt ID."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return tenant, receipt_id


def read_find_evidence(request: messages.FindEvidenceRequest) -> tuple[str, bytes, bytes]:
    """The tenant, the evidence hash, and the signature or nothing."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    evidence_hash = fields.digest("evidence_hash", request.evidence_hash)
    signature = fields.blob("signature", request.signature, MAX_SIGNATURE_BYTES, least=0)
    fields.require()
    return tenant, evidence_hash, signature


def read_find_answer(request: messages.FindAnswerRequest) -> Asked:
    """What may have been asked for before."""
    fields = Fields()
    evidence = fields.blob("evidence", request.evidence, MAX_EVIDENCE_BYTES)
    asked = Asked(
        submitter=fields.principal("submitter", request.submitter),
        idempotency=fields.idempotency("idempotency", request.idempotency),
        evidence=evidence,
        evidence_hash=sha256(evidence).digest(),
        dedupe=request.dedupe,
    )
    fields.require()
    return asked


def read_claim_stamps(request: messages.ClaimStampsRequest) -> tuple[int, timedelta]:
    """How many, and for how long."""
    fields = Fields()
    limit = fields.number("limit", request.limit, 1, MAX_CLAIMED)
    lease = fields.number("lease_ms", request.lease_ms, 1, _HOUR_MS)
    fields.require()
    return limit, timedelta(milliseconds=lease)


def read_keep_stamp(request: messages.KeepStampRequest) -> tuple[UUID, bytes]:
    """The receipt ID and the stamp."""
    fields = Fields()
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    timestamp = fields.blob("timestamp", request.timestamp, MAX_EXTERNAL_TIMESTAMP_BYTES)
    fields.require()
    return receipt_id, timestamp


def read_postpone_stamps(request: messages.PostponeStampsRequest) -> tuple[list[UUID], timedelta]:
    """The receipt IDs, and for how long."""
    fields = Fields()
    receipt_ids = [fields.uuid7(f"receipt_ids[{index}]", each) for index, each in enumerate(request.receipt_ids)]
    fields.number("receipt_ids", len(receipt_ids), 1, MAX_CLAIMED)
    wait = fields.number("wait_ms", request.wait_ms, 0, 24 * _HOUR_MS)
    fields.require()
    return receipt_ids, timedelta(milliseconds=wait)


def read_create_batch(request: messages.CreateBatchRequest) -> Batch:
    """The batch."""
    fields = Fields()
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
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    batch_id = fields.uuid7("batch_id", request.batch_id)
    succeeded = fields.number("succeeded", request.succeeded, 0, _INT32)
    failed = fields.number("failed", request.failed, 0, _INT32)
    fields.require()
    return tenant, batch_id, succeeded, failed


def read_get_workflow(request: messages.GetWorkflowRequest) -> tuple[str, WorkflowType, UUID]:
    """The tenant, the workflow's type and its ID."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    kind = fields.workflow_type("type", request.type)
    workflow_id = fields.uuid7("id", request.id)
    fields.require()
    return tenant, kind, workflow_id


def read_list_workflows(request: messages.ListWorkflowsRequest) -> tuple[WorkflowQuery, int, str]:
    """The query, the page size and the page token."""
    fields = Fields()
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
    fields = Fields()
    known = fields.number("known_revision", request.known_revision, 0, MOST)
    fields.require()
    return known


def read_get_trust_file(request: messages.GetTrustFileRequest) -> str:
    """The file's name."""
    fields = Fields()
    name = fields.text("name", request.name)
    fields.require()
    return name


def read_put_trust_files(request: messages.PutTrustFilesRequest) -> Publication:
    """The publication."""
    fields = Fields()
    files = tuple(
        TrustFile(
            fields.text(f"files[{index}].name", file.name),
            fields.blob(f"files[{index}].content", file.content, MAX_TRUST_FILE_BYTES),
        )
        for index, file in enumerate(request.files)
    )
    kept = tuple(fields.text(f"kept[{index}]", name) for index, name in enumerate(request.kept))
    base = fields.number("base_revision", request.base_revision, 0, MOST)
    fields.names("files", [*(file.name for file in files), *kept], MAX_TRUST_FILES)
    fields.require()
    return Publication(base, files, kept)


def _require_count(field: str, items: Sequence[object]) -> None:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidArgument.field(field, f"must have 1 to {MAX_ITEMS:,} items")
