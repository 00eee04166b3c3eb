"""Streams under load and at their bounds, and what callers see when there is too much work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest_asyncio

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import METRICS_PORTS, PORTS, Stack, StackOptions, running_stack
from afdp.errors import ResourceExhausted
from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.messages.notary import SignEvidenceStreamResponse
from afdp.rpc import open_channel
from afdp.rpc.codec import decoder
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import BATCH, SIGN, get, problem
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, call, message

STREAM = BUILT["SignEvidenceStream"]
IN_FLIGHT, QUEUE = 16, 4


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def narrow() -> AsyncIterator[Stack]:
    """A stack with little room: what it cannot queue, it must refuse or hold back."""
    settings = {
        "AFDP_STREAM_IN_FLIGHT": str(IN_FLIGHT),
        "AFDP_QUEUE_ITEMS": str(QUEUE),
        "AFDP_BATCH_ITEMS": "2",
        **NO_KEY_RECORDS,
    }
    with open_folder() as folder:
        options = StackOptions(folder / "data", free_offset(), settings={"notary": settings})
        async with running_stack(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def narrow_rest(narrow: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=narrow.url, trust_env=False, timeout=30) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def narrow_channel(narrow: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(f"{LOOPBACK}:{narrow.port('notary')}") as channel:
        yield channel


def item(sequence: int, sent: dict[str, Any] | None, **more: Any) -> bytes:
    """One request of a stream; without evidence there is nothing in it but its sequence."""
    request = {} if sent is None else {"request": {"evidence_package": sent, **more}}
    data: bytes = message(STREAM, {"sequence": sequence, **request}).SerializeToString()
    return data


async def answers(channel: grpc.aio.Channel, items: list[bytes]) -> list[SignEvidenceStreamResponse]:
    """Everything that a stream answers."""
    read = decoder(STREAM.response)
    stream = channel.stream_stream(STREAM.full_name)(iter(items), timeout=60)
    return [read(answer) async for answer in stream]


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_five_hundred_requests_are_each_answered_once_under_their_sequence(
    channel: grpc.aio.Channel, rest: httpx.AsyncClient, trust: TrustRoot
) -> None:
    sent = {2**64 - 1 - number: package() for number in range(500)}

    found = await answers(channel, [item(sequence, each) for sequence, each in sent.items()])

    assert Counter(answer.sequence for answer in found) == Counter(list(sent))
    receipts = {answer.sequence: answer.response.receipt for answer in found if answer.response}
    assert len({receipt.receipt_id for receipt in receipts.values() if receipt}) == 500
    for sequence in list(sent)[::50]:
        receipt = receipts[sequence]
        assert receipt is not None
        stored = await get(rest, f"/api/v1/receipts/{receipt.receipt_id}")
        assert verify_receipt(Receipt.from_object(stored["receipt"]), trust).verified
        by_artifact = await get(rest, "/api/v1/evidence", artifact_hash=sent[sequence]["artifacts"][0]["hash_sha256"])
        assert [each["receipt_id"] for each in by_artifact["evidence"]] == [receipt.receipt_id]


async def test_a_bad_item_is_answered_with_its_error_and_the_stream_goes_on(channel: grpc.aio.Channel) -> None:
    bad = {
        1: (item(1, None), "request"),
        3: (item(3, package(event_type="undotted")), "evidence_package.event_type"),
        5: (item(5, package(), wait_for="RECEIPT_STATE_WITNESSED"), "wait_for"),
        7: (item(7, package(), idempotency_key="ü"), "idempotency_key"),
    }
    items = [bad[number][0] if number in bad else item(number, package()) for number in range(10)]

    found = {answer.sequence: answer for answer in await answers(channel, items)}

    assert sorted(found) == list(range(10))
    for number, answer in found.items():
        if number in bad:
            assert answer.error is not None
            assert answer.error.code == "INVALID_ARGUMENT"
            assert [fault.field for fault in answer.error.errors] == [bad[number][1]]
        else:
            assert answer.response is not None
            assert answer.response.receipt is not None


async def test_sequences_may_repeat_and_a_key_is_one_receipt_within_a_stream_too(channel: grpc.aio.Channel) -> None:
    sent = package()

    found = await answers(channel, [item(7, sent, idempotency_key="once in a stream")] * 8)

    receipts = [answer.response.receipt.receipt_id for answer in found if answer.response and answer.response.receipt]
    assert [answer.sequence for answer in found] == [7] * 8
    assert len(receipts) == 8
    assert len(set(receipts)) == 1


async def test_a_stream_of_nothing_ends_well(channel: grpc.aio.Channel) -> None:
    assert await answers(channel, []) == []


async def test_a_caller_who_waits_for_each_answer_gets_it_at_once(channel: grpc.aio.Channel) -> None:
    """No answer waits for more requests, nor for the stream's end."""
    stream = channel.stream_stream(STREAM.full_name)(timeout=20)
    read = decoder(STREAM.response)
    for number in range(5):
        await stream.write(item(number, package()))
        answer = read(await stream.read())
        assert (answer.sequence, answer.error) == (number, None)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_caller_who_does_not_read_is_not_read_from(
    narrow: Stack, narrow_rest: httpx.AsyncClient, narrow_channel: grpc.aio.Channel
) -> None:
    many, padding = 400, "x" * 100_000
    before = await records(narrow_rest)
    resident = memory(narrow)
    stream = narrow_channel.stream_stream(STREAM.full_name)(timeout=60)
    written = 0

    async def write() -> None:
        nonlocal written
        for number in range(many):
            await stream.write(item(number, package(metadata={"padding": padding})))
            written += 1
        await stream.done_writing()

    writing = asyncio.create_task(write())
    taken = await settled(narrow_rest)

    # What was signed is what is in hand, and the answers that fill the connection: of these it takes a few megabytes.
    assert IN_FLIGHT <= taken - before <= IN_FLIGHT + 80
    assert written < many
    assert memory(narrow) - resident < 64 * 1024 * 1024
    # Others are served meanwhile.
    assert (await narrow_rest.post(SIGN, json={"evidence_package": package()})).status_code == 200

    # Read at last: everything is answered.
    read = decoder(STREAM.response)
    found = [read(answer) async for answer in stream]
    await writing
    assert Counter(answer.sequence for answer in found) == Counter(range(many))
    assert all(answer.error is None for answer in found)


async def test_a_caller_who_goes_away_leaves_nothing_behind(
    narrow: Stack, narrow_rest: httpx.AsyncClient, narrow_channel: grpc.aio.Channel
) -> None:
    cancelled = await metric(narrow, 'afdp_grpc_requests_total{code="CANCELLED",method="SignEvidenceStream"')
    for _ in range(5):
        stream = narrow_channel.stream_stream(STREAM.full_name)(timeout=60)
        for number in range(IN_FLIGHT):
            await stream.write(item(number, package()))
        await stream.read()
        stream.cancel()

    async with asyncio.timeout(10):
        while True:
            now = await metric(narrow, 'afdp_grpc_requests_total{code="CANCELLED",method="SignEvidenceStream"')
            waiting = await metric(narrow, "afdp_notary_queue_items ")
            if (now - cancelled, waiting) == (5, 0):
                break
            await asyncio.sleep(0.05)
    assert (await narrow_rest.post(SIGN, json={"evidence_package": package()})).status_code == 200
    assert "Traceback" not in log_of(narrow)


async def test_a_full_queue_refuses_single_calls_at_once_with_a_hint(
    narrow_rest: httpx.AsyncClient, narrow_channel: grpc.aio.Channel
) -> None:
    method = BUILT["SignEvidence"]
    bodies = [{"evidence_package": package()} for _ in range(40)]

    over_rest = asyncio.gather(*(narrow_rest.post(SIGN, json=body) for body in bodies))
    over_grpc = asyncio.gather(
        *(call(narrow_channel, method, message(method, body).SerializeToString()) for body in bodies)
    )
    answered, called = await over_rest, await over_grpc

    over_limit = [answer for answer in answered if answer.status_code != 200]
    refused = [each for each in called if not isinstance(each, bytes)]
    assert over_limit
    assert refused
    assert len(over_limit) + len(refused) < 2 * len(bodies)
    for answer in over_limit:
        problem(answer, 429, "RESOURCE_EXHAUSTED")
        assert int(answer.headers["retry-after"]) >= 1
    assert all(isinstance(each, ResourceExhausted) and each.retry_after == 1.0 for each in refused)
    assert (await narrow_rest.post(SIGN, json={"evidence_package": package()})).status_code == 200


async def test_streams_and_batches_are_held_back_by_a_full_queue_and_not_refused(
    narrow_rest: httpx.AsyncClient, narrow_channel: grpc.aio.Channel
) -> None:
    streams = [answers(narrow_channel, [item(number, package()) for number in range(60)]) for _ in range(3)]
    batch = narrow_rest.post(BATCH, json={"evidence_packages": [package() for _ in range(100)]})

    *found, batched = await asyncio.gather(*streams, batch)

    assert [[answer.error for answer in each] for each in found] == [[None] * 60] * 3
    assert {result["status"] for result in batched.json()["results"]} == {"completed"}


# --- parts ------------------------------------------------------------------------------------------------------------


async def records(rest: httpx.AsyncClient) -> int:
    total: int = (await get(rest, "/api/v1/workflows", page_size=1))["total_count"]
    return total


async def settled(rest: httpx.AsyncClient) -> int:
    """The number of records once it has stood still for a second."""
    async with asyncio.timeout(20):
        seen, since = await records(rest), asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(0.1)
            now = asyncio.get_running_loop().time()
            if (number := await records(rest)) != seen:
                seen, since = number, now
            elif now - since > 1:
                return seen


async def metric(stack: Stack, start: str) -> float:
    """The value of the notary's metric whose line begins so; 0 where there is none."""
    port = METRICS_PORTS["notary"] + stack.port("notary") - PORTS["notary"]
    async with httpx.AsyncClient(trust_env=False) as client:
        lines = (await client.get(f"http://{LOOPBACK}:{port}/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)), 0.0)


def memory(stack: Stack) -> int:
    """Resident bytes of the notary."""
    status = Path(f"/proc/{stack.server('notary').pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def log_of(stack: Stack) -> str:
    return (stack.data_dir / "logs" / "notary.log").read_text()
