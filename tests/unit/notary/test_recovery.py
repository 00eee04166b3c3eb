"""What recovery finishes while something of it cannot be finished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from afdp.errors import FailedPrecondition
from afdp.messages import metadata as store
from afdp.notary.recovery import PAGE, Recovery


class Metadata:
    """PENDING records, by their receipts' ids."""

    def __init__(self, records: Sequence[store.Record]) -> None:
        self._records = records

    async def list_pending(self, request: store.ListPendingRequest, timeout: float) -> store.ListPendingResponse:
        rest = [each for each in self._records if each.draft and each.draft.receipt_id > request.after_receipt_id]
        return store.ListPendingResponse(rest[: request.page_size])


class Stages:
    """One log is broken, and all others take everything."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.done = asyncio.Event()

    async def log(self, records: Sequence[store.Record]) -> list[store.Record]:
        drafts = [each.draft for each in records if each.draft]
        if all(draft.log_origin == "broken.example" for draft in drafts):
            raise FailedPrecondition("the log is not what it was")
        self.logged += [draft.receipt_id for draft in drafts]
        self.done.set()
        return list(records)


def pending(number: int, origin: str) -> store.Record:
    return store.Record(draft=store.Draft(receipt_id=f"{number:06}", log_origin=origin))


async def test_a_page_full_of_a_broken_logs_records_does_not_keep_those_of_others_waiting() -> None:
    records = [pending(number, "broken.example") for number in range(PAGE)] + [pending(PAGE, "good.example")]
    metadata: Any = Metadata(records)
    stages: Any = Stages()
    recovery = Recovery(metadata, stages, interval=3600.0, timeout=30.0)

    running = asyncio.create_task(recovery.run())
    try:
        async with asyncio.timeout(30):
            await stages.done.wait()
    finally:
        running.cancel()

    assert stages.logged == [f"{PAGE:06}"]
