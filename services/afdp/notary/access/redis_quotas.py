"""Quotas that all processes share, in Redis; by this process alone while Redis is away.

A process takes some calls of an account at once, as many as it let in within the last tenth of a second, so that few
calls wait for Redis. What it takes counts at once for everybody: no more is ever let in than the quota allows, whatever
the number of processes; what a process took and did not use within a second is lost to its caller.

Redis decides nothing but how often: a wrong answer, none, or keys that somebody has written over cost a burst at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge

from afdp.limits.rates import Rate
from afdp.notary.access.quotas import UNLIMITED, Account, Exceeded, Left, LocalQuotas, Party, Scope
from afdp.redis import Breaker, FollowingRedis, RedisAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

SHARED = Gauge("afdp_rate_limits_shared", "1 while rate limits hold for all processes together, in Redis.")
_leases = Counter("afdp_rate_limit_leases_total", "Times that Redis was asked for calls, by how it went.", ["result"])

_LEASE_SECONDS = 0.1  # for how long a lease should last
_LAPSE_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 1.0  # a refusal is not believed for longer, whatever Redis said
_MOST_OWED = 1000  # calls: the packages of a batch
_PROBE = "afdp:rate:{probe}"
_PURPOSE = "rate limits hold for each process alone", "rate limits hold for all processes together"

# One time per key, GCRA's, in microseconds of Redis's own clock. Whatever else stands there counts as nothing, and a
# time that no caller could have come to is brought back to the latest that one could.
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local grant, owed, most_owed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due, interval, free = {}, {}, {}
for i = 1, #KEYS do
  interval[i] = tonumber(ARGV[2 + 2 * i])
  local burst = tonumber(ARGV[3 + 2 * i])
  local found = redis.pcall('GET', KEYS[i])
  local time = type(found) == 'string' and tonumber(found) or now
  if not (time >= now) then time = now end
  due[i] = math.min(time, now + (burst + most_owed) * interval[i]) + owed * interval[i]
  free[i] = math.floor((now - due[i]) / interval[i] + burst + 0.000001)
  grant = math.min(grant, free[i])
end
grant = math.max(grant, 0)
local answer = {grant}
for i = 1, #KEYS do
  due[i] = due[i] + grant * interval[i]
  if due[i] > now then
    redis.call('SET', KEYS[i], string.format('%.0f', due[i]), 'PX', math.ceil((due[i] - now) / 1000) + 1000)
  end
  local wait = interval[i] * (1 - free[i] + grant)
  answer[#answer + 1] = free[i] - grant
  answer[#answer + 1] = math.max(0, math.ceil(wait))
  answer[#answer + 1] = math.max(0, math.ceil(due[i] - now))
end
return answer
"""


class RedisQuotas:
    """As `Quotas`.

    Args:
        redis: is asked one script at a time for an account.
        timeout: seconds that a call waits for Redis at most; then this process counts alone.
        retry_seconds: how often it is looked whether Redis is back.
    """

    def __init__(self, redis: FollowingRedis, timeout: float, retry_seconds: float) -> None:
        self._script: Any = redis.client.register_script(_SCRIPT)
        self._breaker = Breaker(redis, timeout, retry_seconds, probe=self._count_once, serving=SHARED, purpose=_PURPOSE)
        self._local = LocalQuotas()
        self._asking: dict[Account, asyncio.Task[None]] = {}

    async def take(self, account: Account, now: float) -> Left:
        """As `Quotas.take`. Redis that is away is no error."""
        lease, asked = account.lease, False
        while not self._breaker.away:
            if lease.calls > 0 and now < lease.until:
                lease.calls -= 1
                return lease.left
            if lease.refused is not None and (asked or now < lease.ask_again):
                raise Exceeded(lease.refused.scope, max(0.0, lease.refused_until - now))
            lease.waiting += 1
            try:
                await asyncio.shield(self._asked(account))
            finally:
                lease.waiting -= 1
            now, asked = monotonic(), True
        return await self._local.take(account, now)

    def owe(self, account: Account, count: int, now: float) -> None:
        """As `Quotas.owe`."""
        if self._breaker.away:
            self._local.owe(account, count, now)
            return
        lease = account.lease
        covered = min(lease.calls, count) if now < lease.until else 0
        lease.calls -= covered
        lease.owed += count - covered

    async def run(self) -> None:
        """Looks whether Redis is back, for as long as it is away."""
        await self._breaker.run()

    async def _count_once(self, redis: Redis) -> None:
        # It writes, which a replica would refuse.
        await self._script(keys=[_PROBE], args=[0, 1, 0, 1, 1], client=redis)

    def _asked(self, account: Account) -> asyncio.Task[None]:
        """The question to Redis that is under way for an account."""
        found = self._asking.get(account)
        if found is None:
            found = self._asking[account] = asyncio.create_task(self._ask(account))
            found.add_done_callback(lambda _: self._asking.pop(account, None))
        return found

    async def _ask(self, account: Account) -> None:
        lease, now = account.lease, monotonic()
        want = _wanted(account, now)
        owed, lease.owed = lease.owed, 0
        parties = _limited(account)
        if not parties:
            lease.calls, lease.until = 10**6, now + _LAPSE_SECONDS
            return
        arguments: list[float | int] = [want, owed, _MOST_OWED]
        for _, _, rate in parties:
            arguments += [1e6 / rate.per_second, rate.burst]
        keys = [_key(party, account) for _, party, _ in parties]

        async def answered(redis: Redis) -> tuple[int, list[tuple[int, float, float]]]:
            grant, *rest = map(int, await self._script(keys=keys, args=arguments, client=redis))
            told = [(rest[at], rest[at + 1] / 1e6, rest[at + 2] / 1e6) for at in range(0, 3 * len(parties), 3)]
            return grant, told

        try:
            grant, told = await self._breaker.ask(answered)
        except RedisAway:  # whatever it does or says, the caller is served
            _leases.labels("failed").inc()
            lease.owed += owed
            return
        _leases.labels("granted" if grant else "refused").inc()
        _keep(account, monotonic(), grant, want, dict(zip([scope for scope, _, _ in parties], told, strict=True)))


def _wanted(account: Account, now: float) -> int:
    """Calls to ask for: those that wait, or what came in lately in the time that a lease should last, if that is more.

    In advance only few are taken where few may come at all.
    """
    lease = account.lease
    used, lasted = lease.size - lease.calls, max(now - lease.taken_at, 0.001)
    paces = [(rate.per_second * _LEASE_SECONDS, rate.burst / 8) for _, _, rate in _limited(account)]
    most = min((each for pace in paces for each in pace), default=1.0)
    return max(1, lease.waiting, min(int(most), round(1.5 * used * _LEASE_SECONDS / lasted)))


def _keep(account: Account, now: float, grant: int, want: int, told: dict[Scope, tuple[int, float, float]]) -> None:
    lease = account.lease
    client, _, client_in = told.get("client", (UNLIMITED.burst, 0.0, 0.0))
    tenant, _, tenant_in = told.get("tenant", (UNLIMITED.burst, 0.0, 0.0))
    lease.left = Left(max(0, client), client_in, max(0, tenant), tenant_in)
    lease.size, lease.calls, lease.taken_at, lease.until = grant, grant, now, now + _LAPSE_SECONDS
    if grant == want:
        lease.refused = None
        return
    # There was no more: who waited for this and finds none left is refused, and does not ask again.
    scope, wait = max(((scope, wait) for scope, (_, wait, _) in told.items()), key=lambda each: each[1])
    lease.refused, lease.refused_until = Exceeded(scope, wait), now + wait
    lease.ask_again = now + min(wait, _ASK_AGAIN_SECONDS)


def _limited(account: Account) -> Sequence[tuple[Scope, Party, Rate]]:
    both: tuple[tuple[Scope, Party, Rate], ...] = (
        ("client", account.client, account.client_bucket.rate),
        ("tenant", account.tenant, account.tenant_bucket.rate),
    )
    return [each for each in both if each[2] is not UNLIMITED]


def _key(party: Party, account: Account) -> str:
    """Who it is stands in no key. The tenant is what a cluster of Redis places keys by: one script needs all at one."""
    tenant = sha256(party.name[0].encode()).hexdigest()[:32]
    client = sha256("\0".join(party.name).encode()).hexdigest()[:32] if len(party.name) > 1 else "all"
    return f"afdp:rate:{{{tenant}}}:{account.klass}:{client}"
