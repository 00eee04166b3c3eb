"""What works off the signatures that wait for a stamp, between a signer and a store that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable, Unimplemented
from afdp.messages import metadata as store
from afdp.messages import signer as keyring
from afdp.notary.stamp_policy import StampPolicy
from afdp.notary.stamps import ExternalStamps

POLICY = StampPolicy.parse(["ai.*"])


@dataclass
class Peers:
    """Metadata and signer: what waits, what was kept, what was put off; and what the signer raises."""

    waiting: list[store.UnstampedSignature] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    postponed: list[tuple[str, int]] = field(default_factory=list)
    failing: NotaryError | None = None
    away: NotaryError | None = None
    under_way: int = 0
    most_under_way: int = 0
    busy: asyncio.Event = field(default_factory=asyncio.Event)  # two are under way
    released: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)  # set with whatever is kept or put off

    async def claim_stamps(self, request: store.ClaimStampsRequest, *, timeout: float) -> store.ClaimStampsResponse:
        if self.away:
            raise self.away
        taken, self.waiting = self.waiting[: request.limit], self.waiting[request.limit :]
        return store.ClaimStampsResponse(taken)

    async def keep_stamp(self, request: store.KeepStampRequest, *, timeout: float) -> store.KeepStampResponse:
        self.kept[request.receipt_id] = request.timestamp
        self.told.set()
        return store.KeepStampResponse()

    async def postpone_stamps(
        self, request: store.PostponeStampsRequest, *, timeout: float
    ) -> store.PostponeStampsResponse:
        self.postponed += [(each, request.wait_ms) for each in request.receipt_ids]
        self.told.set()
        return store.PostponeStampsResponse()

    async def get_stamp_backlog(self, _: object, *, timeout: float) -> store.GetStampBacklogResponse:
        if self.away:
            raise self.away
        return store.GetStampBacklogResponse(len(self.waiting), datetime.now(UTC) if self.waiting else None)

    async def timestamp_signature(
        self, request: keyring.TimestampSignatureRequest, *, timeout: float
    ) -> keyring.TimestampSignatureResponse:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way == 2:
            self.busy.set()
        try:
            await self.released.wait()
            if self.failing:
                raise self.failing
            return keyring.TimestampSignatureResponse(b"stamp over " + request.signature)
        finally:
            self.under_way -= 1


def wanted(number: int, attempts: int = 1) -> store.UnstampedSignature:
    return store.UnstampedSignature(f"receipt-{number}", b"{}", b"%d" % number, "key:1", attempts)


def desk_of(peers: Peers, in_flight: int = 2) -> ExternalStamps:
    return ExternalStamps(POLICY, peers, peers, in_flight, 1.0, 60.0)  # type: ignore[arg-type]


@asynccontextmanager
async def working(desk: ExternalStamps) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.run())
    try:
        async with asyncio.timeout(20):
            yield
    finally:
        task.cancel()


async def until(peers: Peers, kept: int = 0, postponed: int = 0) -> None:
    while len(peers.kept) < kept or len(peers.postponed) < postponed:
        await peers.told.wait()
        peers.told.clear()


async def test_what_waits_is_stamped_a_few_at_once_and_what_comes_later_at_once() -> None:
    peers = Peers([wanted(number) for number in range(5)])
    desk = desk_of(peers)
    async with working(desk):
        await peers.busy.wait()
        peers.released.set()
        await until(peers, kept=5)
        peers.waiting.append(wanted(5))
        desk.ask()
        await until(peers, kept=6)

    assert peers.kept == {f"receipt-{number}": b"stamp over %d" % number for number in range(6)}
    assert peers.most_under_way == 2


async def test_a_signature_that_the_signer_refuses_waits_longer_each_time_and_holds_up_no_other() -> None:
    peers = Peers([wanted(0, attempts=1), wanted(1, attempts=3), wanted(2, attempts=40)])
    peers.failing = InvalidArgument.field("signature", "was not made here")
    peers.released.set()
    async with working(desk_of(peers, 3)):
        await until(peers, postponed=3)
        peers.failing = None
        peers.waiting.append(wanted(3))

    assert dict(peers.postponed) == {"receipt-0": 60_000, "receipt-1": 240_000, "receipt-2": 3_600_000}


async def test_a_failing_authority_is_told_of_and_lets_everything_go() -> None:
    for error in (Unavailable("it did not answer"), FailedPrecondition("none is configured: AFDP_TSA_EXTERNAL")):
        peers = Peers([wanted(0), wanted(1)])
        peers.failing = error
        peers.released.set()
        desk = desk_of(peers)
        async with working(desk):
            await until(peers, postponed=2)
            peers.waiting = [wanted(0), wanted(1)]
            [part] = await desk.status()

        assert [wait for _, wait in peers.postponed] == [0, 0]
        assert not part.good
        assert part.public
        assert part.detail.startswith("2 wait, the oldest for 0 seconds")
        assert error.message in part.remedy  # for operators; `/ready` shows the detail alone
        assert error.message not in part.detail


async def test_the_status_is_silent_where_nothing_asks_for_stamps() -> None:
    peers = Peers()
    assert [each.detail for each in await desk_of(peers).status()] == ["none waits"]

    nobody = ExternalStamps(StampPolicy(), peers, peers, 1, 1.0, 60.0)  # type: ignore[arg-type]
    assert await nobody.status() == []
    peers.away = Unimplemented("metadata does not know this call")
    assert await desk_of(peers).status() == []
