"""Room for what will be appended next, made ahead of need: nobody who appends waits for it."""

from __future__ import annotations

import logging
from typing import NoReturn, Protocol

from afdp.errors import NotaryError
from afdp.transparency.cadence import repeat

logger = logging.getLogger(__name__)

_LOOK = 60.0  # seconds; to fill what is made ahead takes a million entries
_RETRY, _LONGEST = 5.0, 60.0


class Rooms(Protocol):
    """Where a log grows into: `postgres.py`."""

    async def make_room(self) -> None:
        """Makes what is missing. Raises Unavailable while the technology cannot be reached."""


class RoomKeeper:
    """Looks now and then whether there is room ahead. Several replicas may."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def run(self) -> NoReturn:
        """Keeps room until it is cancelled."""
        await repeat(self._turn, _failed, _RETRY, _LONGEST)

    async def _turn(self) -> float:
        await self._rooms.make_room()
        return _LOOK


def _failed(error: NotaryError) -> None:
    logger.warning("no room could be made ahead", extra={"fields": {"code": error.code, "reason": error.message}})
