"""The audit trail in PostgreSQL.

Sequences are taken before their rows are committed, so a row can appear below one that is there already. What is sealed
must therefore be settled: a number is seen, then a transaction begins, and once that one is older than all that still
run, every row up to the number is there or never will be. It holds because a row takes its number in a transaction that
has its ID by then (`schema/0009_audit.sql`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import asyncpg

from afdp.audit.rows import OUTCOME, RESULTS, RowHead, head_of
from afdp.errors import Aborted, FailedPrecondition, InvalidArgument
from afdp.metadata.audit_trail import NewRow, Row, RowQuery, Sealed, Unsealed
from afdp.metadata.postgres.lookup import lookup_key
from afdp.postgres import Connection, Database

_INSERT = """
    INSERT INTO audit_row (id, tenant, phase, results, silent, terms, row)
    SELECT id, tenant, phase, results, silent, (${8}::bigint[])[first:last], row
    FROM unnest(
        ${0}::uuid[], ${1}::text[], ${2}::text[], ${3}::smallint[], ${4}::boolean[], ${5}::integer[], ${6}::integer[],
        ${7}::bytea[]
    ) AS r (id, tenant, phase, results, silent, first, last, row)
    WHERE {where}
    ON CONFLICT (id) DO NOTHING
"""


def insert(first: int, where: str = "true") -> str:
    """The statement that adds rows, its parameters those of `columns`, numbered from `first` on."""
    return _INSERT.format(*range(first, first + 9), where=where)


_ADD = insert(1)
_LIST = """
    SELECT sequence, tenant, recorded_at, row FROM audit_row
    WHERE tenant = $1 AND ($2::timestamptz IS NULL OR recorded_at >= $2)
      AND ($3::timestamptz IS NULL OR recorded_at < $3)
      AND results & $4::smallint <> 0 AND terms @> $5::bigint[]
      AND ($6::bigint = 0
           OR (recorded_at, sequence) < ((SELECT recorded_at FROM audit_row WHERE sequence = $6), $6 + $8::integer))
    ORDER BY recorded_at DESC, sequence DESC LIMIT $7
"""
_OUTCOMES = """
    SELECT a.act FROM unnest($1::text[], $2::bigint[]) AS a (act, term)
    WHERE NOT EXISTS (SELECT FROM audit_row WHERE tenant = $3 AND terms @> ARRAY[a.term])
"""
_READ = """
    SELECT sequence, tenant, recorded_at, row{filing} FROM audit_row
    WHERE sequence > $1 AND (NOT $3 OR sequence <= (SELECT max(last) FROM audit_seal)){whose}
    ORDER BY sequence LIMIT $2
"""
_READ_ALL = _READ.format(filing="", whose="")
_READ_FILED = _READ.format(filing=", id, phase, results, silent, terms", whose="")
_READ_TENANT = _READ.format(filing="", whose=" AND tenant = $4")
_SEALS = """
    SELECT s.number, s.body, s.sequences, s.leaves, s.sealed_at, a.receipt_id
    FROM audit_seal s LEFT JOIN audit_anchor a USING (number) WHERE s.number > $1 AND s.last >= $3
    ORDER BY s.number LIMIT $2
"""
_TAKE = """
    INSERT INTO audit_sealer AS s (holder, until) VALUES ($1, clock_timestamp() + $2::interval)
    ON CONFLICT (single) DO UPDATE SET holder = excluded.holder, until = excluded.until
        WHERE s.holder = excluded.holder OR s.until < clock_timestamp()
    RETURNING holder
"""
_SEQUENCE = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_sequence"
_BEGUN = "SELECT pg_current_xact_id()::text::bigint"
_OVER = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1"
_NEWEST = "SELECT body, last FROM audit_seal ORDER BY number DESC LIMIT 1"
_UNSEALED = r"""
    SELECT sequence, silent, sha256(
        '\x00'::bytea || int8send(sequence) || int8send((extract(epoch FROM recorded_at) * 1000000)::bigint) || row
    ) AS leaf
    FROM audit_row WHERE sequence > $1 AND sequence <= $2 ORDER BY sequence LIMIT $3
"""
_SEAL = "INSERT INTO audit_seal (number, body, last, sequences, leaves) VALUES ($1, $2, $3, $4, $5)"
_UNANCHORED = """
    SELECT s.number, s.body, s.sealed_at, a.receipt_id FROM audit_seal s LEFT JOIN audit_anchor a USING (number)
    ORDER BY s.number DESC LIMIT 1
"""
_OLDEST = """
    SELECT recorded_at FROM audit_row
    WHERE sequence > coalesce((SELECT max(last) FROM audit_seal), 0) AND NOT silent ORDER BY sequence LIMIT 1
"""
_ANCHOR = """
    WITH new AS (
        INSERT INTO audit_anchor (number, receipt_id) VALUES ($1, $2)
        ON CONFLICT (number) DO NOTHING RETURNING receipt_id
    )
    SELECT receipt_id FROM new UNION ALL SELECT receipt_id FROM audit_anchor WHERE number = $1
"""
_PAUSE = 0.005  # seconds between two looks whether older transactions are over


def columns(rows: Sequence[NewRow]) -> tuple[list[object], ...]:
    """The parameters of `insert`."""
    terms: list[object] = []
    found: tuple[list[object], ...] = ([], [], [], [], [], [], [], [])
    for each in rows:
        head, start = each.head, len(terms) + 1
        terms += _term_keys(head)
        values = (head.id, head.tenant, head.phase, _bits(head.results), head.silent, start, len(terms), each.row)
        for column, value in zip(found, values, strict=True):
            column.append(value)
    return (*found, terms)


def _misfiled(row: asyncpg.Record) -> str:
    """The columns that are not what the row itself says, or would say if it were one."""
    try:
        head = head_of(row["row"])
    except InvalidArgument:
        return ""  # which its hash shows
    own = {
        "tenant": head.tenant,
        "id": head.id,
        "phase": head.phase,
        "results": _bits(head.results),
        "silent": head.silent,
    }
    wrong = [name for name, value in own.items() if row[name] != value]
    return ", ".join(wrong if set(row["terms"]) == _term_keys(head) else [*wrong, "terms"])


def _bits(results: Iterable[str]) -> int:
    return sum(1 << RESULTS.index(each) for each in results)


def _term_keys(head: RowHead) -> set[int]:
    return {term_key(head.tenant, term) for term in head.terms}


def term_key(tenant: str, term: str) -> int:
    """64 bits that stand for a term in the index."""
    return lookup_key(tenant, sha256(term.encode()).digest())


async def add_rows(connection: Connection, rows: Sequence[NewRow]) -> None:
    """Add rows in one statement, or in the transaction that is open."""
    if rows:
        await connection.execute(_ADD, *columns(rows))


class PostgresAudit:
    """The store of `audit_trail.py`; `tenants` reads as who is confined to one tenant."""

    def __init__(self, database: Database, tenants: Database, max_answer_bytes: int) -> None:
        self._database = database
        self._tenants = tenants
        self._most = max_answer_bytes // 2

    async def add_rows(self, rows: Sequence[NewRow]) -> None:
        await self._database.run(lambda connection: add_rows(connection, rows))

    async def list_rows(self, query: RowQuery, before: int, limit: int, *, inclusive: bool = False) -> list[Row]:
        wanted = [f"actor:{query.actor}"] if query.actor else []
        wanted += [query.resource] if query.resource else []
        terms = [term_key(query.tenant, each) for each in wanted]
        results = _bits([query.result] if query.result else RESULTS)
        filters = query.tenant, query.start_time, query.end_time, results, terms
        arguments = *filters, before, limit, int(inclusive)
        rows = await self._tenants.run_for(query.tenant, lambda connection: connection.fetch(_LIST, *arguments))
        return self._fitting(rows)

    async def without_outcome(self, tenant: str, acts: Sequence[str]) -> list[str]:
        keys = [term_key(tenant, f"{OUTCOME}:{act}") for act in acts]
        found = await self._tenants.run_for(
            tenant, lambda connection: connection.fetch(_OUTCOMES, list(acts), keys, tenant)
        )
        return [row["act"] for row in found]

    async def read_rows(self, after: int, limit: int, *, sealed: bool) -> list[Row]:
        part = after, limit, sealed
        return self._fitting(await self._database.run(lambda connection: connection.fetch(_READ_ALL, *part)))

    async def read_tenants_rows(self, tenant: str, after: int, limit: int, *, sealed: bool) -> list[Row]:
        part = after, limit, sealed, tenant
        rows = await self._tenants.run_for(tenant, lambda connection: connection.fetch(_READ_TENANT, *part))
        return self._fitting(rows)

    async def read_filed(self, after: int, limit: int) -> list[tuple[Row, str]]:
        found = await self._database.run(lambda connection: connection.fetch(_READ_FILED, after, limit, False))
        rows = self._fitting(found)
        wrong = await asyncio.to_thread(lambda: [_misfiled(row) for row in found[: len(rows)]])
        return list(zip(rows, wrong, strict=True))

    def _fitting(self, rows: Sequence[asyncpg.Record]) -> list[Row]:
        """As many as fit into a message, at least one."""
        fitting: list[Row] = []
        size = 0
        for row in rows:
            size += len(row["row"]) + 64
            if fitting and size > self._most:
                break
            fitting.append(Row(row["sequence"], row["tenant"], row["recorded_at"], row["row"]))
        return fitting

    async def read_seals(self, after: int, limit: int, covering: int = 0) -> list[Sealed]:
        rows = await self._database.run(lambda connection: connection.fetch(_SEALS, after, limit, covering))
        fitting: list[Sealed] = []
        size = 0
        for row in rows:
            size += len(row["leaves"]) * 2 + 512
            if fitting and size > self._most:
                break
            fitting.append(
                Sealed(row["number"], row["body"], row["sequences"], row["leaves"], row["sealed_at"], row["receipt_id"])
            )
        return fitting

    async def take_sealing(self, holder: UUID, lease: timedelta) -> bool:
        return await self._database.run(lambda connection: connection.fetchval(_TAKE, holder, lease)) is not None

    async def settled_until(self, patience: timedelta) -> int | None:
        async def settled(connection: Connection) -> int | None:
            seen: int = await connection.fetchval(_SEQUENCE)
            begun: int = await connection.fetchval(_BEGUN)
            ends = asyncio.get_running_loop().time() + patience.total_seconds()
            while not await connection.fetchval(_OVER, begun):
                if asyncio.get_running_loop().time() > ends:
                    return None
                await asyncio.sleep(_PAUSE)
            return seen

        return await self._database.run(settled)

    async def unsealed(self, until: int, limit: int) -> Unsealed:
        async def found(connection: Connection) -> Unsealed:
            newest = await connection.fetchrow(_NEWEST)
            rows = await connection.fetch(_UNSEALED, newest["last"] if newest else 0, until, limit)
            worth = any(not row["silent"] for row in rows)
            before = newest["body"] if newest else None
            return Unsealed(before, [row["sequence"] for row in rows], [row["leaf"] for row in rows], worth)

        return await self._database.run(found)

    async def add_seal(self, number: int, body: bytes, sequences: Sequence[int], leaves: bytes) -> None:
        async def add(connection: Connection) -> None:
            try:
                await connection.execute(_SEAL, number, body, sequences[-1], list(sequences), leaves)
            except asyncpg.UniqueViolationError:
                raise Aborted("another process seals the audit trail", retry_after=1.0) from None

        await self._database.run(add)

    async def newest_unanchored(self) -> Sealed | None:
        row = await self._database.run(lambda connection: connection.fetchrow(_UNANCHORED))
        if row is None or row["receipt_id"] is not None:
            return None
        return Sealed(row["number"], row["body"], (), b"", row["sealed_at"], None)

    async def oldest_unsealed(self) -> datetime | None:
        oldest: datetime | None = await self._database.run(lambda connection: connection.fetchval(_OLDEST))
        return oldest

    async def add_anchor(self, number: int, receipt_id: UUID) -> None:
        on_record = await self._database.run(lambda connection: connection.fetchval(_ANCHOR, number, receipt_id))
        if on_record not in (None, receipt_id):
            raise FailedPrecondition("the seal has another receipt already")
