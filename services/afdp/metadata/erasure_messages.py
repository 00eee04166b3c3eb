"""Erasures: from messages to values, every fault named by its field, and back."""

from __future__ import annotations

from uuid import UUID

from afdp.formats.evidence import MAX_NAME_BYTES
from afdp.messages import metadata as messages
from afdp.metadata.erasing import Erasure, Waiting, Wish
from afdp.metadata.fields import Fields
from afdp.metadata.record_keys import Scope

MAX_ERASURES = 1000
MAX_REASON_BYTES = 4096
MAX_SUBJECT_BYTES = 2 * MAX_NAME_BYTES + 1  # a type and an ID


def read_request(request: messages.RequestErasureRequest) -> Wish:
    """Who is to be erased."""
    fields = Fields()
    if request.subject and request.erasure_id:
        fields.refuse("erasure_id", "must be empty where a subject is named")
    by_id = bool(request.erasure_id)
    wish = Wish(
        tenant=fields.tenant("tenant", request.tenant),
        subject="" if by_id else fields.text("subject", request.subject, MAX_SUBJECT_BYTES),
        erasure_id=_index(fields, "erasure_id", request.erasure_id) if by_id else b"",
        requested_by=fields.text("requested_by", request.requested_by, 2 * MAX_REASON_BYTES),
        reason=fields.text("reason", request.reason, MAX_REASON_BYTES),
    )
    fields.require()
    return wish


def read_scope(request: messages.GetErasureRequest) -> Scope:
    """Which erasure."""
    fields = Fields()
    scope = Scope(fields.tenant("tenant", request.tenant), _index(fields, "erasure_id", request.erasure_id))
    fields.require()
    return scope


def read_erase(request: messages.EraseRequest) -> tuple[Scope, UUID | None]:
    """Which erasure, and the act that announces it; None: only to look."""
    fields = Fields()
    scope = Scope(fields.tenant("tenant", request.tenant), _index(fields, "erasure_id", request.erasure_id))
    act = fields.uuid("act", request.act) if request.act else None
    fields.require()
    return scope, act


def read_list(request: messages.ListErasuresRequest) -> tuple[str, Scope | None, int, bool]:
    """The tenant, after which, how many, and whether only those without a certificate."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant) if request.tenant else ""
    limit = fields.number("page_size", request.page_size, 1, MAX_ERASURES)
    after = None
    if request.after:
        of, _, index = request.after.rpartition("/")
        after = Scope(fields.tenant("after", of), _index(fields, "after", index))
    fields.require()
    return tenant, after, limit, request.uncertified


def read_certify(request: messages.CertifyErasureRequest) -> tuple[Scope, UUID]:
    """Which erasure, and the receipt ID of its certificate."""
    fields = Fields()
    scope = Scope(fields.tenant("tenant", request.tenant), _index(fields, "erasure_id", request.erasure_id))
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return scope, receipt_id


def read_renew(request: messages.RenewErasureRequest) -> tuple[str, UUID]:
    """Of which record."""
    fields = Fields()
    found = fields.tenant("tenant", request.tenant), fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return found


def to_erasure(erasure: Erasure) -> messages.Erasure:
    """An erasure."""
    return messages.Erasure(
        tenant=erasure.tenant,
        erasure_id=erasure.subject.hex(),
        reason=erasure.reason,
        requested_by=erasure.requested_by,
        requested_at=erasure.requested_at,
        deferral=None if erasure.waiting is None else _to_deferral(erasure.waiting),
        erased_at=erasure.erased_at,
        records=erasure.records,
        first_receipt_id=str(erasure.first_id or ""),
        last_receipt_id=str(erasure.last_id or ""),
        root=erasure.root,
        certificate=str(erasure.certificate or ""),
        act=str(erasure.act or ""),
    )


def _to_deferral(waiting: Waiting) -> messages.ErasureDeferral:
    return messages.ErasureDeferral(
        list(waiting.classes), waiting.until, waiting.for_ever, list(waiting.cases), waiting.unfinished
    )


def _index(fields: Fields, name: str, value: str) -> bytes:
    try:
        found = bytes.fromhex(value) if len(value) == 32 else b""
    except ValueError:
        found = b""
    if not found:
        fields.refuse(name, "must be 32 hex digits")
    return found
