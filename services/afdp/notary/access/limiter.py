"""Holds callers to how often and how much at once they may call, and tells them what is left."""

from __future__ import annotations

import asyncio
from functools import cache, partial
from math import ceil
from time import monotonic
from typing import Protocol

from prometheus_client import Counter, Gauge

from afdp.errors import ResourceExhausted
from afdp.notary.access.quotas import UNLIMITED, Account, Accounts, Exceeded, Left, Party, Quotas
from afdp.notary.access.rates import CLASSES, RateLimits
from afdp.notary.model import Principal
from afdp.rpc import answer
from afdp.rpc.descriptors import Method

LIMITED = Counter(
    "afdp_rate_limited_total", "Calls refused for being too many, by whose limit it was.", ["scope", "class"]
)

_rates = Gauge("afdp_rate_limit", "Calls a second that a client or a tenant may make; 0: any.", ["scope", "class"])
_in_flight = Gauge("afdp_calls_at_once_limit", "Calls at once that a client or a tenant may have; 0: any.", ["scope"])

_BUSY_SECONDS = 1.0
_LONGEST_HOLD = 5.0  # seconds


class Charges(Protocol):
    """Counts what else a call asks for than itself."""

    def charge(self, principal: Principal, permission: str, count: int) -> None:
        """Further packages, such as those of a batch: they are let in, and the next calls wait for them."""

    async def hold(self, principal: Principal, permission: str) -> None:
        """One message of a stream, which is held back until there is room for it.

        Raises:
            ResourceExhausted: there will be none soon.
        """


class RateLimiter:
    """As `Limiter` of the gate.

    What is left is told as draft-ietf-httpapi-ratelimit-headers-11 has it, in sections 3 and 4.
    """

    def __init__(self, limits: RateLimits, quotas: Quotas, most: int = 20_000) -> None:
        """`most` is how many callers are remembered, by what they are permitted."""
        self._accounts = Accounts(limits, most)
        self._quotas = quotas
        everybody = limits.of("")
        for scope, share in (("client", everybody.client), ("tenant", everybody.tenant)):
            _in_flight.labels(scope).set(share.in_flight or 0)
            for klass in CLASSES:
                rate = share.rate(klass)
                _rates.labels(scope, klass).set(rate.per_second if rate else 0)

    @property
    def known(self) -> int:
        """How many callers are remembered."""
        return len(self._accounts)

    async def admit(self, principal: Principal, method: Method) -> None:
        """Counts a call, which is under way until its task has ended.

        Raises:
            ResourceExhausted: it is one too many, of its client or its tenant; says when the next one may come.
        """
        account = self._accounts.of(principal, method.permission)
        for party in (account.client, account.tenant):
            _require_room(party, account)
        account.client.in_flight += 1  # before anything is waited for, or all who come meanwhile find room
        account.tenant.in_flight += 1
        try:
            left = await self._take(account)
        except BaseException:
            _leave(account)
            raise
        _tell(account, left, None)
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(partial(_leave, account))

    async def _take(self, account: Account) -> Left:
        try:
            return await self._quotas.take(account, monotonic())
        except Exceeded as exceeded:
            _tell(account, None, exceeded)
            raise _refusal(exceeded, account) from None

    def charge(self, principal: Principal, permission: str, count: int) -> None:
        """As `Charges.charge`."""
        if count > 0:
            self._quotas.owe(self._accounts.of(principal, permission), count, monotonic())

    async def hold(self, principal: Principal, permission: str) -> None:
        """As `Charges.hold`."""
        account = self._accounts.of(principal, permission)
        async with account.line:
            while True:
                try:
                    await self._quotas.take(account, monotonic())
                    return
                except Exceeded as exceeded:
                    if exceeded.wait > _LONGEST_HOLD:
                        raise _refusal(exceeded, account) from None
                    await asyncio.sleep(exceeded.wait)


def _require_room(party: Party, account: Account) -> None:
    most = party.share.in_flight
    if most is not None and party.in_flight >= most:
        scope = "client" if party is account.client else "tenant"
        _limited(f"{scope}_in_flight", account.klass).inc()
        answer.tell(
            ("ratelimit-policy", f'"{scope}";q={most};qu="concurrent-requests"'), ("ratelimit", f'"{scope}";r=0')
        )
        answer.tell(("retry-after", str(ceil(_BUSY_SECONDS))))
        raise ResourceExhausted(f"{most} calls of this {scope} are under way", retry_after=_BUSY_SECONDS)


def _leave(account: Account, _: object = None) -> None:
    account.client.in_flight -= 1
    account.tenant.in_flight -= 1


def _tell(account: Account, left: Left | None, exceeded: Exceeded | None) -> None:
    if not account.policy[1]:
        return
    if exceeded is not None:
        wait = str(ceil(exceeded.wait))
        answer.tell(account.policy, ("ratelimit", f'"{exceeded.scope}";r=0;t={wait}'), ("retry-after", max(wait, "1")))
    elif left is not None:
        answer.tell(account.policy, ("ratelimit", _left(account, left)))


def _left(account: Account, left: Left) -> str:
    parts = []
    if account.client_bucket.rate is not UNLIMITED:
        parts.append(f'"client";r={left.client};t={ceil(left.client_in)}')
    if account.tenant_bucket.rate is not UNLIMITED:
        parts.append(f'"tenant";r={left.tenant};t={ceil(left.tenant_in)}')
    return ", ".join(parts)


def _refusal(exceeded: Exceeded, account: Account) -> ResourceExhausted:
    _limited(exceeded.scope, account.klass).inc()
    whose = {"client": "you have", "tenant": "your tenant has"}[exceeded.scope]
    return ResourceExhausted(
        f"{whose} made as many {account.klass} calls as the rate limit allows for now",
        retry_after=exceeded.wait,
        metadata={"policy": exceeded.scope},
    )


@cache
def _limited(scope: str, klass: str) -> Counter:
    return LIMITED.labels(scope, klass)
