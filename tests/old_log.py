"""Logs in the shape of releases before."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.transparency.values import LogIdentity


async def write_log(sql: asyncpg.Connection, log: int, identity: LogIdentity, entries: Sequence[bytes]) -> None:
    """A log as it was stored while `entry` was one table, not signed yet. The search path leads to its schema."""
    extension = extend(Frontier.empty(), [leaf_hash(entry) for entry in entries])
    edge = extension.new
    await sql.execute(
        "INSERT INTO tree (log_id, origin, public_key, size, root, frontier) VALUES ($1, $2, $3, $4, $5, $6)",
        log,
        identity.origin,
        identity.public_key,
        edge.size,
        edge.root(),
        edge.to_bytes(),
    )
    await sql.executemany(
        "INSERT INTO entry (leaf_index, log_id, leaf_hash, body) VALUES ($1, $2, $3, $4)",
        [(index, log, leaf_hash(entry), entry) for index, entry in enumerate(entries)],
    )
    await sql.executemany(
        "INSERT INTO node (node_index, log_id, level, hash) VALUES ($1, $2, $3, $4)",
        [(each.index, log, each.level, each.hash) for each in extension.completed],
    )
