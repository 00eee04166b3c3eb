"""Queries whose filters are optional. Values are parameters always, never text."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from afdp.metadata.values import Position
from afdp.postgres import Connection


class Parameters:
    """The parameters of one query."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def place(self, value: object) -> str:
        """A place for the value, such as `$3`."""
        self.values.append(value)
        return f"${len(self.values)}"


class Conditions:
    """Conditions that must all hold; as text they are what stands after WHERE."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._all: list[str] = []

    def add(self, condition: str, *values: object) -> None:
        """A condition with `{}` where its values go; nothing is added for the value None, which means any."""
        if values != (None,):
            self._all.append(condition.format(*map(self._parameters.place, values)))

    def add_all(self, others: Conditions | str) -> None:
        """Conditions whose values have their places already."""
        if text := str(others):
            self._all.append(text)

    def add_span(self, time: str, start: datetime | None, end: datetime | None) -> None:
        """Times from `start` on and before `end`."""
        self.add(f"{time} >= {{}}", start)
        self.add(f"{time} < {{}}", end)

    def add_position(self, time: str, identifier: str, after: Position | None, *, ascending: bool = False) -> None:
        """What comes after the position in a list that is newest first, or oldest first."""
        if after is not None:
            self.add(f"({time}, {identifier}) {'>' if ascending else '<'} ({{}}, {{}})", after.time, after.id)

    def __bool__(self) -> bool:
        return bool(self._all)

    def __str__(self) -> str:
        return " AND ".join(self._all)


async def fetch_planned(connection: Connection, query: str, parameters: Parameters) -> list[asyncpg.Record]:
    """The rows, in a session whose plans are made for the very values (`roles.READER`).

    A plan for any values, which PostgreSQL takes after a few runs, reads the records of the commonest artifact to find
    the few of one actor; a plan for these values begins with the actor.
    """
    rows: list[asyncpg.Record] = await connection.fetch(query, *parameters.values)
    return rows


async def fetch_pruned(connection: Connection, query: str, *values: object) -> list[asyncpg.Record]:
    """The rows, by a plan for these very values, in a session of the pipeline.

    Of divided tables it has only the months where these values can be. A plan for any values has all months of each
    table, and is made in each session anew: that takes longer than what it is to save.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        rows: list[asyncpg.Record] = await connection.fetch(query, *values)
    return rows
