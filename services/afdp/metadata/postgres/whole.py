"""Records that match, whole, as many at a time as fit in memory: what an export goes through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from uuid import UUID

from afdp.metadata.postgres.records import by_ids
from afdp.metadata.postgres.search import search
from afdp.metadata.values import Position, Search, WholePage
from afdp.postgres import Connection

_SIZES = """
    SELECT receipt_id, octet_length(evidence) + octet_length(statement) AS size
    FROM record_content WHERE receipt_id = ANY($1::uuid[])
"""
_OTHER_BYTES = 8 * 1024  # of a record beside evidence and statement: what is above, at most by far


async def read(
    connection: Connection,
    query: Search,
    terms: Sequence[bytes],
    after: Position | None,
    limit: int,
    max_bytes: int,
) -> WholePage:
    """A page of at most `limit` records and about `max_bytes`, in order, from right after a position."""
    found = await search(connection, query, terms, after, limit + 1)
    rows = await connection.fetch(_SIZES, [each.receipt_id for each in found])
    sizes: dict[UUID, int] = {row["receipt_id"]: row["size"] for row in rows}
    up_to = accumulate(sizes.get(each.receipt_id, 0) + _OTHER_BYTES for each in found)
    shown = found[: max(1, min(limit, sum(size <= max_bytes for size in up_to)))]
    records = await by_ids(connection, (each.receipt_id for each in shown))
    there = [records[each.receipt_id] for each in shown if each.receipt_id in records]
    ended = len(shown) == len(found)
    return WholePage(there, None if ended else Position(shown[-1].notarized_at, shown[-1].receipt_id))
