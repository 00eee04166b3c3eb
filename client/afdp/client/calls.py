"""Every call of the notary's API, described once: what is asked, how the answer is read, whether it may be sent twice.

A call is a value. What carries it, REST or gRPC, blocking or not, is a transport's business.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Generic, Literal, TypedDict, TypeVar, Unpack

import orjson

from afdp.client import answers
from afdp.client.errors import UnexpectedAnswer
from afdp.client.values import (
    AffectedReceipt,
    AuditRow,
    AuditSeal,
    Erasure,
    EvidencePackage,
    EvidenceRecord,
    EvidenceSummary,
    ExpiredRecords,
    Health,
    Hold,
    Identity,
    Key,
    Page,
    PlacedHold,
    Receipt,
    Signed,
    SignedBatch,
    State,
    StatusPart,
    TrustVersions,
    Validation,
    Workflow,
    WorkflowSummary,
)
from afdp.errors import InvalidArgument, NotaryError
from afdp.formats.evidence import canonical_evidence
from afdp.formats.members import Members
from afdp.formats.timestamps import format_timestamp

T = TypeVar("T")

Evidence = EvidencePackage | Mapping[str, object]
"""An evidence package, as a value or as the JSON object that the REST API takes."""


@dataclass(frozen=True, slots=True)
class Raw:
    """How a call travels over HTTP whose body and answer are bytes of their own media types instead of JSON.

    Attributes:
        field, media_type: of the request.
        answer_field, answer_media_type: of the answer.
    """

    field: str
    media_type: str
    answer_field: str
    answer_media_type: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        rpc: the method of `afdp.notary.v1.NotaryService`.
        verb, path: its REST form; `{name}` in the path is a field of the request.
        fields: the request message as JSON, empty fields left out.
        read: from the answer's JSON to the value.
        repeatable: whether it may be sent again where the first answer got lost.
        raw: where body and answer are no JSON.
    """

    rpc: str
    verb: str
    path: str
    fields: Mapping[str, object]
    read: Callable[[Members], T]
    repeatable: bool = True
    raw: Raw | None = None


class Filters(TypedDict, total=False):
    """What evidence is looked for; all that is given must match.

    Attributes:
        evidence_package_hash, artifact_hash: SHA-256, 64 hex digits.
        submitter: the subject of who submitted it.
        key_id: `name:version` of the key that signed it.
        log_index, log_origin: where it is in a log.
        metadata: what its metadata says in places that are searchable there, by their dotted paths.
        start_time, end_time: notarised from the one on and before the other.
        oldest_first: the order; else the newest comes first.
    """

    evidence_package_hash: str
    artifact_hash: str
    event_type: str
    actor_type: str
    actor_id: str
    submitter: str
    key_id: str
    log_index: int | None
    log_origin: str
    metadata: Mapping[str, str]
    start_time: datetime | None
    end_time: datetime | None
    oldest_first: bool


def sign(
    evidence_package: Evidence,
    *,
    wait_for: State | None = None,
    idempotency_key: str | None = None,
    dedupe: bool = False,
) -> Call[Signed]:
    """Notarises one evidence package.

    Args:
        evidence_package: what happened.
        wait_for: the state to wait for; by default `logged` with the embedded log, `signed` with an external one.
        idempotency_key: the same key with the same evidence gives the same receipt; by default a new one, so that a
            retry never notarises twice.
        dedupe: take the newest receipt of the same evidence, if there is one, instead of notarising again.

    Raises:
        InvalidArgument: names each field that was refused.
        AlreadyExists: the key was used with other evidence.
    """
    fields = _given(
        evidence_package=_evidence(evidence_package),
        wait_for=wait_for,
        idempotency_key=idempotency_key or uuid.uuid4().hex,
        dedupe=dedupe,
    )
    return Call("SignEvidence", "POST", "/api/v1/evidence/sign", fields, answers.signed)


def sign_batch(
    evidence_packages: Sequence[Evidence],
    *,
    wait_for: State | None = None,
    idempotency_key: str | None = None,
    dedupe: bool = False,
) -> Call[SignedBatch]:
    """Notarises up to 1,000 evidence packages; one that is refused fails alone, with its `error`.

    Args:
        evidence_packages: what happened.
        wait_for: as in `sign`.
        idempotency_key: as in `sign`; item i uses `key/i`.
        dedupe: as in `sign`, for each.
    """
    fields = _given(
        evidence_packages=[_evidence(each) for each in evidence_packages],
        wait_for=wait_for,
        idempotency_key=idempotency_key or uuid.uuid4().hex,
        dedupe=dedupe,
    )
    return Call("SignEvidenceBatch", "POST", "/api/v1/evidence/sign/batch", fields, answers.signed_batch)


def validate(evidence_package: Evidence, signature: str) -> Call[Validation]:
    """Has the notary check evidence and its signature (`signature_b64`) against the record, the key and the log.

    To check without trusting the notary, use `afdp.verify`.
    """
    fields = _given(evidence_package=_evidence(evidence_package), signature=signature)
    return Call("ValidateEvidence", "POST", "/api/v1/evidence/validate", fields, answers.validation)


def get_evidence(evidence_package_hash: str) -> Call[EvidenceRecord]:
    """The evidence of a hash with its newest receipt.

    Raises:
        NotFound: there is none.
    """
    fields = _given(evidence_package_hash=evidence_package_hash)
    return Call("GetEvidence", "GET", "/api/v1/evidence/{evidence_package_hash}", fields, answers.evidence_record)


def search_evidence(
    *, page_size: int = 0, page_token: str = "", **filters: Unpack[Filters]
) -> Call[Page[EvidenceSummary]]:
    """Evidence by what is given (`Filters`), newest first, 50 a page by default.

    Args:
        page_size: 1 to 1,000.
        page_token: of the page before; its filters must be the same.
        filters: evidence_package_hash, artifact_hash, event_type, actor_type, actor_id, submitter, key_id, log_index,
            log_origin, metadata, start_time, end_time, oldest_first.
    """
    fields = _given(page_size=page_size, page_token=page_token) | _filters(filters)
    return Call("SearchEvidence", "GET", "/api/v1/evidence", fields, answers.evidence_page)


Form = Literal["ndjson", "csv"]

_EXPORTS: Mapping[Form, Raw] = {
    "ndjson": Raw("", "", "ndjson", "application/x-ndjson"),
    "csv": Raw("", "", "csv", "text/csv"),
}


def export_evidence(form: Form, after: str, filters: Filters) -> Call[bytes]:
    """All evidence by what is given, in a stream of lines, from right after a receipt; empty: from the first."""
    fields = _given(format=form, after=after) | _filters(filters)
    return Call("ExportEvidence", "GET", "/api/v1/evidence:export", fields, answers.lines, raw=_EXPORTS[form])


def get_receipt(receipt_id: str) -> Call[Receipt]:
    """A receipt as it stands now.

    Raises:
        NotFound: there is none.
    """
    return Call("GetReceipt", "GET", "/api/v1/receipts/{receipt_id}", _given(receipt_id=receipt_id), answers.receipt)


def get_workflow_receipt(workflow_id: str) -> Call[Receipt | None]:
    """The receipt that a workflow made; None while it has made none."""
    path = "/api/v1/workflows/{workflow_id}/receipt"
    return Call("GetNotarizationReceipt", "GET", path, _given(workflow_id=workflow_id), answers.workflow_receipt)


def get_workflow_status(workflow_id: str) -> Call[Workflow]:
    """Where a workflow stands.

    Raises:
        NotFound: there is none.
    """
    path = "/api/v1/workflows/{workflow_id}/status"
    return Call("GetWorkflowStatus", "GET", path, _given(workflow_id=workflow_id), answers.workflow)


def list_workflows(
    *,
    status_filter: str = "",
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    page_size: int = 0,
    page_token: str = "",
) -> Call[Page[WorkflowSummary]]:
    """Workflows, newest first: with a status such as `completed`, begun from `start_time` to before `end_time`."""
    fields = _given(
        status_filter=status_filter,
        start_time=_time(start_time),
        end_time=_time(end_time),
        page_size=page_size,
        page_token=page_token,
    )
    return Call("ListWorkflows", "GET", "/api/v1/workflows", fields, answers.workflow_page)


def list_keys() -> Call[tuple[Key, ...]]:
    """Every key version that ever signed, oldest first."""
    return Call("ListKeys", "GET", "/api/v1/keys", {}, answers.keys)


def rotate_key(purpose: str = "", name: str = "") -> Call[Key]:
    """Makes a new version of a key; older versions verify for ever. Never sent twice: each time is a new version.

    Args:
        purpose: `evidence`, `timestamp` or `trust`; by default that of the name, or `evidence` without one.
        name: which key, without a version; by default the usual one of the purpose.

    Raises:
        NotFound: there is no such key.
    """
    fields = _given(purpose=purpose, name=name)
    return Call("RotateKey", "POST", "/api/v1/keys:rotate", fields, answers.key, repeatable=False)


def revoke_key(key_id: str, reason: str, *, compromised_since: datetime | None = None) -> Call[Key]:
    """Records that a key version is not to be trusted any more. It cannot be undone.

    Args:
        key_id: `name:version`.
        reason: in your words.
        compromised_since: since when somebody else may have used it; None where it is merely retired.
    """
    fields = _given(key_id=key_id, reason=reason, compromised_since=_time(compromised_since))
    return Call("RevokeKey", "POST", "/api/v1/keys/{key_id}:revoke", fields, answers.key)


def affected_receipts(
    key_id: str, *, since: datetime | None = None, page_size: int = 0, page_token: str = ""
) -> Call[Page[AffectedReceipt]]:
    """Receipts that a key version signed, newest first, at or after `since`."""
    fields = _given(key_id=key_id, since=_time(since), page_size=page_size, page_token=page_token)
    return Call("ListAffectedReceipts", "GET", "/api/v1/keys/{key_id}/receipts", fields, answers.affected_page)


_CSV = Raw("", "", "csv", "text/csv")


def export_affected(key_id: str, *, since: datetime | None = None, page_size: int = 0, after: str = "") -> Call[bytes]:
    """Receipts that a key version signed, newest first, at or after `since`, as CSV: for when there are millions.

    Args:
        key_id: `name:version`.
        since: only those notarised at or after it.
        page_size: 1 to 10,000 lines; fewer in the answer: there are no more. 0 means 10,000.
        after: the last receipt ID of the page before.

    Returns:
        Lines of receipt_id, notarized_at, log_index (empty: not in the log yet) and evidence_package_hash.
    """
    fields = _given(key_id=key_id, since=_time(since), page_size=page_size, after=after)
    path = "/api/v1/keys/{key_id}/receipts:export"
    return Call("ExportAffectedReceipts", "GET", path, fields, answers.csv, raw=_CSV)


def place_hold(
    case_number: str,
    reason: str,
    *,
    artifact_hash: str = "",
    actor_id: str = "",
    event_type: str = "",
    subject: str = "",
    start: datetime | None = None,
    end: datetime | None = None,
) -> Call[PlacedHold]:
    """Places a legal hold: what it names stays until it is released, also what comes later.

    Args:
        case_number, reason: what it is for.
        artifact_hash: SHA-256 of an artifact, 64 hex digits.
        actor_id, event_type: as the evidence has them.
        subject: who submitted it.
        start, end: notarised from this on, and before that. Without any of these everything of the tenant is held.
    """
    named = _given(artifact_hash=artifact_hash, actor_id=actor_id, event_type=event_type, subject=subject)
    fields = _given(case_number=case_number, reason=reason, start_time=_time(start), end_time=_time(end))
    return Call("PlaceHold", "POST", "/api/v1/holds", fields | named, answers.placed_hold, repeatable=False)


def release_hold(hold_id: str, reason: str) -> Call[Hold]:
    """Ends a legal hold."""
    fields = _given(hold_id=hold_id, reason=reason)
    return Call("ReleaseHold", "POST", "/api/v1/holds/{hold_id}:release", fields, answers.hold, repeatable=False)


def list_holds(*, include_released: bool = False, page_size: int = 0, page_token: str = "") -> Call[Page[Hold]]:
    """Legal holds, newest first; those too that have ended, if asked for."""
    fields = _given(include_released=include_released, page_size=page_size, page_token=page_token)
    return Call("ListHolds", "GET", "/api/v1/holds", fields, answers.holds_page)


def erase_subject(subject: str = "", *, erasure_id: str = "", reason: str) -> Call[Erasure]:
    """Erases a subject: nobody can read its records any more, and the proofs stay. May be repeated.

    Args:
        subject: as records have it, such as `human:alice`.
        erasure_id: instead of the subject, that of an erasure from before a backup was restored.
        reason: why; it stays, so it should name nobody.
    """
    fields = _given(subject=subject, erasure_id=erasure_id, reason=reason)
    return Call("EraseSubject", "POST", "/api/v1/subjects:erase", fields, answers.erasure)


def get_erasure(erasure_id: str) -> Call[Erasure]:
    """An erasure that was asked for."""
    return Call("GetErasure", "GET", "/api/v1/erasures/{erasure_id}", _given(erasure_id=erasure_id), answers.erasure)


def list_erasures(*, page_size: int = 0, page_token: str = "") -> Call[Page[Erasure]]:
    """Erasures that were asked for, done or not."""
    fields = _given(page_size=page_size, page_token=page_token)
    return Call("ListErasures", "GET", "/api/v1/erasures", fields, answers.erasures_page)


def run_retention(*, dry_run: bool = False) -> Call[tuple[ExpiredRecords, ...]]:
    """Lets go what is past its retention and under no hold, of all tenants; with `dry_run` says what that would be."""
    return Call("RunRetention", "POST", "/api/v1/retention:run", _given(dry_run=dry_run), answers.expired_records)


def audit_events(
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    actor: str = "",
    resource: str = "",
    result: str = "",
    page_size: int = 0,
    page_token: str = "",
) -> Call[Page[str]]:
    """What is on record of your tenant's calls, newest first, each as OCSF JSON.

    Args:
        start, end: recorded from this on, and before that.
        actor: the subject that acted.
        resource: what it is about, such as `receipt:` and its ID.
        result: `allow`, `deny` or `error`.
        page_size: 1 to 1,000; 0 means 50.
        page_token: from the page before.
    """
    filters = _given(start_time=_time(start), end_time=_time(end), actor=actor, resource=resource, result=result)
    fields = {**filters, **_given(page_size=page_size, page_token=page_token)}
    return Call("ListAuditEvents", "GET", "/api/v1/audit/events", fields, answers.audit_page)


def audit_rows(*, after: int = 0, page_size: int = 0, all_tenants: bool = False) -> Call[tuple[AuditRow, ...]]:
    """Rows of the audit trail with what proves their place, oldest first; none: there are no more.

    Args:
        after: the sequence of the last row before.
        page_size: 1 to 1,000; 0 means 500.
        all_tenants: those of all tenants, for operators.
    """
    fields = _given(after_sequence=after, page_size=page_size, all_tenants=all_tenants)
    return Call("ExportAuditRows", "GET", "/api/v1/audit/rows", fields, answers.audit_rows)


def audit_seals(*, after: int = 0, page_size: int = 0) -> Call[tuple[AuditSeal, ...]]:
    """The seals over the audit trail, oldest first; none: there are no more.

    Args:
        after: the number of the last seal before.
        page_size: 1 to 100; 0 means 50.
    """
    fields = _given(after_number=after, page_size=page_size)
    return Call("ExportAuditSeals", "GET", "/api/v1/audit/seals", fields, answers.audit_seals)


def trust_root() -> Call[dict[str, str]]:
    """The files of the trust root: text by relative path. `afdp.formats.trust.read_trust_files` reads them."""
    return Call("GetTrustRoot", "GET", "/api/v1/trust-root", {}, answers.trust_files)


def pending_trust_root() -> Call[dict[str, str]]:
    """The files of the trust root with what its offline roles have not signed yet; without that, the same files."""
    return Call("GetTrustRoot", "GET", "/api/v1/trust-root", {}, answers.pending_trust_files)


def publish_trust(files: Mapping[str, str]) -> Call[TrustVersions]:
    """Publishes what the offline roles of the trust root have signed; `afdp trust sign` makes it.

    Args:
        files: text by the name that it is served under; only what is new need be there.

    Raises:
        FailedPrecondition: it does not follow from what is published.
    """
    listed = [{"name": name, "content": content} for name, content in files.items()]
    return Call("PublishTrust", "POST", "/api/v1/trust-root:publish", {"files": listed}, answers.trust_versions)


_TIMESTAMP = Raw(
    "timestamp_request", "application/timestamp-query", "timestamp_response", "application/timestamp-reply"
)


def timestamp(query: bytes) -> Call[bytes]:
    """Has a time-stamp query answered (RFC 3161).

    Args:
        query: TimeStampReq, DER; `openssl ts -query` makes one.

    Returns:
        TimeStampResp, DER. Its status says whether the query was granted.
    """
    fields = {"timestamp_request": query}
    return Call("CreateTimestamp", "POST", "/api/v1/timestamp", fields, answers.timestamp, raw=_TIMESTAMP)


def who_am_i() -> Call[Identity]:
    """Who the caller is for this notary, and what it may do."""
    return Call("WhoAmI", "GET", "/api/v1/whoami", {}, answers.identity)


def status() -> Call[tuple[StatusPart, ...]]:
    """What the service stands on, part by part, for its operators."""
    return Call("GetStatus", "GET", "/api/v1/status", {}, answers.status)


def ready(*, writes: bool = False) -> Call[Health]:
    """The notary and what it depends on.

    Raises:
        Unavailable: it cannot do its work; with `writes` also where only writing is impaired.
    """
    read = partial(answers.health, writes=writes)
    return Call("HealthCheck", "GET", "/ready", _given(writes=writes), read, repeatable=False)


def read_answer(call: Call[T], answer: object, sender: str) -> T | NotaryError:
    """The value of an answer's JSON, or why it has none."""
    try:
        return call.read(Members(answer))
    except InvalidArgument as error:
        return UnexpectedAnswer(f"{sender} gave an answer that is not that of {call.rpc}: {error}")
    except NotaryError as error:
        return error


def evidence_object(package: EvidencePackage) -> object:
    """An evidence package as the JSON object that the API takes."""
    return orjson.loads(canonical_evidence(package))


def _given(**fields: object) -> dict[str, object]:
    """The fields that say something: a proto field that is empty is as good as absent."""
    return {name: value for name, value in fields.items() if value not in (None, "", 0, False)}


def _filters(given: Filters) -> dict[str, object]:
    found: dict[str, object] = dict(given)
    for name in ("start_time", "end_time"):
        found[name] = _time(given.get(name))  # type: ignore[arg-type]  # each of these is a time
    found["metadata"] = [f"{path}={value}" for path, value in given.get("metadata", {}).items()] or None
    log_index = found.pop("log_index", None)
    return _given(**found) | ({} if log_index is None else {"log_index": log_index})


def _evidence(package: Evidence) -> object:
    return evidence_object(package) if isinstance(package, EvidencePackage) else dict(package)


def _time(time: datetime | None) -> str | None:
    return None if time is None else format_timestamp(time)
