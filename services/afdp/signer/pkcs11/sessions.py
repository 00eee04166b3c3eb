"""A token behind PKCS #11: a module that is loaded for threads, sessions on one token, and what to do when it goes.

    pool = SessionPool(TokenAccess(module=Path("/usr/lib/softhsm/libsofthsm2.so"), label="afdp", pin=pin))
    random = await pool.run(lambda session: session.raw.generate_random(256))

A session is used by one thread at a time, and logging in counts for all sessions of a process (PKCS #11 v3.1, 5.6.8).
A module knows the tokens that were there when it was initialised, so a token that went and came back is found by
initialising anew; that ends every session, and therefore waits for those in use.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

import pkcs11
from pkcs11 import _pkcs11, exceptions

from afdp.errors import FailedPrecondition, NotaryError, Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AWAY = 2.0  # seconds after which a caller may try again
_OPEN_EVERY = 1.0  # seconds between two attempts to find a token that is away
_OS_LOCKING_OK = 0x2  # CKF_OS_LOCKING_OK

_LOST = (
    exceptions.DeviceError,
    exceptions.DeviceRemoved,
    exceptions.FunctionFailed,
    exceptions.GeneralError,
    exceptions.KeyHandleInvalid,
    exceptions.NoSuchKey,  # SoftHSM2 finds nothing any more, without an error
    exceptions.ObjectHandleInvalid,
    exceptions.OperationActive,
    exceptions.SessionClosed,
    exceptions.SessionHandleInvalid,
    exceptions.SlotIDInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
)
_PIN = (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, exceptions.PinExpired)
_PIN_REFUSED = "the token refused the PIN; it is not tried again until it is another"


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """Which token, and how to be let in. Label or serial or both."""

    module: Path
    pin: Callable[[], str]  # read again at each login
    label: str | None = None
    serial: str | None = None
    sessions: int = 4
    timeout: float = 5.0  # seconds that one run may take, waiting for a session included


@dataclass(slots=True)
class TokenSession:
    """One session, logged in.

    Attributes:
        raw: python-pkcs11's session.
        objects: objects that were found with it, for as long as it lives. Their handles are this session's own.
    """

    raw: pkcs11.Session
    objects: dict[Any, Any] = field(default_factory=dict)


class SessionPool:
    """Sessions on one token. There can be one for a module in a process."""

    def __init__(self, access: TokenAccess) -> None:
        """Loads the module. The token itself is looked for by the first `run`, so that it may be away until then.

        Raises:
            FailedPrecondition: the module cannot be loaded.
        """
        self._access = access
        self._module = _Module(access.module)
        self._threads = _Threads(access.sessions)
        self._good = False  # whether the sessions are believed to work
        self._idle: list[TokenSession] = []
        self._busy = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._away: tuple[float, NotaryError] | None = None  # until when not to try again, and why
        self._refused_pin: str | None = None

    @property
    def size(self) -> int:
        """How many sessions there are."""
        return self._access.sessions

    async def run(self, function: Callable[[TokenSession], T], *, again: bool = True) -> T:
        """Runs a blocking function on a session, in a thread, and gives what it gives.

        Where the session or the token turns out to be gone, sessions are opened anew and the function runs once more;
        with `again=False`, for what must not happen twice, it does not. Errors of PKCS #11 that the function lets
        through come out as ours.

        Raises:
            Unavailable: the token is away, does not let us in, or does not answer in time.
            FailedPrecondition: the token refused what the function asked of it.
        """
        try:
            async with asyncio.timeout(self._access.timeout):
                try:
                    return await self._on_a_session(function)
                except exceptions.PKCS11Error as error:
                    if not (again and _is_lost(error)):
                        raise
                return await self._on_a_session(function)
        except exceptions.PKCS11Error as error:
            raise _translated(error) from error
        except TimeoutError:
            raise Unavailable("the token did not answer in time", retry_after=_AWAY) from None

    async def close(self) -> None:
        """Logs out and closes every session, once those in use are done; a token that hangs is left alone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._access.timeout):
                if self._opening is not None:
                    await self._opening
                await self._until(lambda: self._busy == 0)
                self._good = False
                await self._threads.run(self._module.end)
        self._threads.end()

    async def _on_a_session(self, function: Callable[[TokenSession], T]) -> T:
        while not (self._good and self._idle):
            if self._good:
                await self._until(lambda: bool(self._idle) or not self._good)
            else:
                await self._opened()
        session = self._idle.pop()
        self._busy += 1
        return await self._threads.run(function, session, done=lambda error: self._give_back(session, error))

    def _give_back(self, session: TokenSession, error: Exception | None) -> None:
        """Called when the thread lets go of the session, whatever became of the caller meanwhile."""
        self._busy -= 1
        self._idle.append(session)
        if error is not None and _is_lost(error):
            self._good = False
        self._wake()

    async def _opened(self) -> None:
        """Waits until sessions are open; callers share one attempt, and a failed one holds for a while."""
        if self._opening is None or self._opening.done():
            if self._away is not None and asyncio.get_running_loop().time() < self._away[0]:
                raise self._away[1]
            self._opening = asyncio.create_task(self._open(), name="open sessions on the token")
        await asyncio.shield(self._opening)
        if not self._good and self._away is not None:
            raise self._away[1]

    async def _open(self) -> None:
        await self._until(lambda: self._busy == 0)
        try:
            self._idle = await self._threads.run(self._log_in)
        except exceptions.PKCS11Error as error:
            refusal = _translated(error)
        except NotaryError as error:
            refusal = error
        else:
            self._good, self._away = True, None
            self._wake()
            return
        self._away = asyncio.get_running_loop().time() + _OPEN_EVERY, refusal
        self._wake()

    def _log_in(self) -> list[TokenSession]:
        pin = self._access.pin()
        if pin == self._refused_pin:  # a token locks itself after a few wrong ones
            raise Unavailable(_PIN_REFUSED, retry_after=_AWAY)
        serial = self._access.serial.encode() if self._access.serial else None
        token = self._module.begin().get_token(token_label=self._access.label, token_serial=serial)
        try:
            first = token.open(rw=True, user_pin=pin)
        except _PIN:
            self._refused_pin = pin
            raise
        more = [token.open(rw=True) for _ in range(self._access.sessions - 1)]
        logger.info("logged in to the token", extra={"fields": {"token": token.label, "sessions": len(more) + 1}})
        return [TokenSession(each) for each in (first, *more)]

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Module:
    """A PKCS #11 module: a shared library."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        functions = ctypes.POINTER(_FunctionList)()
        try:
            refused = ctypes.CDLL(self._path).C_GetFunctionList(ctypes.byref(functions))
        except (OSError, AttributeError):
            refused = True
        if refused:
            raise FailedPrecondition(f"AFDP_PKCS11_MODULE: {path} is not a PKCS #11 module of this machine")
        self._functions = functions.contents

    def begin(self) -> _pkcs11.lib:
        """Ends every session and looks at the slots again."""
        self.end()
        return _ThreadedLibrary(self._path)

    def end(self) -> None:
        """Ends every session; without effect where there is none."""
        self._functions.finalize(None)


class _ThreadedLibrary(_pkcs11.lib):
    """python-pkcs11's library, initialised for use by several threads.

    The package calls `C_Initialize(NULL)`, by which a module may do without locks (PKCS #11 v3.1, 5.4): SoftHSM2 then
    takes none, and hangs under two threads.
    """

    def initialize(self) -> None:
        """Called by the package, once."""
        functions = ctypes.POINTER(_FunctionList)()
        ctypes.CDLL(self.so).C_GetFunctionList(ctypes.byref(functions))
        arguments = _InitializeArguments(flags=_OS_LOCKING_OK)
        if code := functions.contents.initialize(ctypes.byref(arguments)):
            raise exceptions.GeneralError(f"C_Initialize: {code:#x}")


_Function = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)


class _InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = [
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    ]


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST."""

    _fields_ = [("version", ctypes.c_ubyte * 2), ("initialize", _Function), ("finalize", _Function)]


class _Threads:
    """Threads that run one blocking call after the other, and keep no process from ending."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = count
        for number in range(count):
            Thread(target=self._work, name=f"pkcs11-{number}", daemon=True).start()

    async def run(
        self, function: Callable[..., T], *arguments: Any, done: Callable[[Exception | None], None] | None = None
    ) -> T:
        """What a blocking call gives or raises. `done` is called on the loop in any case, when the thread is free."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if done is not None:
                done(error)
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(cast("T", result))

        def job() -> None:
            result, failed = None, None
            try:
                result = function(*arguments)
            except Exception as error:
                failed = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, failed)

        self._jobs.put(job)
        return await answer

    def end(self) -> None:
        """Lets each thread end after what it does now."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _is_lost(error: Exception) -> bool:
    """Whether a session, or the token itself, is no more. Modules differ in how they say it.

    An error that was meant otherwise costs new sessions and comes again. The base class is what the package raises for
    codes it has no class for, such as a maker's own.
    """
    return isinstance(error, _LOST) or type(error) is exceptions.PKCS11Error


def _translated(error: exceptions.PKCS11Error) -> NotaryError:
    # A module's own texts are its maker's: the log has the kind, callers get a sentence.
    logger.warning("the token refused or failed", extra={"fields": {"kind": type(error).__name__}})
    if isinstance(error, exceptions.NoSuchToken):
        return Unavailable("the token is not there", retry_after=_AWAY)
    if isinstance(error, exceptions.MultipleTokensReturned):
        return FailedPrecondition("more than one token has this label: set AFDP_PKCS11_TOKEN_SERIAL")
    if isinstance(error, _PIN):
        return Unavailable(_PIN_REFUSED, retry_after=_AWAY)
    if isinstance(error, exceptions.PinLocked):
        return Unavailable("the token's PIN is locked: its security officer has to set a new one", retry_after=_AWAY)
    if isinstance(error, exceptions.SessionCount):
        return Unavailable("the token allows fewer sessions: lower AFDP_PKCS11_SESSIONS", retry_after=_AWAY)
    if isinstance(error, exceptions.MechanismInvalid):
        return FailedPrecondition("the token does not have this mechanism")
    if isinstance(error, exceptions.NoSuchKey):
        return FailedPrecondition("the token has no such key")
    if _is_lost(error):
        return Unavailable("the token is away", retry_after=_AWAY)
    return FailedPrecondition(f"the token refused: {type(error).__name__}")
