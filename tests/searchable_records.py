"""Records that are searched for by the million, every way to search for some of them, and by what they are found.

The records are copies of one, in the schema itself: an actor has a thousandth of them, an artifact, a place in metadata
and a submitter a hundred each, a key version a fiftieth, all within a week.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from afdp.messages.metadata import WorkflowType
from afdp.metadata.postgres.lookup import lookup_key, term_key
from afdp.metadata.postgres.search import search_statement
from afdp.metadata.terms import Terms, term
from afdp.metadata.values import Search

PLACE = "run"
"""What is searchable in their metadata."""

PAGE = 50

_TENANT = "acme"
GROUP = 100  # records of an artifact, a place, a submitter
_BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
# Of the month that has records; an empty one costs nothing.
WHOLE_TABLE = re.compile(r"Seq Scan on \w+_202611\b")


async def fill_searchable(connection: Any, records: int) -> None:
    """Writes so many of them, and has PostgreSQL look at what it has."""
    await connection.execute("SET search_path = afdp_metadata")
    groups = range(max(1, records // GROUP))
    await connection.execute(
        "CREATE TEMP TABLE grouped (n integer PRIMARY KEY, artifact bytea, artifact_key bigint, "
        "run bytea, run_key bigint, submitter bytea, submitter_key bigint)"
    )
    await connection.copy_records_to_table("grouped", records=[_group(n) for n in groups])
    await connection.execute(
        "SELECT make_months(ARRAY("
        "SELECT first_id($1::timestamptz + d * interval '1 day') FROM generate_series(0, 8) AS d))",
        _BEGIN,
    )
    for statement in _FILL:
        await connection.execute(statement, records, _BEGIN, len(groups), timeout=3600)
    for table in ("record", "record_artifact", "record_term", "log_entry", "log_place"):
        await connection.execute(f"VACUUM ANALYZE {table}", timeout=3600)


def _group(n: int) -> tuple[object, ...]:
    artifact = _artifact(n)
    run, submitter = term(_TENANT, "metadata", "run", f"run-{n}"), term(_TENANT, "submitter", f"ci-{n}")
    return n, artifact, lookup_key(_TENANT, artifact), run, term_key(run), submitter, term_key(submitter)


def _artifact(n: int) -> bytes:
    return sha256(f"artifact-{n}".encode()).digest()


_ROWS = """
    WITH made AS (
        SELECT g, $2::timestamptz + g * (interval '6 days' / $1::integer) AS at, (g::bigint * 7919) % $3::integer AS n
        FROM generate_series(1, $1::integer) AS g
    ), copy AS (
        SELECT made.*, (
            lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(g::text), 1, 3) || '8' || substr(md5(g::text), 4, 15)
        )::uuid AS id
        FROM made
    )
"""
_FILL = (
    f"""{_ROWS} INSERT INTO record (
        receipt_id, tenant, notarized_at, evidence_hash, evidence_key, event_type, actor_type, actor_id, timestamp_utc,
        artifact_hashes, key_id, workflow_type
    )
    SELECT id, '{_TENANT}', at, sha256(g::text::bytea), hashtextextended(g::text, 0), 'ai.model.step' || g % 20,
           CASE g % 2 WHEN 0 THEN 'human' ELSE 'workload' END, 'actor-' || g % 1000, at, artifact, 'key:' || g % 50,
           {int(WorkflowType.SIMPLE_SIGNING)}
    FROM copy JOIN grouped USING (n)""",
    f"""{_ROWS} INSERT INTO record_artifact (artifact_key, notarized_at, receipt_id, tenant, artifact_hash)
    SELECT artifact_key, at, id, '{_TENANT}', artifact FROM copy JOIN grouped USING (n)""",
    f"""{_ROWS} INSERT INTO record_term (term_key, notarized_at, receipt_id, tenant, term)
    SELECT run_key, at, id, '{_TENANT}', run FROM copy JOIN grouped USING (n)
    UNION ALL SELECT submitter_key, at, id, '{_TENANT}', submitter FROM copy JOIN grouped USING (n)""",
    f"""{_ROWS} INSERT INTO log_entry (receipt_id, tenant, origin, log_index, tree_size, proof)
    SELECT id, '{_TENANT}', 'notary.localhost', g, 2^40, '' FROM copy""",
    f"""{_ROWS} INSERT INTO log_place (origin, log_index, receipt_id, tenant)
    SELECT 'notary.localhost', g, id, '{_TENANT}' FROM copy""",
    """INSERT INTO checkpoint (origin, tree_size, note) SELECT 'notary.localhost', 2^40, ''
    WHERE $1::integer > 0 AND $2::timestamptz IS NOT NULL AND $3::integer > 0""",
)


def _at(n: int, records: int) -> datetime:
    return _BEGIN + timedelta(days=6) * ((n * 37 % records) / records)


WAYS: dict[str, Callable[[int, int], Search]] = {
    "newest": lambda n, size: Search(_TENANT),
    "time": lambda n, size: Search(_TENANT, start_time=_at(n, size), end_time=_at(n, size) + timedelta(hours=1)),
    "artifact": lambda n, size: Search(_TENANT, artifact_hash=_artifact(n)),
    "history": lambda n, size: Search(_TENANT, artifact_hash=_artifact(n), oldest_first=True),
    "event_type": lambda n, size: Search(_TENANT, event_type=f"ai.model.step{n % 20}"),
    "actor": lambda n, size: Search(_TENANT, actor_type="human", actor_id=f"actor-{n * 2 % 1000}"),
    "submitter": lambda n, size: Search(_TENANT, submitter=f"ci-{n}"),
    "metadata": lambda n, size: Search(_TENANT, metadata=(("run", f"run-{n}"),)),
    "key": lambda n, size: Search(_TENANT, key_id=f"key:{n % 50}"),
    "log_index": lambda n, size: Search(_TENANT, log_index=1 + n * 37 % size),
    "log_index_origin": lambda n, size: Search(_TENANT, log_index=1 + n * 37 % size, log_origin="notary.localhost"),
    "artifact_event_type": lambda n, size: Search(
        _TENANT, artifact_hash=_artifact(n), event_type=f"ai.model.step{-n % 20}"
    ),
    "actor_event_type_time": lambda n, size: Search(
        _TENANT, actor_id=f"actor-{n % 1000}", event_type=f"ai.model.step{n % 20}", start_time=_at(n, size)
    ),
    "submitter_metadata": lambda n, size: Search(_TENANT, submitter=f"ci-{n}", metadata=(("run", f"run-{n}"),)),
}
"""By name: the n-th question, of so many records."""


async def plan_of(connection: Any, query: Search) -> str:
    """How PostgreSQL finds the first page, as a tenant's reader."""
    sql, parameters = search_statement(query, None, PAGE, Terms((PLACE,)).asked(query))
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE afdp_metadata_reader")
        await connection.execute("SELECT set_config('afdp.tenant', $1, true)", _TENANT)
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        rows = await connection.fetch(f"EXPLAIN {sql}", *parameters.values)
    return "\n".join(row["QUERY PLAN"] for row in rows)
