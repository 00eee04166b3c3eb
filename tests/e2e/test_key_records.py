"""Each key version, and each revocation, has one record in the log: on a stack of its own, with a second notary."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.formats.spki import from_pem
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import get, sign, until_ready
from tests.e2e.conftest import fetch_trust, free_offset, key_records

QUICK = {"AFDP_KEY_INTERVAL_SECONDS": "0.2"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack() -> AsyncIterator[Stack]:
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings={"notary": QUICK})
        async with running_stack(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(own_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False, timeout=30) as client:
        yield client


@asynccontextmanager
async def second_notary(stack: Stack) -> AsyncIterator[None]:
    """A replica of the notary beside the stack's own."""
    peers = {
        f"AFDP_{peer.upper()}_ADDRESS": f"{LOOPBACK}:{stack.port(peer)}"
        for peer in ("signer", "transparency", "metadata")
    }
    process = await ServerProcess.spawn(
        "notary",
        [sys.executable, "-m", "afdp.notary"],
        log=stack.data_dir / "logs" / "second-notary.log",
        environment={
            **os.environ,
            **peers,
            **QUICK,
            "AFDP_PORT": str(free_port()),
            "AFDP_METRICS_PORT": "0",
            "AFDP_TLS": "off",
            "AFDP_AUTH": "off",
        },
        folder=stack.data_dir / "notary",
    )
    try:
        yield
    finally:
        await process.stop()


async def revocations(rest: httpx.AsyncClient) -> list[dict[str, Any]]:
    found = await get(rest, "/api/v1/evidence", event_type="afdp.key.version.revoked", page_size=1000)
    records: list[dict[str, Any]] = found["evidence"]
    return records


async def revoked(rest: httpx.AsyncClient, count: int) -> None:
    """Waits until this many revocations are on record."""
    async with asyncio.timeout(20):
        while True:
            if len(await revocations(rest)) >= count:
                return
            await asyncio.sleep(0.05)


async def lived(rest: httpx.AsyncClient, seconds: int) -> None:
    """Waits until the notary has run for as long."""
    while True:
        if (await get(rest, "/ready"))["uptime_seconds"] >= seconds:
            return
        await asyncio.sleep(0.1)


async def test_every_version_has_a_receipt_that_verifies_and_names_its_key(own: httpx.AsyncClient) -> None:
    records = await key_records(own, of_all=True)
    keys = {key["key_id"]: key for key in (await get(own, "/api/v1/keys"))["keys"]}
    trust = await fetch_trust(own)

    assert len(records) == len(keys) >= 4
    for record in records:
        found = await get(own, f"/api/v1/evidence/{record['evidence_package_hash']}")
        package, receipt = found["evidence_package"], Receipt.from_object(found["receipt"])
        [artifact] = package["artifacts"]
        key = keys.pop(artifact["name"])
        assert artifact["hash_sha256"] == sha256(from_pem(key["public_key_pem"])).hexdigest()
        assert package["metadata"] == {
            "key_id": key["key_id"],
            "purpose": key["purpose"],
            "algorithm": key["algorithm"],
            "valid_from": key["valid_from"],
            "tenants": key["tenants"],
        }
        assert (package["actor"]["actor_type"], package["actor"]["id"]) == ("service", "afdp-notary")
        assert receipt.state == "logged"
        assert verify_receipt(receipt, trust).verified
    assert not keys


async def test_versions_and_revocations_get_one_record_each_over_replicas_and_restarts(
    own_stack: Stack, own: httpx.AsyncClient
) -> None:
    async with second_notary(own_stack):
        for _ in range(3):
            (await own.post("/api/v1/keys:rotate", json={})).raise_for_status()
        (await own.post("/api/v1/keys:rotate", json={"purpose": "trust"})).raise_for_status()
        for body in (
            {"reason": "left on a train"},
            {"reason": "it was found", "compromised_since": "2026-11-20T00:00:00Z"},
            {"reason": "that changes nothing"},
        ):
            (await own.post("/api/v1/keys/afdp-file-key:1:revoke", json=body)).raise_for_status()
            await revoked(own, 2 if "compromised_since" in body else 1)
        records = await key_records(own, of_all=True)

        os.kill(own_stack.server("notary").pid, signal.SIGKILL)
        await until_ready(own)
        await sign(own)
        await lived(own, 2)  # ten looks of each of the two

    assert await key_records(own, of_all=True) == records
    keys = (await get(own, "/api/v1/keys"))["keys"]
    assert len(records) == len(keys)
    stricter, first = await revocations(own)
    packages = [
        (await get(own, f"/api/v1/evidence/{each['evidence_package_hash']}"))["evidence_package"]["metadata"]
        for each in (first, stricter)
    ]
    assert [(each["reason"], each["compromised_since"]) for each in packages] == [
        ("left on a train", None),
        ("it was found", "2026-11-20T00:00:00Z"),
    ]


async def test_a_key_that_was_revoked_before_it_was_rotated_has_its_record_afterwards(own: httpx.AsyncClient) -> None:
    current = next(
        key["key_id"]
        for key in (await get(own, "/api/v1/keys"))["keys"]
        if key["current"] and key["purpose"] == "evidence"
    )
    before = len(await revocations(own))
    (await own.post(f"/api/v1/keys/{current}:revoke", json={"reason": "lost"})).raise_for_status()
    (await own.post("/api/v1/keys:rotate", json={})).raise_for_status()

    await revoked(own, before + 1)
    assert len(await key_records(own, of_all=True)) == len((await get(own, "/api/v1/keys"))["keys"])
