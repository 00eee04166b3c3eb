"""Has single receipts' signatures stamped by an authority outside of the notary, where a policy asks for it.

Nobody waits for it. What is wanted is on record since the transaction that wrote the receipt's own record; here it is
taken from there, a few at once, and the stamp is added to the record. Whoever reads the receipt then has both.

A claim ends by itself, so what a notary has taken and not done, another one does. An authority that is slow or away
makes the work pause and the backlog grow, and costs nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import uuid_utils
from prometheus_client import Counter

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unimplemented
from afdp.messages.metadata import (
    ClaimStampsRequest,
    GetStampBacklogRequest,
    KeepStampRequest,
    MetadataServiceClient,
    PostponeStampsRequest,
    UnstampedSignature,
)
from afdp.messages.signer import SignerServiceClient, TimestampSignatureRequest
from afdp.notary.stamp_policy import StampPolicy
from afdp.notary.status import Part
from afdp.telemetry.context import request_id

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds in which nothing is tried, after a failure
STORE_PAUSE = 5.0  # seconds, after one of the metadata service
LONGEST_WAIT = 3600.0  # seconds for a signature that is refused again and again
MOST_AT_ONCE = 16  # as the metadata service has it

_TIMEOUT = 5.0

_stamped = Counter("afdp_notary_external_stamps", "Stamps of authorities outside for single receipts.", ["outcome"])


class ExternalStamps:
    """Works off what waits for a stamp."""

    def __init__(
        self,
        policy: StampPolicy,
        metadata: MetadataServiceClient,
        signer: SignerServiceClient,
        in_flight: int,
        timeout: float,
        interval: float,
    ) -> None:
        """Settings.

        Args:
            policy: which receipts are stamped.
            in_flight: how many stamps are asked for at once.
            timeout: how long each may take, in seconds.
            interval: how often what another notary left is looked for, in seconds.
        """
        self._policy = policy
        self._metadata = metadata
        self._signer = signer
        self._in_flight = in_flight
        self._timeout = timeout
        self._interval = interval
        self._asked = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._pause = FIRST_PAUSE
        self._resumes = 0.0  # on the loop's clock
        self._trouble = ""

    def asks_for(self, tenant: str, event_type: str) -> bool:
        """Whether the policy wants a receipt stamped outside."""
        return self._policy.asks_for(tenant, event_type)

    def ask(self) -> None:
        """Says that something waits."""
        self._asked.set()

    async def run(self) -> None:
        """Works until cancelled."""
        request_id.set(f"stamps-{uuid_utils.uuid7()}")
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._until_free()
                self._asked.clear()
                try:
                    claimed = await self._claim()
                except NotaryError as error:
                    logger.info("stamping waits", extra={"fields": {"code": error.code, "reason": str(error)}})
                    self._resumes = asyncio.get_running_loop().time() + STORE_PAUSE
                    continue
                for each in claimed:
                    task = tasks.create_task(self._settle(each))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                if not claimed:
                    await self._until_asked()

    async def status(self) -> list[Part]:
        """How it is, for operators: one part, `external stamps`; none where nothing asks for any.

        Raises:
            Unavailable: the metadata service is away.
        """
        try:
            backlog = await self._metadata.get_stamp_backlog(GetStampBacklogRequest(), timeout=_TIMEOUT)
        except Unimplemented:  # a metadata service of the release before, while a deployment is under way
            return []
        if not backlog.waiting or backlog.oldest is None:
            return [Part("notary", "external stamps", True, "none waits", public=True)] if self._policy.rules else []
        age = max(0, round((datetime.now(UTC) - backlog.oldest).total_seconds()))
        detail = f"{backlog.waiting} wait, the oldest for {age} seconds"
        if not self._trouble:
            return [Part("notary", "external stamps", True, detail, public=True)]
        remedy = f"see `external timestamps` of the signer, and AFDP_TSA_EXTERNAL: {self._trouble}"
        return [Part("notary", "external stamps", False, detail, remedy, public=True)]

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _until_free(self) -> None:
        """Until something may be tried, and there is room for it."""
        await asyncio.sleep(max(0.0, self._resumes - asyncio.get_running_loop().time()))
        if len(self._under_way) >= self._in_flight:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _until_asked(self) -> None:
        """Until something new waits, or it is time to look for what others left."""
        try:
            async with asyncio.timeout(self._interval):
                await self._asked.wait()
        except TimeoutError:
            return

    def _hold_off(self, error: NotaryError) -> None:
        """Nothing is tried for a while, longer each time."""
        now = asyncio.get_running_loop().time()
        if now < self._resumes:
            return  # it was under way when another one failed
        pause = LONGEST_PAUSE if isinstance(error, FailedPrecondition) else self._pause
        self._resumes, self._pause = now + pause, min(2 * self._pause, LONGEST_PAUSE)

    # --- working ------------------------------------------------------------------------------------------------------

    async def _claim(self) -> list[UnstampedSignature]:
        limit = min(self._in_flight - len(self._under_way), MOST_AT_ONCE)
        # Twice as long as the work may take: nobody else begins with it while it is done.
        request = ClaimStampsRequest(max(1, limit), round(2000 * self._timeout))
        return (await self._metadata.claim_stamps(request, timeout=_TIMEOUT)).signatures

    async def _settle(self, wanted: UnstampedSignature) -> None:
        request = TimestampSignatureRequest(wanted.statement, wanted.signature, wanted.key_id)
        try:
            stamp = await self._signer.timestamp_signature(request, timeout=self._timeout)
        except NotaryError as error:
            await self._postpone(wanted, error)
            return
        self._pause, self._trouble = FIRST_PAUSE, ""
        try:
            await self._metadata.keep_stamp(KeepStampRequest(wanted.receipt_id, stamp.response), timeout=_TIMEOUT)
        except NotaryError as error:  # the claim ends, and another stamp is had
            self._told("a stamp was not kept", wanted, error)
            return
        _stamped.labels("kept").inc()

    async def _postpone(self, wanted: UnstampedSignature, error: NotaryError) -> None:
        """Lets go of it: at once where nothing is wrong with it, since all of them wait then."""
        wait = 0.0
        if isinstance(error, InvalidArgument):
            _stamped.labels("refused").inc()
            logger.error(
                "the signer does not have a signature stamped",
                extra={"fields": {"receipt_id": wanted.receipt_id, "reason": str(error)}},
            )
            wait = min(LONGEST_PAUSE * 2 ** min(wanted.attempts - 1, 10), LONGEST_WAIT)
        else:
            _stamped.labels("failed").inc()
            self._trouble = str(error)
            self._told("a receipt was not stamped", wanted, error)
            self._hold_off(error)
        request = PostponeStampsRequest([wanted.receipt_id], round(wait * 1000))
        try:
            await self._metadata.postpone_stamps(request, timeout=_TIMEOUT)
        except NotaryError as away:  # the claim ends all the same
            self._told("a stamp was not put off", wanted, away)

    def _told(self, what: str, wanted: UnstampedSignature, error: NotaryError) -> None:
        fields = {"receipt_id": wanted.receipt_id, "code": error.code, "reason": str(error)}
        logger.warning(what, extra={"fields": fields})
