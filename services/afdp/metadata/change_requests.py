"""Reads requests about changes of records, as `requests.py` does."""

from __future__ import annotations

from uuid import UUID

from afdp.errors import InvalidArgument
from afdp.messages import metadata as messages
from afdp.metadata.fields import MOST, Fields

MAX_WHOLE = 16  # records with their evidence in one answer
MAX_CHANGES = 1000
MAX_CURSOR_BYTES = 128


def read_get_records(request: messages.GetRecordsRequest) -> tuple[str, list[UUID]]:
    """The tenant and the receipt IDs."""
    if not 1 <= len(request.receipt_ids) <= MAX_WHOLE:
        raise InvalidArgument.field("receipt_ids", f"must have 1 to {MAX_WHOLE} items")
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    ids = [fields.uuid7(f"receipt_ids[{index}]", each) for index, each in enumerate(request.receipt_ids)]
    fields.require()
    return tenant, ids


def read_list_changes(request: messages.ListChangesRequest) -> tuple[str, str, int]:
    """The tenant, the cursor and how many changes at most."""
    fields = Fields()
    tenant = fields.tenant("tenant", request.tenant)
    cursor = fields.text("cursor", request.cursor, MAX_CURSOR_BYTES, least=0)
    limit = fields.number("limit", request.limit, 1, MAX_CHANGES)
    fields.require()
    return tenant, cursor, limit


def read_get_news(request: messages.GetNewsRequest) -> str:
    """The cursor."""
    fields = Fields()
    cursor = fields.text("cursor", request.cursor, MAX_CURSOR_BYTES, least=0)
    fields.require()
    return cursor


def read_note_witnessed(request: messages.NoteWitnessedRequest) -> tuple[str, int]:
    """The log's origin and the tree's size."""
    fields = Fields()
    origin = fields.text("origin", request.origin)
    tree_size = fields.number("tree_size", request.tree_size, 0, MOST)
    fields.require()
    return origin, tree_size
