"""Holds, classes and expiries: from messages to values, every fault named by its field, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from uuid import UUID

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.messages import metadata as messages
from afdp.metadata.fields import Fields
from afdp.metadata.retention import Due, Expiry, Hold, Period, Release

MAX_CLASSES = 1000
MAX_HOLDS = 1000
MAX_REASON_BYTES = 4096
MAX_YEARS = 1000


def read_place(request: messages.PlaceHoldRequest) -> Hold:
    """The hold as it shall be."""
    hold = request.hold if request.hold is not None else messages.Hold()
    fields = Fields("hold.")
    read = Hold(
        hold_id=fields.uuid7("hold_id", hold.hold_id),
        tenant=fields.tenant("tenant", hold.tenant),
        case_number=fields.text("case_number", hold.case_number),
        reason=fields.text("reason", hold.reason, MAX_REASON_BYTES),
        placed_by=fields.text("placed_by", hold.placed_by, 2 * MAX_REASON_BYTES),
        artifact_hash=fields.optional_digest("artifact_hash", hold.artifact_hash),
        actor_id=fields.optional_text("actor_id", hold.actor_id),
        event_type=fields.optional_text("event_type", hold.event_type),
        subject=fields.optional_text("subject", hold.subject),
        start_time=fields.optional_moment("start_time", hold.start_time),
        end_time=fields.optional_moment("end_time", hold.end_time),
    )
    fields.require()
    return read


def read_release(request: messages.ReleaseHoldRequest) -> Release:
    """Which hold ends."""
    fields = Fields()
    read = Release(
        tenant=fields.tenant("tenant", request.tenant),
        hold_id=fields.uuid7("hold_id", request.hold_id),
        released_by=fields.text("released_by", request.released_by, 2 * MAX_REASON_BYTES),
        reason=fields.text("reason", request.reason, MAX_REASON_BYTES),
    )
    fields.require()
    return read


def read_list(request: messages.ListHoldsRequest) -> tuple[str, bool, UUID | None, int]:
    """The tenant, whether those count too that have ended, after which, and how many."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    before = fields.optional_uuid7("before_hold_id", request.before_hold_id)
    limit = fields.number("page_size", request.page_size, 1, MAX_HOLDS)
    fields.require()
    return tenant, request.include_released, before, limit


def read_classes(request: messages.PutRetentionClassesRequest) -> Mapping[str, Period]:
    """Names and periods."""
    if len(request.classes) > MAX_CLASSES:
        raise InvalidArgument.field("classes", f"must be at most {MAX_CLASSES:,}")
    read: dict[str, Period] = {}
    for index, each in enumerate(request.classes):
        fields = Fields(f"classes[{index}].")
        name = fields.text("name", each.name)
        read[name] = Period(
            fields.number("years", each.years, 0, MAX_YEARS),
            fields.number("months", each.months, 0, 12 * MAX_YEARS),
            fields.number("days", each.days, 0, 366 * MAX_YEARS),
        )
        fields.require()
    return read


def read_month(request: messages.ExpireMonthRequest) -> tuple[date, UUID | None]:
    """The first day of a month, and the act that it is announced as."""
    fields = Fields()
    act = fields.uuid("act", request.act) if request.act else None
    fields.require()
    try:
        month = date.fromisoformat(request.month)
    except ValueError:
        month = date.max
    if month.day != 1:
        raise InvalidArgument.field("month", "must be the first day of a month, as 2026-11-01")
    return month, act


def read_expiries(request: messages.ListExpiriesRequest) -> tuple[str, UUID | None]:
    """Of which tenant and receipt ID; without: of all what has no certificate."""
    if not request.tenant and not request.receipt_id:
        return "", None
    fields = Fields()
    found = fields.tenant("tenant", request.tenant), fields.uuid("receipt_id", request.receipt_id)
    fields.require()
    return found


def read_all_expiries(request: messages.ListExpiriesRequest) -> UUID | None:
    """After which of all."""
    fields = Fields()
    after = fields.uuid("after_expiry_id", request.after_expiry_id) if request.after_expiry_id else None
    fields.require()
    return after


def read_certify(request: messages.CertifyExpiryRequest) -> tuple[UUID, UUID]:
    """Which expiry, and the receipt ID of its certificate."""
    fields = Fields()
    found = fields.uuid("expiry_id", request.expiry_id), fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return found


def to_hold(hold: Hold) -> messages.Hold:
    """A hold."""
    if hold.asked is not None:
        raise FailedPrecondition("a hold is sealed, and AFDP_ENCRYPTION of the metadata service is off")
    return messages.Hold(
        hold_id=str(hold.hold_id),
        tenant=hold.tenant,
        case_number=hold.case_number,
        reason=hold.reason,
        artifact_hash=hold.artifact_hash or b"",
        actor_id=hold.actor_id or "",
        event_type=hold.event_type or "",
        subject=hold.subject or "",
        start_time=hold.start_time,
        end_time=hold.end_time,
        placed_by=hold.placed_by,
        placed_at=hold.placed_at,
        released_by=hold.released_by or "",
        release_reason=hold.release_reason or "",
        released_at=hold.released_at,
    )


def to_due(due: Due) -> messages.DueRecords:
    """What is due of a month and tenant."""
    return messages.DueRecords(due.month.isoformat(), due.tenant, due.due, due.kept, due.held)


def to_expiry(expiry: Expiry) -> messages.Expiry:
    """That records have gone."""
    return messages.Expiry(
        expiry_id=str(expiry.expiry_id),
        tenant=expiry.tenant,
        month=expiry.month.isoformat(),
        records=expiry.records,
        kept=expiry.kept,
        held=expiry.held,
        classes=[messages.ExpiredClass(name, number) for name, number in sorted(expiry.classes.items())],
        first_receipt_id=str(expiry.first_id),
        last_receipt_id=str(expiry.last_id),
        root=expiry.root,
        expired_at=expiry.expired_at,
        certificate="" if expiry.certificate is None else str(expiry.certificate),
        act="" if expiry.act is None else str(expiry.act),
    )
