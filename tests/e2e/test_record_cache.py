"""Receipts over REST with copies of records in Redis: right whatever Redis holds or does, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.stack import METRICS_PORTS, PORTS, Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.local_issuer import LocalIssuer, write_identity
from tests.redis_server import RedisServer, redis_program, running_redis


@dataclass
class Deployment:
    """A stack with a cache, who calls it, and what receipts are verified by."""

    stack: Stack
    redis: RedisServer
    issuer: LocalIssuer
    rest: httpx.AsyncClient
    trust: TrustRoot

    def bearer(self, tenant: str = "acme", **more: Any) -> dict[str, str]:
        claims = self.issuer.claims(sub="reader", tenant=tenant, **more)
        return {"authorization": f"Bearer {self.issuer.token(claims)}"}

    async def notarised(self, headers: dict[str, str]) -> str:
        body = {"evidence_package": package(), "wait_for": "logged"}
        answer = await self.rest.post("/api/v1/evidence/sign", json=body, headers=headers)
        receipt_id: str = answer.raise_for_status().json()["receipt"]["receipt_id"]
        return receipt_id

    async def read(self, receipt_id: str, headers: dict[str, str]) -> dict[str, Any]:
        """A receipt, which verifies."""
        answer = await self.rest.get(f"/api/v1/receipts/{receipt_id}", headers=headers)
        receipt: dict[str, Any] = answer.raise_for_status().json()["receipt"]
        assert receipt["receipt_id"] == receipt_id
        assert verify_receipt(Receipt.from_object(receipt), self.trust).verified
        return receipt

    async def copied(self, receipt_id: str, headers: dict[str, str]) -> bytes:
        """The name of its copy, once there is one."""
        async with self.redis.client() as client, asyncio.timeout(60):
            while not (names := [each async for each in client.scan_iter(f"afdp:record:*:{receipt_id}")]):
                await self.read(receipt_id, headers)
        return bytes(names[0])

    async def reads(self, result: str) -> float:
        port = METRICS_PORTS["metadata"] + self.stack.port("metadata") - PORTS["metadata"]
        lines = (await self.rest.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines()
        name = f'afdp_record_cache_reads_total{{result="{result}"}}'
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deployment(tool: Callable[[str], Path]) -> AsyncIterator[Deployment]:
    with open_folder() as folder:
        issuer = LocalIssuer(folder)
        identity = write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})
        async with running_redis(redis_program(lambda: tool("redis-server"))) as redis:
            settings = {
                "notary": {**NO_KEY_RECORDS, "AFDP_AUTH": "required", "AFDP_IDENTITY": str(identity)},
                "metadata": {
                    "AFDP_REDIS_URL": redis.url,
                    "AFDP_CACHE_SECRET": "a secret of the tests, long enough",
                    "AFDP_REDIS_TIMEOUT_SECONDS": "5",
                    "AFDP_REDIS_RETRY_SECONDS": "0.1",
                },
            }
            settings["notary"]["AFDP_RATE_LIMITS"] = json.dumps({"client": {"create": "off", "read": "off"}})
            options = StackOptions(folder / "data", free_offset(), settings=settings)
            async with (
                running_stack(options) as stack,
                httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60) as rest,
            ):
                yield Deployment(stack, redis, issuer, rest, await fetch_trust(rest))


async def test_a_receipt_is_read_again_from_a_copy_and_is_the_same(deployment: Deployment) -> None:
    me = deployment.bearer()
    receipt_id = await deployment.notarised(me)
    first = await deployment.read(receipt_id, me)
    await deployment.copied(receipt_id, me)
    hits = await deployment.reads("hit")

    assert await deployment.read(receipt_id, me) == first
    assert await deployment.reads("hit") == hits + 1


async def test_what_was_poisoned_is_answered_right_and_on_the_audit_trail(deployment: Deployment) -> None:
    me, they = deployment.bearer(), deployment.bearer("other")
    mine, theirs = await deployment.notarised(me), await deployment.notarised(they)
    name, other_name = await deployment.copied(mine, me), await deployment.copied(theirs, they)
    async with deployment.redis.client() as client:
        copy = await client.get(other_name)
        assert copy is not None
        await client.set(name, copy)
        # In the place where a copy of theirs would be if it were mine.
        await client.set(name.replace(mine.encode(), theirs.encode()), copy)

    await deployment.read(mine, me)
    hidden = await deployment.rest.get(f"/api/v1/receipts/{theirs}", headers=me)

    assert hidden.status_code == 404
    assert await deployment.reads("poisoned") == 2
    auditor = deployment.bearer(realm_access={"roles": ["security_analyst"]})
    async with asyncio.timeout(60):
        while True:
            listed = await deployment.rest.get("/api/v1/audit/events", params={"page_size": 100}, headers=auditor)
            if "DropFalseCopy" in listed.raise_for_status().text:
                break
            await asyncio.sleep(0.2)


async def test_redis_flushed_and_killed_under_load_only_makes_reads_slower(deployment: Deployment) -> None:
    me = deployment.bearer()
    receipts = [await deployment.notarised(me) for _ in range(4)]
    over, read = asyncio.Event(), 0

    async def load(receipt_id: str) -> None:
        nonlocal read
        while not over.is_set():
            await deployment.read(receipt_id, me)
            read += 1

    async def reaches(result: str, wanted: float) -> None:
        async with asyncio.timeout(60):
            while await deployment.reads(result) < wanted:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as clients:
        for receipt_id in receipts:
            clients.create_task(load(receipt_id))
        try:
            for _ in range(3):
                await reaches("hit", await deployment.reads("hit") + 4)
                misses = await deployment.reads("miss")
                async with deployment.redis.client() as client:
                    await client.flushall()
                await reaches("miss", misses + 1)
            await deployment.redis.kill()
            try:
                await reaches("away", await deployment.reads("away") + 4)
            finally:
                await deployment.redis.start()
            await reaches("hit", await deployment.reads("hit") + 4)
        finally:
            over.set()

    assert read > 12
