"""The files of TLS while a process runs: looked at each second, taken when they are whole and go together.

What is spoilt changes nothing: what was read before goes on, and the log says why. Connections that stand are left
alone; new ones get what is new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from prometheus_client import Gauge

from afdp.errors import FailedPrecondition
from afdp.tls.material import Material, TlsError, TlsPaths, days_left, load_material

logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds

_expires = Gauge("afdp_tls_certificate_expires_timestamp_seconds", "When the service's own TLS certificate ends.")
_lists_due = Gauge("afdp_tls_revocation_list_due_timestamp_seconds", "When the first revocation list is overdue.")

_State = tuple[tuple[int, int, int] | None, ...]


class TlsSettings(Protocol):
    """What a service's settings say of TLS."""

    @property
    def tls_paths(self) -> TlsPaths | None: ...
    @property
    def tls_names(self) -> dict[str, tuple[str, ...]]: ...


class TlsFiles:
    """What the files hold now, and who wants to hear when they have changed."""

    def __init__(self, paths: TlsPaths, names: dict[str, tuple[str, ...]]) -> None:
        """Reads them.

        Raises:
            TlsError: they do not serve.
        """
        self._paths = paths
        self.names = names
        self._state = self._look()
        self.material: Material = load_material(paths)
        self._listeners: list[Callable[[Material], None]] = []
        self._owed: tuple[Callable[[Material], None], ...] = ()  # who has failed to take what there is now
        self._said: set[str] = set()  # reasons that the log has since all was well
        self._tell()

    @classmethod
    def of(cls, settings: TlsSettings) -> TlsFiles | None:
        """Those that the settings name; None where TLS is off.

        Raises:
            FailedPrecondition: they do not serve; begins with the setting's name.
        """
        if (paths := settings.tls_paths) is None:
            return None
        try:
            return cls(paths, settings.tls_names)
        except TlsError as error:
            raise FailedPrecondition(f"{paths.setting(error.path)}: {error}") from None

    def subscribe(self, listener: Callable[[Material], None]) -> Callable[[], None]:
        """Has it called, on the event loop, with what was read anew; gives what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await self._look_again()
            except Exception as error:  # no thread to be had, say; whatever it is, later lists are taken
                self._say_once("the files of TLS cannot be looked at", error)

    async def _look_again(self) -> None:
        if (found := await asyncio.to_thread(self._newer)) is not None:
            self.take(found)
        elif self._owed:
            self._hand_to(self._owed)

    def refresh(self) -> None:
        """Looks now; for who has no event loop."""
        if (found := self._newer()) is not None:
            self.take(found)

    def take(self, material: Material) -> None:
        """Goes on with this. Who fails to is asked again with each look: files may be short for a moment."""
        self.material = material
        self._tell()
        self._hand_to(tuple(self._listeners))

    def _hand_to(self, listeners: tuple[Callable[[Material], None], ...]) -> None:
        owed = []
        for listener in listeners:
            if listener not in self._listeners:
                continue
            try:
                listener(self.material)
            except Exception as error:  # of any library; the others, and what comes later, are taken
                owed.append(listener)
                self._say_once("what the files of TLS hold cannot be used", error)
        self._owed = tuple(owed)

    def _newer(self) -> Material | None:
        state = self._look()
        if state == self._state:
            if not self._owed:
                self._said.clear()
            return None
        try:
            found = load_material(self._paths)
        except Exception as error:  # whatever it was: read again with the next look
            self._say_once("the files of TLS have changed and do not serve", error)
            return None
        self._state = state
        return found if found != self.material else None

    def _say_once(self, what: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if reason not in self._said:
            self._said.add(reason)
            logger.error(what, extra={"fields": {"reason": reason}})

    def _look(self) -> _State:
        return tuple(_stamp(path) for path in self._paths.all())

    def _tell(self) -> None:
        _expires.set(self.material.expires.timestamp())
        fields = {"certificate_days": round(days_left(self.material.expires), 2)}
        if self.material.lists_due is not None:
            _lists_due.set(self.material.lists_due.timestamp())
            fields["revocation_list_days"] = round(days_left(self.material.lists_due), 2)
        level = logging.INFO if min(fields.values()) > 0 else logging.ERROR
        logger.log(level, "certificate and authorities read", extra={"fields": fields})


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@asynccontextmanager
async def open_tls(settings: TlsSettings) -> AsyncIterator[TlsFiles | None]:
    """The files that the settings name, looked at for as long as the context is open; None where TLS is off.

    Raises:
        FailedPrecondition: they do not serve.
    """
    files = TlsFiles.of(settings)
    if files is None:
        yield None
        return
    watch = asyncio.create_task(files.run())
    try:
        yield files
    finally:
        watch.cancel()
