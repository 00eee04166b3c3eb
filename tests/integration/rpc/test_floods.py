"""What a hostile peer of HTTP/2 can do to a gRPC server: little, and to others next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from opentelemetry.sdk.trace import TracerProvider

from afdp.config import ServiceSettings
from afdp.errors import ResourceExhausted
from afdp.messages.notary import GetReceiptRequest, GetReceiptResponse, NotaryServiceBase, NotaryServiceClient
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry

HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/afdp.notary.v1.NotaryService/GetReceipt"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
STREAMS, CALLS, CONNECTIONS = 50, 8, 12


class Waiting(NotaryServiceBase):
    """Answers at once, or when it is told to."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.entered = 0

    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        if request.receipt_id == "wait":
            self.entered += 1
            await self.release.wait()
        return GetReceiptResponse()


class Server:
    def __init__(self, servicer: Waiting, port: int, client: NotaryServiceClient) -> None:
        self.servicer, self.port, self.client = servicer, port, client

    async def answers(self) -> float:
        """Seconds that a well-behaved client waits."""
        began = monotonic()
        await self.client.get_receipt(GetReceiptRequest(), timeout=20)
        return monotonic() - began


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    servicer = Waiting()
    settings = ServiceSettings(
        port=0,
        metrics_port=0,
        drain_seconds=0.1,
        max_streams=STREAMS,
        max_calls=CALLS,
        max_grpc_connections=CONNECTIONS,
    )
    async with (
        running_server(servicer, settings, Telemetry("waiting", TracerProvider())) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Server(servicer, port, NotaryServiceClient(GrpcCaller(channel)))


class Peer:
    """A client of HTTP/2 that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()

    @classmethod
    async def connected(cls, port: int) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        await peer.until(h2.events.RemoteSettingsChanged)
        return peer

    async def send(self) -> None:
        self._writer.write(self.http.data_to_send())
        await self._writer.drain()

    async def until(self, kind: type[Any], seconds: float = 20.0) -> Any:
        """The next event of a kind; None where the connection ends before it."""
        async with asyncio.timeout(seconds):
            while True:
                data = b""
                with suppress(ConnectionError):
                    await self.send()
                with suppress(ConnectionError):
                    data = await self._reader.read(65536)
                if not data:
                    return None
                found = [event for event in self.http.receive_data(data) if isinstance(event, kind)]
                if found:
                    return found[0]

    def begin(self, *headers: tuple[str, str], end: bool = False) -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, [*HEAD, *headers], end_stream=end)
        return stream

    def close(self) -> None:
        self._writer.close()


async def test_a_connection_has_so_many_streams_and_no_more(server: Server) -> None:
    peer = await Peer.connected(server.port)

    assert peer.http.remote_settings.max_concurrent_streams == STREAMS
    peer.close()


async def test_who_pings_without_end_is_sent_away(server: Server) -> None:
    peer = await Peer.connected(server.port)
    for number in range(50):
        peer.http.ping(b"%08d" % number)
    ended = await peer.until(h2.events.ConnectionTerminated)

    assert ended is None or ended.additional_data == b"too_many_pings"  # its reason may be lost in a reset
    assert await server.answers() < 10


async def test_streams_that_are_begun_and_reset_at_once_stop_nobody(server: Server) -> None:
    peer = await Peer.connected(server.port)

    async def flood() -> None:
        with suppress(ConnectionError, h2.exceptions.ProtocolError):
            for _ in range(30):
                for _ in range(50):
                    peer.http.reset_stream(peer.begin())
                await peer.send()
                await asyncio.sleep(0)

    task = asyncio.create_task(flood())
    waits = [await server.answers() for _ in range(3)]
    await task
    peer.close()

    assert max(waits) < 10
    assert await server.answers() < 10


@pytest.mark.parametrize("metadata", [[("x", "y" * 40_000)], [(f"x-{n}", "y" * 100) for n in range(400)]])
async def test_metadata_without_end_is_refused_for_its_call_alone(
    server: Server, metadata: list[tuple[str, str]]
) -> None:
    peer = await Peer.connected(server.port)
    peer.begin(*metadata, end=True)
    refused = await peer.until(h2.events.ResponseReceived)

    assert dict(refused.headers)[b"grpc-status"] == b"8"  # RESOURCE_EXHAUSTED
    assert server.servicer.entered == 0
    peer.close()
    assert await server.answers() < 10


async def test_calls_that_are_served_at_once_are_bounded_and_the_next_is_told_to_retry(server: Server) -> None:
    waiting = [asyncio.create_task(server.client.get_receipt(GetReceiptRequest("wait"))) for _ in range(CALLS)]
    async with asyncio.timeout(20):
        while server.servicer.entered < CALLS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    with pytest.raises(ResourceExhausted) as refused:
        await server.client.get_receipt(GetReceiptRequest())
    server.servicer.release.set()
    await asyncio.gather(*waiting)

    assert refused.value.retry_after == 1.0
    assert await server.answers() < 10


async def test_connections_are_bounded_and_those_that_are_there_go_on(server: Server) -> None:
    assert await server.answers() < 10
    peers = [await Peer.connected(server.port) for _ in range(CONNECTIONS - 1)]
    with suppress(ConnectionError, AssertionError):
        extra = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(20):
            assert await extra[0].read() == b""
    assert await server.answers() < 10
    for peer in peers:
        peer.close()
