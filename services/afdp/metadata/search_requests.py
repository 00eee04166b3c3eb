"""Reads requests that look for records; as `requests.py`."""

from __future__ import annotations

from uuid import UUID

from afdp.errors import InvalidArgument
from afdp.messages import metadata as messages
from afdp.metadata.fields import MOST, Fields
from afdp.metadata.terms import MAX_VALUE_BYTES
from afdp.metadata.values import Position, Search

MAX_PAGE_SIZE = 1000
MAX_SIGNED = 10_000  # records in columns
MAX_WHOLE = 1000  # records, whole
MAX_PLACES = 8  # in metadata, of one search


def read_search(request: messages.SearchRecordsRequest) -> tuple[Search, int, str]:
    """The query, the page size and the page token."""
    fields = Fields()
    query = _query(fields, request)
    page_size = fields.number("page_size", request.page_size, 1, MAX_PAGE_SIZE)
    fields.require()
    return query, page_size, request.page_token


def read_whole(request: messages.ReadRecordsRequest) -> tuple[Search, int, UUID | Position | None]:
    """The query, how many, and after which record, or after which place of the list where that is known."""
    fields = Fields()
    if request.query is None:
        raise InvalidArgument.field("query", "must be given")
    query = _query(fields, request.query)
    page_size = fields.number("page_size", request.query.page_size, 1, MAX_WHOLE)
    after = fields.optional_uuid7("after", request.after)
    at = fields.optional_moment("after_notarized_at", request.after_notarized_at)
    fields.require()
    return query, page_size, Position(at, after) if at is not None and after is not None else after


def read_list_signed(request: messages.ListSignedRecordsRequest) -> tuple[Search, int, UUID | None]:
    """The query, how many, and after which record."""
    fields = Fields()
    query = Search(
        tenant=fields.tenant("tenant", request.tenant),
        key_id=fields.text("key_id", request.key_id),
        start_time=fields.optional_moment("start_time", request.start_time),
    )
    page_size = fields.number("page_size", request.page_size, 1, MAX_SIGNED)
    after = fields.optional_uuid7("after", request.after)
    fields.require()
    return query, page_size, after


def _query(fields: Fields, request: messages.SearchRecordsRequest) -> Search:
    log_index = request.log_index
    return Search(
        tenant=fields.tenant("tenant", request.tenant),
        evidence_hash=fields.optional_digest("evidence_hash", request.evidence_hash),
        artifact_hash=fields.optional_digest("artifact_hash", request.artifact_hash),
        event_type=fields.optional_text("event_type", request.event_type),
        actor_type=fields.optional_text("actor_type", request.actor_type),
        actor_id=fields.optional_text("actor_id", request.actor_id),
        submitter=fields.optional_text("submitter", request.submitter),
        key_id=fields.optional_text("key_id", request.key_id),
        log_index=None if log_index is None else fields.number("log_index", log_index, 0, MOST),
        log_origin=fields.optional_text("log_origin", request.log_origin),
        metadata=_places(fields, request.metadata),
        start_time=fields.optional_moment("start_time", request.start_time),
        end_time=fields.optional_moment("end_time", request.end_time),
        oldest_first=request.oldest_first,
    )


def _places(fields: Fields, given: list[str]) -> tuple[tuple[str, str], ...]:
    """`PATH=VALUE` each; whether a path is searchable, the service knows."""
    if len(given) > MAX_PLACES:
        fields.refuse("metadata", f"must be at most {MAX_PLACES}")
    found = []
    for index, each in enumerate(given[:MAX_PLACES]):
        name = f"metadata[{index}]"
        path, equals, value = fields.text(name, each, MAX_VALUE_BYTES * 2).partition("=")
        if not (path and equals):
            fields.refuse(name, "must be PATH=VALUE, such as model.name=credit-risk")
        found.append((path, value))
    return tuple(found)
