"""Watching receipts, over gRPC and as server-sent events: each that is made or upgraded, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio

from afdp.client import AsyncNotaryClient, NotaryClient, Retry
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import InvalidArgument
from afdp.messages import notary as pb
from afdp.messages.notary import NotaryServiceClient
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """A stack of its own: its processes are killed here."""
    with open_folder() as folder:
        async with running_stack(
            StackOptions(folder / "data", free_offset(), settings={"notary": NO_KEY_RECORDS})
        ) as running:
            yield running


async def sign(rest: httpx.AsyncClient, wait_for: str = "logged") -> str:
    answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": package(), "wait_for": wait_for})
    return str(answer.raise_for_status().json()["receipt"]["receipt_id"])


async def until(
    answers: AsyncIterator[pb.WatchReceiptsResponse], done: Callable[[list[pb.WatchReceiptsResponse]], bool]
) -> list[pb.WatchReceiptsResponse]:
    """What comes until that is so."""
    seen: list[pb.WatchReceiptsResponse] = []
    async with asyncio.timeout(30):
        while not done(seen):
            seen.append(await anext(answers))
    return seen


def logged(answers: list[pb.WatchReceiptsResponse]) -> set[str]:
    return {
        each.receipt_id for each in answers if each.receipt is not None and each.receipt.state == pb.ReceiptState.LOGGED
    }


async def test_each_receipt_is_told_of_and_from_each_cursor_what_came_after_it(
    notary: NotaryServiceClient, rest: httpx.AsyncClient
) -> None:
    async with aclosing(notary.watch_receipts(pb.WatchReceiptsRequest())) as answers:
        first = await anext(answers)
        assert first.cursor
        assert first.receipt is None, "at once a cursor, so that nobody has to begin anew who comes back"
        made = {await sign(rest) for _ in range(5)}
        seen = await until(answers, lambda told: made <= logged(told))
    receipt = seen[-1].receipt
    assert receipt is not None
    whole = await notary.get_receipt(pb.GetReceiptRequest(receipt.receipt_id))
    assert whole.receipt == receipt, "as GetReceipt gives it"

    async with aclosing(notary.watch_receipts(pb.WatchReceiptsRequest(first.cursor))) as answers:
        assert made <= logged(await until(answers, lambda told: made <= logged(told)))
    middle = seen[len(seen) // 2].cursor
    after = {each.receipt_id for each in seen[len(seen) // 2 + 1 :]}
    async with aclosing(notary.watch_receipts(pb.WatchReceiptsRequest(middle))) as answers:
        again = await until(answers, lambda told: after <= {each.receipt_id for each in told})
        assert {each.receipt_id for each in again} - {""} == after


@pytest.mark.parametrize("cursor", ["x", "a" * 300])
async def test_a_cursor_that_was_never_given_is_refused_by_name(notary: NotaryServiceClient, cursor: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await anext(notary.watch_receipts(pb.WatchReceiptsRequest(cursor)))
    assert [fault.field for fault in refused.value.fields] == ["cursor"]


async def test_many_watch_at_once_and_each_is_told_of_everything(
    channel: grpc.aio.Channel, notary: NotaryServiceClient, rest: httpx.AsyncClient
) -> None:
    begun = asyncio.Barrier(51)
    made: set[str] = set()
    signed = asyncio.Event()

    async def watch() -> None:
        async with aclosing(notary.watch_receipts(pb.WatchReceiptsRequest())) as answers:
            await anext(answers)
            await begun.wait()
            await signed.wait()
            await until(answers, lambda told: made <= logged(told))

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(watch())
        await begun.wait()
        made |= {await sign(rest) for _ in range(10)}
        signed.set()


# --- over REST --------------------------------------------------------------------------------------------------------


class Events:
    """Server-sent events of one answer, as a browser reads them."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """The next event: its kind and its data."""
        kind, data = "message", ""
        async with asyncio.timeout(30):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    data += value
                elif not line and data:
                    return kind, json.loads(data)
        raise EOFError

    async def until(self, wanted: set[str]) -> list[Any]:
        """What comes until each of these receipts was told of as logged."""
        seen: list[Any] = []
        while not wanted <= {each["receipt_id"] for each in seen if each["receipt"]["state"] == "logged"}:
            kind, data = await self.next()
            assert kind == "receipt"
            assert data["cursor"] == self.last_id
            seen.append(data)
        return seen

    async def begun(self) -> None:
        """Returns once there is a cursor."""
        async with asyncio.timeout(30):
            async for line in self._lines:
                if line.startswith("id: "):
                    self.last_id = line.removeprefix("id: ")
                elif not line and self.last_id:
                    return


WATCH = "/api/v1/receipts:watch"


async def test_events_are_sent_as_they_happen_and_a_browser_goes_on_by_the_last_id(rest: httpx.AsyncClient) -> None:
    async with rest.stream("GET", WATCH) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers
        events = Events(answer)
        await events.begun()
        start = events.last_id
        made = {await sign(rest) for _ in range(3)}
        seen = await events.until(made)
    got = (await rest.get(f"/api/v1/receipts/{seen[-1]['receipt_id']}")).json()
    assert got["receipt"] == seen[-1]["receipt"]
    for asked in ({"headers": {"last-event-id": start}, "params": {"cursor": "old"}}, {"params": {"cursor": start}}):
        async with rest.stream("GET", WATCH, **asked) as answer:
            await Events(answer).until(made)


async def test_what_cannot_be_watched_is_a_problem_and_no_stream(rest: httpx.AsyncClient) -> None:
    for asked in ({"params": {"cursor": "x"}}, {"headers": {"last-event-id": "x"}}):
        answer = await rest.get(WATCH, **asked)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert [fault["field"] for fault in answer.json()["errors"]] == ["cursor"]
    assert (await rest.get(WATCH, params={"colour": "blue"})).status_code == 400


# --- by the client ----------------------------------------------------------------------------------------------------


async def test_both_clients_watch_over_both_transports(stack: Stack, rest: httpx.AsyncClient) -> None:
    address = f"127.0.0.1:{stack.port('notary')}"
    async with AsyncNotaryClient(stack.url) as first:
        begun = first.watch_receipts(await cursor_of(rest))
        made = {await sign(rest) for _ in range(3)}
        seen = [await anext(begun)]
        async with asyncio.timeout(30):
            while not made <= {each.receipt_id for each in seen}:
                seen.append(await anext(begun))
    cursor = seen[0].cursor
    rest_of_them = {each.receipt_id for each in seen[1:]}

    async def read(client: AsyncNotaryClient) -> set[str]:
        async with client, asyncio.timeout(30):
            found: set[str] = set()
            async for told in client.watch_receipts(cursor):
                assert told.receipt is not None
                found.add(told.receipt_id)
                if rest_of_them <= found:
                    break
            return found

    def read_blocking(client: NotaryClient) -> set[str]:
        with client:
            found: set[str] = set()
            for told in client.watch_receipts(cursor):
                found.add(told.receipt_id)
                if rest_of_them <= found:
                    break
            return found

    assert await read(AsyncNotaryClient.over_grpc(address)) >= rest_of_them
    for client in (NotaryClient(stack.url), NotaryClient.over_grpc(address)):
        assert await asyncio.to_thread(read_blocking, client) >= rest_of_them
    async with AsyncNotaryClient(stack.url) as client:
        with pytest.raises(InvalidArgument):
            await anext(client.watch_receipts("x"))


async def cursor_of(rest: httpx.AsyncClient) -> str:
    """A cursor of now."""
    async with rest.stream("GET", WATCH) as answer:
        events = Events(answer)
        await events.begun()
        return events.last_id


async def test_afdp_watch_prints_a_line_for_each(stack: Stack, rest: httpx.AsyncClient) -> None:
    cursor = await cursor_of(rest)
    made = await sign(rest)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "watch", "--json", "--url", stack.url, "--cursor", cursor),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while (told := json.loads(await process.stdout.readline()))["receipt_id"] != made:
            pass
        assert told["receipt"]["receipt_id"] == made
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


@pytest.mark.parametrize("service", ["notary", "metadata", "gateway", "postgres"])
async def test_who_watches_misses_nothing_where_a_process_is_killed(
    stack: Stack, rest: httpx.AsyncClient, service: str
) -> None:
    made: set[str] = set()
    found: set[str] = set()
    begun, whole = asyncio.Event(), asyncio.Event()

    async def watch(cursor: str) -> None:
        async with AsyncNotaryClient(stack.url) as client:
            begun.set()
            async for told in client.watch_receipts(cursor):
                found.add(told.receipt_id)
                if whole.is_set() and made <= found:
                    return

    async def patiently() -> None:
        async with AsyncNotaryClient(stack.url, retry=Retry(attempts=60, longest_delay=1.0)) as client:
            receipt = (await client.sign(package())).receipt
            assert receipt is not None
            made.add(receipt.receipt_id)

    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(await cursor_of(rest)))
        await begun.wait()
        for number in range(12):
            if number == 4:
                os.kill(stack.server(service).pid, signal.SIGKILL)
            await patiently()
        whole.set()
        await patiently()  # so that who has found all already looks again
