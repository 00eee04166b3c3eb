"""The server builder and the client, over a real socket."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

from afdp.config import ServiceSettings
from afdp.errors import (
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from afdp.messages.notary import (
    CancelWorkflowRequest,
    GetReceiptRequest,
    GetReceiptResponse,
    GetTrustRootRequest,
    GetTrustRootResponse,
    NotaryServiceBase,
    NotaryServiceClient,
    SearchEvidenceRequest,
    SignEvidenceResponse,
    SignEvidenceStreamRequest,
    SignEvidenceStreamResponse,
    TrustFile,
)
from afdp.rpc import GrpcCaller, answer, open_channel
from afdp.rpc.health import reason_in
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry
from afdp.telemetry.context import deadline, request_id


class Echo(NotaryServiceBase):
    """Answers with what it can see of the call; fails in the way that the receipt ID asks for."""

    def __init__(self) -> None:
        self.calls = 0
        self.healthy = True

    async def check(self) -> None:
        if not self.healthy:
            raise Unavailable("a dependency is away")

    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        self.calls += 1
        if request.receipt_id.startswith("headers"):
            answer.tell(("ratelimit", '"client";r=1'), ("retry-after", "9"))
            answer.tell(("ratelimit", '"client";r=0'))
            request.receipt_id = request.receipt_id.removeprefix("headers ")
        if request.receipt_id == "missing":
            raise NotFound("there is no such receipt", metadata={"hint": "search for it"})
        if request.receipt_id == "wrong":
            raise InvalidArgument("the request is not valid", fields=[FieldViolation("receipt_id", "is no UUID")])
        if request.receipt_id == "busy":
            raise ResourceExhausted("the queue is full", retry_after=1.5)
        if request.receipt_id == "slow":
            await asyncio.sleep(30)
        if request.receipt_id == "broken":
            raise RuntimeError("password=hunter2")
        if request.receipt_id == "away":
            raise Unavailable("the log is away", retry_after=2.0)
        return GetReceiptResponse()

    async def get_trust_root(self, request: GetTrustRootRequest) -> GetTrustRootResponse:
        until = deadline.get()
        left = -1.0 if until is None else until - asyncio.get_running_loop().time()
        return GetTrustRootResponse(files=[TrustFile(request_id.get(), str(left))])

    async def sign_evidence_stream(
        self, requests: AsyncIterator[SignEvidenceStreamRequest]
    ) -> AsyncIterator[SignEvidenceStreamResponse]:
        async for request in requests:
            yield SignEvidenceStreamResponse(sequence=request.sequence, response=SignEvidenceResponse(workflow_id="w"))


class Server:
    def __init__(self, servicer: Echo, port: int, client: NotaryServiceClient, channel: grpc.aio.Channel) -> None:
        self.servicer, self.port, self.client, self.channel = servicer, port, client, channel


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    servicer = Echo()
    settings = ServiceSettings(port=0, metrics_port=0, drain_seconds=1.0)
    telemetry = Telemetry("echo", TracerProvider())
    async with (
        running_server(servicer, settings, telemetry, servicer.check) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Server(servicer, port, NotaryServiceClient(GrpcCaller(channel)), channel)


async def test_a_typed_error_crosses_the_wire_whole(server: Server) -> None:
    with pytest.raises(NotFound, match="no such receipt") as missing:
        await server.client.get_receipt(GetReceiptRequest("missing"))
    with pytest.raises(InvalidArgument) as wrong:
        await server.client.get_receipt(GetReceiptRequest("wrong"))
    with pytest.raises(ResourceExhausted) as busy:
        await server.client.get_receipt(GetReceiptRequest("busy"))

    assert missing.value.metadata == {"hint": "search for it"}
    assert wrong.value.fields == (FieldViolation("receipt_id", "is no UUID"),)
    assert busy.value.retry_after == 1.5


async def test_headers_of_an_answer_are_trailing_metadata_whether_it_succeeds_or_fails(server: Server) -> None:
    get_receipt = server.channel.unary_unary(
        "/afdp.notary.v1.NotaryService/GetReceipt", request_serializer=lambda text: b"\n" + bytes([len(text)]) + text
    )
    good = get_receipt(b"headers good")
    await good
    with pytest.raises(grpc.aio.AioRpcError) as busy:
        await get_receipt(b"headers busy")
    none = get_receipt(b"good")
    await none

    expected = (("ratelimit", '"client";r=0'), ("retry-after", "9"))
    assert sorted(answer.heard(await good.trailing_metadata())) == sorted(expected)
    assert sorted(answer.heard(busy.value.trailing_metadata())) == sorted(expected)
    assert answer.heard(await none.trailing_metadata()) == ()


async def test_an_unexpected_fault_is_internal_and_says_nothing_of_itself(server: Server) -> None:
    with pytest.raises(Internal) as fault:
        await server.client.get_receipt(GetReceiptRequest("broken"))

    assert "hunter2" not in str(fault.value)
    assert "the log has it under" in str(fault.value)


async def test_a_planned_method_says_so(server: Server) -> None:
    with pytest.raises(Unimplemented, match="cancelling is not part of this release"):
        await server.client.cancel_workflow(CancelWorkflowRequest("w"))


async def test_a_method_that_a_servicer_lacks_is_unimplemented(server: Server) -> None:
    with pytest.raises(Unimplemented, match="SearchEvidence"):
        await server.client.search_evidence(SearchEvidenceRequest())


async def test_bytes_that_are_no_message_are_an_invalid_argument(server: Server) -> None:
    raw = server.channel.unary_unary("/afdp.notary.v1.NotaryService/GetReceipt")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await raw(b"\x0a\xff")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_ends_the_call_on_both_sides(server: Server) -> None:
    with pytest.raises(DeadlineExceeded):
        await server.client.get_receipt(GetReceiptRequest("slow"), timeout=0.1)


async def test_a_deadline_shrinks_at_each_hop(server: Server) -> None:
    deadline.set(asyncio.get_running_loop().time() + 8.0)
    try:
        answer = await server.client.get_trust_root(GetTrustRootRequest(), timeout=30.0)
        deadline.set(asyncio.get_running_loop().time() + 0.01)
        with pytest.raises(DeadlineExceeded, match="no time is left"):
            await server.client.get_trust_root(GetTrustRootRequest())
    finally:
        deadline.set(None)

    assert 4 < float(answer.files[0].content) < 7.96


async def test_a_request_id_travels_and_a_bad_one_is_replaced(server: Server) -> None:
    token = request_id.set("req-1.a_B")
    kept = (await server.client.get_trust_root(GetTrustRootRequest())).files[0].name
    request_id.reset(token)
    token = request_id.set("not well formed!")
    replaced = (await server.client.get_trust_root(GetTrustRootRequest())).files[0].name
    request_id.reset(token)

    assert kept == "req-1.a_B"
    assert re.fullmatch(r"[0-9a-f-]{36}", replaced)


async def test_a_final_unavailable_is_not_sent_again(server: Server) -> None:
    with pytest.raises(Unavailable) as away:
        await server.client.get_receipt(GetReceiptRequest("away"))

    assert away.value.retry_after == 2.0
    assert server.servicer.calls == 1


async def test_a_stream_answers_each_request(server: Server) -> None:
    async def requests() -> AsyncIterator[SignEvidenceStreamRequest]:
        for sequence in range(5):
            yield SignEvidenceStreamRequest(sequence=sequence)

    answers = [answer.sequence async for answer in server.client.sign_evidence_stream(requests())]

    assert answers == [0, 1, 2, 3, 4]


async def test_health_follows_the_check(server: Server) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=Echo.SERVICE))
    status = health_pb2.HealthCheckResponse
    seen = [(await watch.read()).status]
    if seen[0] != status.SERVING:
        seen = [(await watch.read()).status]
    server.servicer.healthy = False
    seen.append((await watch.read()).status)
    server.servicer.healthy = True
    seen.append((await watch.read()).status)
    watch.cancel()

    assert seen == [status.SERVING, status.NOT_SERVING, status.SERVING]


async def test_health_says_why_it_is_not_good(server: Server) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=Echo.SERVICE))
    server.servicer.healthy = False
    while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    watch.cancel()
    call = health.Check(health_pb2.HealthCheckRequest())

    assert (await call).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert reason_in(await call.trailing_metadata()) == "a dependency is away"


async def test_a_service_whose_dependency_is_away_is_alive(server: Server) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    server.servicer.healthy = False
    watch = health.Watch(health_pb2.HealthCheckRequest(service=Echo.SERVICE))
    while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    watch.cancel()

    answer = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_that_drains_is_alive_and_not_ready() -> None:
    servicer, telemetry = Echo(), Telemetry("echo", TracerProvider())
    settings = ServiceSettings(port=0, metrics_port=0, drain_seconds=5.0)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with AsyncExitStack() as stack:
        running = AsyncExitStack()
        port = await running.enter_async_context(running_server(servicer, settings, telemetry))
        health = health_pb2_grpc.HealthStub(await stack.enter_async_context(open_channel(f"127.0.0.1:{port}")))
        alive, ready = (health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("liveness", ""))
        assert [(await watch.read()).status for watch in (alive, ready)] == [serving, serving]

        draining = asyncio.create_task(running.aclose())  # as long as the two streams are open

        assert (await ready.read()).status == not_serving
        said_of_life = asyncio.create_task(alive.read())
        ready.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(said_of_life), 0.2)  # nothing new is said of it
        alive.cancel()
        await draining
        with pytest.raises(asyncio.CancelledError):
            await said_of_life


async def test_a_dead_service_is_unavailable_at_once(unused_tcp_port: int) -> None:
    async with open_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match="notary cannot be reached"):
                await client.get_receipt(GetReceiptRequest("x"))


async def test_a_service_that_returns_is_found_again(unused_tcp_port: int) -> None:
    settings = ServiceSettings(port=unused_tcp_port, metrics_port=0, drain_seconds=0.1)
    telemetry = Telemetry("echo", TracerProvider())
    async with open_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        for _ in range(2):
            async with running_server(Echo(), settings, telemetry):
                async with asyncio.timeout(30):
                    await _until_reached(client)
            with pytest.raises(Unavailable):
                await client.get_receipt(GetReceiptRequest("x"))


async def _until_reached(client: NotaryServiceClient) -> None:
    while True:
        try:
            await client.get_receipt(GetReceiptRequest("x"))
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_port_that_is_taken_is_named(server: Server) -> None:
    settings = ServiceSettings(port=server.port, metrics_port=0)
    with pytest.raises(OSError, match=str(server.port)):
        async with running_server(Echo(), settings, Telemetry("echo", TracerProvider())):
            pass


SLOW_SERVICE = """
import asyncio
from afdp.config import ServiceSettings
from afdp.messages.notary import GetReceiptResponse, NotaryServiceBase
from afdp.process import run
from afdp.rpc import serve
from afdp.telemetry import start_telemetry

class Slow(NotaryServiceBase):
    async def get_receipt(self, request):
        await asyncio.sleep(0.7)
        return GetReceiptResponse()

class Settings(ServiceSettings):
    port: int = 0
    metrics_port: int = 0

async def main(settings):
    with start_telemetry("slow", settings) as telemetry:
        await serve(Slow(), settings, telemetry)

run(Settings, main)
"""


async def test_sigterm_lets_calls_under_way_end(unused_tcp_port: int, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_SERVICE)
    environment = {**os.environ, "AFDP_PORT": str(unused_tcp_port), "AFDP_TLS": "off"}
    process = await asyncio.create_subprocess_exec(sys.executable, script, env=environment)
    try:
        async with open_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
            client = NotaryServiceClient(GrpcCaller(channel))
            async with asyncio.timeout(10):
                await _until_reached(client)
            under_way = asyncio.create_task(client.get_receipt(GetReceiptRequest("x"), timeout=5))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert await under_way == GetReceiptResponse()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
