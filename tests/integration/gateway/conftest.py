"""A real gateway before a real gRPC server that answers as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio

from afdp.errors import NotaryError
from afdp.gateway.app import build_app
from afdp.gateway.config import GatewaySettings
from afdp.gateway.descriptors import Api, load_api
from afdp.gateway.log_proxy import open_log_proxy
from afdp.gateway.server import running_http
from afdp.gateway.upstream import open_upstream
from afdp.rpc.relayed import Relay
from afdp.rpc.status import to_status


@dataclass
class Call:
    """One call as it arrived at the notary."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float


@dataclass
class Notary:
    """A gRPC server for every unary method of the API.

    `answers` has, by method, a message, an error to answer with, an exception to fail with, or an event to wait for
    before the empty answer is given. What it does not have is answered with an empty message. `trailing` metadata goes
    with each answer.
    """

    api: Api
    answers: dict[str, Any] = field(default_factory=dict)
    trailing: tuple[tuple[str, str], ...] = ()
    calls: list[Call] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""

    def message(self, name: str, **fields: Any) -> Any:
        """A message of the API."""
        return self.api.message_class(f"afdp.notary.v1.{name}")(**fields)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """A `grpc.GenericRpcHandler`'s one method."""
        method = next((method for method in self.api.methods if method.path == details.method), None)
        if method is None:
            return None

        async def answer(data: bytes, context: Any) -> bytes:
            request = self.api.message_class(method.request.full_name).FromString(data)
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            self.calls.append(Call(method.name, request, metadata, context.time_remaining()))
            self.arrived.set()
            context.set_trailing_metadata(self.trailing)
            given = self.answers.get(method.name)
            if isinstance(given, asyncio.Event):
                await given.wait()
                given = None
            if isinstance(given, NotaryError):
                code, message, trailing = to_status(given)
                await context.abort(code, message, (*trailing, *self.trailing))
            if isinstance(given, tuple):
                await context.abort(*given)
            if isinstance(given, Exception):
                raise given
            if isinstance(given, bytes):
                return given
            return b"" if given is None else bytes(given.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _find(self, details: grpc.HandlerCallDetails) -> Any:
        return self.service(details)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[None]:
        """Serves while the context is open."""
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 20 * 1024 * 1024),
                ("grpc.max_metadata_size", 16 * 1024),  # as the services have it; over 8 KiB it else refuses by chance
            ]
        )
        relay = Relay(self._find, stream_seconds=300, max_message_bytes=20 * 1024 * 1024)
        server.add_generic_rpc_handlers((self, relay.handler()))  # type: ignore[arg-type]
        self.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


@pytest.fixture(scope="session")
def api() -> Api:
    return load_api()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_notary(api: Api) -> AsyncIterator[Notary]:
    notary = Notary(api)
    async with notary.running():
        yield notary


@pytest.fixture
def notary(shared_notary: Notary) -> Notary:
    shared_notary.answers.clear()
    shared_notary.trailing = ()
    shared_notary.calls.clear()
    shared_notary.arrived.clear()
    return shared_notary


@asynccontextmanager
async def running_gateway(api: Api, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    told = GatewaySettings(port=0, **settings)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(open_upstream(told.notary_address, told.max_message_bytes))
        log = await stack.enter_async_context(open_log_proxy(told))
        port = await stack.enter_async_context(running_http(build_app(told, api, upstream, log), told))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        yield await stack.enter_async_context(client)


Gateways = Callable[..., Any]


@pytest.fixture(scope="session")
def start_gateway(api: Api) -> Gateways:
    """`async with start_gateway(notary_address=…, max_body_bytes=…) as client`."""

    def start(**settings: Any) -> Any:
        return running_gateway(api, **settings)

    return start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_gateway(api: Api, shared_notary: Notary) -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway(api, notary_address=shared_notary.address, drain_seconds=1) as client:
        yield client


@pytest.fixture
def gateway(shared_gateway: httpx.AsyncClient, notary: Notary) -> httpx.AsyncClient:
    """A client of the gateway, with the notary told to answer with empty messages."""
    return shared_gateway
