"""The reconciler beside the service: now and then, slowly, and with metrics."""

from __future__ import annotations

import asyncio
import logging
import random
import time

import uuid_utils
from prometheus_client import Counter, Gauge

from afdp.errors import DeadlineExceeded, NotaryError, Unavailable
from afdp.notary.gaps import Kind
from afdp.notary.reconciling import Progress, Reconciler
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

SHARE = 0.1  # of the time: what notarises goes first
RETRY = 60.0  # seconds after which a run that a peer's absence has ended goes on

_open = Gauge("afdp_notary_reconcile_open_gaps", "Gaps that the last run of the reconciler left open.", ["kind"])
_found = Counter("afdp_notary_reconcile_gaps_found", "Gaps that the reconciler has found, in each run anew.", ["kind"])
_closed = Counter("afdp_notary_reconcile_gaps_closed", "Gaps that the reconciler has closed.", ["kind"])
_ended = Gauge("afdp_notary_reconcile_last_run_timestamp_seconds", "When it came to its end last; 0: not yet.")
_age = Gauge("afdp_notary_reconcile_age_seconds", "Since when it has not come to its end, or since the start.")
_seconds = Gauge("afdp_notary_reconcile_duration_seconds", "How long the last run took.")
_records = Gauge("afdp_notary_reconcile_records", "Records that the last run went through.")


class ReconcileSchedule:
    """Runs the reconciler each `interval` seconds, and never where that is 0."""

    def __init__(self, reconciler: Reconciler, interval: float, retry: float = RETRY) -> None:
        self._reconciler = reconciler
        self._interval = interval
        self._retry = retry
        for kind in Kind:  # what alerts look at is there from the start
            _open.labels(kind)

    async def run(self) -> None:
        """Until cancelled. Replicas begin at different times, each after at most one interval."""
        if not self._interval:
            return
        since = time.monotonic()
        _age.set_function(lambda: time.monotonic() - since)
        pause = self._interval * random.uniform(0.5, 1)  # noqa: S311 - only to spread replicas
        while True:
            await asyncio.sleep(pause)
            request_id.set(f"reconcile-{uuid_utils.uuid7()}")
            began = time.monotonic()
            progress = await self._to_the_end()
            since = time.monotonic()
            _tell(progress, since - began)
            pause = self._interval

    async def _to_the_end(self) -> Progress:
        """One run, which goes on where a peer that was away had ended it."""
        progress = Progress()
        while True:
            try:
                await self._reconciler.run(progress, _Pace(), close=True)
            except NotaryError as error:
                fields = {"code": error.code, "reason": str(error)}
                if isinstance(error, (Unavailable, DeadlineExceeded)):
                    logger.info("the reconciler waits", extra={"fields": fields})
                else:  # from where it stands it would come to nothing else
                    logger.error("the reconciler begins anew", extra={"fields": fields})
                    progress = Progress()
                await asyncio.sleep(self._retry)
            else:
                return progress


class _Pace:
    """After each page as long a rest as leaves the reconciler its share of the time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def __call__(self, progress: Progress) -> None:
        await asyncio.sleep((time.monotonic() - self._began) * (1 / SHARE - 1))
        self._began = time.monotonic()


def _tell(progress: Progress, seconds: float) -> None:
    for kind in Kind:
        _found.labels(kind).inc(progress.found[kind])
        _closed.labels(kind).inc(progress.closed[kind])
        _open.labels(kind).set(progress.found[kind] - progress.closed[kind])
    _ended.set_to_current_time()
    _seconds.set(seconds)
    _records.set(progress.records)
    for gap in progress.gaps[:100]:
        level = logging.INFO if gap.closed else logging.ERROR
        fields = {"kind": gap.kind, "subject": gap.subject, "reason": gap.why}
        logger.log(level, "a gap was closed" if gap.closed else "a gap", extra={"fields": fields})
    counts = {"records": progress.records, "open": progress.open, "closed": progress.closed.total()}
    logger.info("records and logs were reconciled", extra={"fields": counts})
