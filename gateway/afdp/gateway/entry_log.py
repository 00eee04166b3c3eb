"""Which log is read under `/api/v2/`: the one that entries go to now, as the log service lists them.

Where the log of the settings is frozen and another one goes on from it, readers are led there, as writers are.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import httpx

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.members import Members

logger = logging.getLogger(__name__)

FRESH = 2.0  # seconds for which the list is believed without asking again
_TIMEOUT = 1.0


class EntryLog:
    """Follows the log of the settings to the one that goes on from it."""

    def __init__(self, client: httpx.AsyncClient, origin: str) -> None:
        """Begins with a log: `origin`, or the first one where that is empty."""
        self._client = client
        self._origin = origin
        self._prefix = f"logs/{origin}/" if origin else ""
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def prefix(self) -> str:
        """Where its files are, below those of the first log.

        While the log service does not say it is where it was, or where the settings have it: a mirror lists no logs.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._asked > FRESH:
            async with self._lock:
                if loop.time() - self._asked > FRESH:  # nobody else has asked meanwhile
                    await self._look()
                    self._asked = loop.time()
        return self._prefix

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                answer = await self._client.get("logs", headers={"accept-encoding": "identity"})
            if answer.status_code == httpx.codes.OK:
                found = _followed(answer.content, self._origin)
                self._prefix = self._prefix if found is None else found
        except (httpx.HTTPError, TimeoutError, InvalidArgument) as error:
            logger.debug("the logs are not listed", extra={"fields": {"reason": str(error) or type(error).__name__}})


@dataclass(frozen=True, slots=True)
class _Listed:
    path: str
    frozen: bool
    successor: str

    @classmethod
    def of(cls, members: Members) -> _Listed:
        state = members.one_of("state", ("open", "standby", "frozen"))
        return cls(members.string("path", empty=True), state == "frozen", members.string("successor", empty=True))


def _followed(listing: bytes, origin: str) -> str | None:
    """Where the log is that goes on from one, or from the first one; None where it is not listed.

    Raises:
        InvalidArgument: it is no list of logs.
    """
    logs = {each.string("origin"): _Listed.of(each) for each in Members(strict_json(listing)).objects("logs")}
    found = logs.get(origin or next(iter(logs), ""))
    for _ in logs:  # each log is gone to once at most, whatever the list says
        following = logs.get(found.successor) if found and found.frozen else None
        if following is None:
            break
        found = following
    return found.path if found else None
