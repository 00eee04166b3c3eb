"""Keeping a token alive: renewed at two thirds of its time, again and again, by a task that `access.py` owns."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from afdp.errors import NotaryError
from afdp.vault.login import Lease

logger = logging.getLogger(__name__)

_SHORTEST = 1.0  # seconds between two renewals
_LONGEST_PAUSE = 30.0  # seconds after one that failed


class Renewable(Protocol):
    """What holds a token (`VaultAccess`)."""

    entered: asyncio.Event  # set by each login

    @property
    def lease(self) -> Lease | None:
        """The token; None before the first login."""

    async def renew(self) -> None:
        """Makes it hold for longer, or logs in."""


async def keep_alive(held: Renewable) -> None:
    """Logs in at once, and from then on renews in time. Runs until it is cancelled."""
    while True:
        held.entered.clear()
        try:
            async with asyncio.timeout(seconds_until_due(held.lease)):
                await held.entered.wait()
            continue  # another token: another time
        except TimeoutError:
            pass
        try:
            await held.renew()
        except NotaryError as error:
            logger.warning("the token of Vault was not renewed", extra={"fields": {"reason": error.message}})
            await asyncio.sleep(min(error.retry_after or _SHORTEST, _LONGEST_PAUSE))


def seconds_until_due(lease: Lease | None) -> float | None:
    """How long to wait before a renewal; None where the token does not end."""
    if lease is None:
        return 0.0
    if lease.ttl is None:
        return None
    return max(_SHORTEST, lease.since + lease.ttl * 2 / 3 - time.monotonic())
