"""Where rows of the audit trail wait on disk while they cannot go where they belong: one file, in order, bounded.

A row that was put here is on the disk, fsync and all. Rows go out in the order in which they came; the file is empty
again once all are. What was sent before a crash is sent again: rows are on record once however often they come.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from afdp.errors import FailedPrecondition

_NAMES = [f"audit-{number}.ndjson" for number in range(1, 33)]
_CHUNK = 1024 * 1024  # bytes that go out at once, or one row


class Spool:
    """One file, of one process. Its methods block: call them in a thread, one at a time."""

    def __init__(self, folder: Path, most: int) -> None:
        """`most` bytes.

        Raises:
            FailedPrecondition: the folder cannot be used.
        """
        self.most = most
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _taken(folder)
            _fsync(folder)
        except OSError as error:
            raise FailedPrecondition(
                f"the spool of the audit trail cannot be used: {folder}: {error.strerror}"
            ) from None
        self._sent = 0
        self.size = self._whole()

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return self.size - self._sent

    def append(self, rows: Sequence[bytes]) -> None:
        """Puts rows at the end.

        Raises:
            OSError: they are not there, be it for want of room.
        """
        data = b"".join(row + b"\n" for row in rows)
        if self.size + len(data) > self.most:
            raise OSError(28, "the spool of the audit trail is full")
        try:
            _write(self._file, data, self.size)
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def next(self, limit: int) -> tuple[list[bytes], int]:
        """The first rows that wait, and how many bytes they are."""
        data = os.pread(self._file, _CHUNK, self._sent)
        while data and b"\n" not in data:
            more = os.pread(self._file, _CHUNK, self._sent + len(data))
            if not more:
                break
            data += more
        rows = data[: data.rfind(b"\n") + 1].splitlines()[:limit]
        return rows, sum(len(row) + 1 for row in rows)

    def sent(self, size: int) -> None:
        """These bytes are where they belong."""
        self._sent += size
        if self._sent >= self.size:
            os.ftruncate(self._file, 0)
            self._sent = self.size = 0

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
        """Lets go of the file; what waits in it waits for whoever takes it next."""
        os.close(self._file)

    def _whole(self) -> int:
        """The bytes of whole rows; what a crash left of another one is cut off: nobody was told that it is here."""
        end = size = os.fstat(self._file).st_size
        while end:
            start = max(0, end - _CHUNK)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._file, end)
        return end


def _taken(folder: Path) -> int:
    """The first file that no other process has; of a process that ended the next one takes over what waits."""
    for name in _NAMES:
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return file
    raise OSError(16, "other processes use all of its files")


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
