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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import NoReturn, Protocol

from prometheus_client import Gauge

from afdp.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound
from afdp.formats.note import NoteError, validate_origin
from afdp.formats.tenant import TENANT_RULE, is_tenant
from afdp.transparency.service import CheckpointSigner, TransparencyLog
from afdp.transparency.values import KnownLog, LogIdentity, LogState, NewLog, WrongLog

logger = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks for logs that were opened
_AGAIN = 30.0  # seconds after which a log that is not what it was is tried again

_AT_A_TIME = 8  # logs that are looked at with each check, beside those that are for everybody

_appendable = Gauge("afdp_log_appendable", "Whether the log takes entries, or would if it were not frozen.", ["log"])


class Catalogue(Protocol):
    """Where it stands which logs there are: `postgres_logs.py`."""

    async def logs(self) -> Sequence[KnownLog]:
        """Every log, in the order in which they were opened. Raises Unavailable while it cannot be reached."""

    async def open(
        self, identity: LogIdentity, decide: Callable[[Sequence[KnownLog]], NewLog | None]
    ) -> Sequence[KnownLog]:
        """Opens the log that `decide` makes of those that are there, one opener at a time; gives all of them then."""

    async def freeze(self, origin: str) -> None:
        """Freezes a log, under the lock that all who append to it take. One that is frozen stays as it is."""


class Parts(Protocol):
    """What one log is made of: `parts.py`."""

    @property
    def log(self) -> TransparencyLog:
        """The log."""

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """Its writer and what else works for it, for the length of a block. Raises WrongLog."""


async def open_log(catalogue: Catalogue, signer: CheckpointSigner, new: NewLog) -> KnownLog:
    """Opens a log, with the signer's key pinned to it. May be repeated.

    Raises:
        InvalidArgument: it cannot be opened like this; the field is named.
        PermissionDenied: the signer does not sign checkpoints of this origin.
        FailedPrecondition: the signer has signed a log of this origin before, or the first log is not there yet.
        Unavailable: the signer or the database cannot be reached.
    """
    _require_origin(new.origin)
    last = await signer.last(new.origin)
    identity = LogIdentity(new.origin, await signer.public_key(new.origin))

    def decide(known: Sequence[KnownLog]) -> NewLog | None:
        if any(_is_same(each, new) for each in known):
            return None
        opened = _openable(known, new)
        if last is not None:
            raise FailedPrecondition(
                f"the signer has signed {last.size} entries of a log {new.origin} before: choose another origin, or "
                "restore the database that holds it"
            )
        return opened

    return next(each for each in await catalogue.open(identity, decide) if each.origin == new.origin)


async def freeze_log(catalogue: Catalogue, origin: str) -> KnownLog:
    """Freezes a log for ever: nothing is appended to it from now on, by no replica. May be repeated.

    Raises:
        NotFound: there is no such log.
        Unavailable: the database cannot be reached.
    """
    for _ in range(2):
        known = next((each for each in await catalogue.logs() if each.origin == origin), None)
        if known is None:
            raise _not_found()
        if known.frozen_at is not None:
            return known
        await catalogue.freeze(origin)
    return next(each for each in await catalogue.logs() if each.origin == origin)


def base_url(known: KnownLog, of_first: str) -> str:
    """Where readers find a log, from where they find the first one."""
    return known.base_url or (of_first if known.opened_at is None else f"{of_first}/logs/{known.origin}")


class Logs:
    """Every log of this deployment, by its origin."""

    def __init__(
        self,
        origin: str,
        first: TransparencyLog,
        catalogue: Catalogue,
        assemble: Callable[[KnownLog], Parts],
        declare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """The logs of a catalogue.

        Args:
            origin: that of the settings.
            first: the log of this origin; whoever made it has it at work.
            catalogue: of all.
            assemble: makes a further one.
            declare: opens those of the settings that are not there yet; called until it does not raise.
        """
        self._declare = declare
        self._said: dict[str, str] = {}
        self._turn = 0
        self.first = first
        self._origin = origin
        self._catalogue = catalogue
        self._assemble = assemble
        self._logs = {origin: first}
        self._begun: dict[str, asyncio.Event] = {}
        self._known: Mapping[str, KnownLog] = {}
        self._running: list[asyncio.Task[NoReturn]] = []
        self._context = copy_context()

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
        if origin in self._begun:
            await self._begun[origin].wait()
        return self.known(origin)

    def known(self, origin: str) -> TransparencyLog:
        """The log of an origin, as far as it was noticed.

        Raises:
            NotFound: there is no such log.
        """
        log = self._logs.get(origin)
        if log is None:
            raise _not_found()
        return log

    async def listed(self) -> Sequence[KnownLog]:
        """Every log as it stands now, the first one first.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return await self._look()

    async def seen(self) -> Sequence[KnownLog]:
        """Every log as it was noticed last, a moment ago: that costs nothing.

        Raises:
            Unavailable: none was noticed yet, and the database cannot be reached.
        """
        return tuple(self._known.values()) or await self._look()

    def base_url(self, known: KnownLog) -> str:
        """Where readers find a log."""
        return base_url(known, self.first.base_url)

    async def successor(self, origin: str) -> str:
        """The origin of the log that goes on from another; empty where there is none."""
        origin = origin or self._origin
        return next((each.successor for each in await self._look() if each.origin == origin), "")

    async def check(self) -> None:
        """Raises what keeps the logs that are for everybody from taking entries.

        A log that is for some tenants only, or frozen, is its own matter: what is wrong with it is a metric, and told
        to those who write to it.
        """
        origins = self._to_check()
        faults = await asyncio.gather(*(_fault(self._logs[origin]) for origin in origins))
        for origin, fault in zip(origins, faults, strict=True):
            _appendable.labels(origin).set(fault is None)
        for origin, fault in zip(origins, faults, strict=True):
            if fault and self._is_for_all(origin):
                raise fault

    def _to_check(self) -> list[str]:
        """Those that are for everybody, and a few others in turn: hundreds must not be asked for each second."""
        for_all = [origin for origin in self._logs if self._is_for_all(origin)]
        others = [origin for origin in self._logs if origin not in for_all]
        turn, self._turn = self._turn, self._turn + _AT_A_TIME
        return for_all + [others[(turn + at) % len(others)] for at in range(min(_AT_A_TIME, len(others)))]

    def _is_for_all(self, origin: str) -> bool:
        known = self._known.get(origin)
        return known is None or (known.state is LogState.OPEN and not known.tenants)

    # --- at work

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The further logs at work for the length of a block, those that are opened meanwhile, too."""
        self._context = copy_context()
        self._running = [asyncio.create_task(self._watch())]
        try:
            yield
        finally:
            ending, self._running = self._running, []
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _watch(self) -> NoReturn:
        while True:
            if self._declare and await self._attempt("the logs of the settings cannot be opened", self._declare):
                self._declare = None
            await self._attempt("the logs cannot be looked for", self._look)
            await asyncio.sleep(_LOOK)

    async def _attempt(self, fault: str, step: Callable[[], Awaitable[object]]) -> bool:
        """Whether a step went well; what keeps it from that is said once."""
        try:
            await step()
        except Exception as error:  # a fault of ours must not end the watch: logs are opened after it
            said, self._said[fault] = self._said.get(fault), str(error)
            if said == str(error):
                return False
            if isinstance(error, NotaryError):
                logger.warning(fault, extra={"fields": {"reason": error.message}})
            else:
                logger.exception(fault)
            return False
        self._said.pop(fault, None)
        return True

    async def _look(self) -> Sequence[KnownLog]:
        """Reads which logs there are, and begins those that are new."""
        found = await self._catalogue.logs()
        self._known = {each.origin: each for each in found}
        for each in found:
            if each.origin not in self._logs and self._running:
                await self._attempt(f"the log {each.origin} cannot be put together", partial(self._begin, each))
        return found

    async def _begin(self, known: KnownLog) -> None:
        parts, begun = self._assemble(known), asyncio.Event()
        self._logs[known.origin], self._begun[known.origin] = parts.log, begun
        # In a context of its own: a request that found the log has a deadline, which is not the log's.
        task = asyncio.create_task(_keep(known.origin, parts, begun), context=self._context.copy())
        self._running.append(task)


async def _keep(origin: str, parts: Parts, begun: asyncio.Event) -> NoReturn:
    """Has a log at work; the first attempt to open it was made once `begun` is set.

    One that is not what it was when it was opened takes nothing; the others go on.
    """
    while True:
        try:
            async with parts.at_work():
                begun.set()
                await asyncio.Event().wait()
        except WrongLog as error:
            logger.critical("a log takes nothing", extra={"fields": {"origin": origin, "reason": error.message}})
        except Exception:  # a fault of ours must cost this log a while, not all logs their end
            logger.exception("a log ended unexpectedly")
        begun.set()
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


def _not_found() -> NotFound:
    violation = FieldViolation("origin", "must be the origin of a log of this deployment")
    return NotFound("this deployment has no such log", fields=[violation])


def _is_same(known: KnownLog, new: NewLog) -> bool:
    tenants = known.tenants if new.predecessor else new.tenants
    return (known.origin, known.tenants, known.predecessor) == (new.origin, tenants, new.predecessor)


def _openable(known: Sequence[KnownLog], new: NewLog) -> NewLog:
    """The log as it may be opened: a successor takes the tenants of its predecessor.

    Raises:
        InvalidArgument: it may not; the field is named.
        FailedPrecondition: the first log is not there yet.
    """
    logs = {each.origin: each for each in known}
    if not logs:
        raise FailedPrecondition("the first log is not there yet: start the service, and open further ones then")
    if new.origin in logs:
        raise InvalidArgument.field("origin", "is that of another log of this deployment, opened with other options")
    if bool(new.tenants) == bool(new.predecessor):
        raise InvalidArgument.field("tenants", "must be named, or the log that it goes on from: one of the two")
    if new.predecessor:
        return replace(new, tenants=_require_successible(logs, new.predecessor).tenants)
    for tenant in new.tenants:
        if not is_tenant(tenant):
            raise InvalidArgument.field("tenants", f"each {TENANT_RULE}")
        if holder := next((each for each in known if tenant in each.tenants), None):
            raise InvalidArgument.field("tenants", f"must have no log yet: {tenant} has {holder.origin}")
    return new


def _require_successible(logs: Mapping[str, KnownLog], origin: str) -> KnownLog:
    if origin not in logs:
        raise InvalidArgument.field("successor_of", "must be the origin of a log of this deployment")
    if logs[origin].successor:
        raise InvalidArgument.field("successor_of", f"must have no successor yet: it has {logs[origin].successor}")
    return logs[origin]
