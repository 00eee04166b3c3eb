"""The audit trail's messages: read into values, and written from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from afdp.audit.rows import MAX_ROW_BYTES
from afdp.errors import InvalidArgument
from afdp.messages import metadata as messages
from afdp.metadata.audit_trail import NewRow, Row, RowQuery, Sealed, SealState
from afdp.metadata.fields import Fields

MAX_ROWS = 1024
MAX_PAGE = 1000

_INT64 = 2**63 - 1


def read_rows(name: str, rows: Sequence[bytes], least: int = 0) -> list[NewRow]:
    """Rows to add.

    Raises:
        InvalidArgument: one of them is none, or there are too many.
    """
    if not least <= len(rows) <= MAX_ROWS:
        raise InvalidArgument.field(name, f"must have {least} to {MAX_ROWS:,} items")
    return [_read_row(f"{name}[{index}]", row) for index, row in enumerate(rows)]


def _read_row(name: str, row: bytes) -> NewRow:
    try:
        return NewRow.read(row)
    except InvalidArgument:
        raise InvalidArgument.field(
            name, f"must be a row of the audit trail of up to {MAX_ROW_BYTES:,} bytes"
        ) from None


def read_list(request: messages.ListAuditRowsRequest) -> tuple[RowQuery, int, int]:
    """The query, the sequence that it goes on before, and how many rows."""
    fields = Fields()
    query = RowQuery(
        tenant=fields.tenant("tenant", request.tenant),
        start_time=fields.optional_moment("start_time", request.start_time),
        end_time=fields.optional_moment("end_time", request.end_time),
        actor=fields.text("actor", request.actor, least=0),
        resource=fields.text("resource", request.resource, least=0),
        result=fields.text("result", request.result, least=0),
    )
    before = fields.number("before_sequence", request.before_sequence, 0, _INT64)
    limit = fields.number("page_size", request.page_size, 1, MAX_PAGE)
    fields.require()
    return query, before, limit


def read_part(name: str, after: int, page_size: int) -> tuple[int, int]:
    """After which number a page begins, and how much it has."""
    fields = Fields()
    after, limit = fields.number(name, after, 0, _INT64), fields.number("page_size", page_size, 1, MAX_PAGE)
    fields.require()
    return after, limit


def read_seals(request: messages.ReadAuditSealsRequest) -> tuple[int, int, int]:
    """After which seal a page begins, how much it has, and which row its first one is to cover."""
    part = read_part("after_number", request.after_number, request.page_size)
    fields = Fields()
    covering = fields.number("from_sequence", request.from_sequence, 0, _INT64)
    fields.require()
    return (*part, covering)


def read_seal(request: messages.SealAuditTrailRequest) -> tuple[UUID, timedelta]:
    """Who seals, and for how long nobody else does."""
    fields = Fields()
    holder = fields.uuid("holder", request.holder)
    lease = fields.number("lease_ms", request.lease_ms, 1000, 3_600_000)
    fields.require()
    return holder, timedelta(milliseconds=lease)


def read_anchor(request: messages.AnchorAuditSealRequest) -> tuple[int, UUID]:
    """Which seal has which receipt."""
    fields = Fields()
    number = fields.number("number", request.number, 1, _INT64)
    receipt_id = fields.uuid7("receipt_id", request.receipt_id)
    fields.require()
    return number, receipt_id


def to_row(row: Row, misfiled: str = "") -> messages.AuditRow:
    """A row, and what it is filed under that is not its own."""
    return messages.AuditRow(row.sequence, row.tenant, row.recorded_at, row.row, misfiled)


def to_seal(seal: Sealed) -> messages.AuditSeal:
    """A seal."""
    return messages.AuditSeal(
        number=seal.number,
        body=seal.body,
        sequences=list(seal.sequences),
        leaves=seal.leaves,
        sealed_at=seal.sealed_at,
        anchor_receipt_id=str(seal.anchor or ""),
    )


def to_state(state: SealState) -> messages.SealAuditTrailResponse:
    """What is sealed."""
    unanchored = to_seal(state.unanchored) if state.unanchored is not None else None
    return messages.SealAuditTrailResponse(state.held, unanchored, state.oldest)
