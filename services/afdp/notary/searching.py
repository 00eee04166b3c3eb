"""Searches as the public API has them, in the words of the metadata service; and what it found, back."""

from __future__ import annotations

from afdp.messages import metadata as store
from afdp.messages import notary as pb
from afdp.notary.exporting import Lines
from afdp.notary.ids import PREFIXES, SIMPLE_SIGNING, parse_hash
from afdp.notary.service import Page


def wanted_records(
    request: pb.SearchEvidenceRequest | pb.ExportEvidenceRequest, page: Page | None = None
) -> store.SearchRecordsRequest:
    """What is looked for; whose it must be, the caller's tenant says.

    Raises:
        InvalidArgument: a hash is none.
    """
    return store.SearchRecordsRequest(
        page_size=page.size if page is not None else 0,
        page_token=page.token if page is not None else "",
        evidence_hash=_optional_hash("evidence_package_hash", request.evidence_package_hash),
        artifact_hash=_optional_hash("artifact_hash", request.artifact_hash),
        event_type=request.event_type,
        actor_type=request.actor_type,
        actor_id=request.actor_id,
        submitter=request.submitter,
        key_id=request.key_id,
        log_index=request.log_index,
        log_origin=request.log_origin,
        metadata=request.metadata,
        start_time=request.start_time,
        end_time=request.end_time,
        oldest_first=request.oldest_first,
    )


def summary_of(record: store.RecordSummary) -> pb.EvidenceSummary:
    """What a list shows of a record."""
    terms = record.terms if record.terms is not None else store.SearchTerms()
    logged = record.state == store.RecordState.LOGGED
    return pb.EvidenceSummary(
        evidence_package_hash=record.evidence_hash.hex(),
        receipt_id=record.receipt_id,
        workflow_id=PREFIXES.get(record.workflow_type, SIMPLE_SIGNING) + record.receipt_id,
        event_type=terms.event_type,
        actor_type=terms.actor_type,
        actor_id=terms.actor_id,
        timestamp_utc=terms.timestamp_utc,
        notarized_at=record.notarized_at,
        state=pb.ReceiptState.LOGGED if logged else pb.ReceiptState.SIGNED,
        key_id=record.key_id,
        log_index=record.log_index,
        log_origin=record.log_origin,
        erased=None if record.erased is None else pb.Erased(record.erased.at, record.erased.certificate),
    )


def exported(lines: Lines, form: pb.ExportFormat) -> pb.ExportEvidenceResponse:
    """Lines in the field of what they are."""
    if form == pb.ExportFormat.CSV:
        return pb.ExportEvidenceResponse(csv=lines.data, last_receipt_id=lines.last_receipt_id)
    return pb.ExportEvidenceResponse(ndjson=lines.data, last_receipt_id=lines.last_receipt_id)


def _optional_hash(field: str, text: str) -> bytes:
    return parse_hash(field, text) if text else b""
