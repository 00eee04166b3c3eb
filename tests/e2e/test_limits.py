"""Limits through the whole stack: what callers of REST and gRPC are told, and Redis that goes away under load."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import httpx
import orjson
import pytest
import pytest_asyncio

from afdp.client import AsyncNotaryClient, Retry
from afdp.embedded.stack import METRICS_PORTS, PORTS, Stack, StackOptions, running_stack
from afdp.errors import ResourceExhausted
from afdp.rpc import answer, open_channel
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, message
from tests.local_issuer import LocalIssuer, write_identity
from tests.local_notary import MODEL, evidence_of
from tests.redis_server import RedisServer, redis_program, running_redis

LIMITS = {
    "client": {"create": "2/10", "read": "0.01/3"},
    "tenants": {
        "free": {"client": {"create": "off", "read": "off"}, "tenant": {"create": "off", "read": "off"}},
        "fast": {"client": {"create": "1000/1000"}, "tenant": {"create": "1000/1000"}},
    },
}


class Limited:
    """A stack with limits, and the issuer that it believes."""

    def __init__(self, stack: Stack, issuer: LocalIssuer, redis: RedisServer) -> None:
        self.stack, self.issuer, self.redis = stack, issuer, redis

    def bearer(self, subject: str, tenant: str = "acme") -> dict[str, str]:
        claims = self.issuer.claims(sub=subject, tenant=tenant)
        return {"authorization": f"Bearer {self.issuer.token(claims)}"}

    async def metric(self, name: str) -> float:
        """The sum of a metric of the notary."""
        port = METRICS_PORTS["notary"] + self.stack.port("notary") - PORTS["notary"]
        async with httpx.AsyncClient(trust_env=False) as client:
            lines = (await client.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def limited(tool: Callable[[str], Path]) -> AsyncIterator[Limited]:
    with open_folder() as folder:
        issuer = LocalIssuer(folder)
        async with running_redis(redis_program(lambda: tool("redis-server"))) as redis:
            settings = {
                **NO_KEY_RECORDS,
                "AFDP_AUTH": "required",
                "AFDP_IDENTITY": str(write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})),
                "AFDP_RATE_LIMITS": json.dumps(LIMITS),
                "AFDP_REDIS_URL": redis.url,
                "AFDP_REDIS_TIMEOUT_SECONDS": "5",
                "AFDP_REDIS_RETRY_SECONDS": "0.1",
            }
            options = StackOptions(folder / "data", free_offset(), settings={"notary": settings})
            async with running_stack(options) as stack:
                yield Limited(stack, issuer, redis)


@pytest_asyncio.fixture(loop_scope="session")
async def rest(limited: Limited) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=limited.stack.url, trust_env=False, timeout=30) as client:
        yield client


def body() -> dict[str, Any]:
    return {"evidence_package": package()}


async def test_rest_says_what_is_left_and_when_to_come_again(limited: Limited, rest: httpx.AsyncClient) -> None:
    alice, bob = limited.bearer("alice"), limited.bearer("bob")
    answers = [await rest.get("/api/v1/workflows", headers=alice) for _ in range(4)]

    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"].startswith('"client";q=3;w=300, "tenant";q=')
    assert answers[0].headers["ratelimit"].startswith('"client";r=2;t=')
    refused = answers[3]
    assert refused.headers["ratelimit"].startswith('"client";r=0;t=')
    assert 50 <= int(refused.headers["retry-after"]) <= 100
    assert refused.json()["code"] == "RESOURCE_EXHAUSTED"
    assert (await rest.get("/api/v1/workflows", headers=bob)).status_code == 200
    assert (await rest.get("/api/v1/trust-root", headers=alice)).status_code == 200  # open to everybody, always


async def test_grpc_says_it_in_metadata_and_details(limited: Limited) -> None:
    headers = limited.bearer("carol")
    async with open_channel(f"127.0.0.1:{limited.stack.port('notary')}") as channel:
        method = channel.unary_unary(BUILT["ListWorkflows"].full_name)
        for left in (2, 1, 0):
            call = method(b"", metadata=tuple(headers.items()))
            await call
            assert dict(answer.heard(await call.trailing_metadata()))["ratelimit"].startswith(f'"client";r={left};t=')
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(b"", metadata=tuple(headers.items()))

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    told = dict(answer.heard(refused.value.trailing_metadata()))
    assert 50 <= int(told["retry-after"]) <= 100
    token = headers["authorization"].removeprefix("Bearer ")
    address = f"127.0.0.1:{limited.stack.port('notary')}"
    async with AsyncNotaryClient.over_grpc(address, token=token, retry=Retry(attempts=1)) as notary:
        with pytest.raises(ResourceExhausted) as error:
            await notary.search_evidence()
    assert 50 < (error.value.retry_after or 0) <= 100  # RetryInfo


async def test_the_sdk_comes_again_when_it_was_told_to(limited: Limited, rest: httpx.AsyncClient) -> None:
    headers = limited.bearer("dave")
    batch = {"evidence_packages": [package() for _ in range(11)]}
    assert (await rest.post("/api/v1/evidence/sign/batch", json=batch, headers=headers)).status_code == 200
    token = headers["authorization"].removeprefix("Bearer ")

    refused = await rest.post("/api/v1/evidence/sign", json=body(), headers=headers)

    async with AsyncNotaryClient(limited.stack.url, token=token) as notary:
        signed = await notary.sign(evidence_of({"model.bin": MODEL}))

    assert refused.status_code == 429
    assert signed.receipt is not None


async def test_a_stream_is_held_to_its_rate_and_loses_nothing(limited: Limited) -> None:
    headers = tuple(limited.bearer("stream").items())
    requests = [message(BUILT["SignEvidenceStream"], {"sequence": n, "request": body()}) for n in range(14)]
    async with open_channel(f"127.0.0.1:{limited.stack.port('notary')}") as channel:
        stream = channel.stream_stream(BUILT["SignEvidenceStream"].full_name)
        began = monotonic()
        answers = [each async for each in stream(iter(each.SerializeToString() for each in requests), metadata=headers)]

    assert len(answers) == 14
    assert monotonic() - began >= 1.5  # ten at once with the call itself, then two a second


async def test_redis_emptied_again_and_again_under_load_changes_no_answer(
    limited: Limited, rest: httpx.AsyncClient
) -> None:
    """Counts begin anew, and nothing else: who notarised has the receipt, and a retry has the same."""
    headers = limited.bearer("flushed", "fast")
    sent = [(body(), {**headers, "Idempotency-Key": uuid.uuid4().hex}) for _ in range(30)]

    async def notarise(some: list[tuple[dict[str, Any], dict[str, str]]]) -> list[bytes]:
        return [
            (await rest.post("/api/v1/evidence/sign", json=j, headers=h)).raise_for_status().content for j, h in some
        ]

    async def empty(over: asyncio.Event) -> int:
        times = 0
        async with limited.redis.client() as client:
            while not over.is_set() or not times:
                await client.flushall()
                times += 1
                await asyncio.sleep(0.005)
        return times

    over = asyncio.Event()
    flushing = asyncio.create_task(empty(over))
    try:
        shares = await asyncio.gather(*(notarise(sent[n::6]) for n in range(6)))
        again = await asyncio.gather(*(notarise(sent[n::6]) for n in range(6)))
    finally:
        over.set()
        times = await flushing

    assert times > 0
    assert again == shares
    receipts = [orjson.loads(answer)["receipt"]["receipt_id"] for share in shares for answer in share]
    assert len(set(receipts)) == len(sent)


async def test_redis_may_die_and_come_back_under_load_and_no_call_fails(
    limited: Limited, rest: httpx.AsyncClient
) -> None:
    headers = limited.bearer("load", "fast")
    stop = asyncio.Event()
    statuses: list[int] = []

    async def load() -> None:
        while not stop.is_set():
            statuses.append((await rest.post("/api/v1/evidence/sign", json=body(), headers=headers)).status_code)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(load())
        try:
            for shared, change in ((0.0, limited.redis.kill), (1.0, limited.redis.start)):
                await change()
                async with asyncio.timeout(30):
                    while await limited.metric("afdp_rate_limits_shared ") != shared:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
        finally:
            stop.set()

    assert len(statuses) > 8
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) > len(statuses) * 0.9
    assert await limited.metric('afdp_rate_limited_total{class="read",scope="client"}') >= 2
