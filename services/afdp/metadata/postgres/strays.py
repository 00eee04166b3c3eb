"""Rows beside the records that contradict them, or that point to nothing: each table gone through along its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from afdp.errors import InvalidArgument
from afdp.metadata.values import ArtifactOf, Stray
from afdp.postgres import Connection

_ABOUT_OTHERS = "its certificate is about other records"
_PATIENCE = 1800.0  # seconds; the root of what expired is made of all of it


@dataclass(frozen=True, slots=True)
class _Table:
    """One table.

    Attributes:
        key: the columns that its rows are gone through by, each with its type.
        subject: what a row is called, of a row `t`.
        why: what is amiss with it; NULL: nothing.
        beside: what `why` looks at beside the row.
        where: which rows are looked at.
        about: a record that settles it, where it is sealed and has this artifact: its tenant, ID and the hash.
        most: how many at once; a row can stand for very many others.
    """

    key: tuple[tuple[str, str], ...]
    subject: str
    why: str
    beside: str
    where: str = "true"
    about: str = "NULL::text AS tenant, NULL::uuid AS record, NULL::bytea AS artifact_hash"
    most: int = 4096

    def query(self, table: str) -> str:
        """The rows of a page: where each stands, and what is amiss. $1 is where the page before ended, $2 the size."""
        columns, order = (", ".join(f"{of}{name}" for name, _ in self.key) for of in ("", "t."))
        after = ", ".join(f"($1::text[])[{n}]::{kind}" for n, (_, kind) in enumerate(self.key, 1))
        place = ", ".join(f"t.{name}::text" for name, _ in self.key)
        return f"""
            SELECT ARRAY[{place}] AS place, {self.subject} AS subject, {self.why} AS why, {self.about}
            FROM (
                SELECT * FROM {table} WHERE {self.where} AND ($1::text[] = '{{}}' OR ({columns}) > ({after}))
                ORDER BY {columns} LIMIT $2
            ) AS t {self.beside} ORDER BY {order}
        """  # noqa: S608 - of constants


# What points to a record that has expired is in order, until it is old itself.
_KEYS = _Table(
    key=(("digest", "bytea"),),
    subject="encode(t.digest, 'hex')",
    beside="""
        LEFT JOIN record r ON r.receipt_id = t.target AND NOT t.is_batch
        LEFT JOIN batch b ON b.batch_id = t.target AND t.is_batch
    """,
    why="""CASE
        WHEN t.created_at > now() + interval '1 hour' THEN 'it is from the future, and would be kept for longer'
        WHEN t.created_at < time_of(t.target) - interval '1 hour' THEN 'it is older than what it stands for'
        WHEN t.is_batch AND b.batch_id IS NULL THEN 'there is no such batch'
        WHEN NOT t.is_batch AND r.receipt_id IS NULL AND NOT EXISTS (
            SELECT FROM expired_record x WHERE x.receipt_id = t.target
        ) THEN 'there is no such record'
        WHEN r.evidence_hash <> t.fingerprint THEN 'it stands for other evidence than that of its record'
    END""",
)
_BATCHES = _Table(
    key=(("batch_id", "uuid"),),
    subject="t.batch_id::text",
    beside="""
        CROSS JOIN LATERAL (
            SELECT count(*) AS records,
                   count(*) FILTER (
                       WHERE (c.tenant, c.issuer, c.subject, c.method) <> (t.tenant, t.issuer, t.subject, t.method)
                   ) AS of_others
            FROM record r JOIN record_content c USING (receipt_id) WHERE r.batch_id = t.batch_id
        ) AS r
    """,
    why="""CASE
        WHEN t.finished_at IS NOT NULL AND t.succeeded + t.failed <> t.item_count
            THEN 'its counts are not those of its packages'
        WHEN t.finished_at IS NULL AND t.succeeded + t.failed > 0 THEN 'it has counts and did not end'
        WHEN r.records > t.item_count THEN 'it has more records than packages'
        WHEN r.of_others > 0 THEN 'its records are of another submitter'
        WHEN abs(extract(epoch FROM t.created_at - time_of(t.batch_id))) > 3600
            THEN 'its time is not that of its ID'
        WHEN t.finished_at < t.created_at - interval '1 hour' THEN 'it ended before it began'
    END""",
)
_ARTIFACTS = _Table(
    key=(
        ("artifact_key", "bigint"),
        ("notarized_at", "timestamptz"),
        ("receipt_id", "uuid"),
        ("artifact_hash", "bytea"),
    ),
    subject="t.receipt_id::text",
    beside="LEFT JOIN record r ON r.receipt_id = t.receipt_id",
    why="""CASE
        WHEN r.receipt_id IS NULL THEN 'an artifact names it, and there is no such record'
        WHEN (r.tenant, r.notarized_at) <> (t.tenant, t.notarized_at)
            OR position(t.artifact_hash IN r.artifact_hashes) % 32 <> 1
            THEN 'it is found by an artifact that is not its own'
    END""",
)
_TERMS = _Table(
    key=(("term_key", "bigint"), ("notarized_at", "timestamptz"), ("receipt_id", "uuid"), ("term", "bytea")),
    subject="t.receipt_id::text",
    beside="LEFT JOIN record r ON r.receipt_id = t.receipt_id",
    why="""CASE
        WHEN r.receipt_id IS NULL THEN 'a term names it, and there is no such record'
        WHEN (r.tenant, r.notarized_at) <> (t.tenant, t.notarized_at) THEN 'it is found by a term that is not its own'
    END""",
)
# What has expired leaves its place behind, so that the entry has a name.
_PLACES = _Table(
    key=(("origin", "text"), ("log_index", "bigint")),
    subject="t.receipt_id::text",
    beside="""
        LEFT JOIN log_entry e ON e.receipt_id = t.receipt_id
        LEFT JOIN record r ON r.receipt_id = t.receipt_id
    """,
    why="""CASE
        WHEN r.receipt_id IS NULL AND NOT EXISTS (
            SELECT FROM expired_record x JOIN expiry USING (expiry_id)
            WHERE x.receipt_id = t.receipt_id AND x.tenant = t.tenant
        ) THEN 'a place in a log is held for it, and there is no such record'
        WHEN (e.origin, e.log_index) <> (t.origin, t.log_index) THEN 'another place in a log is held for it'
    END""",
)
# Made by the database, certified a moment later by the notary: the certificate is about the root of what went, which is
# made anew of what is on record of it. What the certificate says beside that, the notary looks at.
_EXPIRIES = _Table(
    key=(("expiry_id", "uuid"),),
    subject="t.expiry_id::text",
    beside="""
        LEFT JOIN record r ON r.receipt_id = t.certificate
        CROSS JOIN LATERAL (
            SELECT ARRAY(
                SELECT sha256('\\x00'::bytea || uuid_send(g.receipt_id) || g.leaf_hash) FROM expired_record g
                WHERE g.receipt_id BETWEEN t.first_id AND t.last_id AND g.expiry_id = t.expiry_id ORDER BY g.receipt_id
            ) AS leaves
        ) AS gone
    """,
    why="""CASE
        WHEN t.certificate IS NULL AND t.expired_at < now() - interval '1 day' THEN 'it was never certified'
        WHEN t.certificate IS NOT NULL AND r.receipt_id IS NULL THEN 'its certificate is not there'
        WHEN r.data_key IS NULL AND r.artifact_hashes <> t.root THEN 'its certificate is about other records'
        WHEN cardinality(gone.leaves) <> t.records OR tree_root(gone.leaves) IS DISTINCT FROM t.root
            THEN 'what went is not what it says'
        WHEN t.act IS NULL THEN 'nobody has announced it'
        WHEN r.data_key IS NOT NULL THEN 'its certificate is about other records'
    END""",
    about="t.tenant, CASE WHEN r.data_key IS NOT NULL THEN r.receipt_id END AS record, t.root AS artifact_hash",
    most=16,
)
# What an expiry that is under way says, counts once it has come to its end.
_GONE = _Table(
    key=(("receipt_id", "uuid"),),
    subject="t.receipt_id::text",
    beside="""
        LEFT JOIN expiry x ON x.expiry_id = t.expiry_id
        LEFT JOIN record r ON r.receipt_id = t.receipt_id
        LEFT JOIN expiring_tenant u ON u.expiry_id = t.expiry_id AND u.tenant = t.tenant
    """,
    why="""CASE
        WHEN u.expiry_id IS NOT NULL AND x.expiry_id IS NULL AND r.receipt_id IS NOT NULL THEN NULL
        WHEN r.receipt_id IS NOT NULL THEN 'it is said to have expired, and is on record'
        WHEN x.expiry_id IS NULL THEN 'what it is said to have expired with is not on record'
        WHEN x.tenant <> t.tenant OR t.receipt_id NOT BETWEEN x.first_id AND x.last_id
            THEN 'it is said to have expired with records of others'
    END""",
)
# Of two days: older ones decide nothing any more. Where nobody had usage counted for a while, there is less.
_USAGE = _Table(
    key=(("tenant", "text"), ("day", "date"), ("slot", "smallint")),
    subject="t.tenant || ' ' || t.day",
    where="day >= current_date - 1",
    beside="""
        CROSS JOIN LATERAL (
            SELECT sum(u.records) AS records, min(u.slot) AS first FROM tenant_usage u
            WHERE u.tenant = t.tenant AND u.day = t.day
        ) AS counted
        CROSS JOIN LATERAL (
            SELECT count(*) AS records FROM record r WHERE r.tenant = t.tenant
                AND r.notarized_at >= t.day - interval '1 hour' AND r.notarized_at < t.day + interval '25 hours'
        ) AS there
    """,
    why="""CASE
        WHEN t.slot = counted.first AND counted.records > there.records
            THEN 'more is counted as used than there are records'
        WHEN t.day > current_date + 1 THEN 'it is of a day that has not come'
    END""",
)
_TABLES = {
    "idempotency_key": _KEYS,
    "batch": _BATCHES,
    "record_artifact": _ARTIFACTS,
    "record_term": _TERMS,
    "log_place": _PLACES,
    "expiry": _EXPIRIES,
    "expired_record": _GONE,
    "tenant_usage": _USAGE,
}
_KEYS_OF_SEALED = ("data_key", "index_key")  # which only who asks the signer can judge


async def strays(connection: Connection, table: str, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
    """What is amiss with the next rows of a table, and where they end; an empty end: there are no more.

    Raises:
        InvalidArgument: there is no such table, or it has another key.
    """
    if table in _KEYS_OF_SEALED:
        return [], []
    if table not in _TABLES:
        raise InvalidArgument.field("table", f"must be {', '.join((*_TABLES, *_KEYS_OF_SEALED))}")
    if len(after) not in (0, len(_TABLES[table].key)):
        raise InvalidArgument.field("after", "must be as it was given")
    limit = min(limit, _TABLES[table].most)
    async with connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL statement_timeout = 0")
        rows = await connection.fetch(_TABLES[table].query(table), list(after), limit, timeout=_PATIENCE)
    found = [Stray(row["subject"], row["why"], _settled_by(row)) for row in rows if row["why"] is not None]
    return found, list(rows[-1]["place"]) if len(rows) == limit else []


def _settled_by(row: asyncpg.Record) -> ArtifactOf | None:
    """What else is amiss is amiss whatever the certificate is about."""
    settles = row["record"] is not None and row["why"] == _ABOUT_OTHERS
    return ArtifactOf(row["tenant"], row["record"], row["artifact_hash"]) if settles else None
