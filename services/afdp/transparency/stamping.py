"""Has checkpoints stamped by an authority outside of the notary, on a cadence.

An entry's own timestamp rests on keys that the notary holds, and so does the log's signature. A checkpoint that
somebody else has stamped proves when its entries were there, whatever becomes of those keys. One stamp covers every
entry so far, so it costs a slow authority one call now and then, and no caller ever waits for it.
"""

from __future__ import annotations

import logging
from typing import NoReturn, Protocol

from prometheus_client import Counter, Gauge

from afdp.errors import FailedPrecondition, NotaryError, NotFound
from afdp.transparency.cadence import repeat
from afdp.transparency.values import SignedCheckpoint, Stamp, StampedCheckpoint

logger = logging.getLogger(__name__)

RETRY = 1.0  # seconds after the first failure; twice as long after each further one, up to the interval

_size = Gauge("afdp_log_stamped_size", "Leaves that the newest stamped checkpoint covers.", ["log"])
_time = Gauge("afdp_log_stamped_timestamp_seconds", "The time that the newest checkpoint's stamp states.", ["log"])
_failures = Counter("afdp_log_stamp_failures", "Attempts to have a checkpoint stamped that failed.", ["log"])


class Log(Protocol):
    """What is stamped: `service.py`."""

    async def checkpoint(self) -> SignedCheckpoint:
        """The latest checkpoint. Raises NotFound while the log is empty."""


class StampStore(Protocol):
    """Where stamped checkpoints are kept: `postgres.py`."""

    async def newest_stamp(self) -> tuple[int, float] | None:
        """The size of the newest stamped checkpoint, and how many seconds ago it was kept."""

    async def keep_stamp(self, checkpoint: StampedCheckpoint) -> None:
        """Keeps a stamped checkpoint; one that is kept already stays."""


class StampingAuthority(Protocol):
    """Who stamps: `signer.py`."""

    async def stamp(self, checkpoint: SignedCheckpoint, origin: str) -> Stamp:
        """The stamp of an authority outside of the notary over a checkpoint's note body; it was verified.

        Raises:
            FailedPrecondition: there is no such authority; or, with `last_size` in its metadata, the log has grown so
                far meanwhile that the signer does not remember this checkpoint.
            Unavailable: none answers.
        """


class CheckpointStamper:
    """Stamps the newest checkpoint every `interval` seconds if the log has grown.

    Replicas share the cadence: what one of them has kept, the others count as their own.
    """

    def __init__(self, log: Log, store: StampStore, authority: StampingAuthority, origin: str, interval: float) -> None:
        self._log = log
        self._store = store
        self._authority = authority
        self._origin = origin
        self._interval = interval
        self._off = False

    async def run(self) -> NoReturn:
        """Stamps until it is cancelled."""
        await repeat(self._turn, self._failed, RETRY, self._interval)

    async def _turn(self) -> float:
        """One attempt, if it is time for one; seconds until the next."""
        try:
            wait = await self._stamp_if_due()
        except FailedPrecondition as error:
            if "last_size" in error.metadata:
                raise
            if not self._off:
                logger.info("checkpoints are not stamped", extra={"fields": {"reason": error.message}})
            self._off = True
            return self._interval
        self._off = False
        return wait

    def _failed(self, error: NotaryError) -> None:
        _failures.labels(self._origin).inc()
        logger.warning("a checkpoint was not stamped", extra={"fields": {"code": error.code, "reason": error.message}})

    async def _stamp_if_due(self) -> float:
        newest = await self._store.newest_stamp()
        if newest is not None and newest[1] < self._interval:
            return self._interval - newest[1]
        try:
            checkpoint = await self._log.checkpoint()
        except NotFound:
            return self._interval
        if newest is None or newest[0] < checkpoint.size:
            stamp = await self._authority.stamp(checkpoint, self._origin)
            await self._store.keep_stamp(StampedCheckpoint(checkpoint, stamp))
            _size.labels(self._origin).set(checkpoint.size)
            _time.labels(self._origin).set(stamp.time.timestamp())
            logger.info("a checkpoint was stamped", extra={"fields": {"size": checkpoint.size, "by": stamp.authority}})
        return self._interval
