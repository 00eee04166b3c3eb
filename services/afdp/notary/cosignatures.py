"""Where a record's entry is in a checkpoint that witnesses have cosigned: what makes its receipt WITNESSED.

The log keeps such checkpoints for good and proves any entry in the first that covers it, so the same receipt comes out
each time, and nothing about it has to be kept twice.
"""

from __future__ import annotations

import logging

from prometheus_client import Counter

from afdp.errors import NotaryError, NotFound
from afdp.messages.metadata import LogPosition, Record
from afdp.messages.transparency import GetCosignedCheckpointRequest, TransparencyServiceClient
from afdp.notary.keys import KeyDirectory
from afdp.verify.log import cosignatures
from afdp.verify.result import NotVerifiedError

logger = logging.getLogger(__name__)

_TIMEOUT = 1.0  # seconds, beside what a caller wants to wait

_failures = Counter(
    "afdp_notary_cosignature_failures", "Cosigned checkpoints that were left out because a check failed; stays zero."
)


class Cosignatures:
    """Asks the log for the first cosigned checkpoint over a record's entry."""

    def __init__(self, transparency: TransparencyServiceClient, keys: KeyDirectory) -> None:
        self._transparency = transparency
        self._keys = keys

    async def of(self, record: Record, wait: float) -> LogPosition | None:
        """The entry's place in it, with its cosignatures verified; None where there is none yet.

        Args:
            record: LOGGED.
            wait: how long to wait for one, in seconds.
        """
        if record.log is None:
            return None
        log = await self._keys.log(record.log.origin)
        if not log.quorum:
            return None
        request = GetCosignedCheckpointRequest(record.log.log_index, round(wait * 1000), record.log.origin)
        try:
            found = await self._transparency.get_cosigned_checkpoint(request, timeout=_TIMEOUT + wait)
        except NotFound:
            return None
        except NotaryError as error:
            logger.info("a receipt is given without its cosignatures", extra={"fields": {"code": error.code}})
            return None
        checkpoint, place = found.checkpoint, found.inclusion
        if checkpoint is None or place is None:
            return None
        try:
            if len(cosignatures(checkpoint.note, log.vkey, log.witnesses)) < log.quorum:
                raise NotVerifiedError("too few witnesses have cosigned")
        except NotVerifiedError as error:
            _failures.inc()
            logger.error("a cosigned checkpoint does not hold", extra={"fields": {"reason": error.reason}})
            return None
        return LogPosition(record.log.origin, place.leaf_index, checkpoint.size, place.proof, checkpoint.note)
