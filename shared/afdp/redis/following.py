"""A client of Redis that is made anew where its URL, with the password in it, has changed where that is kept."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from afdp.errors import FailedPrecondition
from afdp.redis.settings import RedisSettings, check_redis_url
from afdp.secrets import SecretError, renew

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
"""For a connection with its handshake at least: only who looks after Redis waits so long."""

_CONNECTIONS = 8
_LOOK_EVERY = 60.0  # seconds between looks at a URL that serves


class FollowingRedis:
    """The Redis that settings name, as it is now.

    Whoever uses it takes `client` for each command, and asks for `renew` where one has failed. Nothing is connected
    before the first command, and none is tried twice.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout: seconds for an answer.
        ca_file: the authority of its certificate; none: the system's.
    """

    def __init__(self, url: SecretStr, timeout: float, ca_file: Path | None = None) -> None:
        """Raises FailedPrecondition: the package is not installed, or the URL is none that is taken."""
        self._url = url
        self._options = timeout, ca_file
        self._used = url.get_secret_value()
        self._looked = monotonic()
        self._renewing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self.client: Redis = _client(self._used, *self._options)

    @classmethod
    def of(cls, settings: RedisSettings) -> FollowingRedis | None:
        """That of a service; None where its settings name none."""
        if settings.redis_url is None:
            return None
        return cls(settings.redis_url, settings.redis_timeout_seconds, settings.redis_ca_file)

    async def renew(self) -> bool:
        """Looks again where the URL is kept; whether `client` is another now. What is wrong changes nothing."""
        async with self._renewing:
            self._looked = monotonic()
            try:
                await asyncio.to_thread(renew, self._url)
                url = self._url.get_secret_value()
                if url == self._used:
                    return False
                newer = _client(url, *self._options)
            except (SecretError, FailedPrecondition) as error:
                logger.warning("the URL of Redis cannot be followed", extra={"fields": {"reason": str(error)}})
                return False
            old, self.client, self._used = self.client, newer, url
            task = asyncio.create_task(self._leave(old))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            logger.info("the URL of Redis has changed")
            return True

    async def run(self) -> None:
        """Looks now and then, until cancelled; closes the connections then."""
        try:
            while True:
                await asyncio.sleep(max(1.0, self._looked + _LOOK_EVERY - monotonic()))
                if monotonic() - self._looked >= _LOOK_EVERY:
                    await self.renew()
        finally:
            for task in self._leaving:
                task.cancel()
            await asyncio.gather(self.client.aclose(), *self._leaving, return_exceptions=True)

    async def _leave(self, old: Redis) -> None:
        """Closes it once nobody waits for it any more."""
        try:
            await asyncio.sleep(2 * self._options[0])
        finally:
            await old.aclose()


def _client(url: str, timeout: float, ca_file: Path | None) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise FailedPrecondition("AFDP_REDIS_URL needs the extra `redis`: pip install afdp-notary[redis]") from None
    try:
        check_redis_url(url)
    except ValueError as error:
        raise FailedPrecondition(f"AFDP_REDIS_URL {error}") from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=max(timeout, CONNECT_SECONDS),
            retry=Retry(NoBackoff(), 0),
            **_tls(url, ca_file),
        )
    except ValueError:  # its text may hold the URL
        raise FailedPrecondition("AFDP_REDIS_URL must be redis://HOST:PORT/DB, rediss://… or unix://PATH") from None
    return Redis.from_pool(pool)


def _tls(url: str, ca_file: Path | None) -> dict[str, Any]:
    if not url.startswith("rediss:"):
        return {}
    if ca_file is not None and not ca_file.is_file():
        raise FailedPrecondition(f"AFDP_REDIS_CA_FILE: {ca_file} is not a file")
    return {
        "ssl_min_version": ssl.TLSVersion.TLSv1_3,
        "ssl_check_hostname": True,
        **({"ssl_ca_certs": str(ca_file)} if ca_file is not None else {}),
    }
