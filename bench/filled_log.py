"""A log of any size, made in minutes: a genuine tree, written by COPY in the shape that the service itself writes.

Entries, leaf hashes, tile hashes and right edge are the real ones, by the code that appends. What is missing is the
checkpoint: the service signs a tree that is ahead of it when it opens the log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import asyncpg

from afdp.formats.hashedrekord import entry_body
from afdp.formats.merkle import Frontier, extend, leaf_hash

AT_A_TIME = 50_000
_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + os.urandom(65)


def random_entry() -> bytes:
    """An entry as the notary makes them, of a digest and a signature that nobody made."""
    return entry_body(os.urandom(32), os.urandom(71), _SPKI)


async def fill_log(
    connection: asyncpg.Connection, count: int, told: Callable[[int], None] | None = None, log_id: int = 1
) -> float:
    """Grows the log in `afdp_log` by `count` entries; gives the seconds that it took. Nobody may append meanwhile."""
    began = time.perf_counter()
    await connection.execute("SET search_path = afdp_log")
    edge = Frontier.from_bytes(await connection.fetchval("SELECT frontier FROM tree WHERE log_id = $1", log_id))
    end = edge.size + count
    while edge.size < end:
        edge = await _grow(connection, log_id, edge, min(AT_A_TIME, end - edge.size))
        if told:
            told(edge.size)
    for table in ("entry", "node"):
        await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=3600)
    return time.perf_counter() - began


async def _grow(connection: asyncpg.Connection, log_id: int, edge: Frontier, count: int) -> Frontier:
    entries = [random_entry() for _ in range(count)]
    hashes = [leaf_hash(entry) for entry in entries]
    extension = extend(edge, hashes)
    leaves = [
        (index, log_id, each, entry) for index, (each, entry) in enumerate(zip(hashes, entries, strict=True), edge.size)
    ]
    nodes = [(each.index, log_id, each.level, each.hash) for each in extension.completed]
    await connection.execute("SELECT make_room($1)", log_id)
    async with connection.transaction():
        await connection.copy_records_to_table(
            "entry", records=leaves, columns=("leaf_index", "log_id", "leaf_hash", "body"), timeout=600
        )
        await connection.copy_records_to_table(
            "node", records=nodes, columns=("node_index", "log_id", "level", "hash"), timeout=600
        )
        await connection.execute(
            "UPDATE tree SET size = $2, root = $3, frontier = $4 WHERE log_id = $1",
            log_id,
            extension.new.size,
            extension.new.root(),
            extension.new.to_bytes(),
        )
    return extension.new
