"""How a replica notices the logs that are opened while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from afdp.errors import NotFound, Unavailable
from afdp.transparency import logs as module
from afdp.transparency.logs import Logs
from afdp.transparency.values import KnownLog, LogIdentity


class Parts:
    """A log that says when it is at work."""

    def __init__(self) -> None:
        self.log: Any = object()
        self.begun = asyncio.Event()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        self.begun.set()
        yield


class Catalogue:
    """One with further logs."""

    def __init__(self, *origins: str) -> None:
        self._origins = origins or ("tenant.example",)

    async def logs(self) -> Sequence[KnownLog]:
        return [KnownLog(number, LogIdentity(origin, bytes(32))) for number, origin in enumerate(self._origins, 2)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.0)


async def test_logs_are_noticed_though_one_could_not_be_put_together_at_first() -> None:
    parts, attempts = Parts(), 0

    def assemble(_: KnownLog) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise FileNotFoundError("the secret of its mirror")
        return parts

    catalogue: Any = Catalogue()
    first: Any = object()
    logs = Logs("first.example", first, catalogue, assemble)
    async with asyncio.timeout(30), logs.at_work():
        await parts.begun.wait()

        assert logs.known("tenant.example") is parts.log


async def test_a_log_that_cannot_be_put_together_keeps_no_other_one_from_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()

    def assemble(known: KnownLog) -> Any:
        if known.origin == "broken.example":
            raise FileNotFoundError("the secret of its mirror")
        return parts

    catalogue: Any = Catalogue("broken.example", "tenant.example")
    first: Any = object()
    logs = Logs("first.example", first, catalogue, assemble)
    async with asyncio.timeout(30), logs.at_work():
        await parts.begun.wait()
        await logs.listed()

        assert logs.known("tenant.example") is parts.log
        with pytest.raises(NotFound):
            logs.known("broken.example")
    said = [each.message for each in caplog.records]
    assert said == ["the log broken.example cannot be put together"]  # once, however often it was tried


@pytest.mark.parametrize("fault", [Unavailable("the signer is away"), OSError("no such file")])
async def test_logs_are_noticed_while_those_of_the_settings_cannot_be_opened(fault: Exception) -> None:
    parts = Parts()

    async def declare() -> None:
        raise fault

    catalogue: Any = Catalogue()
    first: Any = object()
    logs = Logs("first.example", first, catalogue, lambda _: parts, declare)
    async with asyncio.timeout(30), logs.at_work():
        await parts.begun.wait()
