"""Writes answers: from values to messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from afdp.errors import FailedPrecondition, NotaryError
from afdp.items import to_item
from afdp.messages import metadata as messages
from afdp.messages.metadata import RecordState
from afdp.metadata.sinks.ledger import SinkState
from afdp.metadata.values import (
    Erased,
    Kept,
    LogPosition,
    Outcome,
    Place,
    Prepared,
    Queued,
    QueueLength,
    Record,
    Rekor1Entry,
    Seal,
    SearchTerms,
    SignedRecord,
    Stray,
    Summary,
    TrustFile,
    UnstampedSignature,
    Usage,
    WholePage,
    Workflow,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_prepare_result(outcome: Outcome) -> messages.PrepareResult:
    """What became of one draft."""
    if isinstance(outcome, Prepared):
        return messages.PrepareResult(prepared=messages.Prepared())
    if isinstance(outcome, Record):
        return messages.PrepareResult(existing=to_record(outcome))
    return messages.PrepareResult(error=to_item(outcome))


def to_complete_result(outcome: LogPosition | NotaryError) -> messages.CompleteResult:
    """What became of one completion."""
    if isinstance(outcome, NotaryError):
        return messages.CompleteResult(error=to_item(outcome))
    return messages.CompleteResult(log=_to_position(outcome))


def to_record(record: Record) -> messages.Record:
    """A record, whole."""
    _require_opened(record.draft.seal)
    draft, submitter = record.draft, record.draft.submitter
    return messages.Record(
        draft=messages.Draft(
            receipt_id=str(draft.receipt_id),
            submitter=messages.Principal(
                tenant=submitter.tenant, issuer=submitter.issuer, subject=submitter.subject, method=submitter.method
            ),
            workflow_type=draft.workflow_type,
            batch_id=str(draft.batch_id or ""),
            evidence=draft.evidence,
            evidence_hash=draft.evidence_hash,
            terms=_to_terms(draft.terms),
            statement=draft.statement,
            signature=draft.signature,
            key_id=draft.key_id,
            leaf_hash=draft.leaf_hash,
            notarized_at=draft.notarized_at,
            timestamp=draft.timestamp,
            external_log=draft.external_log,
            log_origin=draft.log_origin,
            retention_class=draft.retention_class,
        ),
        state=RecordState.PENDING if record.log is None else RecordState.LOGGED,
        log=None if record.log is None else _to_position(record.log),
        logged_at=record.logged_at,
        external_timestamp=record.external_timestamp,
        more=[_to_position(each) for each in record.more],
        erased=_to_erased(record.erased),
    )


def to_kept(kept: Kept) -> messages.KeptRecord:
    """A record, whole or not."""
    return messages.KeptRecord(
        receipt_id=str(kept.receipt_id),
        has_head=kept.has_head,
        has_content=kept.has_content,
        waits=kept.waits,
        evidence_fits=kept.evidence_fits,
        record=None if kept.record is None else to_record(kept.record),
        faults=list(kept.faults),
    )


def to_strays(strays: Sequence[Stray], after: Sequence[str]) -> messages.ListStraysResponse:
    """Rows that contradict records, and where their page ends."""
    return messages.ListStraysResponse([messages.Stray(each.subject, each.why) for each in strays], list(after))


def to_places(places: Sequence[Place]) -> messages.ListPlacesResponse:
    """Places, in columns."""
    held = [place for place in places if not place.expired]
    gone = [place for place in places if place.expired]
    return messages.ListPlacesResponse(
        log_indexes=[place.log_index for place in held],
        receipt_ids=b"".join(place.receipt_id.bytes for place in held),
        leaf_hashes=b"".join(place.leaf_hash or bytes(32) for place in held),
        expired_indexes=[place.log_index for place in gone],
        expired_leaf_hashes=b"".join(place.leaf_hash or bytes(32) for place in gone),
    )


def to_unstamped(signature: UnstampedSignature) -> messages.UnstampedSignature:
    """A signature that waits for a stamp."""
    _require_opened(signature.seal)
    return messages.UnstampedSignature(
        receipt_id=str(signature.receipt_id),
        statement=signature.statement,
        signature=signature.signature,
        key_id=signature.key_id,
        attempts=signature.attempts,
    )


def to_queued(queued: Queued) -> messages.QueuedRecord:
    """What a log of others needs of a record."""
    _require_opened(queued.seal)
    return messages.QueuedRecord(
        str(queued.receipt_id), queued.statement, queued.signature, queued.key_id, queued.attempts
    )


def to_queue(queue: QueueLength) -> messages.LogQueue:
    """How long a queue is."""
    return messages.LogQueue(queue.log, queue.length, queue.oldest)


def to_summary(summary: Summary) -> messages.RecordSummary:
    """What a list shows of a record."""
    _require_opened(summary.seal)
    return messages.RecordSummary(
        receipt_id=str(summary.receipt_id),
        evidence_hash=summary.evidence_hash,
        terms=_to_terms(summary.terms),
        key_id=summary.key_id,
        notarized_at=summary.notarized_at,
        state=RecordState.PENDING if summary.log_index is None else RecordState.LOGGED,
        log_index=summary.log_index or 0,
        log_origin=summary.log_origin,
        workflow_type=summary.workflow_type,
        erased=_to_erased(summary.erased),
    )


def to_whole(page: WholePage) -> messages.ReadRecordsResponse:
    """A page of whole records."""
    return messages.ReadRecordsResponse(
        records=[to_record(record) for record in page.records],
        next_after=str(page.ended.id) if page.ended else "",
        next_after_notarized_at=page.ended.time if page.ended else None,
    )


def to_usage(usage: Mapping[str, Usage]) -> list[messages.TenantUsage]:
    """What tenants have had written on a day."""
    return [messages.TenantUsage(tenant, each.day, each.records, each.bytes) for tenant, each in usage.items()]


def to_columns(records: Sequence[SignedRecord]) -> messages.ListSignedRecordsResponse:
    """Many records of a key version, in columns."""
    for record in records:
        _require_opened(record.seal)
    return messages.ListSignedRecordsResponse(
        receipt_ids=b"".join([record.receipt_id.bytes for record in records]),
        evidence_hashes=b"".join([record.evidence_hash for record in records]),
        notarized_at=[(record.notarized_at - _EPOCH) // _MICROSECOND for record in records],
        log_indexes=[-1 if record.log_index is None else record.log_index for record in records],
    )


def to_workflow(workflow: Workflow) -> messages.Workflow:
    """A workflow as lists show it."""
    _require_opened(workflow.seal)
    return messages.Workflow(
        type=workflow.type,
        id=str(workflow.id),
        state=workflow.state,
        created_at=workflow.created_at,
        completed_at=workflow.completed_at,
        error=workflow.error,
        event_type=workflow.event_type,
        actor_id=workflow.actor_id,
        item_count=workflow.item_count,
        succeeded=workflow.succeeded,
        failed=workflow.failed,
    )


def _require_opened(seal: Seal | None) -> None:
    """What is sealed never goes out as if it were plain."""
    if seal is not None:
        raise FailedPrecondition("a record is sealed, and AFDP_ENCRYPTION of the metadata service is off")


def _to_erased(erased: Erased | None) -> messages.Erased | None:
    return None if erased is None else messages.Erased(erased.at, str(erased.certificate or ""))


def _to_terms(terms: SearchTerms) -> messages.SearchTerms:
    return messages.SearchTerms(
        event_type=terms.event_type,
        actor_type=terms.actor_type,
        actor_id=terms.actor_id,
        timestamp_utc=terms.timestamp_utc,
        artifact_hashes=list(terms.artifact_hashes),
    )


def _to_position(position: LogPosition) -> messages.LogPosition:
    return messages.LogPosition(
        origin=position.origin,
        log_index=position.log_index,
        tree_size=position.tree_size,
        proof=position.proof,
        checkpoint=position.checkpoint,
        rekor1=None if position.rekor1 is None else _to_rekor1(position.rekor1),
    )


def _to_rekor1(entry: Rekor1Entry) -> messages.Rekor1Entry:
    return messages.Rekor1Entry(entry.body, entry.log_index, entry.integrated_time, entry.promise)


def to_trust_file(file: TrustFile) -> messages.TrustFile:
    """One file of the trust root."""
    return messages.TrustFile(file.name, file.content)


def to_sink(state: SinkState) -> messages.AuditSink:
    """How a sink of the audit trail stands."""
    return messages.AuditSink(state.name, state.waiting, state.oldest, state.trouble, state.since)
