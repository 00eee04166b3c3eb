"""What is remembered of other people's logs, in the log's own schema: shared by all replicas."""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg

from afdp.formats.note import Checkpoint
from afdp.formats.trust import Log
from afdp.postgres import Connection, Database
from afdp.transparency.external.values import KnownShard, SeenTree, Shard

_FRESH = 2.0  # seconds for which it is believed that a log is not refused

_REMEMBER = """
    INSERT INTO external_log AS l (log_id, name, api_version, origin, url, read_url, spki, valid_from)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (log_id) DO UPDATE SET name = excluded.name, url = excluded.url, read_url = excluded.read_url
        WHERE (l.name, l.url, l.read_url) <> (excluded.name, excluded.url, excluded.read_url)
"""
_KNOWN = "SELECT * FROM external_log WHERE log_id = $1"
_ALL = "SELECT * FROM external_log ORDER BY met_at DESC, log_id"
_TREE = "SELECT origin, size, root, note FROM external_tree WHERE log_id = $1 AND origin = $2"
_ADVANCE = """
    INSERT INTO external_tree AS t (log_id, origin, size, root, note) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (log_id, origin) DO UPDATE
        SET size = excluded.size, root = excluded.root, note = excluded.note, seen_at = statement_timestamp()
        WHERE t.size < excluded.size
    RETURNING true
"""
_EVIDENCE = "INSERT INTO external_evidence (log_id, reason, known_note, refused_note) VALUES ($1, $2, $3, $4)"
_REFUSE = """
    UPDATE external_log SET refused = $2, refused_at = statement_timestamp() WHERE log_id = $1 AND refused IS NULL
"""
_READMIT = """
    UPDATE external_log SET refused = NULL, refused_at = NULL, readmissions = readmissions + 1
    WHERE origin = $1 AND refused IS NOT NULL
"""


class PostgresExternalStore:
    """`service.Store` in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Shard, tuple[float, KnownShard]] = {}

    async def shards(self) -> Sequence[KnownShard]:
        """Every shard that was ever met, the newest first."""
        rows = await self._database.run(lambda connection: connection.fetch(_ALL))
        return [_known(row) for row in rows]

    async def remember(self, shard: Shard) -> KnownShard:
        """Keeps a shard; one that is known keeps its key and since when it is valid."""
        asked, known = self._known.get(shard, (float("-inf"), None))
        if known is None or known.refused or time.monotonic() - asked > _FRESH:
            known = await self._database.run(lambda connection: _remember(connection, shard))
            self._known[shard] = (time.monotonic(), known)
        return known

    async def tree(self, log_id: bytes, origin: str) -> SeenTree | None:
        """The largest tree that was seen."""
        row = await self._database.run(lambda connection: connection.fetchrow(_TREE, log_id, origin))
        return None if row is None else SeenTree(Checkpoint(row["origin"], row["size"], row["root"]), row["note"])

    async def advance(self, log_id: bytes, tree: SeenTree) -> bool:
        """Keeps a larger tree; False where one at least as large is there already."""
        seen = tree.checkpoint
        arguments = (log_id, seen.origin, seen.size, seen.root, tree.note)
        return bool(await self._database.run(lambda connection: connection.fetchval(_ADVANCE, *arguments)))

    async def refuse(self, log_id: bytes, reason: str, known: str, refused: str) -> None:
        """Keeps both notes, and that the log is not to be used."""

        async def write(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(_EVIDENCE, log_id, reason, known, refused)
                await connection.execute(_REFUSE, log_id, reason)

        await self._database.run(write)
        self._known.clear()


async def evidence(connection: Connection) -> list[asyncpg.Record]:
    """All that logs were refused for, oldest first, with the log's origin and whether it is refused now."""
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT e.*, l.origin, l.refused IS NOT NULL AS stands FROM external_evidence e JOIN external_log l"
        " USING (log_id) ORDER BY e.id"
    )
    return rows


async def readmit(connection: Connection, origin: str) -> bool:
    """Lets a refused log in again, from what it shows now; False where none of this origin is refused.

    What was seen of it before is forgotten with that: it is the operator's word that stands.
    """
    async with connection.transaction():
        done = await connection.execute(_READMIT, origin)
        await connection.execute(
            "DELETE FROM external_tree WHERE log_id IN (SELECT log_id FROM external_log WHERE origin = $1)", origin
        )
    return str(done) != "UPDATE 0"


async def _remember(connection: Connection, shard: Shard) -> KnownShard:
    log = shard.log
    await connection.execute(
        _REMEMBER, log.log_id, shard.name, shard.api_version, log.origin, shard.url, shard.read_url, log.spki,
        log.valid_from,
    )  # fmt: skip
    [row] = await connection.fetch(_KNOWN, log.log_id)
    return _known(row)


def _known(row: asyncpg.Record) -> KnownShard:
    log = Log.of(row["origin"], row["spki"], row["valid_from"])
    shard = Shard(row["name"], row["api_version"], row["url"], row["read_url"], log)
    return KnownShard(shard, row["refused"] or "", row["refused_at"], row["readmissions"])
