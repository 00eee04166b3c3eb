"""Keys that come and go, on a stack of their own: what is revoked cannot be taken back."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import InvalidArgument, NotFound
from afdp.formats.receipt import Receipt
from afdp.messages.notary import (
    KeyPurpose,
    ListAffectedReceiptsRequest,
    NotaryServiceClient,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from afdp.rpc import GrpcCaller, open_channel
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import BATCH, SIGN, get, pages, problem, sign
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package

FIRST, SECOND, LOG = "afdp-file-key:1", "afdp-file-key:2", "afdp-file-log-key:1"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack() -> AsyncIterator[Stack]:
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings={"notary": NO_KEY_RECORDS})
        async with running_stack(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(own_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False, timeout=30) as client:
        yield client


async def revoke(rest: httpx.AsyncClient, key_id: str, /, **body: object) -> httpx.Response:
    return await rest.post(f"/api/v1/keys/{key_id}:revoke", json=body)


async def test_a_key_lives_from_rotation_to_revocation(own: httpx.AsyncClient) -> None:
    """One long story, because no step of it can be undone."""
    old = (await sign(own))["receipt"]
    assert old["key_id"] == FIRST

    # Rotated: new receipts bear the new version, old ones verify on.
    rotated = (await own.post("/api/v1/keys:rotate", json={})).raise_for_status().json()["key"]
    assert (rotated["key_id"], rotated["purpose"], rotated["current"]) == (SECOND, "evidence", True)
    new = (await sign(own))["receipt"]
    assert new["key_id"] == SECOND
    trust = await fetch_trust(own)
    assert [verify_receipt(Receipt.from_object(each), trust).verified for each in (old, new)] == [True, True]
    assert (await get(own, f"/api/v1/receipts/{old['receipt_id']}"))["receipt"] == old
    keys = {key["key_id"]: key for key in (await get(own, "/api/v1/keys"))["keys"]}
    assert {name: keys[name]["current"] for name in (FIRST, SECOND, LOG)} == {FIRST: False, SECOND: True, LOG: True}

    # Revoked: signing says what to do, and nothing is written.
    since = datetime.now(UTC).isoformat()
    before = await get(own, "/api/v1/workflows", page_size=1)
    revoked = (await revoke(own, SECOND, reason="лэптоп stolen", compromised_since=since)).raise_for_status().json()
    assert revoked["key"]["revoked"]["reason"] == "лэптоп stolen"
    for _ in range(2):
        refused = await own.post(SIGN, json={"evidence_package": package()})
        assert problem(refused, 400, "FAILED_PRECONDITION") == {}
        assert "rotate" in refused.json()["detail"]
    assert (await get(own, "/api/v1/workflows", page_size=1))["total_count"] == before["total_count"]
    batch = (await own.post(BATCH, json={"evidence_packages": [package()]})).raise_for_status().json()
    assert (batch["status"], batch["results"][0]["error"]["code"]) == ("failed", "FAILED_PRECONDITION")

    # Reading goes on; the served trust root no longer accepts what the version signed.
    assert (await get(own, f"/api/v1/receipts/{new['receipt_id']}"))["receipt"] == new
    trust = await fetch_trust(own)
    assert verify_receipt(Receipt.from_object(old), trust).verified
    failed = verify_receipt(Receipt.from_object(new), trust).failures()
    assert [check.name for check in failed] == ["key"]

    # Repeated: the first word stands.
    again = (await revoke(own, SECOND, reason="a second thought")).raise_for_status().json()
    assert again == revoked

    # Rotated again: all is well.
    assert (await own.post("/api/v1/keys:rotate", json={"purpose": "evidence"})).json()["key"]["key_id"] == (
        "afdp-file-key:3"
    )
    healed = (await sign(own))["receipt"]
    assert healed["key_id"] == "afdp-file-key:3"
    assert verify_receipt(Receipt.from_object(healed), await fetch_trust(own)).verified


async def test_affected_receipts_are_those_of_the_version_newest_first(own: httpx.AsyncClient) -> None:
    key_id = (await own.post("/api/v1/keys:rotate", json={})).json()["key"]["key_id"]
    signed = [(await sign(own))["receipt"] for _ in range(5)]
    path = f"/api/v1/keys/{key_id}/receipts"

    found = [item async for page in pages(own, path, "receipts", page_size=2) for item in page]

    assert [item["receipt_id"] for item in found] == [receipt["receipt_id"] for receipt in signed[::-1]]
    assert [item["log_index"] for item in found] == [receipt["log_index"] for receipt in signed[::-1]]
    since = await get(own, path, since=found[1]["notarized_at"])
    assert since["receipts"] == found[:2]

    # The export says the same, page after page.
    lines: list[list[str]] = []
    while True:
        asked = {"page_size": 2, "after": lines[-1][0] if lines else ""}
        answer = (await own.get(f"{path}:export", params=asked)).raise_for_status()
        assert answer.headers["content-type"].startswith("text/csv")
        fresh = list(csv.reader(answer.text.splitlines()))
        lines += fresh
        if len(fresh) < 2:
            break
    assert lines == [
        [item["receipt_id"], item["notarized_at"], str(item["log_index"]), item["evidence_package_hash"]]
        for item in found
    ]
    recent = await own.get(f"{path}:export", params={"since": found[1]["notarized_at"]})
    assert len(recent.text.splitlines()) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "reason"),
        ({"reason": "x" * 1025}, "reason"),
        ({"reason": "x\0"}, "reason"),
        ({"reason": "ok", "compromised_since": "2999-01-01T00:00:00Z"}, "compromised_since"),
        ({"reason": "ok", "key_id": "another:1"}, "key_id"),
    ],
)
async def test_a_revocation_that_is_not_well_said_is_refused(
    own: httpx.AsyncClient, body: dict[str, object], field: str
) -> None:
    answer = await revoke(own, FIRST, **body)

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == [field]
    keys = {key["key_id"]: key for key in (await get(own, "/api/v1/keys"))["keys"]}
    assert keys[FIRST]["revoked"] is None


async def test_no_text_over_grpc_makes_the_trust_root_unreadable(own_stack: Stack, own: httpx.AsyncClient) -> None:
    async with open_channel(f"127.0.0.1:{own_stack.port('notary')}") as channel:
        notary = NotaryServiceClient(GrpcCaller(channel))
        for key_id, reason, field in ((FIRST, "x\0", "reason"), ("", "x", "key_id"), ("a\0b", "x", "key_id")):
            with pytest.raises(InvalidArgument) as refused:
                await notary.revoke_key(RevokeKeyRequest(key_id, reason=reason), timeout=5)
            assert [fault.field for fault in refused.value.fields] == [field]
        with pytest.raises(NotFound):
            await notary.revoke_key(RevokeKeyRequest("nobody:1", reason="x"), timeout=5)
        with pytest.raises(NotFound):
            await notary.list_affected_receipts(ListAffectedReceiptsRequest("nobody:1"), timeout=5)
        with pytest.raises(InvalidArgument):
            await notary.rotate_key(RotateKeyRequest(KeyPurpose(77)), timeout=5)

    assert {key.key_id for key in (await fetch_trust(own)).keys} >= {FIRST, SECOND}


async def test_the_logs_key_does_not_rotate(own: httpx.AsyncClient) -> None:
    answer = await own.post("/api/v1/keys:rotate", json={"purpose": "log"})

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == ["purpose"]


async def test_the_trust_root_is_the_files_of_an_export(own: httpx.AsyncClient) -> None:
    files = {file["name"] for file in (await get(own, "/api/v1/trust-root"))["files"]}

    assert {"trusted_root.json", "keys.json", "log.vkey", f"keys/{FIRST}.pem", f"keys/{SECOND}.pem"} <= files
