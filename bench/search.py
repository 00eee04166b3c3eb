"""Each way to search, in a database with a million records: how long a page takes, and by which index it is found.

Pages are asked of the store as the service asks it, as a tenant's reader, each of another value. PostgreSQL says what
it reads; that it reads a whole table is an error.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import asyncpg

from afdp.embedded.postgres import running_postgres
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore, open_store
from bench.figures import Figure, median_figure, run_of
from tests.searchable_records import GROUP, PAGE, PLACE, WAYS, WHOLE_TABLE, fill_searchable, plan_of

_QUESTIONS = 200
_READS = re.compile(r"(?<= using )\w+|(?<=Bitmap Index Scan on )\w+|Seq Scan on \w+")


async def measure_search(folder: Path, records: int) -> tuple[list[Figure], dict[str, Any]]:
    """The figure of each way to search, and what it reads."""
    async with running_postgres(folder) as server:
        url = await server.create_database("searched")
        settings = MetadataSettings.model_validate(
            {"database_url": url, "metrics_port": 0, "searchable_metadata": PLACE, "tls": "off"}
        )
        async with open_store(settings) as store:
            connection = await asyncpg.connect(url)
            try:
                await fill_searchable(connection, records)
                measured = [await _measured(store, connection, name, records) for name in WAYS]
            finally:
                await connection.close()
    return [figure for figure, _ in measured], {figure.name: reads for figure, reads in measured}


async def _measured(
    store: PostgresStore, connection: asyncpg.Connection, name: str, records: int
) -> tuple[Figure, list[str]]:
    queries = [WAYS[name](n * 101 % (records // GROUP), records) for n in range(_QUESTIONS)]
    if not any([await store.search(query, None, PAGE) for query in queries[:20]]):
        raise SystemExit(f"a search by {name} finds nothing")
    latencies = []
    began = time.perf_counter()
    for query in queries:
        sent = time.perf_counter()
        await store.search(query, None, PAGE)
        latencies.append(time.perf_counter() - sent)
    run = run_of(latencies, time.perf_counter() - began)
    plan = await plan_of(connection, queries[0])
    if whole := WHOLE_TABLE.findall(plan):
        raise SystemExit(f"a search by {name} reads a whole table: {whole}")
    return median_figure(f"search_{name}", [run], None, "pages/s"), sorted(set(_READS.findall(plan)))
