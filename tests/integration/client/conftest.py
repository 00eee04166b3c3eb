"""A notary behind its real gateway, and the four ways to call it: blocking or not, over REST or over gRPC."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider

from afdp.client import AsyncNotaryClient, NotaryClient, Retry
from afdp.config import ServiceSettings
from afdp.errors import NotaryError
from afdp.gateway.app import build_app
from afdp.gateway.config import GatewaySettings
from afdp.gateway.descriptors import load_api
from afdp.gateway.log_proxy import open_log_proxy
from afdp.gateway.server import running_http
from afdp.gateway.upstream import open_upstream
from afdp.messages.notary import NotaryServiceBase
from afdp.rpc.descriptors import service_methods
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry


class ScriptedNotary(NotaryServiceBase):
    """Answers each method with what a test laid out for it, in order; the last answer stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.requests: list[Any] = []

    def lay_out(self, method: str, *answers: Any) -> None:
        """Messages to answer with, or errors to fail with."""
        self.answers[method] = list(answers)

    async def _answer(self, method: str, request: Any) -> Any:
        self.requests.append(request)
        answers = self.answers[method]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, NotaryError):
            raise answer
        return answer


def _scripted(method: str) -> Callable[[ScriptedNotary, Any], Awaitable[Any]]:
    async def answer(self: ScriptedNotary, request: Any) -> Any:
        return await self._answer(method, request)

    return answer


for _method in service_methods("afdp.notary.v1.NotaryService"):
    if not (_method.client_streaming or _method.server_streaming):
        _name = "".join(f"_{each.lower()}" if each.isupper() else each for each in _method.name).removeprefix("_")
        setattr(ScriptedNotary, _name, _scripted(_method.name))


@dataclass
class Running:
    """Where the notary is reached."""

    notary: ScriptedNotary
    grpc: str
    url: str


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running() -> AsyncIterator[Running]:
    notary = ScriptedNotary()
    async with AsyncExitStack() as stack:
        service = ServiceSettings(port=0, metrics_port=0, drain_seconds=1)
        port = await stack.enter_async_context(running_server(notary, service, Telemetry("notary", TracerProvider())))
        address = f"127.0.0.1:{port}"
        settings = GatewaySettings(port=0, notary_address=address, drain_seconds=1)
        upstream = await stack.enter_async_context(open_upstream(address, settings.max_message_bytes))
        log = await stack.enter_async_context(open_log_proxy(settings))
        http = await stack.enter_async_context(running_http(build_app(settings, load_api(), upstream, log), settings))
        yield Running(notary, address, f"http://127.0.0.1:{http}")


@pytest.fixture
def notary(running: Running) -> ScriptedNotary:
    running.notary.answers.clear()
    running.notary.requests.clear()
    return running.notary


@dataclass
class Asker:
    """One kind of client under one way to ask it, whatever it is."""

    client: NotaryClient | AsyncNotaryClient
    kind: str
    asked: list[str] = field(default_factory=list)

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the method and gives its value."""
        bound = getattr(self.client, method)
        if isinstance(self.client, NotaryClient):
            return await asyncio.to_thread(bound, *args, **kwargs)
        return await bound(*args, **kwargs)


QUICK = Retry(attempts=4, first_delay=0.001, longest_delay=0.5)


@pytest_asyncio.fixture(params=["rest", "async rest", "grpc", "async grpc"], loop_scope="session")
async def ask(request: pytest.FixtureRequest, running: Running, notary: ScriptedNotary) -> AsyncIterator[Asker]:
    kind: str = request.param
    clients: dict[str, Callable[[], NotaryClient | AsyncNotaryClient]] = {
        "rest": lambda: NotaryClient(running.url, retry=QUICK),
        "async rest": lambda: AsyncNotaryClient(running.url, retry=QUICK),
        "grpc": lambda: NotaryClient.over_grpc(running.grpc, retry=QUICK),
        "async grpc": lambda: AsyncNotaryClient.over_grpc(running.grpc, retry=QUICK),
    }
    client = clients[kind]()
    yield Asker(client, kind)
    if isinstance(client, NotaryClient):
        client.close()
    else:
        await client.close()


@pytest.fixture
def unused_port() -> Iterator[int]:

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
