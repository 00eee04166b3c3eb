"""The reconciler beside the service: it goes on where a peer's absence ended it, and tells what it found."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import REGISTRY

from afdp.errors import Unavailable
from afdp.notary.gaps import Gap, Kind
from afdp.notary.reconcile_schedule import ReconcileSchedule
from afdp.notary.reconciling import Pause, Progress


class Reconciler:
    """Finds one gap that stays and one that it closes; its peer is away the first time."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.ended = asyncio.Event()

    async def run(self, progress: Progress, pause: Pause, *, close: bool) -> None:
        assert close
        self.runs.append(progress.after)
        if len(self.runs) == 1:
            progress.after = "half"
            raise Unavailable("away")
        if len(self.runs) == 3:  # the second run has begun, so the first was told
            self.ended.set()
            await asyncio.Event().wait()
        await pause(progress)
        progress.add(Gap(Kind.UNLOGGED, "a", "it waits", closed=True))
        progress.add(Gap(Kind.ALTERED, "b", "it is another"))


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"afdp_notary_reconcile_{name}", labels) or 0.0


async def test_it_goes_on_where_it_was_and_its_metrics_say_what_is_open() -> None:
    reconciler: Any = Reconciler()
    closed = metric("gaps_closed_total", kind="unlogged")
    running = asyncio.create_task(ReconcileSchedule(reconciler, 0.01, retry=0.01).run())
    try:
        async with asyncio.timeout(30):
            await reconciler.ended.wait()
    finally:
        running.cancel()

    assert reconciler.runs[:2] == ["", "half"]
    assert reconciler.runs[2] == ""
    assert metric("open_gaps", kind="altered") == 1
    assert metric("open_gaps", kind="unlogged") == 0
    assert metric("gaps_closed_total", kind="unlogged") == closed + 1
    assert metric("last_run_timestamp_seconds") > 0
    assert 0 <= metric("age_seconds") < 30


async def test_with_an_interval_of_0_it_never_runs() -> None:
    reconciler: Any = Reconciler()
    await ReconcileSchedule(reconciler, 0.0).run()
    assert reconciler.runs == []
