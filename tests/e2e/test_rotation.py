"""Keys that are rotated while everything is at work: no request fails, and every receipt verifies for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import httpx
import pytest

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.rpc import open_channel
from afdp.rpc.codec import decoder
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import SIGN, sign
from tests.e2e.conftest import fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, message
from tests.received import receipt_of

STREAM = BUILT["SignEvidenceStream"]
OVER_GRPC, OVER_REST = 4000, 1000
AT_ONCE = 128


@asynccontextmanager
async def stack_with(vault: bool) -> AsyncIterator[tuple[Stack, httpx.AsyncClient, grpc.aio.Channel]]:
    with open_folder() as folder:
        async with (
            running_stack(StackOptions(folder / "data", free_offset(), vault=vault)) as stack,
            httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60) as rest,
            open_channel(f"{LOOPBACK}:{stack.port('notary')}") as channel,
        ):
            yield stack, rest, channel


class Load:
    """Requests one after the other over both ways, and the receipts that came so far."""

    def __init__(self, rest: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self._rest = rest
        self._channel = channel
        self._came = asyncio.Condition()
        self.receipts: list[Receipt] = []

    async def run(self) -> None:
        """All of them; one that fails ends the test."""
        async with asyncio.TaskGroup() as ways:
            ways.create_task(self._over_grpc())
            requests = iter(range(OVER_REST))
            for _ in range(8):
                ways.create_task(self._over_rest(requests))

    async def until(self, count: int) -> None:
        """Returns once so many receipts came."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.receipts) >= count)

    async def _over_grpc(self) -> None:
        read, room = decoder(STREAM.response), asyncio.Semaphore(AT_ONCE)

        async def requests() -> AsyncIterator[bytes]:
            for sequence in range(OVER_GRPC):
                await room.acquire()
                request = {"sequence": sequence, "request": {"evidence_package": package()}}
                yield message(STREAM, request).SerializeToString()

        async for data in self._channel.stream_stream(STREAM.full_name)(requests(), timeout=300):
            answer = read(data)
            assert answer.response is not None, answer.error
            assert answer.response.receipt is not None
            room.release()
            await self._take(receipt_of(answer.response.receipt))

    async def _over_rest(self, requests: object) -> None:
        for _ in requests:  # type: ignore[attr-defined]  # shared by those who send
            answer = await self._rest.post(SIGN, json={"evidence_package": package()})
            assert answer.status_code == 200, answer.text
            await self._take(Receipt.from_object(answer.json()["receipt"]))

    async def _take(self, receipt: Receipt) -> None:
        async with self._came:
            self.receipts.append(receipt)
            self._came.notify_all()


async def rotate(rest: httpx.AsyncClient, **which: str) -> str:
    """Rotates a key; the new version's ID."""
    answer = await rest.post("/api/v1/keys:rotate", json=which)
    assert answer.status_code == 200, answer.text
    key_id: str = answer.json()["key"]["key_id"]
    return key_id


@pytest.mark.parametrize("vault", [False, True], ids=["files", "vault"])
async def test_a_rotation_in_the_midst_of_five_thousand_requests_fails_none_of_them(vault: bool) -> None:
    async with stack_with(vault) as (_, rest, channel):
        first = (await sign(rest))["receipt"]["key_id"]
        load = Load(rest, channel)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await load.until(2000)
            second = await rotate(rest)
            await load.until(3500)
            await rotate(rest, purpose="timestamp")
        trust = await fetch_trust(rest)

    receipts = load.receipts
    assert len({receipt.receipt_id for receipt in receipts}) == OVER_GRPC + OVER_REST
    used = Counter(receipt.key_id for receipt in receipts)
    assert set(used) == {first, second}
    assert min(used.values()) >= 1000
    for receipt in receipts:
        result = verify_receipt(receipt, trust)
        assert result.verified, result.failures()
    # The first version has an end now, and what it signed verifies only because its timestamp says when.
    ends = {key.key_id: key.valid_until for key in trust.keys}
    assert ends[first] is not None
    assert ends[second] is None
    assert len(trust.timestamp_authorities) == 2
