"""Calls of the gateway that share a stream, against real servers: nothing about them is another than of calls alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from afdp.config import ServiceSettings
from afdp.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    NotaryError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from afdp.gateway import relay as relaying
from afdp.gateway.relay import LARGE
from afdp.gateway.upstream import Upstream, open_upstream
from afdp.messages.notary import (
    GetReceiptRequest,
    GetReceiptResponse,
    NotarizationReceipt,
    NotaryServiceBase,
    SignEvidenceRequest,
    SignEvidenceResponse,
)
from afdp.rpc import answer
from afdp.rpc.caller import caller
from afdp.rpc.codec import decoder, encoder
from afdp.rpc.descriptors import Method, method
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry
from afdp.telemetry.context import deadline, request_id

SERVICE = "afdp.notary.v1.NotaryService"
GET_RECEIPT = f"/{SERVICE}/GetReceipt"  # may be called again
SIGN_EVIDENCE = f"/{SERVICE}/SignEvidence"  # may not
TRACE = "0af7651916cd43dd8448eb211c80319c"

ERRORS = {
    "missing": NotFound("there is no such receipt", metadata={"hint": "search for it"}),
    "wrong": InvalidArgument("the request is not valid", fields=[FieldViolation("receipt_id", "is no UUID")]),
    "busy": ResourceExhausted("the queue is full", retry_after=1.5),
    "away": Unavailable("the log is away", retry_after=2.0),
    "broken": RuntimeError("password=hunter2"),
}


class Replica(NotaryServiceBase):
    """A notary: fails in the way that the receipt ID asks for, else tells who calls and how long there is."""

    def __init__(
        self, *, relay: bool = True, drain_seconds: float = 60.0, max_message_bytes: int = 1024 * 1024
    ) -> None:
        self.port = 0
        self.calls: list[str] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.spans = InMemorySpanExporter()
        self._relay = relay
        self._bounds = {"drain_seconds": drain_seconds, "max_message_bytes": max_message_bytes}
        self._running = AsyncExitStack()

    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        await self._held(request.receipt_id)
        answer.tell(("ratelimit", request.receipt_id[:8]))
        if (error := ERRORS.get(request.receipt_id)) is not None:
            raise error
        left = (deadline.get() or 0.0) - asyncio.get_running_loop().time()
        return GetReceiptResponse(
            NotarizationReceipt(receipt_id=request_id.get(), key_id=caller.get().authorization, log_index=round(left))
        )

    async def sign_evidence(self, request: SignEvidenceRequest) -> SignEvidenceResponse:
        await self._held(request.idempotency_key)
        return SignEvidenceResponse(workflow_id=str(self.port))

    async def _held(self, name: str) -> None:
        self.calls.append(name)
        if name == "held":
            self.begun.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    async def admit(self, method: Method, refused: NotaryError | None) -> None:
        if caller.get().authorization == "nobody":
            raise PermissionDenied("you are not permitted to do this")

    async def start(self) -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        settings = ServiceSettings(port=self.port, metrics_port=0, **self._bounds)
        server = running_server(self, settings, Telemetry("echo", provider), admit=self.admit, relay=self._relay)
        self.port = await self._running.enter_async_context(server)

    async def stop(self) -> None:
        await self._running.aclose()


@asynccontextmanager
async def notary(*replicas: Replica) -> AsyncIterator[Upstream]:
    """The replicas as the gateway has them, with a stream to each that knows how."""
    async with AsyncExitStack() as stack:
        for each in replicas:
            await each.start()
            stack.push_async_callback(each.stop)
        addresses = ",".join(f"127.0.0.1:{each.port}" for each in replicas)
        upstream = await stack.enter_async_context(open_upstream(addresses, 1024 * 1024))
        await until_streams(sum(each._relay for each in replicas))
        yield upstream


async def until_streams(count: int) -> None:
    await until(lambda: REGISTRY.get_sample_value("afdp_gateway_relay_streams") == count)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - metrics and lists tell nobody
            await asyncio.sleep(0.01)


async def get(upstream: Upstream, name: str, *metadata: tuple[str, str], timeout: float = 20) -> Any:
    request = encoder(method(GET_RECEIPT).request)(GetReceiptRequest(name))
    found = decoder(method(GET_RECEIPT).response)
    return found(await upstream.call(GET_RECEIPT, request, timeout, list(metadata))).receipt


async def sign(upstream: Upstream, name: str, timeout: float = 20) -> str:
    request = encoder(method(SIGN_EVIDENCE).request)(SignEvidenceRequest(idempotency_key=name))
    reply = await upstream.call(SIGN_EVIDENCE, request, timeout, [])
    return str(decoder(method(SIGN_EVIDENCE).response)(reply).workflow_id)


def served(code: str) -> float:
    labels = {"service": SERVICE, "method": "GetReceipt", "code": code}
    return REGISTRY.get_sample_value("afdp_grpc_requests_total", labels) or 0.0


async def outcome(upstream: Upstream, name: str, *metadata: tuple[str, str]) -> Any:
    """All that the gateway learns of a call, and what the notary has counted."""
    answer.begin()
    codes = ("OK", "NOT_FOUND", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL")
    before = [served(code) for code in codes]
    try:
        said: Any = await get(upstream, name, ("x-request-id", "r-1"), *metadata)
    except NotaryError as error:
        said = type(error), error.message, error.fields, error.retry_after, error.metadata
    counted = [served(code) - was for code, was in zip(codes, before, strict=True)]
    return said, answer.told(), counted


@pytest.mark.parametrize("name", ["good", *ERRORS])
async def test_a_call_by_the_stream_ends_as_one_alone_does(name: str) -> None:
    async with notary(Replica(relay=False)) as alone:
        expected = await outcome(alone, name, ("authorization", "Bearer x"))
    async with notary(Replica()) as upstream:
        found = await outcome(upstream, name, ("authorization", "Bearer x"))

    assert found == expected


async def test_the_notary_learns_who_calls_and_for_how_long_they_wait_and_lets_nobody_in_who_does_not_belong() -> None:
    async with notary(Replica()) as upstream:
        receipt = await get(upstream, "good", ("x-request-id", "r-2"), ("authorization", "Bearer y"), timeout=17)
        with pytest.raises(PermissionDenied):
            await get(upstream, "good", ("authorization", "nobody"))

    assert (receipt.receipt_id, receipt.key_id, receipt.log_index) == ("r-2", "Bearer y", 17)


@pytest.mark.parametrize(("flags", "expected"), [("01", 1), ("00", 0)])
async def test_a_sampled_call_makes_its_span(flags: str, expected: int) -> None:
    replica = Replica()
    async with notary(replica) as upstream:
        await get(upstream, "good", ("traceparent", f"00-{TRACE}-b7ad6b7169203331-{flags}"))

    spans = replica.spans.get_finished_spans()
    assert [f"{each.context.trace_id:032x}" for each in spans] == [TRACE] * expected
    assert all(each.name.endswith("NotaryService/GetReceipt") for each in spans)


async def test_calls_of_one_moment_share_a_message_and_a_large_one_goes_alone() -> None:
    replica = Replica()
    async with notary(replica) as upstream:
        messages, calls = relayed_so_far()
        await asyncio.gather(*(get(upstream, f"small {number}") for number in range(50)))
        assert relayed_so_far() == (messages + 1, calls + 50)
        await get(upstream, "x" * LARGE)
        assert relayed_so_far() == (messages + 1, calls + 50)

    assert len(replica.calls) == 51


def relayed_so_far() -> tuple[float, float]:
    """Messages, and calls in them."""
    count, total = (REGISTRY.get_sample_value(f"afdp_gateway_relay_calls_{name}") for name in ("count", "sum"))
    return count or 0.0, total or 0.0


async def test_no_message_is_larger_than_the_notary_takes_however_long_the_headers_are() -> None:
    replica = Replica(max_message_bytes=64 * 1024)
    async with notary(replica) as upstream:
        token = ("authorization", "Bearer " + "x" * 8000)
        found = await asyncio.gather(*(get(upstream, "y" * 7000, token) for _ in range(50)))

    assert [each.key_id for each in found] == [token[1]] * 50


async def test_one_who_waits_holds_up_nobody() -> None:
    replica = Replica()
    async with notary(replica) as upstream:
        held = asyncio.create_task(get(upstream, "held"))
        await replica.begun.wait()
        await get(upstream, "good")
        assert not held.done()
        replica.go_on.set()
        await held


async def test_what_its_caller_gives_up_is_cancelled_at_the_notary() -> None:
    replica = Replica()
    async with notary(replica) as upstream:
        held = asyncio.create_task(get(upstream, "held"))
        await replica.begun.wait()
        held.cancel()
        async with asyncio.timeout(20):
            await replica.cancelled.wait()


async def test_a_call_whose_time_runs_out_ends_on_both_sides() -> None:
    replica = Replica()
    before = served("CANCELLED")
    async with notary(replica) as upstream:
        with pytest.raises(DeadlineExceeded, match="notary did not answer in time"):
            await get(upstream, "held", timeout=2)
        async with asyncio.timeout(20):
            await replica.cancelled.wait()
        await until(lambda: served("CANCELLED") > before)


async def test_calls_take_turns_among_the_replicas() -> None:
    replicas = [Replica() for _ in range(3)]
    async with notary(*replicas) as upstream:
        for number in range(30):
            await get(upstream, str(number))

    assert [len(each.calls) for each in replicas] == [10, 10, 10]


async def test_a_notary_that_stops_finishes_what_it_has_and_no_call_fails() -> None:
    replicas = [Replica(), Replica()]
    async with notary(*replicas) as upstream:
        held = [asyncio.create_task(sign(upstream, "held")) for _ in range(2)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(each.begun.wait() for each in replicas))
        load = [asyncio.create_task(_signing(upstream, 50)) for _ in range(8)]
        stopping = asyncio.create_task(replicas[0].stop())
        await asyncio.gather(*load)
        for each in replicas:
            each.go_on.set()
        assert sorted(await asyncio.gather(*held)) == sorted(str(each.port) for each in replicas)
        await stopping


async def _signing(upstream: Upstream, times: int) -> None:
    for _ in range(times):
        await sign(upstream, "good")


async def test_of_a_notary_that_is_killed_the_calls_that_may_be_are_made_again() -> None:
    replicas = [Replica(drain_seconds=0.01), Replica(drain_seconds=0.01)]
    async with notary(*replicas) as upstream:
        reads = [asyncio.create_task(get(upstream, "held")) for _ in range(2)]
        writes = [asyncio.create_task(sign(upstream, "held")) for _ in range(2)]
        await until(lambda: sum(len(each.calls) for each in replicas) == 4)
        replicas[1].go_on.set()
        await replicas[0].stop()
        assert all(await asyncio.gather(*reads))
        results = await asyncio.gather(*writes, return_exceptions=True)
        [error] = [each for each in results if isinstance(each, NotaryError)]

        assert isinstance(error, Unavailable)
        assert error.message == "notary cannot be reached"
        assert error.retry_after == 1.0


async def test_calls_fail_at_once_while_the_notary_is_away_and_take_the_stream_when_it_is_back() -> None:
    first = Replica(drain_seconds=0.01)
    async with notary(first) as upstream:
        await first.stop()
        await until_streams(0)
        with pytest.raises(Unavailable):
            await get(upstream, "good")
        second = Replica(drain_seconds=0.01)
        second.port = first.port
        await second.start()
        try:
            await until_streams(1)
            await get(upstream, "good")
        finally:
            await second.stop()


async def test_calls_take_a_channel_that_has_replaced_another() -> None:
    class Following:
        def __init__(self, channel: grpc.aio.Channel) -> None:
            self.current = channel

        def stream_stream(self, path: str) -> Any:
            return lambda: self.current.stream_stream(path)()

    replica = Replica()
    await replica.start()
    address = f"127.0.0.1:{replica.port}"
    async with grpc.aio.insecure_channel(address) as old, grpc.aio.insecure_channel(address) as new:
        following = Following(old)
        relay = relaying.Relay(following, 1024 * 1024)  # type: ignore[arg-type]
        running = asyncio.create_task(relay.run())
        await until(lambda: relay.stream(0) is not None)
        first = relay.stream(0)
        following.current = new
        await until(lambda: relay.stream(0) not in (None, first))
        running.cancel()
        await asyncio.wait([running])
    await replica.stop()


async def test_a_stream_is_renewed_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr("afdp.rpc.server._CONNECTION_AGE", 50)
    opened = relaying.Stream.run
    monkeypatch.setattr(relaying.Stream, "run", lambda self: (begun.append(self.instance), opened(self))[1])
    async with notary(Replica()) as upstream, asyncio.timeout(20):
        while len(begun) < 3:
            await sign(upstream, "good")

    assert len(set(begun)) == 1
