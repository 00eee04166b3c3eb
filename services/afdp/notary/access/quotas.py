"""What is left for clients and tenants, in this process or in all of them together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, Protocol

from afdp.limits.rates import Bucket, Rate
from afdp.notary.access.rates import Class, RateLimits, Share, class_of
from afdp.notary.model import Principal

Scope = Literal["client", "tenant"]


class Exceeded(Exception):
    """There is no room for a call now.

    Attributes:
        scope: whose quota it is.
        wait: seconds until there is room again.
    """

    def __init__(self, scope: Scope, wait: float) -> None:
        super().__init__(scope)
        self.scope = scope
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Left:
    """What is left for a caller.

    Attributes:
        client, tenant: calls.
        client_in, tenant_in: seconds until all is there again.
    """

    client: int
    client_in: float
    tenant: int
    tenant_in: float


class Quotas(Protocol):
    """Where calls are counted."""

    async def take(self, account: Account, now: float) -> Left:
        """Counts one call of an account.

        Raises:
            Exceeded: there is no room for it; it was not counted.
        """

    def owe(self, account: Account, count: int, now: float) -> None:
        """Counts further calls that are let in anyway, such as the packages of a batch: the next ones wait for them."""


@dataclass(eq=False, slots=True)
class Party:
    """A client or a tenant: who it is, what it may do, and how many of its calls are under way here."""

    name: tuple[str, ...]
    share: Share
    in_flight: int = 0
    buckets: dict[Class, Bucket] = field(default_factory=dict)

    def bucket(self, name: Class) -> Bucket:
        """Its calls of a class, as they are counted in this process."""
        found = self.buckets.get(name)
        if found is None:
            found = self.buckets[name] = Bucket(self.share.rate(name) or UNLIMITED)
        return found


UNLIMITED = Rate(1e9, 10**9)


@dataclass(eq=False, slots=True)
class Lease:
    """Calls that an account has been given in advance, out of what all processes share.

    Attributes:
        calls: that are left of it.
        until: when they lapse; on the process's clock.
        size: how many it was given.
        taken_at: when it was.
        owed: calls that were let in beyond it.
        left: what was left of the shared quotas then.
        waiting: calls that wait for the next one.
        refused: what was said where it was given none; until `ask_again` that is not asked once more.
        refused_until: when there will be room.
    """

    calls: int = 0
    until: float = 0.0
    size: int = 0
    taken_at: float = 0.0
    owed: int = 0
    left: Left = Left(0, 0.0, 0, 0.0)
    waiting: int = 0
    refused: Exceeded | None = None
    refused_until: float = 0.0
    ask_again: float = 0.0


@dataclass(eq=False, slots=True)
class Account:
    """A client's calls of one class. Its rates and headers are made once."""

    client: Party
    tenant: Party
    klass: Class
    client_bucket: Bucket
    tenant_bucket: Bucket
    policy: tuple[str, str]
    lease: Lease = field(default_factory=Lease)
    line: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the messages of streams


class Accounts:
    """Of those who called lately, up to a bound."""

    def __init__(self, limits: RateLimits, most: int) -> None:
        self._limits = limits
        self._most = most
        self._accounts: OrderedDict[tuple[str, str, str, str], Account] = OrderedDict()
        self._clients: dict[tuple[str, ...], Party] = {}
        self._tenants: dict[str, Party] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, principal: Principal, permission: str) -> Account:
        """The account that a call counts on."""
        who = principal.submitter
        key = (principal.tenant, who.issuer, who.subject, permission)
        found = self._accounts.get(key)
        if found is None:
            found = self._accounts[key] = self._open(key, class_of(permission))
            if len(self._accounts) > self._most:
                self._forget()
        return found

    def _open(self, key: tuple[str, str, str, str], klass: Class) -> Account:
        shares = self._limits.of(key[0])
        tenant = self._tenants.setdefault(key[0], Party((key[0],), shares.tenant))
        client = self._clients.setdefault(key[:3], Party(key[:3], shares.client))
        policies = [
            f'"{scope}";q={rate.burst};w={rate.window}'
            for scope, party in (("client", client), ("tenant", tenant))
            if (rate := party.share.rate(klass)) is not None
        ]
        return Account(
            client,
            tenant,
            klass,
            client.bucket(klass),
            tenant.bucket(klass),
            ("ratelimit-policy", ", ".join(policies)),
        )

    def _forget(self) -> None:
        """The longer known half, but for those with calls under way. They begin anew with their whole burst."""
        for key in [*self._accounts][: self._most // 2]:
            if not self._accounts[key].client.in_flight:
                del self._accounts[key]
        self._clients = {account.client.name: account.client for account in self._accounts.values()}
        self._tenants = {account.tenant.name[0]: account.tenant for account in self._accounts.values()}


class LocalQuotas:
    """Counted in this process alone."""

    async def take(self, account: Account, now: float) -> Left:
        """As `Quotas.take`."""
        client, tenant = account.client_bucket, account.tenant_bucket
        clients, tenants = client.left(now), tenant.left(now)
        if clients < 1:
            raise Exceeded("client", client.wait(now))
        if tenants < 1:
            raise Exceeded("tenant", tenant.wait(now))
        client.take(now)
        tenant.take(now)
        return Left(clients - 1, client.full_in(now), tenants - 1, tenant.full_in(now))

    def owe(self, account: Account, count: int, now: float) -> None:
        """As `Quotas.owe`."""
        account.client_bucket.take(now, count)
        account.tenant_bucket.take(now, count)
