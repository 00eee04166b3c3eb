"""Entries that fsck reads in several processes: each has a connection of its own, and hands back a hash for each entry.

Reading and hashing are most of the work, and need nothing of what stands before. What has to be done in order, growing
the tree over the hashes, is left to the process that asks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AsyncExitStack, asynccontextmanager

from afdp.errors import Unavailable
from afdp.postgres import Database, open_database
from afdp.telemetry.logs import configure_logging
from afdp.transparency.config import TransparencySettings
from afdp.transparency.fsck import Reader, ReadLeaves, read_leaves
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore

_runner = asyncio.Runner()
_opened = AsyncExitStack()
_database: Database
"""Of this process, once `_open` has run in it; they end with the process."""


@asynccontextmanager
async def reading_in_processes(settings: TransparencySettings, number: int, jobs: int) -> AsyncIterator[Reader]:
    """What reads the entries of a log in so many processes, for the length of a block.

    Args:
        settings: of the database.
        number: the log's.
        jobs: processes.
    """
    # Not forked: a fork would copy the event loop, and the connections.
    context = multiprocessing.get_context("spawn")
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(jobs, context, _open, (settings,))

    async def read(start: int, end: int) -> ReadLeaves:
        try:
            return await loop.run_in_executor(pool, _read, number, start, end)
        except BrokenProcessPool as error:
            raise Unavailable("a process that read the log has ended before it was done; try fewer --jobs") from error

    try:
        yield read
    finally:
        await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)


def _open(settings: TransparencySettings) -> None:
    global _database
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that asks
    configure_logging(SERVICE, "ERROR")
    one = settings.model_copy(update={"database_pool_min": 1, "database_pool_max": 1})
    opening = open_database(one, SCHEMA, SERVICE, session=SESSION)
    _database = _runner.run(_opened.enter_async_context(opening))


def _read(number: int, start: int, end: int) -> ReadLeaves:
    return _runner.run(read_leaves(PostgresStore(_database, number), start, end))
