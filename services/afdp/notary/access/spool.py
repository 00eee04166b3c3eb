"""Where rows of the audit trail wait on disk while they cannot go where they belong: in order, bounded.

A row that was put here is on the disk, fsync and all. Rows go out in the order in which they came. They lie in files of
some megabytes, and one that is sent is removed, so that the room of what has gone is there for what comes. What was
sent before a crash is sent again: rows are on record once however often they come.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock

from afdp.errors import FailedPrecondition

_NAME = re.compile(r"audit-([0-9]{1,9})\.ndjson")
_CHUNK = 1024 * 1024  # bytes that go out at once, or one row
_FILES = 8  # that a spool which is full lies in, at least
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class _File:
    """One file, locked while this process has it; `size` bytes of whole rows, of which `sent` have gone out."""

    path: Path
    handle: int
    size: int
    sent: int = 0


class Spool:
    """The files of one process. Its methods block: call them in threads. One at a time goes on, whoever calls."""

    def __init__(self, folder: Path, most: int) -> None:
        """`most` bytes. What processes left there that have ended goes out first.

        Raises:
            FailedPrecondition: the folder cannot be used.
        """
        self.most = most
        self._folder = folder
        self._lock = Lock()
        self._files: deque[_File] = deque()
        """The oldest first; to the last one rows are added."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.extend(_left(folder))
            self._files.append(_new(folder))
        except OSError as error:
            raise FailedPrecondition(
                f"the spool of the audit trail cannot be used: {folder}: {error.strerror}"
            ) from None
        self.waiting = sum(each.size for each in self._files)
        """Bytes that wait."""

    def append(self, rows: Sequence[bytes]) -> None:
        """Puts rows at the end.

        Raises:
            OSError: they are not there, be it for want of room.
        """
        data = b"".join(row + b"\n" for row in rows)
        with self._lock:
            if sum(each.size for each in self._files) + len(data) > self.most:
                raise OSError(28, "the spool of the audit trail is full")
            file = self._files[-1]
            if file.size and file.size + len(data) > self.most // _FILES:
                file = _new(self._folder)
                self._files.append(file)
            try:
                _write(file.handle, data, file.size)
                os.fdatasync(file.handle)
            except OSError:
                os.ftruncate(file.handle, file.size)
                raise
            file.size += len(data)
            self.waiting += len(data)

    def next(self, limit: int) -> tuple[list[bytes], int]:
        """The first rows that wait, and how many bytes they are."""
        with self._lock:
            file = self._files[0]
            data = os.pread(file.handle, min(_CHUNK, file.size - file.sent), file.sent)
            while data and b"\n" not in data:
                more = os.pread(file.handle, _CHUNK, file.sent + len(data))
                if not more:
                    break
                data += more
        rows = data[: data.rfind(b"\n") + 1].splitlines()[:limit]
        return rows, sum(len(row) + 1 for row in rows)

    def sent(self, size: int) -> None:
        """These bytes, which `next` gave, are where they belong."""
        with self._lock:
            file = self._files[0]
            file.sent += size
            self.waiting -= size
            if file.sent < file.size:
                return
            if len(self._files) > 1:
                self._files.popleft()
                file.path.unlink()
                os.close(file.handle)
            else:
                os.ftruncate(file.handle, 0)
                file.sent = file.size = 0

    def keep_refused(self, row: bytes) -> None:
        """Keeps a row that belongs nowhere, for whoever looks into it: in `refused.ndjson`, while there is room."""
        path = self._folder / "refused.ndjson"
        with suppress(OSError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.fstat(file).st_size + len(row) < self.most:
                    os.write(file, row + b"\n")
                    os.fsync(file)
            finally:
                os.close(file)

    def close(self) -> None:
        """Lets go of the files; what waits in them waits for whoever takes them next."""
        with self._lock:
            for file in self._files:
                os.close(file.handle)
            self._files.clear()


def _left(folder: Path) -> Iterator[_File]:
    """The files that no process has any more and that hold something; empty ones are removed."""
    for number in sorted(_numbers(folder)):
        path = folder / f"audit-{number}.ndjson"
        with suppress(FileNotFoundError):
            file = _taken(path, os.open(path, _FLAGS))
            if file is not None and file.size:
                yield file
            elif file is not None:
                path.unlink()
                os.close(file.handle)


def _new(folder: Path) -> _File:
    """A file behind all that are there."""
    for number in count(max(_numbers(folder), default=0) + 1):
        path = folder / f"audit-{number}.ndjson"
        with suppress(FileExistsError):
            file = _taken(path, os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600))
            if file is not None:
                _fsync(folder)
                return file
    raise AssertionError("numbers do not end")


def _taken(path: Path, handle: int) -> _File | None:
    """A file, once it is this process's; None where another one has it, or has removed it meanwhile."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    if not os.fstat(handle).st_nlink:
        os.close(handle)
        return None
    return _File(path, handle, _whole(handle))


def _numbers(folder: Path) -> list[int]:
    return [int(match[1]) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]


def _whole(handle: int) -> int:
    """The bytes of whole rows; what a crash left of another one is cut off: nobody was told that it is here."""
    end = size = os.fstat(handle).st_size
    while end:
        start = max(0, end - _CHUNK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(handle, end)
    return end


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
