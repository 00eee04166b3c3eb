"""The way to PostgreSQL: a pool that opens when the server can be reached; while it cannot, calls fail at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from prometheus_client import Gauge

from afdp.errors import DeadlineExceeded, FailedPrecondition, NotaryError, ResourceExhausted, Unavailable
from afdp.postgres.errors import CONTENDED, FOREIGN, RETRY_AFTER, is_lost, translated
from afdp.postgres.migrations import Migration, migrate
from afdp.postgres.settings import DatabaseSettings, check_postgres_url
from afdp.secrets import SecretError, renew

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5
_LOST_ATTEMPTS, _LOST_PAUSE = 3, 0.02  # in the pause the ends of other lost connections arrive
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0  # seconds between attempts to reach the server
_PROBE_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 5.0

_connections = Gauge("afdp_database_connections", "Connections to PostgreSQL.", ["role", "state"])
_limit = Gauge("afdp_database_connections_limit", "Most connections to PostgreSQL at a time.", ["role"])


class _Session(asyncpg.Connection):  # generic in its stubs only
    """A connection that needs no round trip when it goes back to the pool: of a session's state only `confine` changes.

    A transaction that was left open is rolled back all the same.
    """

    _tenant: str | None = None

    def get_reset_query(self) -> str:
        return ""

    async def confine(self, tenant: str) -> None:
        """See to it that `afdp.tenant` names this tenant: a round trip where the session served another one last.

        Outside of a transaction only, whose end could take it back.
        """
        if self._tenant != tenant:
            self._tenant = None  # not known, until it is
            await self.execute("SELECT set_config('afdp.tenant', $1, false)", tenant)
            self._tenant = tenant


Connection = _Session | PoolConnectionProxy
Work = Callable[[Connection], Awaitable[T]]


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings,
    schema: str,
    service: str,
    migrations: Sequence[Migration] = (),
    session: Mapping[str, str] | None = None,
) -> AsyncIterator[Database]:
    """The schema of one service, for the length of a block, which begins after the first attempt to reach the server.

    The server may be away then: calls fail at once until it is there and the migrations have been applied. `session`
    has further settings of PostgreSQL for each session, such as the `role` that it takes.
    """
    database = Database(settings, schema, service, migrations, session)
    keeper = asyncio.create_task(database.stay_connected())
    try:
        await database.attempted()
        yield database
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        await database.close()


async def migrate_database(
    settings: DatabaseSettings, schema: str, service: str, migrations: Sequence[Migration]
) -> list[Migration]:
    """Bring a schema to this release over a connection of its own; gives what was applied.

    Raises:
        FailedPrecondition: a migration that was applied is not the one of this release.
        Unavailable: the server cannot be reached.
    """
    try:
        connection = await _connect(settings, schema, service)
        try:
            return await migrate(connection, schema, migrations)
        finally:
            await connection.close(timeout=_CLOSE_TIMEOUT)
    except FOREIGN as error:
        raise translated(error) from None


class Database:
    """PostgreSQL as a service sees it: reachable or not. Statements need not name the schema.

    `stay_connected` runs beside; it opens the pool once the server is there and the migrations have been applied, and
    finds out whether the server is still there whenever a connection is lost.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        schema: str,
        service: str,
        migrations: Sequence[Migration] = (),
        session: Mapping[str, str] | None = None,
    ) -> None:
        self.schema = schema
        self._session = session or {}
        self._settings = settings
        self._service = service
        self._migrations = migrations
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._away: NotaryError | None = Unavailable("PostgreSQL was not reached yet", retry_after=RETRY_AFTER)
        self._attempted = asyncio.Event()
        self._doubt = asyncio.Event()
        self._changed = asyncio.Condition()
        role = self._session.get("role", "")
        _limit.labels(role).set(settings.database_pool_max)
        _connections.labels(role, "idle").set_function(lambda: self._pool.get_idle_size() if self._pool else 0)
        _connections.labels(role, "busy").set_function(self._busy)

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
                if not is_lost(error) or isinstance(error, TimeoutError):
                    raise translated(error) from None
                self._doubt.set()
                if attempt == _LOST_ATTEMPTS:  # before that, connections that died in the pool
                    raise translated(error) from None
                await asyncio.sleep(_LOST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    async def run_for(self, tenant: str, work: Work[T]) -> T:
        """As `run`, with a session whose setting `afdp.tenant` names the tenant: what row security goes by."""

        async def confined(connection: Connection) -> T:
            await cast("_Session", connection).confine(tenant)  # the pool's proxy passes on what it has not itself
            return await work(connection)

        return await self.run(confined)

    async def check(self) -> None:
        """Raise a NotaryError if the database cannot be used at present."""
        await self.run(_select_one)

    async def attempted(self) -> None:
        """Returns once the first attempt to reach the server has ended, well or not."""
        await self._attempted.wait()

    async def until_reachable(self) -> None:
        """Returns once the database can be used."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._away is None)

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
        # Only where there is something to wait for: the limit costs a task, and that a turn of the loop.
        patience = None if pool.get_idle_size() else self._settings.database_connect_timeout_seconds
        try:
            connection = await pool.acquire(timeout=patience)
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
        """Connect afresh; the first time also migrate and open the pool."""
        try:
            if self._pool is not None:
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    probe = await _connect(self._settings, self.schema, self._service)
                    try:
                        await _select_one(probe)
                    finally:
                        probe.terminate()
                return
            if self._migrations:
                await migrate_database(self._settings, self.schema, self._service, self._migrations)
            self._pool = await self._open_pool()
        except (TimeoutError, DeadlineExceeded):
            raise Unavailable("PostgreSQL does not answer", retry_after=RETRY_AFTER) from None
        except asyncpg.InvalidParameterValueError:
            raise FailedPrecondition(
                f"PostgreSQL has no role {self._session.get('role')} yet: run this release's migrations as its owner"
            ) from None
        except FOREIGN as error:
            raise translated(error) from None

    async def _open_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        return await asyncpg.create_pool(
            connect=partial(_let_in, self._settings),
            min_size=self._settings.database_pool_min,
            max_size=self._settings.database_pool_max,
            timeout=self._settings.database_connect_timeout_seconds,
            command_timeout=self._settings.database_statement_timeout_seconds + _PROBE_TIMEOUT,
            connection_class=_Session,
            server_settings={**_session_settings(self._settings, self.schema, self._service), **self._session},
        )

    async def _set_away(self, error: NotaryError | None) -> None:
        before, self._away = self._away, error
        if error is None:
            logger.info("PostgreSQL can be used")
        elif before is None or before.message != error.message:
            logger.warning("PostgreSQL cannot be used", extra={"fields": {"reason": error.message}})
        self._attempted.set()
        async with self._changed:
            self._changed.notify_all()


async def _connect(settings: DatabaseSettings, schema: str, service: str) -> _Session:
    """One connection outside of any pool, without a limit on how long a command may take."""
    connection: _Session = await _let_in(
        settings,
        timeout=settings.database_connect_timeout_seconds,
        connection_class=_Session,
        server_settings=_session_settings(settings, schema, service),
    )
    return connection


# What asyncpg takes where a URL says nothing. PostgreSQL speaks TLS 1.3 since OpenSSL does; where one does not, its URL
# or this variable says so.
os.environ.setdefault("PGSSLMINPROTOCOLVERSION", "TLSv1.3")


async def _let_in(settings: DatabaseSettings, *_: object, **options: Any) -> Any:
    """A connection. Where PostgreSQL refuses the password, one that was changed where it is kept is tried, too."""
    url = settings.database_url.get_secret_value()
    try:
        return await asyncpg.connect(url, **options)
    except asyncpg.InvalidAuthorizationSpecificationError:
        try:
            await asyncio.to_thread(renew, settings.database_url)
        except SecretError as error:
            logger.warning("the database's URL cannot be looked at again", extra={"fields": {"reason": str(error)}})
        if settings.database_url.get_secret_value() == url:
            raise
    logger.info("the database's URL has changed")
    try:
        check_postgres_url(settings.database_url)
    except ValueError as error:
        raise FailedPrecondition(f"AFDP_DATABASE_URL {error}") from None
    return await asyncpg.connect(settings.database_url.get_secret_value(), **options)


async def _select_one(connection: Connection) -> None:
    await connection.fetchval("SELECT 1")


def _session_settings(settings: DatabaseSettings, schema: str, service: str) -> dict[str, str]:
    milliseconds = str(round(settings.database_statement_timeout_seconds * 1000))
    return {
        "application_name": f"afdp-{service}",
        "search_path": schema,
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        # A statement that waited for another writer's lock reads what that writer wrote.
        "default_transaction_isolation": "read committed",
        "jit": "off",  # these queries are short; compiling them takes longer
        "timezone": "UTC",
    }
