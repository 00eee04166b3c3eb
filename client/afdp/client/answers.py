"""From the JSON of an answer to values.

Strict about types and lenient about names: a member that this version does not know is passed over, so that a newer
notary can be talked to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from afdp.client.values import (
    AffectedReceipt,
    AuditRow,
    AuditSeal,
    Dependency,
    Erased,
    Erasure,
    ErasureDeferral,
    EvidenceRecord,
    EvidenceSummary,
    ExpiredRecords,
    Health,
    Hold,
    Identity,
    Key,
    KeyRevocation,
    Page,
    PartHealth,
    Permission,
    PlacedHold,
    Signed,
    SignedBatch,
    StatusPart,
    TrustVersions,
    Validation,
    Workflow,
    WorkflowSummary,
)
from afdp.errors import BY_CODE, FieldViolation, Internal, NotaryError, Unavailable
from afdp.formats.evidence import evidence_from_json
from afdp.formats.members import Members
from afdp.formats.receipt import FIELDS, Receipt

T = TypeVar("T")


def signed(answer: Members) -> Signed:
    """`SignEvidenceResponse`."""
    return Signed(
        workflow_id=answer.string("workflow_id", empty=True),
        status=answer.string("status"),
        receipt=_receipt(answer) if answer.has("receipt") else None,
        error=_item_error(answer.object("error")) if answer.has("error") else None,
    )


def signed_batch(answer: Members) -> SignedBatch:
    """`SignEvidenceBatchResponse`."""
    return SignedBatch(
        batch_workflow_id=answer.string("batch_workflow_id"),
        status=answer.string("status"),
        results=tuple(map(signed, answer.objects("results"))),
    )


def validation(answer: Members) -> Validation:
    """`ValidateEvidenceResponse`."""
    checks = answer.object("validation_result")
    return Validation(
        is_valid=answer.boolean("is_valid"),
        validation_error=answer.string("validation_error", empty=True),
        signature_valid=checks.boolean("signature_valid"),
        evidence_hash_valid=checks.boolean("evidence_hash_valid"),
        rekor_entry_valid=checks.boolean("rekor_entry_valid"),
        timestamp_valid=checks.boolean("timestamp_valid"),
        warnings=checks.strings("warnings"),
    )


def evidence_record(answer: Members) -> EvidenceRecord:
    """`GetEvidenceResponse`."""
    return EvidenceRecord(
        evidence_package=evidence_from_json(answer.take("evidence_package"), prefix="evidence_package."),
        receipt=_receipt(answer),
        receipt_count=answer.integer("receipt_count"),
    )


def receipt(answer: Members) -> Receipt:
    """`GetReceiptResponse`."""
    return _receipt(answer)


def workflow_receipt(answer: Members) -> Receipt | None:
    """`GetNotarizationReceiptResponse`."""
    return _receipt(answer) if answer.boolean("found") else None


def evidence_page(answer: Members) -> Page[EvidenceSummary]:
    """`SearchEvidenceResponse`."""
    return _page(answer, "evidence", _evidence_summary)


def workflow(answer: Members) -> Workflow:
    """`GetWorkflowStatusResponse`."""
    result = answer.take("result") if answer.has("result") else {}
    if not isinstance(result, dict):
        answer.refuse("result", "must be an object")
    return Workflow(
        workflow_id=answer.string("workflow_id"),
        status=answer.string("status"),
        created_at=answer.optional_time("created_at"),
        completed_at=answer.optional_time("completed_at"),
        error_message=answer.string("error_message", empty=True),
        result=result,
    )


def workflow_page(answer: Members) -> Page[WorkflowSummary]:
    """`ListWorkflowsResponse`."""
    return _page(answer, "workflows", _workflow_summary, total=answer.integer("total_count"))


def keys(answer: Members) -> tuple[Key, ...]:
    """`ListKeysResponse`."""
    return tuple(map(_key, answer.objects("keys")))


def key(answer: Members) -> Key:
    """`RotateKeyResponse` and `RevokeKeyResponse`."""
    return _key(answer.object("key"))


def affected_page(answer: Members) -> Page[AffectedReceipt]:
    """`ListAffectedReceiptsResponse`."""
    return _page(answer, "receipts", _affected_receipt)


def placed_hold(answer: Members) -> PlacedHold:
    """`PlaceHoldResponse`."""
    return PlacedHold(_hold(answer.object("hold")), answer.integer("records"))


def hold(answer: Members) -> Hold:
    """`ReleaseHoldResponse`."""
    return _hold(answer.object("hold"))


def holds_page(answer: Members) -> Page[Hold]:
    """`ListHoldsResponse`."""
    return Page(tuple(map(_hold, answer.objects("holds"))), answer.string("next_page_token", empty=True), None)


def erasure(answer: Members) -> Erasure:
    """`EraseSubjectResponse` and `GetErasureResponse`."""
    return _erasure(answer.object("erasure"))


def erasures_page(answer: Members) -> Page[Erasure]:
    """`ListErasuresResponse`."""
    return Page(tuple(map(_erasure, answer.objects("erasures"))), answer.string("next_page_token", empty=True), None)


def expired_records(answer: Members) -> tuple[ExpiredRecords, ...]:
    """`RunRetentionResponse`."""
    return tuple(
        ExpiredRecords(
            item.string("month"),
            item.string("tenant"),
            item.integer("records"),
            item.integer("kept"),
            item.integer("held"),
            item.string("certificate", empty=True),
        )
        for item in answer.objects("expired")
    )


def audit_page(answer: Members) -> Page[str]:
    """`ListAuditEventsResponse`."""
    return Page(tuple(answer.strings("events")), answer.string("next_page_token", empty=True), None)


def audit_rows(answer: Members) -> tuple[AuditRow, ...]:
    """`ExportAuditRowsResponse`."""
    return tuple(map(_audit_row, answer.objects("rows")))


def audit_seals(answer: Members) -> tuple[AuditSeal, ...]:
    """`ExportAuditSealsResponse`."""
    return tuple(map(_audit_seal, answer.objects("seals")))


def trust_files(answer: Members) -> dict[str, str]:
    """`GetTrustRootResponse`: text by relative path."""
    return {file.string("name"): file.string("content", empty=True) for file in answer.objects("files")}


def pending_trust_files(answer: Members) -> dict[str, str]:
    """`GetTrustRootResponse`: with what was not signed offline yet."""
    pending = answer.objects("pending") if answer.has("pending") else []
    return {file.string("name"): file.string("content", empty=True) for file in pending} or trust_files(answer)


def csv(answer: Members) -> bytes:
    """`ExportAffectedReceiptsResponse`."""
    return _bytes(answer, "csv")


def lines(answer: Members) -> bytes:
    """`ExportEvidenceResponse`."""
    return _bytes(answer, "ndjson") or _bytes(answer, "csv")


def timestamp(answer: Members) -> bytes:
    """`CreateTimestampResponse`."""
    return _bytes(answer, "timestamp_response")


def status(answer: Members) -> tuple[StatusPart, ...]:
    """`GetStatusResponse`."""
    return tuple(map(_status_part, answer.objects("parts")))


def identity(answer: Members) -> Identity:
    """`WhoAmIResponse`."""
    scopes = answer.strings("scopes") if answer.has("scopes") else ()
    return Identity(
        tenant=answer.string("tenant"),
        issuer=answer.string("issuer", empty=True),
        subject=answer.string("subject", empty=True),
        method=answer.string("method"),
        roles=answer.strings("roles") if answer.has("roles") else (),
        scopes=scopes if answer.boolean("has_scopes") else None,
        permissions=tuple(map(_permission, answer.objects("permissions"))),
        policy_hash=answer.string("policy_hash", empty=True),
        expires_at=answer.optional_time("expires_at"),
    )


def trust_versions(answer: Members) -> TrustVersions:
    """`PublishTrustResponse`."""
    return TrustVersions(*(answer.integer(f"{role}_version") for role in ("root", "targets", "timestamp")))


def health(answer: Members, *, writes: bool = False) -> Health:
    """`HealthResponse`; what cannot do what was asked about is an error, as it is over REST."""
    health = Health(
        status=answer.string("status"),
        version=answer.string("version", empty=True),
        uptime_seconds=answer.integer("uptime_seconds"),
        dependencies=tuple(map(_dependency, answer.objects("dependencies"))),
        parts=tuple(map(_part, answer.objects("parts"))) if answer.has("parts") else (),
    )
    if health.status == "healthy" or (health.status == "degraded" and not writes):
        return health
    away = [f"{each.name}: {each.error or 'not healthy'}" for each in health.dependencies if not each.healthy]
    raise Unavailable("; ".join([f"the service is {health.status}", *away]))


# --- parts ------------------------------------------------------------------------------------------------------------


def _permission(item: Members) -> Permission:
    policies = item.strings("policies") if item.has("policies") else ()
    return Permission(item.string("name"), item.boolean("allowed"), policies)


def _bytes(answer: Members, name: str) -> bytes:
    value = answer.take(name) if answer.has(name) else b""
    if not isinstance(value, bytes):
        answer.refuse(name, "must be bytes")
    return value


def _hex(answer: Members, name: str) -> bytes:
    try:
        return bytes.fromhex(answer.string(name, empty=True))
    except ValueError:
        answer.refuse(name, "must be hex digits")


def _receipt(answer: Members, name: str = "receipt") -> Receipt:
    value = answer.take(name)
    if isinstance(value, dict):
        value = {name: member for name, member in value.items() if name in FIELDS}
    return Receipt.from_object(value, path=answer.path(name))


def _item_error(item: Members) -> NotaryError:
    kind = BY_CODE.get(item.string("code"), Internal)
    fields = [FieldViolation(each.string("field"), each.string("message")) for each in item.objects("errors")]
    retry_after = item.take("retry_after") if item.has("retry_after") else None
    seconds = float(retry_after) if isinstance(retry_after, (int, float)) and retry_after > 0 else None
    return kind(item.string("detail", empty=True), fields=fields, retry_after=seconds)


def _page(answer: Members, name: str, read: Callable[[Members], T], *, total: int | None = None) -> Page[T]:
    items = tuple(map(read, answer.objects(name)))
    return Page(items, answer.string("next_page_token", empty=True), total)


def _evidence_summary(item: Members) -> EvidenceSummary:
    return EvidenceSummary(
        evidence_package_hash=item.sha256_hex("evidence_package_hash", empty=True),
        receipt_id=item.string("receipt_id"),
        workflow_id=item.string("workflow_id"),
        event_type=item.string("event_type"),
        actor_id=item.string("actor_id", empty=True),
        timestamp_utc=item.optional_time("timestamp_utc"),
        notarized_at=item.optional_time("notarized_at"),
        state=item.string("state"),
        actor_type=item.string("actor_type", empty=True) if item.has("actor_type") else "",
        key_id=item.string("key_id", empty=True) if item.has("key_id") else "",
        log_index=item.integer("log_index") if item.has("log_index") else 0,
        log_origin=item.string("log_origin", empty=True) if item.has("log_origin") else "",
        erased=_erased(item.object("erased")) if item.has("erased") else None,
    )


def _erased(item: Members) -> Erased:
    return Erased(item.optional_time("erased_at"), item.string("certificate", empty=True))


def _workflow_summary(item: Members) -> WorkflowSummary:
    return WorkflowSummary(
        workflow_id=item.string("workflow_id"),
        workflow_type=item.string("workflow_type"),
        status=item.string("status"),
        created_at=item.optional_time("created_at"),
        completed_at=item.optional_time("completed_at"),
        event_type=item.string("event_type", empty=True),
        actor_id=item.string("actor_id", empty=True),
    )


def _key(item: Members) -> Key:
    return Key(
        key_id=item.string("key_id"),
        purpose=item.string("purpose"),
        algorithm=item.string("algorithm"),
        hint=item.string("hint", empty=True),
        public_key_pem=item.string("public_key_pem"),
        valid_from=item.optional_time("valid_from"),
        valid_until=item.optional_time("valid_until"),
        tenants=item.strings("tenants"),
        revoked=_revocation(item.object("revoked")) if item.has("revoked") else None,
        current=item.boolean("current"),
    )


def _revocation(item: Members) -> KeyRevocation:
    return KeyRevocation(
        at=item.optional_time("at"),
        compromised_since=item.optional_time("compromised_since"),
        reason=item.string("reason", empty=True),
    )


def _hold(item: Members) -> Hold:
    return Hold(
        hold_id=item.string("hold_id"),
        case_number=item.string("case_number"),
        reason=item.string("reason"),
        artifact_hash=item.string("artifact_hash", empty=True),
        actor_id=item.string("actor_id", empty=True),
        event_type=item.string("event_type", empty=True),
        subject=item.string("subject", empty=True),
        start_time=item.optional_time("start_time"),
        end_time=item.optional_time("end_time"),
        placed_by=item.string("placed_by", empty=True),
        placed_at=item.optional_time("placed_at"),
        released_by=item.string("released_by", empty=True),
        release_reason=item.string("release_reason", empty=True),
        released_at=item.optional_time("released_at"),
    )


def _erasure(item: Members) -> Erasure:
    deferral = item.object("deferral") if item.has("deferral") else None
    return Erasure(
        erasure_id=item.string("erasure_id"),
        state=item.string("state"),
        reason=item.string("reason"),
        requested_by=item.string("requested_by", empty=True),
        requested_at=item.optional_time("requested_at"),
        deferral=None
        if deferral is None
        else ErasureDeferral(
            classes=tuple(deferral.strings("classes")),
            until=deferral.optional_time("until"),
            for_ever=deferral.boolean("for_ever"),
            held=deferral.boolean("held"),
            cases=tuple(deferral.strings("cases")),
            unfinished=deferral.integer("unfinished"),
        ),
        erased_at=item.optional_time("erased_at"),
        records=item.integer("records"),
        certificate=item.string("certificate", empty=True),
    )


def _affected_receipt(item: Members) -> AffectedReceipt:
    return AffectedReceipt(
        receipt_id=item.string("receipt_id"),
        evidence_package_hash=item.sha256_hex("evidence_package_hash", empty=True),
        notarized_at=item.optional_time("notarized_at"),
        log_index=item.integer("log_index"),
    )


def _audit_row(item: Members) -> AuditRow:
    return AuditRow(
        sequence=item.integer("sequence"),
        recorded_at=item.integer("recorded_at"),
        row=item.string("row"),
        seal=item.integer("seal"),
        leaf_index=item.integer("leaf_index"),
        proof=_hex(item, "proof"),
    )


def _audit_seal(item: Members) -> AuditSeal:
    anchor = _receipt(item, "anchor") if item.has("anchor") else None
    return AuditSeal(item.integer("number"), item.string("body"), anchor)


def _dependency(item: Members) -> Dependency:
    return Dependency(
        name=item.string("name"),
        healthy=item.boolean("healthy"),
        response_time_ms=item.integer("response_time_ms"),
        error=item.string("error", empty=True),
    )


def _part(item: Members) -> PartHealth:
    return PartHealth(item.string("name"), item.boolean("good"), item.string("detail", empty=True))


def _status_part(item: Members) -> StatusPart:
    return StatusPart(
        service=item.string("service"),
        name=item.string("name"),
        good=item.boolean("good"),
        detail=item.string("detail", empty=True),
        remedy=item.string("remedy", empty=True),
    )
