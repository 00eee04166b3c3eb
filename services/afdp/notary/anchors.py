"""Anchors: what the log had stamped by an authority outside of the notary, for receipts that are read later.

They are an addition. A receipt leaves without one where the log has none yet, where it is away, or where what it gave
does not hold; that is counted.
"""

from __future__ import annotations

import logging

from prometheus_client import Counter

from afdp.errors import NotaryError, NotFound
from afdp.formats.anchor import Anchor
from afdp.formats.merkle import HASH_SIZE
from afdp.messages.metadata import Record
from afdp.messages.transparency import (
    GetStampedCheckpointRequest,
    GetStampedCheckpointResponse,
    TransparencyServiceClient,
)
from afdp.notary.keys import KeyDirectory
from afdp.verify.anchors import check_anchor
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import UnknownAuthorityError

logger = logging.getLogger(__name__)

_TIMEOUT = 1.0  # seconds; whoever reads a receipt does not wait long for what is an addition

_failures = Counter("afdp_notary_anchor_failures", "Anchors that were left out because a check failed; stays zero.")


class Anchors:
    """Asks the log for the anchor of a record."""

    def __init__(self, transparency: TransparencyServiceClient, keys: KeyDirectory) -> None:
        self._transparency = transparency
        self._keys = keys

    async def of(self, record: Record) -> list[Anchor]:
        """The anchors of a record that is LOGGED; each was checked."""
        if record.log is None or record.draft is None:
            return []
        try:
            log = await self._keys.log(record.log.origin)
            trust = await self._keys.trust_root()
            if log.external or not trust.independent_authorities:
                return []
            request = GetStampedCheckpointRequest(record.log.log_index, record.log.origin)
            found = await self._transparency.get_stamped_checkpoint(request, timeout=_TIMEOUT)
        except NotFound:
            return []
        except NotaryError as error:
            logger.info("a receipt is given without its anchor", extra={"fields": {"code": error.code}})
            return []
        anchor = _anchor(found)
        try:
            check_anchor(anchor, record.draft.leaf_hash, record.log.log_index, log.vkey, trust.independent_authorities)
        except UnknownAuthorityError:
            # Its first stamp is younger than what is known of authorities: verifiers get to know it soon.
            logger.info("an anchor is of an authority that is not known yet")
            return []
        except NotVerifiedError as error:
            _failures.inc()
            logger.error("an anchor does not hold", extra={"fields": {"reason": error.reason}})
            return []
        return [anchor]


def _anchor(found: GetStampedCheckpointResponse) -> Anchor:
    place, checkpoint = found.inclusion, found.checkpoint
    proof = place.proof if place else b""
    return Anchor(
        log_index=place.leaf_index if place else 0,
        tree_size=checkpoint.size if checkpoint else 0,
        hashes=tuple(proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE)),
        checkpoint=checkpoint.note if checkpoint else "",
        timestamp=found.timestamp,
    )
