"""One caller, several replicas of a service, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from opentelemetry.sdk.trace import TracerProvider

from afdp.config import ServiceSettings
from afdp.errors import InvalidArgument, Unavailable
from afdp.messages.notary import GetReceiptRequest, GetReceiptResponse, NotaryServiceBase, NotaryServiceClient
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry


class Replica(NotaryServiceBase):
    """Counts its calls; can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = asyncio.Event()
        self.port = 0
        self.held = asyncio.Event()
        self.held.set()
        self._running = AsyncExitStack()

    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        self.calls += 1
        self.called.set()
        await self.held.wait()
        return GetReceiptResponse()

    async def start(self) -> None:
        settings = ServiceSettings(port=self.port, metrics_port=0, drain_seconds=0.1)
        telemetry = Telemetry("echo", TracerProvider())
        self.port = await self._running.enter_async_context(running_server(self, settings, telemetry))

    async def stop(self) -> None:
        await self._running.aclose()


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    three = [Replica() for _ in range(3)]
    for each in three:
        await each.start()
    yield three
    for each in three:
        each.held.set()
        await each.stop()


def addresses(replicas: list[Replica]) -> str:
    return ", ".join(f"127.0.0.1:{each.port}" for each in replicas)


async def until_all_are_called(client: NotaryServiceClient, replicas: list[Replica]) -> None:
    before = [each.calls for each in replicas]
    async with asyncio.timeout(20):
        while any(each.calls == was for each, was in zip(replicas, before, strict=True)):
            await client.get_receipt(GetReceiptRequest("x"))
            await asyncio.sleep(0.01)


async def test_calls_take_turns_among_the_replicas(replicas: list[Replica]) -> None:
    async with open_channel(addresses(replicas)) as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        await until_all_are_called(client, replicas)
        before = [each.calls for each in replicas]
        for _ in range(30):
            await client.get_receipt(GetReceiptRequest("x"))

    assert [each.calls - was for each, was in zip(replicas, before, strict=True)] == [10, 10, 10]


async def test_no_call_fails_while_one_replica_is_gone_and_it_is_called_again_when_it_is_back(
    replicas: list[Replica],
) -> None:
    async with open_channel(addresses(replicas)) as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        await until_all_are_called(client, replicas)
        await replicas[1].stop()
        for _ in range(30):
            await client.get_receipt(GetReceiptRequest("x"))
        await replicas[1].start()
        await until_all_are_called(client, replicas)


async def test_a_call_that_dies_with_its_replica_is_sent_to_another(replicas: list[Replica]) -> None:
    dying, *others = replicas
    async with open_channel(addresses(replicas)) as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        await until_all_are_called(client, replicas)
        dying.held.clear()
        dying.called.clear()
        before = sum(each.calls for each in others)
        calls = [asyncio.create_task(client.get_receipt(GetReceiptRequest("x"))) for _ in range(3)]
        async with asyncio.timeout(10):
            await dying.called.wait()
        await dying.stop()
        await asyncio.gather(*calls)

    assert sum(each.calls for each in others) == before + 3


async def test_where_calls_are_not_spread_they_go_to_the_first_that_is_there(replicas: list[Replica]) -> None:
    async with open_channel(addresses(replicas), spread=False) as channel:
        client = NotaryServiceClient(GrpcCaller(channel))
        for _ in range(10):
            await client.get_receipt(GetReceiptRequest("x"))
        assert [each.calls for each in replicas] == [10, 0, 0]
        await replicas[0].stop()
        async with asyncio.timeout(20):
            while not replicas[1].calls:
                try:
                    await client.get_receipt(GetReceiptRequest("x"))
                except Unavailable:  # its end is not known yet
                    await asyncio.sleep(0.02)

    assert replicas[2].calls == 0


@pytest.mark.parametrize("address", ["one:50053,two:50053", "127.0.0.1:1,[::1]:1", "127.0.0.1,127.0.0.2", ","])
async def test_a_list_that_is_not_of_addresses_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="no list of addresses"):
        async with open_channel(address):
            pass
