"""A file that is appended to, a line an event, for a collector that follows it.

It keeps its name: what is full is renamed to `NAME.1`, and what had that name to `NAME.2`. A line that a crash has cut
off is ended before the next one is written; its event is written again, whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from afdp.audit.event import RecordedEvent
from afdp.metadata.sinks.formats import FORMATS
from afdp.metadata.sinks.settings import FileSettings
from afdp.metadata.sinks.sink import OwnThread, SinkError

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o640
_MIB = 1024 * 1024


class FileSink:
    """A file, opened for each batch."""

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        self._thread = OwnThread(f"file {settings.name}")
        self._form = FORMATS[settings.format]

    async def deliver(self, events: Sequence[RecordedEvent]) -> None:
        """As `Sink.deliver`: the disk has them then."""
        await self._thread.run(lambda: self._named(events), self._settings.timeout_seconds)

    async def probe(self) -> str:
        """As `Sink.probe`: makes no file."""
        return await self._thread.run(self._look, self._settings.timeout_seconds)

    def _named(self, events: Sequence[RecordedEvent]) -> None:
        path, lines = self._settings.path, b"".join(self._form(event) + b"\n" for event in events)
        try:
            self._append(path, lines)
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}") from None

    def _append(self, path: Path, lines: bytes) -> None:
        if _size(path) >= self._settings.rotate_bytes:
            self._rotate(path)
        file = os.open(path, _FLAGS, _MODE)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise SinkError(f"{path} is no file")
            if found.st_size and not _ends_a_line(path, found.st_size):
                lines = b"\n" + lines
            left = memoryview(lines)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        if not found.st_size:
            _sync_folder(path.parent)

    def _rotate(self, path: Path) -> None:
        """The oldest goes, the others are renamed, newest last: each but the oldest is there throughout."""
        for number in range(self._settings.keep - 1, 0, -1):
            older = _numbered(path, number)
            if older.exists():
                older.replace(_numbered(path, number + 1))
        path.replace(_numbered(path, 1))
        _sync_folder(path.parent)

    def _look(self) -> str:
        path = self._settings.path
        if path.exists():
            if not path.is_file() or path.is_symlink():
                raise SinkError(f"{path} is no file")
            if not os.access(path, os.W_OK):
                raise SinkError(f"{path} cannot be written by this user")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise SinkError(f"{path.parent} is no folder in which this user may make files")
        usage = os.statvfs(path.parent)
        return f"{path} can be written, {usage.f_bavail * usage.f_frsize // _MIB} MiB are free"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _ends_a_line(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
