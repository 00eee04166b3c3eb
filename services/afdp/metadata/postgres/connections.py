"""The way to PostgreSQL: a pool that opens once the server is there, and calls that fail at once while it is not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from prometheus_client import Gauge

from afdp.errors import NotaryError, ResourceExhausted, Unavailable
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres.errors import (
    CONTENDED,
    FOREIGN,
    RETRY_AFTER,
    is_lost,
    translated,
)

logger = logging.getLogger(__name__)

SCHEMA = "afdp_metadata"

T = TypeVar("T")

_ATTEMPTS = 5
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0  # seconds between attempts to reach the server
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0

_pool_connections = Gauge("afdp_metadata_pool_connections", "Connections to PostgreSQL.", ["state"])
_pool_limit = Gauge("afdp_metadata_pool_connections_limit", "Most connections to PostgreSQL at a time.")


class _Session(asyncpg.Connection[asyncpg.Record]):
    """A connection that needs no round trip when it goes back to the pool: nothing here changes a session's state.

    A transaction that was left open is rolled back all the same.
    """

    def get_reset_query(self) -> str:
        return ""


Connection = _Session | PoolConnectionProxy[asyncpg.Record]
Work = Callable[[Connection], Awaitable[T]]


class Database:
    """PostgreSQL as this service sees it: reachable or not.

    `stay_connected` must run beside; it opens the pool once the server is there and `prepare` has passed, and finds out
    whether the server is still there whenever a connection is lost.
    """

    def __init__(self, settings: MetadataSettings, prepare: Work[object]) -> None:
        self._settings = settings
        self._prepare = prepare
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._away: NotaryError | None = Unavailable("PostgreSQL was not reached yet", retry_after=RETRY_AFTER)
        self._doubt = asyncio.Event()
        self._changed = asyncio.Condition()
        _pool_limit.set(settings.database_pool_max)
        _pool_connections.labels("idle").set_function(lambda: self._pool.get_idle_size() if self._pool else 0)
        _pool_connections.labels("busy").set_function(lambda: self._busy())

    async def stay_connected(self) -> None:
        """Runs until it is cancelled."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._reach()
            except NotaryError as error:
                await self._set_away(error)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
                pause = min(pause * 2, _LAST_PAUSE)
            else:
                await self._set_away(None)
                pause = _FIRST_PAUSE
                await self._doubt.wait()
                self._doubt.clear()

    async def run(self, work: Work[T]) -> T:
        """What `work` gives, with a connection of the pool.

        Work that concurrent transactions got in the way of, or whose connection was lost, is done again: it must be
        of a kind that may be repeated.

        Raises:
            NotaryError: what `work` raises, or what PostgreSQL's error means.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._once(work)
            except CONTENDED as error:
                if attempt == _ATTEMPTS:
                    raise translated(error) from None
                await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            except FOREIGN as error:
                if is_lost(error):
                    self._doubt.set()
                # Once it may be a connection that died in the pool.
                if attempt > 1 or not is_lost(error) or isinstance(error, TimeoutError):
                    raise translated(error) from None
        raise AssertionError("the last attempt returns or raises")

    async def check(self) -> None:
        """Raise a NotaryError if the database cannot be used at present.

        Where every connection is at work there is none to ask with, and no need to.
        """
        if self._away is not None or self._busy() < self._settings.database_pool_max:
            await self.run(_select_one)

    async def until_reachable(self) -> None:
        """Returns once the database can be used."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._away is None)

    async def close(self) -> None:
        """Close every connection, in the end by force."""
        pool, self._pool = self._pool, None
        self._away = Unavailable("the service is ending")
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await pool.close()
        except FOREIGN:
            pool.terminate()

    async def _once(self, work: Work[T]) -> T:
        if self._away is not None or self._pool is None:
            # A new one, because a traceback grows on each raise.
            away = self._away or Unavailable("the service is ending")
            raise type(away)(away.message, retry_after=away.retry_after)
        pool = self._pool
        try:
            connection = await pool.acquire(timeout=self._settings.database_connect_timeout_seconds)
        except TimeoutError:
            raise self._starved() from None
        try:
            return await work(connection)
        finally:
            await pool.release(connection, timeout=_CLOSE_TIMEOUT)

    def _starved(self) -> NotaryError:
        if self._busy() >= self._settings.database_pool_max:
            return ResourceExhausted("all connections to PostgreSQL are busy", retry_after=RETRY_AFTER)
        self._doubt.set()
        return Unavailable("PostgreSQL cannot be reached", retry_after=RETRY_AFTER)

    def _busy(self) -> int:
        return self._pool.get_size() - self._pool.get_idle_size() if self._pool else 0

    async def _reach(self) -> None:
        """Connect afresh; the first time also prepare the database and open the pool."""
        try:
            if self._pool is not None:
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    probe = await connect(self._settings)
                    try:
                        await _select_one(probe)
                    finally:
                        probe.terminate()
                return
            connection = await connect(self._settings)
            try:
                await self._prepare(connection)
            finally:
                await connection.close(timeout=_CLOSE_TIMEOUT)
            self._pool = await self._open_pool()
        except TimeoutError:
            raise Unavailable("PostgreSQL does not answer", retry_after=RETRY_AFTER) from None
        except FOREIGN as error:
            raise translated(error) from None

    async def _open_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        return await asyncpg.create_pool(
            self._settings.database_url.get_secret_value(),
            min_size=self._settings.database_pool_min,
            max_size=self._settings.database_pool_max,
            timeout=self._settings.database_connect_timeout_seconds,
            command_timeout=self._settings.database_statement_timeout_seconds + _PROBE_TIMEOUT,
            connection_class=_Session,
            server_settings=_session_settings(self._settings),
        )

    async def _set_away(self, error: NotaryError | None) -> None:
        before, self._away = self._away, error
        if error is None:
            logger.info("PostgreSQL can be used")
        elif before is None or before.message != error.message:
            logger.warning("PostgreSQL cannot be used", extra={"fields": {"reason": error.message}})
        async with self._changed:
            self._changed.notify_all()


async def connect(settings: MetadataSettings) -> _Session:
    """One connection outside of any pool, without a limit on how long a command may take."""
    return await asyncpg.connect(
        settings.database_url.get_secret_value(),
        timeout=settings.database_connect_timeout_seconds,
        connection_class=_Session,
        server_settings=_session_settings(settings),
    )


async def _select_one(connection: Connection) -> None:
    await connection.fetchval("SELECT 1")


def _session_settings(settings: MetadataSettings) -> dict[str, str]:
    milliseconds = str(round(settings.database_statement_timeout_seconds * 1000))
    return {
        "application_name": "afdp-metadata",
        "search_path": SCHEMA,
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        # What is written here waits for a concurrent writer of the same key and then reads what it wrote.
        "default_transaction_isolation": "read committed",
        "jit": "off",  # these queries are short; compiling them takes longer
        "timezone": "UTC",
    }
