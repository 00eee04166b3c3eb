"""The logs of this deployment: which there are, which of them takes whose entries, and each one at work.

The first is that of the settings. Further ones are opened and frozen by an operator, in the database that all replicas
share: each replica notices by itself, and nothing is restarted. What a log is for is decided when it is opened and
never changes, so that a tenant with a log of its own can prove that it is shown all its entries. To change over, a
successor is opened, which waits, and the log is frozen: under the lock that all appends take, so that from one moment
on an entry is either in it or never will be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn, Protocol

from prometheus_client import Gauge

from afdp.errors import FieldViolation, InvalidArgument, NotaryError, NotFound
from afdp.formats.note import NoteError, validate_origin
from afdp.transparency.service import TransparencyLog
from afdp.transparency.values import KnownLog, LogState, WrongLog

logger = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks for logs that were opened
_AGAIN = 30.0  # seconds after which a log that is not what it was is tried again

_appendable = Gauge("afdp_log_appendable", "Whether the log takes entries, or would if it were not frozen.", ["log"])


class Catalogue(Protocol):
    """Where it stands which logs there are: `postgres_logs.py`."""

    async def logs(self) -> Sequence[KnownLog]:
        """Every log, in the order in which they were opened. Raises Unavailable while it cannot be reached."""


class Parts(Protocol):
    """What one log is made of: `parts.py`."""

    @property
    def log(self) -> TransparencyLog:
        """The log."""

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """Its writer and what else works for it, for the length of a block. Raises WrongLog."""


class Logs:
    """Every log of this deployment, by its origin."""

    def __init__(
        self, origin: str, first: TransparencyLog, catalogue: Catalogue, assemble: Callable[[KnownLog], Parts]
    ) -> None:
        """`origin` and `first` are the log of the settings; whoever made it has it at work."""
        self.first = first
        self._origin = origin
        self._catalogue = catalogue
        self._assemble = assemble
        self._logs = {origin: first}
        self._known: Mapping[str, KnownLog] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[NoReturn]] = []

    async def of(self, origin: str) -> TransparencyLog:
        """The log of an origin; the first one where it is empty. One that was opened a moment ago is looked for.

        Raises:
            InvalidArgument: no log can have such an origin.
            NotFound: there is no such log.
        """
        if not origin:
            return self.first
        if origin not in self._logs:
            _require_origin(origin)
            await self._look()
        return self.known(origin)

    def known(self, origin: str) -> TransparencyLog:
        """The log of an origin, as far as it was noticed.

        Raises:
            NotFound: there is no such log.
        """
        log = self._logs.get(origin)
        if log is None:
            raise NotFound(
                "this deployment has no such log",
                fields=[FieldViolation("origin", "must be the origin of a log of this deployment")],
            )
        return log

    async def listed(self) -> Sequence[KnownLog]:
        """Every log as it stands now, the first one first.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return await self._look()

    def base_url(self, known: KnownLog) -> str:
        """Where readers find a log."""
        if known.origin == self._origin:
            return self.first.base_url
        return known.base_url or f"{self.first.base_url}/logs/{known.origin}"

    async def successor(self, origin: str) -> str:
        """The origin of the log that goes on from another; empty where there is none."""
        origin = origin or self._origin
        return next((each.successor for each in await self._look() if each.origin == origin), "")

    async def check(self) -> None:
        """Raises what keeps the logs that are for everybody from taking entries.

        A log that is for some tenants only, or frozen, is its own matter: what is wrong with it is a metric, and told
        to those who write to it.
        """
        origins = list(self._logs)
        faults = await asyncio.gather(*(_fault(self._logs[origin]) for origin in origins))
        for origin, fault in zip(origins, faults, strict=True):
            _appendable.labels(origin).set(fault is None)
        for origin, fault in zip(origins, faults, strict=True):
            known = self._known.get(origin)
            if fault and (known is None or (known.state is LogState.OPEN and not known.tenants)):
                raise fault

    # --- at work

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The further logs at work for the length of a block, those that are opened meanwhile, too."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._running.append(tasks.create_task(self._watch()))
            try:
                yield
            finally:
                self._tasks = None
                for task in self._running:
                    task.cancel()

    async def _watch(self) -> NoReturn:
        while True:
            try:
                await self._look()
            except NotaryError as error:
                logger.debug("the logs cannot be listed", extra={"fields": {"reason": error.message}})
            await asyncio.sleep(_LOOK)

    async def _look(self) -> Sequence[KnownLog]:
        """Reads which logs there are, and begins those that are new."""
        found = await self._catalogue.logs()
        self._known = {each.origin: each for each in found}
        for each in found:
            if each.origin not in self._logs and self._tasks is not None:
                parts = self._assemble(each)
                self._logs[each.origin] = parts.log
                self._running.append(self._tasks.create_task(_keep(each.origin, parts)))
        return found


async def _keep(origin: str, parts: Parts) -> NoReturn:
    """Has a log at work. One that is not what it was when it was opened takes nothing; the others go on."""
    while True:
        try:
            async with parts.at_work():
                await asyncio.Event().wait()
        except WrongLog as error:
            logger.critical("a log is not served", extra={"fields": {"origin": origin, "reason": error.message}})
        await asyncio.sleep(_AGAIN)


async def _fault(log: TransparencyLog) -> NotaryError | None:
    try:
        await log.check()
    except NotaryError as error:
        return error
    return None


def _require_origin(origin: str) -> None:
    try:
        validate_origin(origin)
    except NoteError as error:
        raise InvalidArgument.field("origin", str(error)) from None
