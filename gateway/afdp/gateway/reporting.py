"""What the gateway refused by itself, told to the notary, whose audit trail has it: each kind with its count.

A flood of refusals is one call with as many lines as there are kinds, however large it is.
"""

from __future__ import annotations

import asyncio
import logging

from afdp.errors import NotaryError
from afdp.gateway.descriptors import Api
from afdp.gateway.upstream import Upstream
from afdp.refusals import REFUSALS, Refusals

logger = logging.getLogger(__name__)

_METHOD = "/afdp.edge.v1.EdgeService/ReportRefusals"
_TIMEOUT = 5.0  # seconds


class RefusalReports:
    """Reports now and then; what could not be told is told the next time."""

    def __init__(self, api: Api, upstream: Upstream, interval: float, refusals: Refusals = REFUSALS) -> None:
        """`interval` is in seconds."""
        self._request = api.message_class("afdp.edge.v1.ReportRefusalsRequest")
        self._refusals_of = api.message_class("afdp.edge.v1.Refusals")
        self._upstream = upstream
        self._interval = interval
        self._refusals = refusals
        self._failing = False

    async def run(self) -> None:
        """Reports until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(self._interval)
                await self._report()
        finally:
            await self._report()

    async def _report(self) -> None:
        told = self._refusals.take()
        if not told:
            return
        request = self._request(
            refusals=[
                self._refusals_of(
                    step=each.step,
                    reason=each.reason,
                    count=each.count,
                    last_address=each.last_address,
                    last_request_id=each.last_request_id,
                )
                for each in told
            ]
        )
        try:
            await self._upstream.call(_METHOD, request.SerializeToString(), _TIMEOUT, [])
        except NotaryError as error:
            for each in told:
                last = {"address": each.last_address, "request_id": each.last_request_id}
                self._refusals.add(each.step, each.reason, count=each.count, **last)
            if not self._failing:
                fields = {"code": error.code, "reason": error.message}
                logger.warning("the notary cannot be told what was refused here", extra={"fields": fields})
            self._failing = True
            return
        self._failing = False
