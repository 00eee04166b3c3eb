"""Kill −9 of any process between any two steps, under load: nothing is lost, and nothing is in the log twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.e2e.proxy import Proxy, running_proxy
from tests.e2e.reconciled import reconciled

CLIENTS = 8
EACH = 3

# Which call, on the way through which proxy, and who calls it.
CALLS = {
    "SignStatements": ("signer", "notary"),
    "Prepare": ("metadata", "notary"),
    "Append": ("transparency", "notary"),
    "SignCheckpoint": ("log_signer", "transparency"),
    "Complete": ("metadata", "notary"),
}
SERVES = {
    "SignStatements": "signer",
    "Prepare": "metadata",
    "Append": "transparency",
    "SignCheckpoint": "signer",
    "Complete": "metadata",
}
POINTS = [
    pytest.param(call, moment, victim, id=f"{victim} {moment} {call}")
    for call, (_, caller) in CALLS.items()
    for moment in ("before", "after")
    for victim in dict.fromkeys(("notary", caller, SERVES[call], "postgres"))
]


@dataclass
class Harness:
    """A stack whose calls between services go through proxies, and all that was ever acknowledged by it."""

    stack: Stack
    proxies: dict[str, Proxy]
    database: str
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)  # by idempotency key

    def kill(self, victim: str) -> None:
        os.kill(self.stack.server(victim).pid, signal.SIGKILL)

    async def notarise(self, rest: httpx.AsyncClient) -> None:
        """One package, tried until it is acknowledged, as a patient client does."""
        key, body = str(uuid.uuid4()), {"evidence_package": package()}
        while True:
            try:
                answer = await rest.post("/api/v1/evidence/sign", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 200:
                assert answer.json()["receipt"]["state"] == "logged"
                self.acknowledged[key] = answer.json()["receipt"]
                return
            assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def harness() -> AsyncIterator[Harness]:
    offset = free_offset()
    options = StackOptions(Path(), offset)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        ports = {name: Stack(options).port(name) for name in ("signer", "metadata", "transparency")}
        proxies = {
            name: await stack.enter_async_context(running_proxy(f"127.0.0.1:{ports[target]}"))
            for name, target in (
                ("signer", "signer"),
                ("metadata", "metadata"),
                ("transparency", "transparency"),
                ("log_signer", "signer"),
            )
        }
        address = {name: f"127.0.0.1:{proxy.port}" for name, proxy in proxies.items()}
        settings = {
            "notary": {
                "AFDP_SIGNER_ADDRESS": address["signer"],
                "AFDP_METADATA_ADDRESS": address["metadata"],
                "AFDP_TRANSPARENCY_ADDRESS": address["transparency"],
                "AFDP_STAGE_TIMEOUT_SECONDS": "3",
                **NO_KEY_RECORDS,
            },
            "transparency": {"AFDP_SIGNER_ADDRESS": address["log_signer"]},
        }
        running = await stack.enter_async_context(
            running_stack(StackOptions(folder / "data", offset, settings=settings))
        )
        yield Harness(running, proxies, running.database_url)


@pytest.mark.parametrize(("call", "moment", "victim"), POINTS)
async def test_a_crash_loses_nothing_and_doubles_nothing(harness: Harness, call: str, moment: str, victim: str) -> None:
    proxy = harness.proxies[CALLS[call][0]]
    proxy.arm(call, moment, lambda: harness.kill(victim))

    async with asyncio.timeout(40), httpx.AsyncClient(base_url=harness.stack.url, trust_env=False, timeout=10) as rest:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(_notarise_some(harness, rest))
        assert proxy.fired.is_set()
        await _assert_whole(harness, rest)


async def test_the_gateway_killed_in_the_middle_of_load_loses_nothing(harness: Harness) -> None:
    async with asyncio.timeout(40), httpx.AsyncClient(base_url=harness.stack.url, trust_env=False, timeout=10) as rest:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(_notarise_some(harness, rest))
            await asyncio.sleep(0.05)
            harness.kill("gateway")
        await _assert_whole(harness, rest)


async def test_postgresql_restarted_in_the_middle_of_load_loses_nothing_and_shows_nothing_half_written(
    harness: Harness,
) -> None:
    """An immediate shutdown, as before a failover: what was under way is rolled back when it comes again."""
    over = asyncio.Event()
    async with asyncio.timeout(120), httpx.AsyncClient(base_url=harness.stack.url, trust_env=False, timeout=10) as rest:
        trust, before = await fetch_trust(rest), len(harness.acknowledged)
        async with asyncio.TaskGroup() as readers:
            reader = readers.create_task(_read_whole(rest, trust, over))
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(_notarise_some(harness, rest))
                while len(harness.acknowledged) < before + CLIENTS:  # noqa: ASYNC110 - some are through, others are not
                    await asyncio.sleep(0.01)
                os.kill(harness.stack.server("postgres").pid, signal.SIGQUIT)
            over.set()
        await _assert_whole(harness, rest)
    assert reader.result() > 0


async def _read_whole(rest: httpx.AsyncClient, trust: TrustRoot, over: asyncio.Event) -> int:
    """Lists what is newest and reads it, again and again: each is whole or not to be had; gives how many there were."""
    read = 0
    while not over.is_set():
        with suppress(httpx.TransportError):
            found = await rest.get("/api/v1/evidence", params={"page_size": 3})
            assert found.status_code in (200, 503, 504), found.text
            for each in found.json().get("evidence", []):
                answer = await rest.get(f"/api/v1/receipts/{each['receipt_id']}")
                assert answer.status_code in (200, 503, 504), answer.text
                if answer.status_code == 200:
                    receipt = answer.json()["receipt"]
                    waits = receipt["state"] == "signed"
                    assert waits or verify_receipt(Receipt.from_object(receipt), trust).verified
                    read += 1
        await asyncio.sleep(0.01)
    return read


async def test_after_all_crashes_every_record_has_its_entry_and_every_entry_its_record(harness: Harness) -> None:
    """Whatever was killed before: nothing is left for the reconciler, and it says so."""
    async with httpx.AsyncClient(base_url=harness.stack.url, trust_env=False, timeout=10) as rest:
        async with asyncio.timeout(40):
            await harness.notarise(rest)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "reconcile", "--check", "--grace", "0", "--json"),
        env={**os.environ, **harness.stack.settings("notary")},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    found = json.loads(out)
    assert (found["gaps"], found["records"], found["entries"]) == ([], *[len(harness.acknowledged)] * 2)


async def _assert_nothing_to_reconcile(harness: Harness) -> None:
    """As `afdp reconcile --check --grace 0` does, once every service has come back."""
    progress = await reconciled(harness.stack)
    assert (progress.gaps, progress.on_the_way) == ([], 0)
    assert progress.records == sum(progress.entries.values()) == len(harness.acknowledged)


async def _notarise_some(harness: Harness, rest: httpx.AsyncClient) -> None:
    for _ in range(EACH):
        await harness.notarise(rest)


async def _assert_whole(harness: Harness, rest: httpx.AsyncClient) -> None:
    """One record and one log entry for each key, ever; every acknowledged receipt is there as it was, and verifies."""
    connection = await asyncpg.connect(harness.database)
    try:
        while True:
            if not await connection.fetchval("SELECT count(*) FROM afdp_metadata.pending"):
                break
            await asyncio.sleep(0.05)
        records = await connection.fetchval("SELECT count(*) FROM afdp_metadata.record")
        entries = await connection.fetchval("SELECT count(*) FROM afdp_log.entry")
        leaves = await connection.fetchval("SELECT count(DISTINCT leaf_hash) FROM afdp_log.entry")
        matched = await connection.fetchval(
            "SELECT count(*) FROM afdp_metadata.log_entry JOIN afdp_metadata.record_content USING (receipt_id)"
            " JOIN afdp_log.entry ON entry.leaf_index = log_index AND entry.leaf_hash = record_content.leaf_hash"
        )
    finally:
        await connection.close()
    expected = len(harness.acknowledged)
    assert (records, entries, leaves, matched) == (expected, expected, expected, expected)
    await _assert_nothing_to_reconcile(harness)
    trust = await fetch_trust(rest)
    for receipt in harness.acknowledged.values():
        assert verify_receipt(Receipt.from_object(receipt), trust).verified
    for receipt in list(harness.acknowledged.values())[-CLIENTS * EACH :]:
        again = (await rest.get(f"/api/v1/receipts/{receipt['receipt_id']}")).raise_for_status().json()["receipt"]
        assert again == receipt
