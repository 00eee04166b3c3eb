"""The log in PostgreSQL, through asyncpg. Tiles are ranges of stored hashes; no partial tile is ever written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import asyncpg

from afdp.errors import DataLoss
from afdp.formats.merkle import HASH_SIZE, Frontier, HashRange, TileHashes
from afdp.postgres import Connection, Database, Work
from afdp.transparency.service import Plan
from afdp.transparency.values import (
    Growth,
    Heads,
    Leaf,
    LogIdentity,
    SignedCheckpoint,
    Stamp,
    StampedCheckpoint,
    StoredTree,
)

T = TypeVar("T")

SCHEMA = "afdp_log"
SERVICE = "transparency"
# What it works as: it may add to the log, and change nothing that is in it.
ROLE = "afdp_log_writer"
# Every statement here goes by an index. A plan that was made while the tables were small would read them whole. Each is
# planned once: with hundreds of partitions planning takes longer than anything else.
SESSION = {"role": ROLE, "enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"}
_SPAN = 21  # a partition has 2^21 entries

FIRST = 1  # the log of `AFDP_LOG_ORIGIN`


class PostgresStore:
    """One log in the schema `afdp_log`."""

    def __init__(self, database: Database, log_id: int = FIRST) -> None:
        self._database = self.database = database
        self._log = self.log_id = log_id

    async def identity(self) -> LogIdentity | None:
        """The log that is kept."""
        row = await self._row("SELECT origin, public_key FROM tree WHERE log_id = $1")
        return LogIdentity(row["origin"], row["public_key"]) if row else None

    async def create(self, identity: LogIdentity) -> None:
        """Creates the log, empty, unless one is there already."""
        await self._database.run(lambda connection: create_tree(connection, self._log, identity))

    async def tree(self) -> StoredTree:
        """The tree as it is, published or not."""
        return _tree(await self._row(_TREE))

    async def grow(self, growth: Growth, since: int = 0) -> bool:
        """Grows the tree if it still is the old one, is not frozen, and holds none of the leaves: one round trip."""
        arguments = self._growing(growth, since)
        return bool(await self._with_room(lambda connection: connection.fetchval(_GROW, *arguments)))

    async def integrate(self, leaf_hashes: Sequence[bytes], plan: Plan, since: int = 0) -> Mapping[bytes, int]:
        """Locks the tree, grows it as `plan` says, and gives the positions that `plan` was told."""

        async def work(connection: Connection) -> Mapping[bytes, int]:
            async with connection.transaction():
                tree = _tree(await connection.fetchrow(_LOCK, self._log))
                # A statement of its own, after the lock: it sees what the lock's last holder has written.
                found = _positions(await connection.fetch(_POSITIONS, self._log, leaf_hashes, min(since, tree.size)))
                growth = plan(tree, found)
                if growth and not await connection.fetchval(_GROW, *self._growing(growth, since)):
                    raise DataLoss("the tree's row does not hold what was read from it under its lock")
                return found

        return await self._with_room(work)

    async def make_room(self) -> None:
        """Makes the partitions that the log will need next; where they are there, it costs next to nothing."""
        await self._database.run(lambda connection: connection.execute(_MAKE_ROOM, self._log))

    async def publish(self, checkpoint: SignedCheckpoint) -> None:
        """Makes it the checkpoint that readers see, unless a larger one is."""
        arguments = (self._log, checkpoint.size, checkpoint.root, checkpoint.note)
        await self._database.run(lambda connection: connection.execute(_PUBLISH, *arguments))

    async def published(self) -> SignedCheckpoint | None:
        """The checkpoint that readers see."""
        row = await self._row("SELECT size, root, note FROM checkpoint WHERE log_id = $1")
        return _signed(row)

    async def heads(self) -> Heads:
        """How far tree and checkpoint are."""
        row = await self._row(_HEADS)
        return Heads(row["tree"], row["published"]) if row else Heads(0, 0)

    async def hashes(self, ranges: Sequence[HashRange]) -> TileHashes:
        """The stored hashes of these ranges: one query for the leaves of each partition, one for all other levels."""
        queries: list[tuple[str, Sequence[HashRange], Sequence[int]]] = [
            (_LEAF_HASHES, some, [span]) for span, some in _by_span(ranges).items()
        ]
        if nodes := [each for each in ranges if each.level > 0]:
            queries.append((_NODE_HASHES, nodes, []))

        async def work(connection: Connection) -> dict[tuple[int, int], bytes]:
            found: dict[tuple[int, int], bytes] = {}
            for query, wanted, more in queries:
                columns = [list(column) for column in zip(*wanted, strict=True)]
                rows = await connection.fetch(query, self._log, *columns, *more)
                for each, row in zip(wanted, rows, strict=True):
                    found.update(_split(each, row["hashes"] or b""))
            return found

        return await self._database.run(work)

    async def positions(self, leaf_hashes: Sequence[bytes]) -> Mapping[bytes, int]:
        """Where these leaves are."""
        return _positions(
            await self._database.run(lambda connection: connection.fetch(_POSITIONS, self._log, leaf_hashes, 0))
        )

    async def entries(self, start: int, end: int) -> Sequence[Leaf]:
        """The entries of a range, as stored."""
        rows = await self._database.run(lambda connection: connection.fetch(_ENTRIES, self._log, start, end))
        for index, row in enumerate(rows, start):
            if row["leaf_index"] != index:
                raise DataLoss(f"entry {index} is missing from the database")
        if len(rows) != end - start:
            raise DataLoss(f"entry {start + len(rows)} is missing from the database")
        return [Leaf(row["leaf_hash"], row["body"]) for row in rows]

    async def keep_stamp(self, checkpoint: StampedCheckpoint) -> None:
        """Keeps a stamped checkpoint; one that is kept already stays."""
        signed, stamp = checkpoint.checkpoint, checkpoint.stamp
        arguments = (self._log, signed.size, signed.root, signed.note, stamp.response, stamp.authority, stamp.time)
        await self._database.run(lambda connection: connection.execute(_KEEP_STAMP, *arguments))

    async def newest_stamp(self) -> tuple[int, float] | None:
        """The size of the newest stamped checkpoint, and how many seconds ago it was kept."""
        row = await self._row(_NEWEST_STAMP)
        return (row["size"], row["age"]) if row else None

    async def stamped_over(self, leaf_index: int) -> StampedCheckpoint | None:
        """The smallest stamped checkpoint that covers the leaf."""
        row = await self._row(_STAMPED_OVER, leaf_index)
        if row is None:
            return None
        signed = SignedCheckpoint(row["size"], row["root"], row["note"])
        return StampedCheckpoint(signed, Stamp(row["timestamp"], row["authority"], row["stamped_at"]))

    async def newest_cosigned(self) -> SignedCheckpoint | None:
        """The largest cosigned checkpoint."""
        return _signed(await self._row(_NEWEST_COSIGNED))

    async def cosigned_over(self, leaf_index: int) -> SignedCheckpoint | None:
        """The smallest cosigned checkpoint that covers the leaf."""
        return _signed(await self._row(_COSIGNED_OVER, leaf_index))

    async def keep_cosigned(self, checkpoint: SignedCheckpoint) -> None:
        """Keeps a cosigned checkpoint; one of this size that is kept already stays."""
        arguments = (self._log, checkpoint.size, checkpoint.root, checkpoint.note)
        await self._database.run(lambda connection: connection.execute(_KEEP_COSIGNED, *arguments))

    async def claim_turn(self, interval: float) -> bool:
        """Whether witnesses may be asked now: nobody has asked them in the last `interval` seconds."""
        return await self._row(_CLAIM_TURN, interval) is not None

    async def _row(self, query: str, *more: object) -> asyncpg.Record | None:
        return await self._database.run(lambda connection: connection.fetchrow(query, self._log, *more))

    async def _with_room(self, work: Work[T]) -> T:
        """What `work` gives; where it comes to the end of the partitions, it is done again with another one."""

        async def with_room(connection: Connection) -> T:
            try:
                return await work(connection)
            except asyncpg.CheckViolationError:  # no partition for a row
                await connection.execute(_MAKE_ROOM, self._log)
                return await work(connection)

        return await self._database.run(with_room)

    def _growing(self, growth: Growth, since: int) -> tuple[object, ...]:
        old, new = growth.extension.old, growth.extension.new
        nodes = growth.extension.completed
        return (
            self._log,
            old.size,
            old.root(),
            old.to_bytes(),
            new.size,
            new.root(),
            new.to_bytes(),
            [leaf.hash for leaf in growth.leaves],
            [leaf.entry for leaf in growth.leaves],
            [each.level for each in nodes],
            [each.index for each in nodes],
            [each.hash for each in nodes],
            min(since, old.size),
        )


async def create_tree(connection: Connection, log_id: int, identity: LogIdentity) -> None:
    """Creates an empty tree, unless one is there already."""
    empty = Frontier.empty()
    await connection.execute(_CREATE, log_id, identity.origin, identity.public_key, empty.root(), empty.to_bytes())
    await connection.execute(_MAKE_ROOM, log_id)


def _signed(row: asyncpg.Record | None) -> SignedCheckpoint | None:
    return SignedCheckpoint(row["size"], row["root"], row["note"]) if row else None


def _tree(row: asyncpg.Record | None) -> StoredTree:
    if row is None:
        raise DataLoss("the log's row in the table `tree` is gone")
    return StoredTree(row["size"], row["root"], row["frontier"], row["frozen"])


def _positions(rows: Sequence[asyncpg.Record]) -> dict[bytes, int]:
    return {row["leaf_hash"]: row["leaf_index"] for row in rows}


def _by_span(ranges: Sequence[HashRange]) -> dict[int, list[HashRange]]:
    """The ranges of leaves by the partition that they lie in; one that lies in several is cut."""
    spans: dict[int, list[HashRange]] = {}
    for each in ranges:
        for span in range(each.start >> _SPAN, (each.end - 1 >> _SPAN) + 1) if each.level == 0 else ():
            start, end = max(each.start, span << _SPAN), min(each.end, span + 1 << _SPAN)
            spans.setdefault(span, []).append(HashRange(0, start, end))
    return spans


def _split(wanted: HashRange, hashes: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    level, start, end = wanted
    if len(hashes) != (end - start) * HASH_SIZE:
        raise DataLoss(f"stored hashes of level {level} between {start} and {end - 1} are missing from the database")
    for index in range(start, end):
        at = (index - start) * HASH_SIZE
        yield (level, index), hashes[at : at + HASH_SIZE]


_CREATE = """
INSERT INTO tree (log_id, origin, public_key, size, root, frontier) VALUES ($1, $2, $3, 0, $4, $5)
ON CONFLICT DO NOTHING
"""

_TREE = "SELECT size, root, frontier, frozen_at IS NOT NULL AS frozen FROM tree WHERE log_id = $1"
_LOCK = f"{_TREE} FOR UPDATE"

# Partitions are divided by `log_id` and `leaf_index >> 21`. Each statement names both, by parameters of its own, and so
# reads what it needs only.
_POSITIONS = """
SELECT leaf_hash, leaf_index FROM entry
WHERE log_id = $1 AND leaf_index >> 21 >= $3::bigint >> 21 AND leaf_hash = ANY($2::bytea[])
"""

_MAKE_ROOM = "SELECT make_room($1)"

# What the statement's snapshot sees of `entry` is exactly the tree of the old size: had another writer committed since,
# the row's size would have moved, and the update, which looks at the row's newest version, would find nothing to do.
_GROW = """
WITH grown AS (
    UPDATE tree SET size = $5, root = $6, frontier = $7
    WHERE log_id = $1 AND size = $2 AND root = $3 AND frontier = $4 AND frozen_at IS NULL
      AND NOT EXISTS (
          SELECT FROM entry
          WHERE log_id = $1 AND leaf_index >> 21 >= $13::bigint >> 21 AND leaf_hash = ANY($8::bytea[])
      )
    RETURNING log_id
), entries AS (
    INSERT INTO entry (log_id, leaf_index, leaf_hash, body)
    SELECT log_id, $2 + position - 1, leaf_hash, body
    FROM grown, unnest($8::bytea[], $9::bytea[]) WITH ORDINALITY AS leaf (leaf_hash, body, position)
), nodes AS (
    INSERT INTO node (log_id, level, node_index, hash)
    SELECT log_id, level, node_index, hash
    FROM grown, unnest($10::smallint[], $11::bigint[], $12::bytea[]) AS node (level, node_index, hash)
)
SELECT count(*) FROM grown
"""

_PUBLISH = """
INSERT INTO checkpoint (log_id, size, root, note) VALUES ($1, $2, $3, $4)
ON CONFLICT (log_id) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note
WHERE checkpoint.size < excluded.size
"""

_KEEP_STAMP = """
INSERT INTO stamped_checkpoint (log_id, size, root, note, timestamp, authority, stamped_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
"""

_NEWEST_STAMP = """
SELECT size, extract(epoch FROM statement_timestamp() - kept_at)::float8 AS age
FROM stamped_checkpoint WHERE log_id = $1 ORDER BY size DESC LIMIT 1
"""

_STAMPED_OVER = """
SELECT size, root, note, timestamp, authority, stamped_at
FROM stamped_checkpoint WHERE log_id = $1 AND size > $2 ORDER BY size LIMIT 1
"""

_KEEP_COSIGNED = """
INSERT INTO cosigned_checkpoint (log_id, size, root, note) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""

_NEWEST_COSIGNED = "SELECT size, root, note FROM cosigned_checkpoint WHERE log_id = $1 ORDER BY size DESC LIMIT 1"

_COSIGNED_OVER = """
SELECT size, root, note FROM cosigned_checkpoint WHERE log_id = $1 AND size > $2 ORDER BY size LIMIT 1
"""

_CLAIM_TURN = """
INSERT INTO witness_turn AS turn (log_id, begun_at) VALUES ($1, clock_timestamp())
ON CONFLICT (log_id) DO UPDATE SET begun_at = excluded.begun_at
WHERE turn.begun_at NOT BETWEEN excluded.begun_at - make_interval(secs => $2::float8) AND excluded.begun_at
RETURNING log_id
"""

_HEADS = """
SELECT tree.size AS tree, coalesce(checkpoint.size, 0) AS published
FROM tree LEFT JOIN checkpoint USING (log_id) WHERE log_id = $1
"""

# Each range comes back as one value: its hashes, concatenated.
_LEAF_HASHES = """
SELECT (
    SELECT string_agg(leaf_hash, ''::bytea ORDER BY leaf_index)
    FROM entry WHERE log_id = $1 AND leaf_index >> 21 = $5::bigint AND leaf_index >= first AND leaf_index < past
) AS hashes
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS wanted (level, first, past, position)
ORDER BY position
"""

_NODE_HASHES = """
SELECT (
    SELECT string_agg(hash, ''::bytea ORDER BY node_index)
    FROM node WHERE log_id = $1 AND node.level = wanted.level AND node_index >= first AND node_index < past
) AS hashes
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS wanted (level, first, past, position)
ORDER BY position
"""

_ENTRIES = """
SELECT leaf_index, leaf_hash, body FROM entry
WHERE log_id = $1 AND leaf_index >> 21 BETWEEN $2::bigint >> 21 AND $3::bigint - 1 >> 21
  AND leaf_index >= $2 AND leaf_index < $3 ORDER BY leaf_index
"""
