"""When a notary looks at erasures that wait: soon where one was begun, now and then where something keeps records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from afdp.errors import Unavailable
from afdp.messages import metadata as store
from afdp.notary.erasing import Erasing

BEGUN = store.Erasure(tenant="acme", erasure_id="1" * 32)
KEPT = store.Erasure(tenant="acme", erasure_id="2" * 32, deferral=store.ErasureDeferral(["year"], None, False, [], 0))


class Metadata:
    """Erasures on record; what is tried is kept by something, or fails while the signer is away."""

    def __init__(self, *standing: store.Erasure) -> None:
        self.standing = list(standing)
        self.away = False
        self.tried: asyncio.Queue[str] = asyncio.Queue()
        self.listed: asyncio.Queue[None] = asyncio.Queue()

    async def list_erasures(self, _: store.ListErasuresRequest, *, timeout: float) -> store.ListErasuresResponse:
        self.listed.put_nowait(None)
        return store.ListErasuresResponse(list(self.standing))

    async def erase(self, request: store.EraseRequest, *, timeout: float) -> store.EraseResponse:
        self.tried.put_nowait(request.erasure_id)
        if self.away:
            raise Unavailable("the signer is away")
        return store.EraseResponse(KEPT)


@asynccontextmanager
async def running(metadata: Metadata) -> AsyncIterator[Erasing]:
    unused: Any = None
    known: Any = metadata
    erasing = Erasing(known, unused, 3600, unused)
    task = asyncio.create_task(erasing.run())
    try:
        async with asyncio.timeout(30):
            await metadata.listed.get()
            yield erasing
    finally:
        task.cancel()


async def test_what_failed_when_it_was_asked_for_is_tried_again_at_once_and_until_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("afdp.notary.erasing.RETRY", 0.001)
    metadata = Metadata()
    async with running(metadata) as erasing:
        metadata.standing, metadata.away = [BEGUN], True
        with pytest.raises(Unavailable):
            await erasing.settle(BEGUN)
        for _ in range(4):
            assert await metadata.tried.get() == BEGUN.erasure_id
        metadata.away = False
        while not metadata.tried.empty():
            metadata.tried.get_nowait()
        assert await metadata.tried.get() == BEGUN.erasure_id


async def test_what_another_notary_left_half_done_is_found_soon_and_what_is_kept_is_left_for_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("afdp.notary.erasing.SOON", 0.001)
    metadata = Metadata(KEPT)
    async with running(metadata):
        assert await metadata.tried.get() == KEPT.erasure_id  # the first look is at all
        for _ in range(4):
            await metadata.listed.get()
        assert metadata.tried.empty()
        metadata.standing = [KEPT, BEGUN]
        assert await metadata.tried.get() == BEGUN.erasure_id
