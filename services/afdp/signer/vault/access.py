"""One identity's way into Vault: with a token that holds, got when it is needed and got anew when it is refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from hvac.exceptions import Forbidden, InvalidRequest
from prometheus_client import Counter, Gauge

from afdp.errors import NotaryError, Unavailable
from afdp.signer.vault.calls import VaultCalls
from afdp.signer.vault.failures import REFUSALS
from afdp.signer.vault.renewal import keep_alive
from afdp.vault.login import Lease, Login
from afdp.vault.transport import VaultAddress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_YOUNG = 10.0  # seconds in which a login anew would bring nothing new, unless the token was revoked
_LOGINS = 5  # at most in that time
_TOKENS = 3  # that one call is tried with
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 300.0  # between logins with the same refused credentials: Vault locks out who insists
_GOODBYE = 1.0  # seconds for ending a token on the way out
_OPERATOR = 5.0  # seconds after which to try again where somebody has to do something first

_ttl = Gauge("afdp_signer_vault_token_ttl_seconds", "How long Vault's token still holds.", ["identity"])
_logins = Counter("afdp_signer_vault_logins", "Logins to Vault.", ["identity", "method", "outcome"])


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a login got, what it showed for it, and hvac's client with the token."""

    lease: Lease
    shown: object
    client: Any


class VaultAccess:
    """Calls of Vault as one identity.

        async with open_access(address, login) as access:
            answer = await access.call(lambda vault: vault.secrets.transit.read_key("afdp-notary-key"))

    It logs in at the first call. A call that Vault forbids logs in once and is made once more.
    """

    def __init__(self, address: VaultAddress, login: Login, identity: str = "signer") -> None:
        """Asks nothing yet.

        Raises:
            FailedPrecondition: a file of a certificate cannot be read.
        """
        self.login = login
        self.identity = identity
        self.address = address
        self.calls = VaultCalls(address, identity)
        self.entered = asyncio.Event()  # set by each login
        self._entry: _Entry | None = None
        self._entering = asyncio.Lock()
        self._refused: object = None  # credentials, not to be shown again until `_refused_until`
        self._refused_until = 0.0
        self._pause = _FIRST_PAUSE
        self._made: deque[float] = deque(maxlen=_LOGINS)
        _ttl.labels(identity).set_function(self._remaining)

    @property
    def lease(self) -> Lease | None:
        """What the last login got."""
        return self._entry.lease if self._entry else None

    async def call(self, function: Callable[[Any], T], *, repeatable: bool = True) -> T:
        """What `function` makes of hvac's client; it runs in a thread, and perhaps more than once.

        A call that must not be made twice is not `repeatable`: it fails where its answer was lost. One that Vault
        forbade did nothing, and is repeated all the same, with a new token: that may be revoked before it is used, too.

        Raises:
            Unavailable: Vault is away, or does not let us do this.
            FailedPrecondition: what is asked for is not there, or of another kind.
        """
        entry = self._entry or await self._enter(None)
        for _ in range(_TOKENS - 1):
            try:
                return await self.calls.ask(function, entry.client, repeatable=repeatable, raw=(Forbidden,))
            except Forbidden:
                entry = await self._enter(entry)
        try:
            return await self.calls.ask(function, entry.client, repeatable=repeatable, raw=(Forbidden,))
        except Forbidden as error:
            raise self._denial(entry.lease) from error

    async def renew(self) -> None:
        """Makes the token hold for longer; logs in anew where it cannot, or will not for much longer.

        Raises:
            Unavailable: Vault is away, or refuses us.
        """
        entry = self._entry
        if entry is None:
            await self._enter(None)
            return
        granted = await self._renewed(entry) if entry.lease.renewable else 0
        if granted > (entry.lease.ttl or 0) / 2:
            if self._entry is entry:
                lease = Lease(entry.lease.token, granted, renewable=True, made=entry.lease.made)
                self._entry = _Entry(lease, entry.shown, entry.client)
            return
        await self._enter(entry, renewing=True)

    async def probe(self) -> None:
        """Raises `Unavailable` while Vault serves nobody."""
        await self.calls.probe(self._entry.client if self._entry else self.calls.client(""))

    async def leave(self) -> None:
        """Ends the token that a login made, and closes the connections."""
        entry, self._entry = self._entry, None
        if entry is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await self._end(entry)
        self.calls.close()
        _ttl.remove(self.identity)

    async def _enter(self, old: _Entry | None, *, renewing: bool = False) -> _Entry:
        """Logs in, unless somebody else has since `old`. A token that was only renewed is not another."""
        async with self._entering:
            if self._entry is not None and (old is None or self._entry.lease.token != old.lease.token):
                return self._entry
            shown = await asyncio.to_thread(self.login.credentials)
            unchanged = old is not None and shown == old.shown and not renewing
            if old is not None and unchanged and await self._still_holds(old):
                raise self._denial(old.lease)
            lease = await self._log_in(shown)
            fresh = self._entry = _Entry(lease, shown, self.calls.client(lease.token))
            self.entered.set()
        if old is not None:
            if unchanged and not lease.made:
                raise self._denial(lease)
            await self._end(old)
        return fresh

    async def _log_in(self, shown: object) -> Lease:
        wait = self._refused_until - time.monotonic()
        if wait > 0 and shown == self._refused:
            raise self._refusal(wait)
        if self.login.method == "cert" and self._entry is not None:
            await self.calls.reopen()
        outcome = "failed"
        try:
            lease = await self.calls.ask(lambda _: self.login(self.calls.client), self.calls.client(""), raw=REFUSALS)
            outcome = "good"
        except REFUSALS as error:
            outcome = "refused"
            raise self._refuse(shown) from error
        finally:
            _logins.labels(self.identity, self.login.method, outcome).inc()
        self._refused, self._pause = None, _FIRST_PAUSE
        self._made.append(lease.since)
        fields = {"identity": self.identity, "method": self.login.method, "ttl": lease.ttl}
        logger.info("logged in to Vault", extra={"fields": fields})
        return lease

    def _refuse(self, shown: object) -> Unavailable:
        refusal = self._refusal(self._pause)
        self._refused, self._refused_until = shown, time.monotonic() + self._pause
        self._pause = min(4 * self._pause, _LAST_PAUSE)
        return refusal

    def _refusal(self, wait: float) -> Unavailable:
        message = f"Vault refuses the {self.identity}'s login by {self.login.method}: look at {self.login.settings}"
        return Unavailable(message, retry_after=max(0.1, wait))

    def _denial(self, lease: Lease) -> Unavailable:
        message = f"Vault does not let the {self.identity} do this: its policy lacks a permission"
        if not lease.known:
            message = (
                f"Vault does not let the {self.identity} in: its token is over, revoked or without a policy; look at"
                f" {self.login.settings}"
            )
        return Unavailable(message, retry_after=_OPERATOR)

    async def _renewed(self, entry: _Entry) -> float:
        """For how many seconds the token holds from now; 0 where Vault does not renew it."""
        try:
            auth = await self.calls.ask(
                lambda vault: vault.auth.token.renew_self()["auth"], entry.client, raw=(Forbidden, InvalidRequest)
            )
        except (Forbidden, InvalidRequest):
            return 0
        return float(auth["lease_duration"])

    async def _still_holds(self, entry: _Entry) -> bool:
        """Whether a token that we made just now is good, so that another one would be forbidden the same."""
        if not entry.lease.made or time.monotonic() - entry.lease.since > _YOUNG:
            return False
        if len(self._made) == _LOGINS and self._made[0] > time.monotonic() - _YOUNG:
            return True  # one that may not even ask whether it holds: do not fill Vault with more of them
        try:
            await self.calls.ask(lambda vault: vault.auth.token.lookup_self(), entry.client, raw=(Forbidden,))
        except Forbidden:
            return False
        return True

    async def _end(self, entry: _Entry) -> None:
        """Ends a token of our own. Where that fails it ends by itself."""
        if not entry.lease.made:
            return
        try:
            await self.calls.ask(lambda vault: vault.auth.token.revoke_self(), entry.client, raw=(Forbidden,))
        except (NotaryError, Forbidden):
            return

    def _remaining(self) -> float:
        left = self._entry.lease.remaining() if self._entry else 0.0
        return float("inf") if left is None else left


@asynccontextmanager
async def open_access(address: VaultAddress, login: Login, identity: str = "signer") -> AsyncIterator[VaultAccess]:
    """A way in that is kept open: its token is renewed, and Vault is looked after while it is away.

    Raises:
        FailedPrecondition: a file cannot be read.
    """
    access = VaultAccess(address, login, identity)
    try:
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(keep_alive(access)),
                tasks.create_task(access.calls.breaker.watch(access.probe)),
            ]
            try:
                yield access
            finally:
                for task in owned:
                    task.cancel()
                await access.leave()
    except BaseExceptionGroup as failed:  # what the block itself raised goes on as it was
        raise failed.exceptions[0] from None
