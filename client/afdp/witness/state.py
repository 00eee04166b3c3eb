"""What a witness remembers, in one SQLite file. A write is synced to the disk before it returns.

A file that is missing is an error: a witness that has forgotten would cosign any other history.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from afdp.errors import FailedPrecondition, Unavailable
from afdp.witness.values import Cosigned

_Result = TypeVar("_Result")

MAX_EVIDENCE = 1000  # notes a log; what comes after them says no more
_BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE cosigned (
    origin TEXT NOT NULL PRIMARY KEY,
    size   INTEGER NOT NULL CHECK (size >= 0),
    root   BLOB NOT NULL CHECK (length(root) = 32),
    note   TEXT NOT NULL,
    time   INTEGER NOT NULL
) STRICT;
-- Two notes that one log has signed and that do not go together.
CREATE TABLE evidence (
    origin   TEXT NOT NULL,
    cosigned TEXT NOT NULL,
    other    TEXT NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (origin, cosigned, other)
) STRICT;
PRAGMA user_version = 1;
"""


def create_state(path: Path) -> None:
    """Makes an empty memory, readable by its owner only.

    Raises:
        FailedPrecondition: there is one already.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise FailedPrecondition(f"{path} is there already") from None
    connection = _connect(path)
    connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    connection.close()


@contextmanager
def open_state(path: Path) -> Iterator[SqliteState]:
    """The memory, for the length of a block.

    Raises:
        FailedPrecondition: there is none, or it cannot be used.
    """
    if not path.exists():
        raise FailedPrecondition(
            f"{path} is missing: a witness that has forgotten what it cosigned must not go on under the same key; "
            "restore the file, or make another witness with `afdp witness init`"
        )
    with ThreadPoolExecutor(1, "witness-state") as thread:
        try:
            connection = thread.submit(_open, path).result()
        except sqlite3.Error as error:
            raise FailedPrecondition(f"{path} cannot be used: {error}") from None
        try:
            yield SqliteState(connection, thread)
        finally:
            thread.submit(connection.close).result()


class SqliteState:
    """One connection, on a thread of its own."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def last(self, origin: str) -> Cosigned | None:
        """As `State.last`."""
        return await self._run(lambda: _last(self._connection, origin))

    async def advance(self, origin: str, last: Cosigned | None, new: Cosigned) -> bool:
        """As `State.advance`."""

        def work() -> bool:
            with _transaction(self._connection):
                if _last(self._connection, origin) != last:
                    return False
                self._connection.execute(_ADVANCE, (origin, new.size, new.root, new.note, new.time))
            return True

        return await self._run(work)

    async def keep_evidence(self, origin: str, cosigned: str, other: str) -> None:
        """As `State.keep_evidence`; a log's first 1,000 are kept."""

        def work() -> None:
            with _transaction(self._connection):
                (count,) = self._connection.execute(_COUNT_EVIDENCE, (origin,)).fetchone()
                if count < MAX_EVIDENCE:
                    self._connection.execute(_KEEP_EVIDENCE, (origin, cosigned, other, int(time.time())))

        await self._run(work)

    async def check(self) -> None:
        """Raises Unavailable while the file cannot be read."""
        await self._run(lambda: self._connection.execute("SELECT count(*) FROM cosigned").fetchone())

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        # One at a time: a caller who gives up leaves nobody inside of its transaction.
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise Unavailable(
                f"the witness's memory cannot be used: {type(error).__name__}", retry_after=1.0
            ) from error


def _open(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != 1:
        connection.close()
        raise sqlite3.DatabaseError(f"it is not a witness's memory of this release (user_version {version})")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # each commit is synced, also in WAL mode
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _last(connection: sqlite3.Connection, origin: str) -> Cosigned | None:
    row = connection.execute("SELECT size, root, note, time FROM cosigned WHERE origin = ?", (origin,)).fetchone()
    return Cosigned(*row) if row else None


_ADVANCE = """
INSERT INTO cosigned (origin, size, root, note, time) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (origin) DO UPDATE
SET size = excluded.size, root = excluded.root, note = excluded.note, time = excluded.time
"""

_COUNT_EVIDENCE = "SELECT count(*) FROM evidence WHERE origin = ?"
_KEEP_EVIDENCE = "INSERT OR IGNORE INTO evidence (origin, cosigned, other, seen_at) VALUES (?, ?, ?, ?)"
