"""The worst day, on a whole stack: a key turns out to be compromised, and what somebody else had seen before counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest_asyncio

from afdp.client import AsyncNotaryClient, NotaryClient
from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.note import Note
from afdp.formats.receipt import Receipt
from afdp.verify.policy import Policy
from afdp.verify.receipts import verify_receipt
from afdp.verify.result import Status
from tests.conftest import open_folder
from tests.e2e.answers import get, sign
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.openssl_authority import OpensslAuthority, openssl_verifies
from tests.tsa_server import TsaServer, tsa_server


@dataclass(frozen=True)
class Anchored:
    """A stack whose checkpoints are stamped, by `openssl ts` behind HTTP."""

    stack: Stack
    rest: httpx.AsyncClient
    authority: OpensslAuthority
    server: TsaServer


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def anchored() -> AsyncIterator[Anchored]:
    with open_folder() as folder:
        authority = OpensslAuthority.create(folder / "authority")
        async with tsa_server(authority.reply) as server:
            external = [{"url": server.url, "ca_file": str(folder / "authority" / "root.pem")}]
            settings = {
                "signer": {"AFDP_TSA_EXTERNAL": json.dumps(external)},
                "transparency": {"AFDP_STAMP_CHECKPOINTS_SECONDS": "0.2"},
                "notary": NO_KEY_RECORDS,
            }
            async with (
                running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack,
                httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
            ):
                yield Anchored(stack, rest, authority, server)


async def with_anchor(rest: httpx.AsyncClient, receipt_id: str) -> dict[str, Any]:
    """The receipt, read once it has an anchor."""
    async with asyncio.timeout(20):
        while True:
            receipt: dict[str, Any] = (await get(rest, f"/api/v1/receipts/{receipt_id}"))["receipt"]
            if receipt["anchors"]:
                return receipt
            await asyncio.sleep(0.1)


async def test_a_receipt_that_is_read_later_has_an_anchor_in_every_answer_that_has_receipts(
    anchored: Anchored, tmp_path: Any
) -> None:
    signed = await sign(anchored.rest)
    receipt = await with_anchor(anchored.rest, signed["receipt"]["receipt_id"])

    assert signed["receipt"]["anchors"] == []
    assert {**receipt, "anchors": []} == signed["receipt"]
    [anchor] = receipt["anchors"]
    read = Receipt.from_object(receipt).anchors[0]
    assert int(anchor["logIndex"]) == receipt["log_index"]
    body = Note.parse(read.checkpoint).text.encode()
    assert openssl_verifies(tmp_path, read.timestamp, body, anchored.authority.certificates)

    by_workflow = await get(anchored.rest, f"/api/v1/workflows/{signed['workflow_id']}/receipt")
    by_hash = await get(anchored.rest, f"/api/v1/evidence/{receipt['evidence_package_hash']}")
    assert by_workflow["receipt"] == by_hash["receipt"] == receipt
    with NotaryClient(anchored.stack.url) as client:
        over_rest = await asyncio.to_thread(client.get_receipt, receipt["receipt_id"])
    async with AsyncNotaryClient.over_grpc(f"{LOOPBACK}:{anchored.stack.port('notary')}") as grpc_client:
        over_grpc = await grpc_client.get_receipt(receipt["receipt_id"])
    assert over_rest == over_grpc == Receipt.from_object(receipt)


async def test_the_trust_root_knows_the_authority_and_a_policy_may_ask_for_it(anchored: Anchored) -> None:
    signed = (await sign(anchored.rest))["receipt"]
    receipt = await with_anchor(anchored.rest, signed["receipt_id"])
    trust, policy = await fetch_trust(anchored.rest), Policy(require_independent_time=True, require_timestamp=True)

    assert [each.uri for each in trust.independent_authorities] == [anchored.server.url]
    result = verify_receipt(Receipt.from_object(receipt), trust, policy)
    assert result.verified, result.failures()
    assert result.status("anchors") is Status.PASSED
    alone = verify_receipt(Receipt.from_object(signed), trust, policy)
    assert [check.name for check in alone.failures()] == ["anchors"]


async def test_an_authority_that_does_not_answer_holds_nobody_up(anchored: Anchored) -> None:
    anchored.server.answers.clear()
    try:
        receipts = [(await sign(anchored.rest))["receipt"] for _ in range(5)]
        read = await get(anchored.rest, f"/api/v1/receipts/{receipts[-1]['receipt_id']}")
    finally:
        anchored.server.answers.set()

    trust = await fetch_trust(anchored.rest)
    assert read["receipt"]["state"] == "logged"
    assert all(verify_receipt(Receipt.from_object(each), trust).verified for each in receipts)
    assert (await with_anchor(anchored.rest, receipts[0]["receipt_id"]))["anchors"]


async def test_of_a_compromised_key_only_what_somebody_else_saw_before_verifies(anchored: Anchored) -> None:
    """One long story: what is revoked cannot be taken back."""
    rest = anchored.rest
    before = (await sign(rest))["receipt"]
    seen = await with_anchor(rest, before["receipt_id"])
    await asyncio.sleep(2.1)  # the stamp says ±1 s and whole seconds: it must be before the compromise without doubt
    since = datetime.now(UTC)
    unseen = (await sign(rest))["receipt"]  # signed at the wrong time: nobody can tell it from what a thief signs
    key_id = before["key_id"]
    body = {"reason": "a laptop was stolen", "compromised_since": since.isoformat()}
    (await rest.post(f"/api/v1/keys/{key_id}:revoke", json=body)).raise_for_status()
    (await rest.post("/api/v1/keys:rotate", json={})).raise_for_status()
    after = (await sign(rest))["receipt"]
    late = await with_anchor(rest, unseen["receipt_id"])
    trust = await fetch_trust(rest)

    def verdict(receipt: dict[str, Any]) -> list[str]:
        return [check.name for check in verify_receipt(Receipt.from_object(receipt), trust).failures()]

    assert verdict(seen) == []  # somebody else has seen it before
    assert verdict(before) == ["key"]  # the same receipt, as it was signed: only the notary says when
    assert verdict(unseen) == ["key"]
    assert verdict(late) == ["key"]  # seen, but too late
    assert verdict(after) == []
    [key] = [check for check in verify_receipt(Receipt.from_object(seen), trust).checks if check.name == "key"]
    assert "Some Authority proves that it signed before" in key.detail
    anchored_at = datetime.fromisoformat(verify_receipt(Receipt.from_object(seen), trust).checks[-1].detail[:20])
    assert anchored_at < since - timedelta(seconds=1)


async def test_the_notary_itself_says_so_of_evidence_and_signature(anchored: Anchored) -> None:
    """ValidateEvidence takes the record's receipt as it is read now: with its anchor."""
    signed = await sign(anchored.rest)
    receipt = await with_anchor(anchored.rest, signed["receipt"]["receipt_id"])
    evidence = (await get(anchored.rest, f"/api/v1/evidence/{receipt['evidence_package_hash']}"))["evidence_package"]
    body = {"evidence_package": evidence, "signature": receipt["signature_b64"]}

    answer = (await anchored.rest.post("/api/v1/evidence/validate", json=body)).raise_for_status().json()

    assert answer["is_valid"]
    assert answer["validation_result"]["timestamp_valid"]
    assert not [each for each in answer["validation_result"]["warnings"] if each.startswith("anchors")]
