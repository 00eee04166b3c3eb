"""The stamp of an authority outside of the notary over a record's signature, for receipts that are read later.

It is an addition, and stands in the bundle, where other verifiers look at every stamp: it goes out only where it holds,
and where the trust root that the notary hands out names its authority.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prometheus_client import Counter

from afdp.errors import NotaryError
from afdp.formats.authorities import TimestampAuthority
from afdp.messages.metadata import Record
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import UnknownAuthorityError, verify_stamp

logger = logging.getLogger(__name__)

_failures = Counter(
    "afdp_notary_external_stamp_failures", "Stamps of authorities outside that were left out because a check failed."
)


@dataclass(frozen=True, slots=True)
class StampedAt:
    """A stamp over a signature, as it goes into the bundle, and the time that it states."""

    response: bytes
    time: datetime


class HandedOut(Protocol):
    """The trust root as verifiers get it (`trust.py`)."""

    async def independent(self) -> Sequence[TimestampAuthority]:
        """The authorities outside that it names."""


class OutsideStamps:
    """Looks at what is on record."""

    def __init__(self, trust: HandedOut) -> None:
        self._trust = trust

    async def of(self, record: Record) -> list[StampedAt]:
        """The stamp of a record, verified; empty where there is none to give."""
        if record.draft is None or not record.external_timestamp:
            return []
        try:
            known = await self._trust.independent()
            stamp = verify_stamp(record.external_timestamp, record.draft.signature, known)
        except UnknownAuthorityError:
            logger.info("a stamp is of an authority that verifiers are not told of yet")
            return []
        except NotaryError as error:
            logger.info("a receipt is given without its external stamp", extra={"fields": {"code": error.code}})
            return []
        except NotVerifiedError as error:
            _failures.inc()
            logger.error("an external stamp does not hold", extra={"fields": {"reason": error.reason}})
            return []
        return [StampedAt(record.external_timestamp, stamp.time)]
