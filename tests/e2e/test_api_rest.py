"""Evidence in, receipts out, and every way to find them again, as a caller of REST sees it."""

from __future__ import annotations

import uuid
from base64 import b64decode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx
import pytest

from afdp.formats.canonical import strict_json
from afdp.formats.evidence import canonical_evidence, evidence_from_json
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.receipts import ArtifactDigest, verify_receipt
from afdp.verify.result import Status
from tests.e2e.answers import BATCH, SIGN, get, logged, pages, problem, sign
from tests.e2e.evidence import package

UNKNOWN = "01a20c2c-4868-73b6-8ef3-25441beaa2fd"


def canonical(sent: dict[str, Any]) -> bytes:
    return canonical_evidence(evidence_from_json(sent))


def unheard_of() -> str:
    """An event type that no other test uses."""
    return f"test.e2e.t{uuid.uuid4().hex}"


# --- signing ----------------------------------------------------------------------------------------------------------


async def test_a_receipt_verifies_offline_against_the_served_trust_root(
    rest: httpx.AsyncClient, trust: TrustRoot
) -> None:
    sent = package()

    answer = (await rest.post(SIGN, json={"evidence_package": sent})).raise_for_status().json()

    assert answer["status"] == "completed"
    assert answer["workflow_id"] == f"simple-signing-{answer['receipt']['receipt_id']}"
    artifact = ArtifactDigest(sent["artifacts"][0]["name"], sent["artifacts"][0]["hash_sha256"])
    receipt = Receipt.from_object(answer["receipt"])
    result = verify_receipt(receipt, trust, evidence=canonical(sent), artifacts=[artifact], tenant="default")
    assert result.verified
    ran = ("envelope", "signature", "key", "evidence", "artifact", "log", "checkpoint")
    assert {name: result.status(name) for name in ran} == dict.fromkeys(ran, Status.PASSED)
    assert receipt.evidence_package_hash == sha256(canonical(sent)).hexdigest()
    other = verify_receipt(receipt, trust, evidence=canonical(package()))
    assert [check.name for check in other.failures()] == ["evidence"]


async def test_every_field_of_a_receipt_is_printed(rest: httpx.AsyncClient) -> None:
    receipt = (await sign(rest))["receipt"]

    assert set(receipt) == {
        *("evidence_package_hash", "rekor_log_id", "rekor_server_url", "signature_b64", "public_key_b64"),
        *("integrated_time", "log_index", "receipt_id", "state", "key_id", "bundle", "more_bundles", "anchors"),
    }
    assert receipt["state"] == "logged"
    assert receipt["more_bundles"] == []
    assert receipt["anchors"] == []
    assert isinstance(receipt["log_index"], int)
    assert receipt["bundle"]["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"


async def test_camel_case_and_the_alias_of_actor_type_are_the_same_evidence(rest: httpx.AsyncClient) -> None:
    sent = package()
    camel = {
        "specVersion": sent["spec_version"],
        "timestampUtc": sent["timestamp_utc"],
        "eventType": sent["event_type"],
        "actor": {"type": sent["actor"]["actor_type"], "id": sent["actor"]["id"]},
        "artifacts": [{"name": each["name"], "hashSha256": each["hash_sha256"].upper()} for each in sent["artifacts"]],
        "metadata": sent["metadata"],
    }

    first = (await rest.post(SIGN, json={"evidence_package": sent})).json()
    second = (await rest.post(SIGN, json={"evidencePackage": camel, "waitFor": "RECEIPT_STATE_LOGGED"})).json()

    assert first["receipt"]["evidence_package_hash"] == second["receipt"]["evidence_package_hash"]
    assert first["receipt"]["receipt_id"] != second["receipt"]["receipt_id"]


async def test_waiting_for_signed_only_gives_a_receipt_that_becomes_logged(
    rest: httpx.AsyncClient, trust: TrustRoot
) -> None:
    answer = await rest.post(SIGN, json={"evidence_package": package(), "wait_for": "signed"})

    receipt = answer.raise_for_status().json()["receipt"]
    assert (answer.json()["status"], receipt["state"]) in [("running", "signed"), ("completed", "logged")]
    later = await logged(rest, receipt["receipt_id"])
    assert later["signature_b64"] == receipt["signature_b64"]
    assert verify_receipt(Receipt.from_object(later), trust).verified
    status = await get(rest, f"/api/v1/workflows/{answer.json()['workflow_id']}/status")
    assert status["status"] == "completed"


@pytest.mark.parametrize("path", [SIGN, BATCH])
async def test_waiting_for_witnesses_is_refused_where_there_are_none(rest: httpx.AsyncClient, path: str) -> None:
    before = (await get(rest, "/api/v1/workflows", page_size=1))["total_count"]
    sent = {"evidence_package": package()} if path == SIGN else {"evidence_packages": [package()]}

    answer = await rest.post(path, json={**sent, "wait_for": "witnessed"})

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == ["wait_for"]
    assert (await get(rest, "/api/v1/workflows", page_size=1))["total_count"] == before


async def test_dedupe_answers_with_the_newest_receipt_of_the_same_evidence(rest: httpx.AsyncClient) -> None:
    sent = {"evidence_package": package()}
    first = (await rest.post(SIGN, json={**sent, "dedupe": True})).json()
    second = (await rest.post(SIGN, json=sent)).json()

    third = (await rest.post(SIGN, json={**sent, "dedupe": True})).json()

    assert first["receipt"]["receipt_id"] != second["receipt"]["receipt_id"]
    assert third == second
    hash_of_it = second["receipt"]["evidence_package_hash"]
    assert (await get(rest, f"/api/v1/evidence/{hash_of_it}"))["receipt_count"] == 2


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_one_bad_item_of_a_batch_fails_alone_and_in_its_place(rest: httpx.AsyncClient, trust: TrustRoot) -> None:
    sent = [package() for _ in range(6)]
    sent[1]["event_type"] = "undotted"
    sent[3]["artifacts"][0]["hash_sha256"] = "xyz"
    sent[3]["actor"]["id"] = ""

    answer = (await rest.post(BATCH, json={"evidence_packages": sent})).raise_for_status().json()

    assert answer["status"] == "completed"
    hashes = [item["receipt"] and item["receipt"]["evidence_package_hash"] for item in answer["results"]]
    good = {0, 2, 4, 5}
    assert hashes == [sha256(canonical(sent[i])).hexdigest() if i in good else None for i in range(6)]
    for index, item in enumerate(answer["results"]):
        assert item["status"] == ("completed" if index in good else "failed")
        assert (item["error"] is None) == (index in good)
    assert answer["results"][3]["error"]["code"] == "INVALID_ARGUMENT"
    assert [error["field"] for error in answer["results"][3]["error"]["errors"]] == [
        "evidence_packages[3].actor.id",
        "evidence_packages[3].artifacts[0].hash_sha256",
    ]
    for index in good:
        receipt = Receipt.from_object(answer["results"][index]["receipt"])
        assert verify_receipt(receipt, trust, evidence=canonical(sent[index])).verified


async def test_the_workflow_of_a_batch_shows_its_counts(rest: httpx.AsyncClient) -> None:
    sent = [package(), package(event_type=""), package()]
    batch_id = (await rest.post(BATCH, json={"evidence_packages": sent})).json()["batch_workflow_id"]

    status = await get(rest, f"/api/v1/workflows/{batch_id}/status")

    assert status["status"] == "completed"
    assert status["result"] == {"items": 3, "succeeded": 2, "failed": 1}
    assert status["created_at"] <= status["completed_at"]
    assert await get(rest, f"/api/v1/workflows/{batch_id}/receipt") == {"receipt": None, "found": False}


async def test_a_batch_without_one_good_item_has_failed(rest: httpx.AsyncClient) -> None:
    answer = await rest.post(BATCH, json={"evidence_packages": [package(spec_version="9"), package(actor=None)]})

    assert answer.raise_for_status().json()["status"] == "failed"
    batch_id = answer.json()["batch_workflow_id"]
    status = await get(rest, f"/api/v1/workflows/{batch_id}/status")
    assert (status["status"], status["result"]) == ("failed", {"items": 2, "succeeded": 0, "failed": 2})
    newest_failed = await get(rest, "/api/v1/workflows", status_filter="failed", page_size=1)
    assert newest_failed["workflows"][0]["workflow_id"] == batch_id


async def test_a_batch_of_the_largest_size_is_answered_whole(rest: httpx.AsyncClient) -> None:
    sent = [package(metadata={"padding": "x" * 240_000}) for _ in range(65)]

    answer = (await rest.post(BATCH, json={"evidence_packages": sent})).raise_for_status().json()

    assert [item["error"] for item in answer["results"]] == [None] * 65
    sent += [package(metadata={"padding": "x" * 240_000}) for _ in range(6)]
    over = await rest.post(BATCH, json={"evidence_packages": sent})
    assert "evidence_packages" in problem(over, 400, "INVALID_ARGUMENT")


async def test_packages_whose_statements_are_twice_as_large_fill_no_message(rest: httpx.AsyncClient) -> None:
    artifacts = [{"name": f"a{n}", "hash_sha256": sha256(f"part {n}".encode()).hexdigest()} for n in range(1000)]
    sent = [package(artifacts=artifacts) for _ in range(110)]

    answer = (await rest.post(BATCH, json={"evidence_packages": sent})).raise_for_status().json()

    assert {item["status"] for item in answer["results"]} == {"completed"}


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_evidence_comes_back_as_it_was_sent_with_its_newest_receipt(rest: httpx.AsyncClient) -> None:
    numbers = {"big": 1e21, "least": 5e-324, "zero": -0.0, "integer": 2**53 - 1, "tenth": 0.1}
    sent = package(metadata={"ключ": "值", "nested": [[], {}, None, False], "numbers": numbers})
    signed = [(await rest.post(SIGN, json={"evidence_package": sent})).json()["receipt"] for _ in range(3)]

    found = await get(rest, f"/api/v1/evidence/{signed[0]['evidence_package_hash']}")

    assert found["receipt_count"] == 3
    assert found["receipt"] == signed[-1]
    assert canonical(found["evidence_package"]) == canonical(sent)
    assert {**found["evidence_package"], "metadata": None} == {
        **sent,
        "metadata": None,
        "timestamp_utc": "2026-11-01T12:00:00.250Z",
    }


async def test_a_hash_is_found_in_capitals_too(rest: httpx.AsyncClient) -> None:
    receipt = (await sign(rest))["receipt"]

    found = await get(rest, f"/api/v1/evidence/{receipt['evidence_package_hash'].upper()}")

    assert found["receipt"] == receipt


async def test_a_receipt_is_the_same_by_its_id_and_by_its_workflow(rest: httpx.AsyncClient) -> None:
    signed = await sign(rest)

    by_id = await get(rest, f"/api/v1/receipts/{signed['receipt']['receipt_id']}")
    by_workflow = await get(rest, f"/api/v1/workflows/{signed['workflow_id']}/receipt")

    assert by_id == {"receipt": signed["receipt"]}
    assert by_workflow == {"receipt": signed["receipt"], "found": True}


async def test_the_workflow_of_one_package_tells_what_came_out(rest: httpx.AsyncClient) -> None:
    signed = await sign(rest)

    status = await get(rest, f"/api/v1/workflows/{signed['workflow_id']}/status")

    receipt = signed["receipt"]
    expected = {name: receipt[name] for name in ("receipt_id", "evidence_package_hash", "log_index")}
    assert (status["status"], status["result"], status["error_message"]) == ("completed", expected, "")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"/api/v1/workflows/simple-signing-{UNKNOWN}/status", None),
        (f"/api/v1/workflows/batch-signing-{UNKNOWN}/status", None),
        (f"/api/v1/workflows/approval-signing-{UNKNOWN}/status", None),
        (f"/api/v1/receipts/{UNKNOWN}", None),
        (f"/api/v1/evidence/{'5e' * 32}", None),
        ("/api/v1/keys/afdp-file-key:77/receipts", None),
        (f"/api/v1/workflows/{UNKNOWN}/status", "workflow_id"),
        ("/api/v1/workflows/simple-signing-/status", "workflow_id"),
        (f"/api/v1/workflows/Simple-Signing-{UNKNOWN}/receipt", "workflow_id"),
        (f"/api/v1/receipts/{UNKNOWN.upper()}", "receipt_id"),
        ("/api/v1/receipts/%F0%9F%98%80", "receipt_id"),
        ("/api/v1/evidence/5e5e", "evidence_package_hash"),
    ],
)
async def test_what_is_not_there_is_not_found_and_what_cannot_be_is_refused(
    rest: httpx.AsyncClient, path: str, field: str | None
) -> None:
    answer = await rest.get(path)

    if field is None:
        assert problem(answer, 404, "NOT_FOUND") == {}
    else:
        assert list(problem(answer, 400, "INVALID_ARGUMENT")) == [field]


async def test_a_workflow_that_there_is_not_has_no_receipt(rest: httpx.AsyncClient) -> None:
    answer = await get(rest, f"/api/v1/workflows/simple-signing-{UNKNOWN}/receipt")

    assert answer == {"receipt": None, "found": False}


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_search_gives_every_record_once_and_in_order_whatever_the_page_size(rest: httpx.AsyncClient) -> None:
    event = unheard_of()
    sent = [package(event_type=event) for _ in range(12)]
    await rest.post(BATCH, json={"evidence_packages": sent})  # all at one time: the receipt ID must settle ties
    for _ in range(3):
        await sign(rest, event_type=event)
    whole = (await get(rest, "/api/v1/evidence", event_type=event))["evidence"]

    for size in (1, 4, 5, 15, 16):
        found = [page async for page in pages(rest, "/api/v1/evidence", "evidence", event_type=event, page_size=size)]

        assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
        assert [item for page in found for item in page] == whole
    assert len({item["receipt_id"] for item in whole}) == 15
    order = [(item["notarized_at"], item["receipt_id"]) for item in whole]
    assert order == sorted(order, reverse=True)


async def test_records_that_come_while_a_list_is_read_disturb_no_page(rest: httpx.AsyncClient) -> None:
    event = unheard_of()
    old = [(await sign(rest, event_type=event))["receipt"]["receipt_id"] for _ in range(5)]

    found = []
    async for page in pages(rest, "/api/v1/evidence", "evidence", event_type=event, page_size=2):
        found += [item["receipt_id"] for item in page]
        await sign(rest, event_type=event)

    assert found == old[::-1]


async def test_search_finds_by_each_field_and_by_all_at_once(rest: httpx.AsyncClient) -> None:
    event, actor = unheard_of(), f"ünï-{uuid.uuid4()}@acme & co + 1"
    sent = package(event_type=event, actor={"actor_type": "human", "id": actor})
    wanted = (await rest.post(SIGN, json={"evidence_package": sent})).raise_for_status().json()["receipt"]
    filters = {
        "evidence_package_hash": wanted["evidence_package_hash"],
        "artifact_hash": sent["artifacts"][0]["hash_sha256"],
        "event_type": event,
        "actor_id": actor,
    }

    for parameters in ({name: value} for name, value in filters.items()):
        found = (await get(rest, "/api/v1/evidence", **parameters))["evidence"]
        assert [item["receipt_id"] for item in found] == [wanted["receipt_id"]], parameters
    assert len((await get(rest, "/api/v1/evidence", **filters))["evidence"]) == 1
    filters["actor_id"] = "someone else"
    assert await get(rest, "/api/v1/evidence", **filters) == {"evidence": [], "next_page_token": ""}


async def test_a_time_window_takes_its_start_and_leaves_its_end(rest: httpx.AsyncClient) -> None:
    event = unheard_of()
    for _ in range(4):
        await sign(rest, event_type=event)
    everything = (await get(rest, "/api/v1/evidence", event_type=event))["evidence"][::-1]
    times = [item["notarized_at"] for item in everything]

    window = {"event_type": event, "start_time": times[1], "end_time": times[3]}
    found = (await get(rest, "/api/v1/evidence", **window))["evidence"]

    assert found == everything[1:3][::-1]
    backwards = await rest.get("/api/v1/evidence", params={"start_time": times[3], "end_time": times[1]})
    assert list(problem(backwards, 400, "INVALID_ARGUMENT")) == ["end_time"]


async def test_a_page_token_is_good_for_its_own_list_only(rest: httpx.AsyncClient) -> None:
    event = unheard_of()
    for _ in range(2):
        await sign(rest, event_type=event)
    query = {"event_type": event, "page_size": 1}
    token = (await get(rest, "/api/v1/evidence", **query))["next_page_token"]
    changed = ("A" if token[0] != "A" else "B") + token[1:]

    bad = [
        ("/api/v1/evidence", {**query, "page_token": changed}),
        ("/api/v1/evidence", {**query, "page_token": token + "AAAA"}),
        ("/api/v1/evidence", {**query, "page_token": "ü"}),
        ("/api/v1/evidence", {**query, "page_token": "x" * 5000}),
        ("/api/v1/evidence", {"page_token": token}),
        ("/api/v1/workflows", {"page_token": token}),
    ]
    for path, parameters in bad:
        assert list(problem(await rest.get(path, params=parameters), 400, "INVALID_ARGUMENT")) == ["page_token"]


async def test_workflows_are_listed_once_each_with_how_many_there_are(rest: httpx.AsyncClient) -> None:
    began = datetime.now(UTC).isoformat()
    batch = (await rest.post(BATCH, json={"evidence_packages": [package() for _ in range(3)]})).json()
    failed = (await rest.post(BATCH, json={"evidence_packages": [package(event_type="")]})).json()
    single = await sign(rest)
    ended = datetime.now(UTC).isoformat()
    await sign(rest)
    expected = {batch["batch_workflow_id"], failed["batch_workflow_id"], single["workflow_id"]}
    expected |= {item["workflow_id"] for item in batch["results"]}
    window = {"start_time": began, "end_time": ended}

    found = [page async for page in pages(rest, "/api/v1/workflows", "workflows", page_size=2, **window)]
    flat = [item for page in found for item in page]

    assert len(flat) == len(expected)
    assert {item["workflow_id"] for item in flat} == expected
    assert [item["created_at"] for item in flat] == sorted((item["created_at"] for item in flat), reverse=True)
    assert (await get(rest, "/api/v1/workflows", page_size=1, **window))["total_count"] == len(expected)
    for status, ids in (("failed", {failed["batch_workflow_id"]}), ("running", set())):
        page = await get(rest, "/api/v1/workflows", status_filter=status, **window)
        assert ({item["workflow_id"] for item in page["workflows"]}, page["total_count"]) == (ids, len(ids))
    types = {item["workflow_id"]: item["workflow_type"] for item in flat}
    assert types[single["workflow_id"]] == "simple_signing"
    assert types[batch["batch_workflow_id"]] == "batch_signing"


# --- validating -------------------------------------------------------------------------------------------------------


async def validate(rest: httpx.AsyncClient, evidence: dict[str, Any], signature: str) -> dict[str, Any]:
    body = {"evidence_package": evidence, "signature": signature}
    answer = await rest.post("/api/v1/evidence/validate", json=body)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


async def test_evidence_and_its_signature_are_valid(rest: httpx.AsyncClient) -> None:
    sent = package()
    receipt = (await rest.post(SIGN, json={"evidence_package": sent})).json()["receipt"]

    found = await validate(rest, sent, receipt["signature_b64"])

    assert (found["is_valid"], found["validation_error"]) == (True, "")
    checks = found["validation_result"]
    warnings = checks.pop("warnings")
    assert set(checks) == {"signature_valid", "evidence_hash_valid", "rekor_entry_valid", "timestamp_valid"}
    assert all(checks.values())
    # What did not run is said.
    assert any(warning.startswith("witnesses: ") for warning in warnings)
    assert not any(warning.startswith("time: ") for warning in warnings)


async def test_changed_evidence_or_another_signature_is_not_valid(rest: httpx.AsyncClient) -> None:
    sent, other = package(), package()
    receipt, another = [
        (await rest.post(SIGN, json={"evidence_package": each})).json()["receipt"] for each in (sent, other)
    ]
    changed = {**sent, "metadata": {**sent["metadata"], "loss": 0.25}}
    signature = receipt["signature_b64"]
    flipped = signature[:12] + ("A" if signature[12] != "A" else "B") + signature[13:]

    for evidence, given in (
        (changed, receipt["signature_b64"]),
        (sent, flipped),
        (sent, another["signature_b64"]),
        (package(), receipt["signature_b64"]),
    ):
        found = await validate(rest, evidence, given)
        assert not found["is_valid"]
        assert found["validation_error"] == "no record of this evidence has this signature"
        checks = found["validation_result"]
        assert not any(checks[name] for name in checks if name != "warnings")
        assert checks["warnings"]


async def test_what_is_no_signature_is_refused_by_name(rest: httpx.AsyncClient) -> None:
    for signature in ("", "not base64", "QQ", "QR=="):
        body = {"evidence_package": package(), "signature": signature}
        answer = await rest.post("/api/v1/evidence/validate", json=body)
        assert list(problem(answer, 400, "INVALID_ARGUMENT")) == ["signature"]


async def test_the_bundle_holds_the_evidence_as_it_was_hashed(rest: httpx.AsyncClient) -> None:
    sent = package()
    receipt = (await rest.post(SIGN, json={"evidence_package": sent})).json()["receipt"]

    statement = strict_json(b64decode(receipt["bundle"]["dsseEnvelope"]["payload"]), integers_as_doubles=True)

    assert isinstance(statement, dict)
    assert canonical(statement["predicate"]["evidence"]) == canonical(sent)
    assert statement["predicate"]["notary"]["workflow_id"] == f"simple-signing-{receipt['receipt_id']}"
    assert statement["predicate"]["notary"]["submitter"] == {"issuer": "", "subject": "anonymous", "method": "none"}
