"""Records by the million, through the schema itself."""

from __future__ import annotations

from typing import Any


async def fill_records(connection: Any, key_id: str, other: str, count: int) -> None:
    """Copies of the newest record of a key version: as many by it, as many by another, one a second each, backwards.

    Each copy has its own time, receipt ID, evidence hash and place in the log.
    """
    await connection.execute("SET search_path = afdp_metadata")
    columns = [
        row["column_name"]
        for row in await connection.fetch(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = 'afdp_metadata' AND table_name = 'record' ORDER BY ordinal_position"
        )
    ]
    when = "r.notarized_at - g * interval '0.5 second'"
    changed = {
        "receipt_id": (  # UUIDv7, as the notary makes them: the time first
            f"(lpad(to_hex((extract(epoch FROM {when}) * 1000)::bigint), 12, '0') "
            "|| '7' || substr(md5(g::text), 1, 3) || '8' || substr(md5(g::text), 4, 15))::uuid"
        ),
        "notarized_at": when,
        "evidence_hash": "sha256(g::text::bytea)",
        "evidence_key": "hashtextextended(g::text, 0)",
        "key_id": "CASE g % 2 WHEN 0 THEN r.key_id ELSE $2 END",
    }
    chosen = ", ".join(changed.get(column, f"r.{column}") for column in columns)
    span = "SELECT max(notarized_at) FROM record WHERE key_id = $1"
    await connection.execute(
        f"SELECT make_months(ARRAY(SELECT first_id(t) FROM generate_series(({span}) - $2 * interval '0.5 second', "
        f"({span}) + interval '28 days', interval '28 days') AS t))",
        key_id,
        2 * count,
    )
    await connection.execute(
        f"INSERT INTO record ({', '.join(columns)}) SELECT {chosen} "
        "FROM (SELECT * FROM record WHERE key_id = $1 ORDER BY notarized_at DESC LIMIT 1) AS r, "
        "generate_series(1, $3::integer) AS g",
        key_id,
        other,
        2 * count,
        timeout=3600,
    )
    await connection.execute(
        "INSERT INTO log_entry (receipt_id, tenant, origin, log_index, tree_size, proof) "
        "SELECT receipt_id, tenant, 'filled.invalid', row_number() OVER (ORDER BY receipt_id), 2^40, '' "
        "FROM record WHERE NOT EXISTS (SELECT FROM log_entry e WHERE e.receipt_id = record.receipt_id)",
        timeout=3600,
    )
    for table in ("record", "log_entry"):
        await connection.execute(f"VACUUM ANALYZE {table}", timeout=3600)
