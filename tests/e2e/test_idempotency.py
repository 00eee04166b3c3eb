"""One idempotency key, one receipt: whatever way it comes, however often, and whatever ends in between."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import httpx
import pytest

from afdp.embedded.stack import Stack
from afdp.errors import AlreadyExists, InvalidArgument
from afdp.messages.notary import (
    NotaryServiceClient,
    SignEvidenceBatchRequest,
    SignEvidenceRequest,
    SignEvidenceStreamRequest,
)
from afdp.rpc.codec import decoder, encoder
from tests.e2e.answers import BATCH, SIGN, get, problem, until_ready
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, message


def new_key() -> str:
    return f"deploy {uuid.uuid4()} ~!"


async def by_header(rest: httpx.AsyncClient, key: str, sent: dict[str, Any], **more: Any) -> httpx.Response:
    return await rest.post(SIGN, json={"evidence_package": sent, **more}, headers={"Idempotency-Key": key})


async def by_field(rest: httpx.AsyncClient, key: str, sent: dict[str, Any]) -> httpx.Response:
    return await rest.post(SIGN, json={"evidence_package": sent, "idempotency_key": key})


def as_request(key: str, sent: dict[str, Any]) -> SignEvidenceRequest:
    wire = message(BUILT["SignEvidence"], {"evidence_package": sent, "idempotency_key": key})
    made: SignEvidenceRequest = decoder(BUILT["SignEvidence"].request)(wire.SerializeToString())
    return made


async def by_grpc(notary: NotaryServiceClient, key: str, sent: dict[str, Any]) -> str:
    answer = await notary.sign_evidence(as_request(key, sent), timeout=10)
    assert answer.receipt is not None
    return answer.receipt.receipt_id


def receipt_id(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["receipt"]["receipt_id"]
    return found


# --- one package ------------------------------------------------------------------------------------------------------


async def test_a_retry_is_answered_to_the_byte_like_the_first_call(
    rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    key, sent = new_key(), package()

    first = await by_header(rest, key, sent)
    again = [await by_header(rest, key, sent), await by_field(rest, key, sent)]
    both = await rest.post(
        SIGN, json={"evidence_package": sent, "idempotency_key": key}, headers={"Idempotency-Key": key}
    )

    assert {answer.content for answer in (*again, both)} == {first.content}
    assert await by_grpc(notary, key, sent) == receipt_id(first)
    evidence_hash = first.json()["receipt"]["evidence_package_hash"]
    assert (await get(rest, f"/api/v1/evidence/{evidence_hash}"))["receipt_count"] == 1


async def test_twenty_at_once_over_every_way_get_one_receipt(
    rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    key, sent = new_key(), package()

    over_rest = [by_header(rest, key, sent) if n % 2 else by_field(rest, key, sent) for n in range(12)]
    over_grpc = [by_grpc(notary, key, sent) for _ in range(8)]
    answers, ids = await asyncio.gather(asyncio.gather(*over_rest), asyncio.gather(*over_grpc))

    assert len({*ids, *(receipt_id(answer) for answer in answers)}) == 1
    assert len({answer.content for answer in answers}) == 1
    evidence_hash = answers[0].json()["receipt"]["evidence_package_hash"]
    assert (await get(rest, f"/api/v1/evidence/{evidence_hash}"))["receipt_count"] == 1


async def test_a_key_holds_when_the_notary_is_killed_and_started_again(
    rest: httpx.AsyncClient, notary: NotaryServiceClient, stack: Stack
) -> None:
    key, sent = new_key(), package()
    first = await by_header(rest, key, sent)
    killed = stack.server("notary").pid
    os.kill(killed, signal.SIGKILL)

    async with asyncio.timeout(30):
        while (again := await by_header(rest, key, sent)).status_code != 200:
            assert again.status_code in (503, 504), again.text
            await asyncio.sleep(0.05)
        await until_ready(rest)

    assert stack.server("notary").pid != killed
    assert again.content == first.content
    assert await by_grpc(notary, key, sent) == receipt_id(first)


async def test_other_evidence_under_a_key_is_refused_and_changes_nothing(
    rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    key, sent, other = new_key(), package(metadata={"run": 1}), package(metadata={"run": 1})
    first = await by_header(rest, key, sent)

    differs = {"evidence_package.artifacts[0].hash_sha256": "was another"}
    for refused in (await by_header(rest, key, other), await by_field(rest, key, other)):
        assert problem(refused, 409, "ALREADY_EXISTS") == differs
    with pytest.raises(AlreadyExists) as conflict:
        await by_grpc(notary, key, other)
    assert {fault.field: fault.message for fault in conflict.value.fields} == differs

    assert (await by_header(rest, key, sent)).content == first.content
    artifact = other["artifacts"][0]["hash_sha256"]
    assert (await get(rest, "/api/v1/evidence", artifact_hash=artifact))["evidence"] == []


async def test_of_different_evidence_at_once_under_one_key_one_wins(rest: httpx.AsyncClient) -> None:
    key = new_key()

    answers = await asyncio.gather(*(by_header(rest, key, package()) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9


async def test_different_keys_or_none_make_different_receipts_of_the_same_evidence(rest: httpx.AsyncClient) -> None:
    sent = package()

    answers = [await by_header(rest, new_key(), sent) for _ in range(2)]
    answers += [await rest.post(SIGN, json={"evidence_package": sent}) for _ in range(2)]

    assert len({receipt_id(answer) for answer in answers}) == 4
    assert len({answer.json()["receipt"]["evidence_package_hash"] for answer in answers}) == 1


async def test_the_same_evidence_written_in_another_way_is_the_same(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), package(metadata={"a": 1, "b": [1e2, "ü"]})
    upper = [{**each, "hash_sha256": each["hash_sha256"].upper()} for each in sent["artifacts"]]
    rewritten = {
        **dict(reversed(sent.items())),
        "timestamp_utc": "2026-11-01T14:00:00.250+02:00",
        "artifacts": upper,
        "metadata": {"b": [100.0, "\u00fc"], "a": 1.0},
    }

    assert receipt_id(await by_header(rest, key, sent)) == receipt_id(await by_header(rest, key, rewritten))


async def test_a_key_that_was_answered_by_dedupe_keeps_its_receipt(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), package()
    old = receipt_id(await rest.post(SIGN, json={"evidence_package": sent}))
    assert receipt_id(await by_header(rest, key, sent, dedupe=True)) == old

    newer = receipt_id(await rest.post(SIGN, json={"evidence_package": sent}))

    assert newer != old
    assert receipt_id(await by_header(rest, key, sent, dedupe=True)) == old
    assert receipt_id(await by_header(rest, key, sent)) == old


async def test_a_key_that_waited_for_signed_only_is_answered_when_it_waits_for_logged(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), package()

    quick = await by_header(rest, key, sent, wait_for="signed")
    patient = await by_header(rest, key, sent, wait_for="logged")

    assert receipt_id(quick) == receipt_id(patient)
    assert patient.json()["receipt"]["state"] == "logged"


async def test_a_refused_request_does_not_use_up_its_key(rest: httpx.AsyncClient) -> None:
    key = new_key()

    problem(await by_header(rest, key, package(event_type="")), 400, "INVALID_ARGUMENT")

    receipt_id(await by_header(rest, key, package()))


# --- batches ----------------------------------------------------------------------------------------------------------


async def batch(rest: httpx.AsyncClient, key: str, sent: list[dict[str, Any]]) -> httpx.Response:
    return await rest.post(BATCH, json={"evidence_packages": sent}, headers={"Idempotency-Key": key})


async def test_a_batch_sent_again_has_its_id_and_its_receipts(
    rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    key, sent = new_key(), [package(), package(event_type="undotted"), package()]

    first = await batch(rest, key, sent)
    again = await batch(rest, key, sent)

    assert first.status_code == 200, first.text
    assert again.content == first.content
    method = BUILT["SignEvidenceBatch"]
    wire = message(method, {"evidence_packages": sent, "idempotency_key": key}).SerializeToString()
    request: SignEvidenceBatchRequest = decoder(method.request)(wire)
    over_grpc = await notary.sign_evidence_batch(request, timeout=10)
    assert over_grpc.batch_workflow_id == first.json()["batch_workflow_id"]
    status = await get(rest, f"/api/v1/workflows/{over_grpc.batch_workflow_id}/status")
    assert status["result"] == {"items": 3, "succeeded": 2, "failed": 1}


async def test_a_package_from_the_future_makes_no_retry_a_conflict(rest: httpx.AsyncClient) -> None:
    """Its error quotes the clock, which is another one each time."""
    soon = (datetime.now(UTC) + timedelta(minutes=10, seconds=2)).isoformat()
    key, sent = new_key(), [package(), package(timestamp_utc=soon), package(timestamp_utc="2999-01-01T00:00:00Z")]
    first = (await batch(rest, key, sent)).raise_for_status().json()
    assert [item["status"] for item in first["results"]] == ["completed", "failed", "failed"]

    await asyncio.sleep(2.5)  # until it is soon enough
    again = (await batch(rest, key, sent)).raise_for_status().json()

    assert again["batch_workflow_id"] == first["batch_workflow_id"]
    assert again["results"][0] == first["results"][0]
    assert [item["status"] for item in again["results"]] == ["completed", "completed", "failed"]


async def test_one_batch_sent_five_times_at_once_is_one_batch(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), [package() for _ in range(20)]

    answers = await asyncio.gather(*(batch(rest, key, sent) for _ in range(5)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


async def test_another_batch_under_the_same_key_is_refused(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), [package() for _ in range(3)]
    (await batch(rest, key, sent)).raise_for_status()

    first, last = ({f"evidence_packages[{n}]": "was another"} for n in (0, 2))
    others = {
        "fewer": (sent[:2], {"evidence_packages": "were 3"}),
        "in another order": (sent[::-1], first | last),
        "more": ([*sent, package()], {"evidence_packages": "were 3"}),
        "one that is refused": ([*sent[:2], package(event_type="")], last),
    }
    for name, (other, differs) in others.items():
        assert problem(await batch(rest, key, other), 409, "ALREADY_EXISTS") == differs, name


async def test_an_item_whose_key_was_used_before_fails_alone_and_says_what_differs(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), [package(), package(metadata={"build": 7, "of": "main"}), package()]
    before = package(metadata={"build": 8}, artifacts=sent[1]["artifacts"])
    receipt_id(await by_header(rest, f"{key}/1", before))

    good, refused, also_good = (await batch(rest, key, sent)).raise_for_status().json()["results"]

    assert (good["error"], also_good["error"]) == (None, None)
    assert refused["error"]["code"] == "ALREADY_EXISTS"
    assert {fault["field"]: fault["message"] for fault in refused["error"]["errors"]} == {
        "evidence_packages[1].metadata.build": "was another",
        "evidence_packages[1].metadata.of": "was not there",
    }


async def test_an_item_has_the_key_of_its_batch_and_its_place(rest: httpx.AsyncClient) -> None:
    key, sent = new_key(), [package() for _ in range(2)]
    whole = (await batch(rest, key, sent)).raise_for_status().json()

    single = await by_header(rest, f"{key}/1", sent[1])

    assert single.json()["receipt"] == whole["results"][1]["receipt"]
    problem(await by_header(rest, key, sent[0]), 409, "ALREADY_EXISTS")


# --- the same evidence without a key ----------------------------------------------------------------------------------


async def test_the_same_evidence_deduped_at_once_over_every_way_is_notarised_once(
    rest: httpx.AsyncClient, channel: grpc.aio.Channel
) -> None:
    sent = package()
    single = [rest.post(SIGN, json={"evidence_package": sent, "dedupe": True}) for _ in range(8)]
    batches = [rest.post(BATCH, json={"evidence_packages": [sent] * 5, "dedupe": True}) for _ in range(4)]
    stream = SignEvidenceStreamRequest
    streamed = channel.stream_stream(
        "/afdp.notary.v1.NotaryService/SignEvidenceStream",
        request_serializer=encoder(BUILT["SignEvidenceStream"].request),
        response_deserializer=decoder(BUILT["SignEvidenceStream"].response),
    )

    async def requests() -> AsyncIterator[SignEvidenceStreamRequest]:
        for number in range(8):
            yield stream(number, replace(as_request("", sent), dedupe=True))

    async def over_stream() -> list[str]:
        answers = [answer async for answer in streamed(requests(), timeout=30)]
        return [answer.response.receipt.receipt_id for answer in answers]

    answers, wholes, ids = await asyncio.gather(asyncio.gather(*single), asyncio.gather(*batches), over_stream())

    items = [item for whole in wholes for item in whole.raise_for_status().json()["results"]]
    assert (len(items), len(ids)) == (20, 8)
    found = {*ids, *(receipt_id(answer) for answer in answers), *(item["receipt"]["receipt_id"] for item in items)}
    assert len(found) == 1
    assert {item["receipt"]["state"] for item in items} == {"logged"}
    evidence_hash = answers[0].json()["receipt"]["evidence_package_hash"]
    assert (await get(rest, f"/api/v1/evidence/{evidence_hash}"))["receipt_count"] == 1


async def test_a_dedupe_waits_as_it_is_asked_to_for_the_record_of_before(rest: httpx.AsyncClient) -> None:
    sent = {"evidence_package": package(), "dedupe": True}
    quick = await rest.post(SIGN, json={**sent, "wait_for": "signed"})

    patient = await rest.post(SIGN, json={**sent, "wait_for": "logged"})

    assert receipt_id(patient) == receipt_id(quick)
    assert patient.json()["receipt"]["state"] == "logged"


# --- keys that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "schlüssel".encode("latin-1"), b"\xf0\x9f\x98\x80"])
@pytest.mark.parametrize("path", [SIGN, BATCH])
async def test_a_header_that_is_no_key_is_refused(rest: httpx.AsyncClient, path: str, key: str | bytes) -> None:
    sent = {"evidence_package": package()} if path == SIGN else {"evidence_packages": [package()]}

    header = key if isinstance(key, bytes) else key.encode()
    answer = await rest.post(path, json=sent, headers=[(b"Idempotency-Key", header)])

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == ["idempotency_key"]


@pytest.mark.parametrize("key", ["k" * 256, "schlüssel", "a\nb", "\x7f", "😀"])
async def test_a_field_that_is_no_key_is_refused(
    rest: httpx.AsyncClient, notary: NotaryServiceClient, key: str
) -> None:
    assert list(problem(await by_field(rest, key, package()), 400, "INVALID_ARGUMENT")) == ["idempotency_key"]
    with pytest.raises(InvalidArgument) as refused:
        await by_grpc(notary, key, package())
    assert [fault.field for fault in refused.value.fields] == ["idempotency_key"]


async def test_a_batchs_key_leaves_room_for_the_places_of_its_items(rest: httpx.AsyncClient) -> None:
    longest = uuid.uuid4().hex + "k" * 219

    assert (await batch(rest, longest, [package()])).status_code == 200
    refused = problem(await batch(rest, longest + "k", [package()]), 400, "INVALID_ARGUMENT")
    assert refused == {"idempotency_key": "must be 1 to 251 printable ASCII characters"}


async def test_two_keys_for_one_request_are_refused(rest: httpx.AsyncClient) -> None:
    body = {"evidence_package": package(), "idempotency_key": new_key()}

    disagreeing = await rest.post(SIGN, json=body, headers={"Idempotency-Key": new_key()})
    twice = await rest.post(SIGN, json=body, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])

    assert list(problem(disagreeing, 400, "INVALID_ARGUMENT")) == ["idempotency_key"]
    assert list(problem(twice, 400, "INVALID_ARGUMENT")) == ["idempotency-key"]
