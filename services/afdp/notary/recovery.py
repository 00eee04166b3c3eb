"""Finishing what a failure left between two stages.

A PENDING record is signed and durable; whether its leaf is in the log is not known. The log is asked to append it,
which it does only where the leaf is absent, and the record is completed. Nothing is ever signed again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import uuid_utils
from prometheus_client import Counter

from afdp.errors import DeadlineExceeded, NotaryError, ResourceExhausted, Unavailable
from afdp.messages.metadata import ListPendingRequest, MetadataServiceClient, Record
from afdp.notary.pipeline import Stages
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

PAGE = 256
GRACE = timedelta(seconds=2)  # a batch under way needs no help
RETRY = 1.0  # seconds

_AWAY = (Unavailable, DeadlineExceeded, ResourceExhausted)

_recovered = Counter("afdp_notary_recovered_records", "PENDING records that recovery has completed.")
_stuck = Counter("afdp_notary_recovery_failures", "PENDING records that recovery could not complete, each time.")


class Recovery:
    """Looks for PENDING records at the start, after a failure, and now and then for what another notary left."""

    def __init__(self, metadata: MetadataServiceClient, stages: Stages, interval: float, timeout: float) -> None:
        self._metadata = metadata
        self._stages = stages
        self._interval = interval
        self._timeout = timeout
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Says that a batch left something unfinished."""
        self._asked.set()

    async def run(self) -> None:
        """Recovers until cancelled."""
        cutoff = started = datetime.now(UTC)  # nothing of before is under way in this process
        while True:
            request_id.set(f"recovery-{uuid_utils.uuid7()}")
            try:
                clean = await self._recover(cutoff)
            except NotaryError as error:
                logger.info("recovery waits", extra={"fields": {"code": error.code, "reason": str(error)}})
                clean = False
            if clean:
                await self._until_asked(self._interval)
            await asyncio.sleep(RETRY)
            cutoff = max(started, datetime.now(UTC) - GRACE)

    async def _until_asked(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return
        self._asked.clear()
        await asyncio.sleep(GRACE.total_seconds())

    async def _recover(self, before: datetime) -> bool:
        """One pass over all PENDING records; whether none is left."""
        after, clean = "", True
        while records := await self._pending(after, before):
            clean = await self._finish(records) and clean
            after = records[-1].draft.receipt_id if records[-1].draft is not None else ""
        return clean

    async def _pending(self, after: str, before: datetime) -> list[Record]:
        """The next PENDING records: fewer at once where they are too large together for one message."""
        size = PAGE
        while True:
            request = ListPendingRequest(page_size=size, after_receipt_id=after, before=before)
            try:
                return (await self._metadata.list_pending(request, timeout=self._timeout)).records
            except ResourceExhausted:
                if size == 1:
                    raise
                size //= 4

    async def _finish(self, records: list[Record]) -> bool:
        try:
            outcomes = await self._stages.log(records)
        except NotaryError as fault:  # that of their one log, as a rule: the next page may be of another
            fields = {"code": fault.code, "reason": str(fault), "records": len(records)}
            logger.info("records wait for recovery", extra={"fields": fields})
            _stuck.inc(0 if isinstance(fault, _AWAY) else len(records))
            return False
        failed = [outcome for outcome in outcomes if isinstance(outcome, NotaryError)]
        _recovered.inc(len(outcomes) - len(failed))
        stuck = [error for error in failed if not isinstance(error, _AWAY)]  # those of a log that is away only wait
        _stuck.inc(len(stuck))
        for error in stuck:
            logger.error("a record cannot be completed", extra={"fields": {"code": error.code, "reason": str(error)}})
        if len(outcomes) > len(failed):
            logger.info("records recovered", extra={"fields": {"records": len(outcomes) - len(failed)}})
        return not failed
