"""What a log that hangs leaves behind is finished when it moves again, however much it is."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import METRICS_PORTS, PORTS, Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import BATCH, SIGN, get, logged, problem, sign
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def impatient() -> AsyncIterator[Stack]:
    """A stack that waits two seconds for each step."""
    settings = {"notary": {"AFDP_STAGE_TIMEOUT_SECONDS": "2", **NO_KEY_RECORDS}}
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as running:
            yield running


async def test_more_than_one_message_holds_is_recovered(impatient: Stack) -> None:
    sent = [package(metadata={"padding": "x" * 240_000}) for _ in range(60)]  # with their statements some 29 MB
    log = impatient.server("transparency").pid
    async with httpx.AsyncClient(base_url=impatient.url, trust_env=False, timeout=60) as rest:
        await sign(rest)  # by now the notary knows the log that it names in receipts
        os.kill(log, signal.SIGSTOP)
        try:
            answer = await rest.post(BATCH, json={"evidence_packages": sent, "wait_for": "signed"})
            refused = await rest.post(SIGN, json={"evidence_package": package()})
        finally:
            os.kill(log, signal.SIGCONT)

        # Signed and durable, and not called logged; who waits for the log is told at once that it does not answer.
        items = answer.raise_for_status().json()["results"]
        assert [item["error"] for item in items] == [None] * len(sent)
        assert {item["receipt"]["state"] for item in items} == {"signed"}
        assert {item["status"] for item in items} == {"running"}
        problem(refused, 504, "DEADLINE_EXCEEDED")

        async with asyncio.timeout(30):
            receipts = [await logged(rest, item["receipt"]["receipt_id"]) for item in items]
        trust = await fetch_trust(rest)
        assert all(verify_receipt(Receipt.from_object(receipt), trust).verified for receipt in receipts)
        assert len({receipt["log_index"] for receipt in receipts}) == len(sent)
        running = await get(rest, "/api/v1/workflows", status_filter="running", page_size=1)
        assert running["total_count"] <= 1  # the refused one may be on its way
        assert await too_large(impatient, rest) > 0


async def too_large(stack: Stack, rest: httpx.AsyncClient) -> int:
    """How often recovery asked for more than one message holds."""
    port = METRICS_PORTS["metadata"] + stack.port("metadata") - PORTS["metadata"]
    text = (await rest.get(f"http://{LOOPBACK}:{port}/metrics")).text
    found = re.search(r'afdp_grpc_requests_total\{code="RESOURCE_EXHAUSTED",method="ListPending",.*\} (\d+)', text)
    return int(found[1]) if found else 0
