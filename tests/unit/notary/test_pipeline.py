"""In which order a batch's callers are told and the next batch goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from afdp.formats.evidence import EvidencePackage
from afdp.formats.statement import ANONYMOUS
from afdp.messages import metadata as store
from afdp.notary.model import CheckedEvidence, Order, Principal, Submission
from afdp.notary.pipeline import Limits, Pipeline, Prepared, Signed
from afdp.notary.queue import FairQueue


class Stages:
    """Stages that note what leaves when. As with gRPC, a call leaves in a task of its own."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.logging, self.may_end = asyncio.Event(), asyncio.Event()

    def log_sizes(self) -> Mapping[str, int]:
        return {}

    async def sign(self, batch: Sequence[Submission]) -> list[Signed]:
        async def call() -> None:
            self.events.append(f"{len(batch)} to the signer")

        await asyncio.create_task(call())
        return [Signed(each, store.Draft(receipt_id=each.order.idempotency_key)) for each in batch]

    async def prepare(self, signed: Sequence[Signed]) -> list[Prepared]:
        return [Prepared(store.Record(draft=each.draft), True, [each.submission]) for each in signed]

    def without_queued(self, prepared: list[Prepared]) -> list[Prepared]:
        return prepared

    async def log(self, records: list[store.Record], _: Mapping[str, int]) -> list[store.Record]:
        self.logging.set()
        await self.may_end.wait()
        return records


def order(name: str) -> Order:
    return Order(CheckedEvidence(EvidencePackage("1.0.0"), b"{}", bytes(32)), Principal("default", ANONYMOUS), name)


async def test_the_next_batch_leaves_before_the_callers_of_the_last_one_wake() -> None:
    stages: Any = Stages()
    pipeline = Pipeline(FairQueue(100, 10**6), stages, Limits(100, 10**6), lambda: None)

    async def caller(name: str) -> None:
        await pipeline.notarise(order(name))
        stages.events.append(f"{name} woke")

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pipeline.run())
        first = [tasks.create_task(caller(name)) for name in ("a", "b")]
        await stages.logging.wait()
        second = tasks.create_task(caller("c"))
        await asyncio.sleep(0)  # its order is in the queue
        stages.may_end.set()
        await asyncio.gather(*first, second)
        running.cancel()

    assert stages.events == ["2 to the signer", "1 to the signer", "a woke", "b woke", "c woke"]
