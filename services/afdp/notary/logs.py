"""Which log an entry goes to, and the way there.

A tenant's entries go to the log that is for this tenant, else to the one that is for all. That is decided once, when a
record is prepared, and kept with it: whoever finishes it later asks the same log, and a successor only where that one
is frozen and does not hold the entry, which it says under the lock that all appends take. So no entry is in two logs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from afdp.errors import FailedPrecondition, NotaryError, NotFound, Unavailable, Unimplemented
from afdp.messages.transparency import (
    AppendRequest,
    AppendResult,
    Checkpoint,
    GetLogRequest,
    ListLogsRequest,
    Log,
    LogState,
    TransparencyServiceClient,
)

logger = logging.getLogger(__name__)

FRESH = 3.0  # seconds between two looks at the list
_LATE = 30.0  # seconds after which a list that nobody keeps fresh is asked for by who needs it
_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Appended:
    """What one log made of entries.

    Attributes:
        origin: that of the log.
        checkpoint: covers all that are in it; None where none is.
        results: by the entry's place in the call.
    """

    origin: str
    checkpoint: Checkpoint | None
    results: dict[int, AppendResult]


class LogDirectory:
    """The logs of the deployment, remembered, so that writing and reading go on while nobody can be asked."""

    def __init__(self, transparency: TransparencyServiceClient) -> None:
        self._transparency = transparency
        self._logs: Sequence[Log] = []
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def logs(self) -> Sequence[Log]:
        """Every log, the first one first, as last seen: `FRESH` seconds ago, or when the log service answered last.

        Raises:
            Unavailable: they were never seen.
        """
        if asyncio.get_running_loop().time() - self._asked > _LATE:
            try:
                await self._refresh(_LATE)
            except NotaryError:
                if not self._logs:
                    raise
        return self._logs

    async def log(self, origin: str) -> Log:
        """A log; the first one where the origin is empty.

        Raises:
            Unavailable: it is not known here, and nobody can be asked, or the log service does not know it either.
        """
        for _ in range(2):
            for each in await self.logs():
                if origin in ("", each.origin):
                    return each
            self.forget()
        raise Unavailable("the log service does not list the log of this entry", retry_after=FRESH)

    async def has_own(self, tenant: str) -> bool:
        """Whether there is a log for this tenant and not for all.

        Raises:
            Unavailable: the logs were never seen.
        """
        return any(tenant in log.tenants for log in await self.logs())

    async def of_tenant(self, tenant: str) -> str:
        """The origin of the log that takes a tenant's entries now.

        Raises:
            FailedPrecondition: it is frozen, and none goes on from it.
            Unavailable: the logs were never seen.
        """
        logs = await self.logs()
        own = [log for log in logs if tenant in log.tenants] or [log for log in logs if not log.tenants]
        for log in own:
            if log.state == LogState.OPEN:
                return log.origin
        raise FailedPrecondition(
            f"the log {own[-1].origin} is frozen, and no log goes on from it: an operator has to open one"
        )

    async def append(
        self, origin: str, entries: Sequence[bytes], timeout: float, made_after: Mapping[str, int] | None = None
    ) -> list[Appended]:
        """Appends entries to a log, and to the one that goes on from it what it does not hold and, frozen, refuses.

        `made_after` are sizes that logs had, by their origins, before any of the entries was made, if known.

        Raises:
            NotaryError: what the log service raises; entries may have been appended.
        """
        request = AppendRequest(list(entries), origin=origin, made_after_size=(made_after or {}).get(origin, 0))
        try:
            answer = await self._transparency.append(request, timeout=timeout)
        except NotFound as error:  # a replica that cannot see what others see
            raise Unavailable(f"the log {origin} is not there: {error.message}", retry_after=1.0) from None
        results = dict(enumerate(answer.results))
        appended = [Appended(origin, answer.checkpoint, results)]
        if not answer.frozen:
            return appended
        self.forget()
        refused = [at for at, result in results.items() if result.inclusion is None]
        if answer.successor:
            following = await self.append(answer.successor, [entries[at] for at in refused], timeout, made_after)
            appended += [_at_places(refused, each) for each in following]
            for at in refused:
                del results[at]
        return appended

    async def run(self) -> None:
        """Keeps the list fresh until it is cancelled, so that nobody who writes waits for it."""
        while True:
            with suppress(NotaryError):  # who needs what was never seen is told
                await self._refresh(FRESH / 2)
            await asyncio.sleep(FRESH)

    def forget(self) -> None:
        """Asks again next time."""
        self._asked = float("-inf")

    async def _refresh(self, age: float) -> None:
        """Asks, unless that was done in the last `age` seconds."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._asked <= age:  # somebody else has asked meanwhile
                return
            if self._logs:  # also where it fails: who is away is not asked with every batch
                self._asked = loop.time()
            logs = await self._listed()
            if not logs:
                raise Unavailable("the log service has no log yet", retry_after=1.0)
            self._asked = loop.time()
            if logs != self._logs:
                self._logs = logs

    async def _listed(self) -> list[Log]:
        try:
            return (await self._transparency.list_logs(ListLogsRequest(), timeout=_TIMEOUT)).logs
        except Unimplemented:  # of the release before, while a deployment is under way: it has one log
            found = await self._transparency.get_log(GetLogRequest(), timeout=_TIMEOUT)
            return [
                Log(
                    origin=found.origin,
                    base_url=found.base_url,
                    vkey=found.vkey,
                    log_id=found.log_id,
                    spki=found.spki,
                    witnesses=found.witnesses,
                    witness_quorum=found.witness_quorum,
                    state=LogState.OPEN,
                )
            ]


def _at_places(places: Sequence[int], appended: Appended) -> Appended:
    """What a log made of some entries of a call, by their places in the whole."""
    results = {places[at]: result for at, result in appended.results.items()}
    return Appended(appended.origin, appended.checkpoint, results)
