"""Single receipts that an authority outside stamps as well, on a whole stack: those that a policy names, and later."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.formats.trust import Revocation, TrustRoot
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import get, sign, until_ready
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.foreign_verifiers import Verifiers
from tests.openssl_authority import OpensslAuthority, openssl_verifies
from tests.tsa_server import TsaServer, tsa_server

NAMED, OTHER = "ai.model.approval.granted", "ai.model.trained"
MODEL = b"the weights of a model"


@dataclass(frozen=True)
class Stamping:
    """A stack whose policy asks for stamps by `openssl ts` behind HTTP; checkpoints are not stamped."""

    stack: Stack
    rest: httpx.AsyncClient
    authority: OpensslAuthority
    server: TsaServer
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stamping() -> AsyncIterator[Stamping]:
    with open_folder() as folder:
        authority = OpensslAuthority.create(folder / "authority")
        async with tsa_server(authority.reply) as server:
            external = {"url": server.url, "ca_file": str(folder / "authority" / "root.pem"), "timeout_seconds": 1}
            settings = {
                "signer": {"AFDP_TSA_EXTERNAL": json.dumps([external])},
                "transparency": {"AFDP_STAMP_CHECKPOINTS_SECONDS": "0"},
                "notary": {
                    **NO_KEY_RECORDS,
                    "AFDP_EXTERNAL_STAMPS": "ai.model.approval.*, other-tenant/*",
                    "AFDP_EXTERNAL_STAMP_TIMEOUT_SECONDS": "2",
                    "AFDP_RECOVERY_INTERVAL_SECONDS": "1",
                },
            }
            async with (
                running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack,
                httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
            ):
                yield Stamping(stack, rest, authority, server, folder)


def stamps(receipt: dict[str, Any]) -> int:
    """How many timestamps its bundle has."""
    return len(Receipt.from_object(receipt).bundle.timestamps)


async def read(rest: httpx.AsyncClient, receipt_id: str) -> dict[str, Any]:
    receipt: dict[str, Any] = (await get(rest, f"/api/v1/receipts/{receipt_id}"))["receipt"]
    return receipt


async def with_both(rest: httpx.AsyncClient, receipt_id: str) -> dict[str, Any]:
    """The receipt, read once it has the second stamp."""
    async with asyncio.timeout(40):
        while True:
            receipt = await read(rest, receipt_id)
            if stamps(receipt) == 2:
                return receipt
            await asyncio.sleep(0.1)


async def part(rest: httpx.AsyncClient) -> dict[str, Any]:
    """What the notary says of stamps that wait, to its operators."""
    [found] = [each for each in (await get(rest, "/api/v1/status"))["parts"] if each["name"] == "external stamps"]
    assert isinstance(found, dict)
    return found


async def test_a_receipt_that_the_policy_names_has_both_stamps_when_it_is_read_later(
    stamping: Stamping, tmp_path: Path
) -> None:
    rest = stamping.rest
    answer = await sign(rest, event_type=NAMED)
    signed, other = answer["receipt"], (await sign(rest, event_type=OTHER))["receipt"]
    receipt = await with_both(rest, signed["receipt_id"])
    trust = await fetch_trust(rest)

    assert stamps(signed) == 1
    first, second = Receipt.from_object(receipt).bundle.timestamps
    assert first == Receipt.from_object(signed).bundle.timestamps[0]
    signature = Receipt.from_object(receipt).signature
    assert openssl_verifies(tmp_path, second, signature, stamping.authority.certificates)
    assert {**receipt, "bundle": {}} == {**signed, "bundle": {}}
    by_workflow = await get(rest, f"/api/v1/workflows/{answer['workflow_id']}/receipt")
    by_hash = await get(rest, f"/api/v1/evidence/{receipt['evidence_package_hash']}")
    assert by_workflow["receipt"] == by_hash["receipt"] == receipt

    result = verify_receipt(Receipt.from_object(receipt), trust)
    assert result.verified, result.failures()
    [time] = [check.detail for check in result.checks if check.name == "time"]
    assert "by AFDP time-stamping" in time
    assert "by Some Authority, ±1 s" in time
    assert stamps(await read(rest, other["receipt_id"])) == 1


async def test_every_verifier_takes_a_receipt_with_two_stamps(
    stamping: Stamping, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = {"name": "model.bin", "hash_sha256": sha256(MODEL).hexdigest()}
    signed = (await sign(stamping.rest, event_type=NAMED, artifacts=[artifact]))["receipt"]
    receipt = await with_both(stamping.rest, signed["receipt_id"])
    (tmp_path / "model.bin").write_bytes(MODEL)
    for file in (await get(stamping.rest, "/api/v1/trust-root"))["files"]:
        (tmp_path / "trust" / file["name"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trust" / file["name"]).write_text(file["content"])
    verifiers, key = Verifiers(tool, tmp_path), receipt["key_id"]
    verifiers.write(receipt)

    assert await asyncio.to_thread(verifiers.afdp)
    assert await asyncio.to_thread(verifiers.cosign_with_timestamps, key=key)
    assert await asyncio.to_thread(verifiers.sigstore_js, key=key)
    assert verifiers.openssl()  # the last stamp, which is the authority's


async def test_an_independent_stamp_counts_for_what_a_compromised_key_signed_before(stamping: Stamping) -> None:
    signed = (await sign(stamping.rest, event_type=NAMED))["receipt"]
    receipt = await with_both(stamping.rest, signed["receipt_id"])
    trust, now = await fetch_trust(stamping.rest), datetime.now(UTC)

    def verdict(of: dict[str, Any], since: timedelta) -> list[str]:
        compromised = compromised_trust(trust, now + since)
        return [check.name for check in verify_receipt(Receipt.from_object(of), compromised).failures()]

    assert verdict(receipt, timedelta(seconds=3)) == []
    assert verdict(signed, timedelta(seconds=3)) == ["key"]  # only the notary says when
    assert verdict(receipt, timedelta(hours=-1)) == ["key"]


def compromised_trust(trust: TrustRoot, since: datetime) -> TrustRoot:
    revoked = Revocation(since + timedelta(hours=1), since, "stolen")
    return replace(trust, keys=tuple(replace(key, revoked=revoked) for key in trust.keys))


async def test_an_authority_that_is_slow_or_lies_holds_up_no_receipt_and_all_are_stamped_once_it_is_well(
    stamping: Stamping,
) -> None:
    rest, server = stamping.rest, stamping.server
    stranger = OpensslAuthority.create(stamping.folder / "stranger")
    named: list[dict[str, Any]] = []
    server.answers.clear()
    try:
        named.append((await sign(rest, event_type=NAMED))["receipt"])
        others = [(await sign(rest, event_type=OTHER))["receipt"] for _ in range(3)]
        named += [(await sign(rest, event_type=NAMED))["receipt"] for _ in range(3)]
        early = await read(rest, named[0]["receipt_id"])
        waiting = await part(rest)
    finally:
        server.reply = stranger.reply
        server.answers.set()

    assert [each["state"] for each in [*named, *others, early]] == ["logged"] * 8
    assert stamps(early) == 1
    assert waiting["detail"].startswith("4 wait, the oldest for ")
    async with asyncio.timeout(20):
        while True:
            lying = await part(rest)
            if "its ca_file does not have" in lying["remedy"]:
                break
            await asyncio.sleep(0.1)
    assert not lying["good"]

    server.reply = stamping.authority.reply
    trust = await fetch_trust(rest)
    for each in named:
        receipt = await with_both(rest, each["receipt_id"])
        assert verify_receipt(Receipt.from_object(receipt), trust).verified
    assert (await part(rest)) == {**lying, "good": True, "detail": "none waits", "remedy": ""}


async def test_a_notary_that_is_killed_while_a_stamp_is_had_leaves_it_to_the_next(stamping: Stamping) -> None:
    rest, server = stamping.rest, stamping.server
    server.asked = asyncio.Semaphore(0)
    server.answers.clear()
    try:
        signed = (await sign(rest, event_type=NAMED))["receipt"]
        await server.asked.acquire()
        os.kill(stamping.stack.server("notary").pid, signal.SIGKILL)
        await asyncio.sleep(0.1)  # until the gateway notices, so that what is ready is the next one
        await until_ready(rest)
        seen = await ready_part(rest)
    finally:
        server.answers.set()

    assert seen["detail"].startswith("1 wait, the oldest for ")
    receipt = await with_both(rest, signed["receipt_id"])
    assert verify_receipt(Receipt.from_object(receipt), await fetch_trust(rest)).verified


async def ready_part(rest: httpx.AsyncClient) -> dict[str, Any]:
    """What `/ready` says of stamps that wait, once the notary has looked."""
    async with asyncio.timeout(20):
        while True:
            for each in (await get(rest, "/ready"))["parts"]:
                if each["name"] == "external stamps":
                    return dict(each)
            await asyncio.sleep(0.1)
