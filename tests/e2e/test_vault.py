"""The whole stack on an OpenBao that hangs, dies and comes back, and whose key rotates in the middle of requests."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package

REQUESTS, CLIENTS = 400, 16


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """Keys in OpenBao."""
    settings = {"notary": NO_KEY_RECORDS, "signer": {"AFDP_VAULT_TIMEOUT_SECONDS": "1"}}
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), vault=True, settings=settings)
        async with running_stack(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as client:
        yield client


async def sign(rest: httpx.AsyncClient) -> httpx.Response:
    """Has a package notarised."""
    return await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})


async def until_it_signs(rest: httpx.AsyncClient) -> None:
    """Asks until there is a receipt, as a patient client does."""
    async with asyncio.timeout(30):
        while True:
            answer = await sign(rest)
            if answer.status_code == 200:
                return
            assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(0.1)


async def until_unready(rest: httpx.AsyncClient) -> None:
    """Asks until readiness tells that nothing can be written; health is looked at once a second."""
    async with asyncio.timeout(10):
        while True:
            if (await rest.get("/ready", params={"writes": "1"})).status_code == 503:
                return
            await asyncio.sleep(0.1)


async def test_writing_stops_at_once_while_vault_hangs_reading_goes_on_and_it_heals_alone(
    stack: Stack, rest: httpx.AsyncClient
) -> None:
    signed = (await sign(rest)).raise_for_status().json()["receipt"]
    pid = stack.server("openbao").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert (await sign(rest)).status_code in (503, 504)  # it waits for as long as Vault may take
        took = []
        for _ in range(20):
            began = time.monotonic()
            answer = await sign(rest)
            took.append(time.monotonic() - began)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "Vault did not answer in time" in answer.json()["detail"]
        assert median(took) < 0.2

        found = await rest.get(f"/api/v1/receipts/{signed['receipt_id']}")
        assert found.status_code == 200
        assert (await rest.get("/ready")).status_code == 200
        await until_unready(rest)
    finally:
        os.kill(pid, signal.SIGCONT)
    await until_it_signs(rest)


async def test_a_vault_that_is_killed_is_found_again(stack: Stack, rest: httpx.AsyncClient) -> None:
    os.kill(stack.server("openbao").pid, signal.SIGKILL)
    await until_it_signs(rest)


async def test_no_request_fails_while_the_key_rotates_and_each_version_verifies(rest: httpx.AsyncClient) -> None:
    left = iter(range(REQUESTS))
    receipts: list[dict[str, Any]] = []
    thirds = (asyncio.Event(), asyncio.Event())

    async def client() -> None:
        for number in left:
            if number in (REQUESTS // 3, 2 * REQUESTS // 3):
                thirds[number > REQUESTS // 2].set()
            answer = await sign(rest)
            assert answer.status_code == 200, answer.text
            receipts.append(answer.json()["receipt"])

    async def admin() -> None:
        for reached in thirds:
            await reached.wait()
            (await rest.post("/api/v1/keys:rotate", json={})).raise_for_status()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(admin())
        for _ in range(CLIENTS):
            tasks.create_task(client())

    versions = Counter(receipt["key_id"] for receipt in receipts)
    assert len(receipts) == REQUESTS
    assert len(versions) == 3
    trust = await fetch_trust(rest)
    assert all(verify_receipt(Receipt.from_object(receipt), trust).verified for receipt in receipts)
