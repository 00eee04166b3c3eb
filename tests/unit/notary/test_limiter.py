"""Limits of clients and tenants, counted in one process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from afdp.errors import ResourceExhausted
from afdp.formats.statement import Submitter
from afdp.limits.rates import Rate
from afdp.notary.access.guarded import GuardedAuthenticator
from afdp.notary.access.limiter import RateLimiter
from afdp.notary.access.quotas import Account, Left, LocalQuotas
from afdp.notary.access.rates import RateLimits
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.model import Principal
from afdp.rpc import answer
from afdp.rpc.caller import Caller
from afdp.rpc.descriptors import service_methods

METHODS = {each.name: each for each in service_methods("afdp.notary.v1.NotaryService")}
SIGN, LIST, ROTATE = METHODS["SignEvidence"], METHODS["ListWorkflows"], METHODS["RotateKey"]


def principal(subject: str = "alice", tenant: str = "acme") -> Principal:
    return Principal(tenant, Submitter("https://issuer", subject, "oidc"))


def limiter(**limits: Any) -> RateLimiter:
    return RateLimiter(RateLimits.model_validate(limits), LocalQuotas())


async def admitted(limiter: RateLimiter, who: Principal, method: Any = SIGN, most: int = 50) -> int:
    """How many calls in a row are let in."""
    for count in range(most):
        try:
            await limiter.admit(who, method)
        except ResourceExhausted:
            return count
    return most


async def test_a_client_may_call_as_often_as_its_burst_and_is_told_what_is_left() -> None:
    limits = limiter(client={"create": "1/3"}, tenant={"create": "off"})
    told = []
    for _ in range(3):
        answer.begin()
        await limits.admit(principal(), SIGN)
        told.append(dict(answer.told()))
    answer.begin()
    with pytest.raises(ResourceExhausted, match="as many create calls") as refused:
        await limits.admit(principal(), SIGN)

    assert [each["ratelimit"] for each in told] == ['"client";r=2;t=1', '"client";r=1;t=2', '"client";r=0;t=3']
    assert {each["ratelimit-policy"] for each in told} == {'"client";q=3;w=3'}
    assert refused.value.retry_after == pytest.approx(1.0, abs=0.5)
    assert dict(answer.told()) == {
        "ratelimit-policy": '"client";q=3;w=3',
        "ratelimit": '"client";r=0;t=1',
        "retry-after": "1",
    }


async def test_classes_clients_and_tenants_are_counted_apart() -> None:
    limits = limiter(client={"create": "1/2", "read": "1/4", "admin": "1/1"}, tenant={"create": "1/3"})

    assert await admitted(limits, principal("alice")) == 2
    assert await admitted(limits, principal("alice"), LIST) == 4
    assert await admitted(limits, principal("alice"), ROTATE) == 1
    assert await admitted(limits, principal("bob")) == 1  # the third of the tenant
    assert await admitted(limits, principal("alice", "other")) == 2
    other_issuer = replace(principal("alice", "third"), submitter=Submitter("https://other", "alice", "oidc"))
    assert await admitted(limits, principal("alice", "third")) == 2
    assert await admitted(limits, other_issuer) == 1


async def test_a_tenant_may_have_limits_of_its_own_and_what_they_leave_out_is_that_of_everybody() -> None:
    limits = limiter(
        client={"create": "1/2", "read": "1/5"},
        tenants={"big": {"client": {"create": "1/7"}}, "free": {"client": {"create": "off"}}},
    )

    assert await admitted(limits, principal(tenant="big")) == 7
    assert await admitted(limits, principal(tenant="big"), LIST) == 5
    assert await admitted(limits, principal(tenant="free")) == 50
    assert await admitted(limits, principal(tenant="small")) == 2


async def test_calls_at_once_are_bounded_and_one_that_ends_makes_room() -> None:
    limits = limiter(client={"in_flight": 2}, tenant={"in_flight": 3})
    leave = asyncio.Event()
    entered: list[str] = []

    async def call(subject: str) -> None:
        await limits.admit(principal(subject), SIGN)
        entered.append(subject)
        await leave.wait()

    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(call(subject)) for subject in ("alice", "alice", "bob")]
        await asyncio.sleep(0)
        for subject, sentence in (("alice", "calls of this client"), ("carol", "calls of this tenant")):
            with pytest.raises(ResourceExhausted, match=sentence) as refused:
                await limits.admit(principal(subject), SIGN)
            assert refused.value.retry_after == 1.0
        assert 'qu="concurrent-requests"' in dict(answer.told())["ratelimit-policy"]
        leave.set()
        await asyncio.wait(calls)
        await asyncio.create_task(limits.admit(principal("alice"), SIGN))
    assert entered == ["alice", "alice", "bob"]


async def test_calls_at_once_are_bounded_while_their_quota_is_asked_for_and_those_that_end_there_make_room() -> None:
    class Asking(LocalQuotas):
        def __init__(self) -> None:
            self.answers = asyncio.Event()

        async def take(self, account: Account, now: float) -> Left:
            await self.answers.wait()
            return await super().take(account, now)

    quotas = Asking()
    limits = RateLimiter(RateLimits.model_validate({"client": {"in_flight": 2, "create": "1/1"}}), quotas)
    calls = [asyncio.create_task(limits.admit(principal(), SIGN)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="calls of this client"):
        await limits.admit(principal(), SIGN)

    calls[0].cancel()
    await asyncio.wait(calls[:1])
    calls.append(asyncio.create_task(limits.admit(principal(), SIGN)))
    await asyncio.sleep(0)
    quotas.answers.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, type(None), ResourceExhausted]
    with pytest.raises(ResourceExhausted, match="rate limit"):  # none is under way any more
        await limits.admit(principal(), SIGN)


async def test_the_packages_of_a_batch_count_each_and_a_batch_is_not_torn_apart() -> None:
    limits = limiter(client={"create": "10/20"}, tenant={"create": "off"})
    await limits.admit(principal(), SIGN)
    limits.charge(principal(), "evidence.create", 99)

    with pytest.raises(ResourceExhausted) as refused:
        await limits.admit(principal(), SIGN)
    assert refused.value.retry_after == pytest.approx(8.1, abs=0.5)  # 100 of 20 were taken, 10 a second come back


async def test_messages_of_a_stream_are_held_back_in_order_and_refused_where_there_is_no_room_soon() -> None:
    limits = limiter(client={"create": "100/5"}, tenant={"create": "off"})
    order: list[int] = []

    async def message(number: int) -> None:
        await limits.hold(principal(), "evidence.create")
        order.append(number)

    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(message(number) for number in range(15)))
    assert asyncio.get_running_loop().time() - started >= 0.09
    assert order == [*range(15)]
    limits.charge(principal(), "evidence.create", 1000)
    with pytest.raises(ResourceExhausted):
        await limits.hold(principal(), "evidence.create")


async def test_no_more_callers_are_remembered_than_a_bound_and_calls_under_way_are_kept() -> None:
    limits = RateLimiter(RateLimits.model_validate({"client": {"create": "1/1"}}), LocalQuotas(), most=100)
    await limits.admit(principal("busy"), SIGN)  # of this task, which goes on
    for number in range(1000):
        await asyncio.create_task(limits.admit(principal(f"client {number}"), SIGN))

    assert limits.known <= 100
    assert await admitted(limits, principal("busy")) == 0


class _Believing:
    async def authenticate(self, caller: Caller) -> Principal:
        if caller.authorization != "Bearer good":
            raise CredentialRefused("its signature is wrong")
        return principal()


async def test_an_address_that_shows_bad_credentials_without_end_is_not_asked_for_them_any_more() -> None:
    guarded = GuardedAuthenticator(_Believing(), Rate(1, 5))
    good, bad = Caller("Bearer good", address="192.0.2.1"), Caller("Bearer bad", address="192.0.2.1")
    assert (await guarded.authenticate(good)).tenant == "acme"
    for _ in range(5):
        with pytest.raises(CredentialRefused):
            await guarded.authenticate(bad)

    answer.begin()
    with pytest.raises(ResourceExhausted) as refused:
        await guarded.authenticate(bad)
    assert 0 < (refused.value.retry_after or 0) <= 1.0
    assert dict(answer.told()) == {"retry-after": "1"}
    assert (await guarded.authenticate(good)).tenant == "acme"
    with pytest.raises(CredentialRefused):  # a gateway on this machine speaks for many
        await guarded.authenticate(replace(bad, address="127.0.0.1"))
