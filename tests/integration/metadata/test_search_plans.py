"""By what each way to search finds its records: an index, and no table is read whole."""

from __future__ import annotations

import asyncpg
import pytest

from tests.searchable_records import WAYS, WHOLE_TABLE, fill_searchable, plan_of

RECORDS = 10_000


@pytest.mark.usefixtures("own_store")  # which makes the schema
async def test_each_way_to_search_is_served_by_an_index(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await fill_searchable(connection, RECORDS)
        for name, way in WAYS.items():
            plan = await plan_of(connection, way(7, RECORDS))
            assert "Index" in plan, name
            assert not WHOLE_TABLE.findall(plan), plan
    finally:
        await connection.close()
