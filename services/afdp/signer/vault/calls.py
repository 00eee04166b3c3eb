"""One call of Vault: in a thread, since hvac blocks; within a time; and not at all while Vault is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hvac.exceptions import VaultError
from prometheus_client import Counter, Gauge

from afdp.errors import Unavailable
from afdp.signer.vault.breaker import Breaker
from afdp.signer.vault.failures import FAILURES, is_away, took_its_time, translated, was_cut
from afdp.vault.transport import CONNECTIONS, VaultAddress, client, open_pool

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_WAITING = 64  # calls at once; each has at most 256 signatures

_open = Gauge("afdp_signer_vault_breaker_open", "1 while Vault is away and calls are refused at once.", ["identity"])
_failures = Counter("afdp_signer_vault_failures", "Calls that Vault refused or did not answer.", ["identity", "kind"])


class VaultCalls:
    """The connections to one Vault, their threads and their circuit breaker."""

    def __init__(self, address: VaultAddress, identity: str) -> None:
        """Opens no connection yet.

        Raises:
            FailedPrecondition: a file of a certificate cannot be read.
        """
        self.breaker = Breaker(self._tell)
        self._address = address
        self._identity = identity
        self._pool = open_pool(address)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="vault")
        self._longest = 2 * (address.connect_timeout + address.timeout)  # a call that was cut is made twice
        self._waiting = 0
        _open.labels(identity).set(0)

    def client(self, token: str) -> Any:
        """hvac's client for a token; for "" it can only log in."""
        return client(self._address, self._pool, token)

    async def ask(
        self,
        function: Callable[[Any], T],
        client: Any,
        *,
        repeatable: bool = True,
        raw: tuple[type[VaultError], ...] = (),
    ) -> T:
        """What `function` makes of hvac's client. Where the connection was cut, a `repeatable` one is run once more.

        Raises:
            Unavailable, FailedPrecondition: as `failures.translated`.
            VaultError: those in `raw`, where Vault answered with one.
        """
        self.breaker.admit()
        try:
            answer = await self._in_thread(function, client, repeatable)
        except FAILURES as error:
            self._count(error)
            if isinstance(error, raw) and not is_away(error):
                raise
            raise translated(error) from error
        self.breaker.succeeded()
        return answer

    async def probe(self, client: Any) -> None:
        """Asks the least thing that tells whether Vault serves us, breaker or not.

        Raises:
            Unavailable: it does not.
        """
        try:
            await self._in_thread(lambda vault: vault.auth.token.lookup_self(), client, True)
        except FAILURES as error:
            if is_away(error):
                raise translated(error) from error

    async def reopen(self) -> None:
        """New connections, with the certificates that the files hold now. Those in use end with their call."""
        old, self._pool = self._pool, await asyncio.to_thread(open_pool, self._address)
        old.close()

    def close(self) -> None:
        """Closes the connections. Calls under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    async def _in_thread(self, function: Callable[[Any], T], client: Any, repeatable: bool) -> T:
        if self._waiting >= _MAX_WAITING:
            raise Unavailable("too many calls wait for Vault", retry_after=1.0)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._longest):
                return await loop.run_in_executor(self._threads, _run, function, client, repeatable)
        finally:
            self._waiting -= 1

    def _count(self, error: Exception) -> None:
        kind = type(error).__name__
        _failures.labels(self._identity, kind).inc()
        logger.warning("Vault refused or failed", extra={"fields": {"identity": self._identity, "kind": kind}})
        if is_away(error):
            self.breaker.failed(translated(error).message, at_once=took_its_time(error))
        else:
            self.breaker.succeeded()

    def _tell(self, is_open: bool) -> None:
        _open.labels(self._identity).set(is_open)
        fields = {"identity": self._identity}
        if is_open:
            logger.warning("Vault is away: calls are refused until it answers again", extra={"fields": fields})
        else:
            logger.info("Vault is back", extra={"fields": fields})


def _run(function: Callable[[Any], T], client: Any, repeatable: bool) -> T:
    try:
        return function(client)
    except FAILURES as error:
        if not (repeatable and was_cut(error)):
            raise
    return function(client)
