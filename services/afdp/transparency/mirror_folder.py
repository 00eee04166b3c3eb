"""A mirror in a folder, for a web server beside it or for what copies folders."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from afdp.errors import FailedPrecondition, NotaryError, Unavailable

T = TypeVar("T")

_UNFINISHED = ".new"


class FolderSink:
    """Files are written beside their place and moved there: a reader, and a crash, finds a whole one or none."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read(self, path: str) -> bytes | None:
        """A file of the mirror."""
        return await _in_thread(lambda: _read(self._root / path))

    async def write(self, path: str, data: bytes) -> None:
        """A file in the place of the one that was there."""
        await _in_thread(lambda: _write(self._root / path, data))

    async def write_once(self, path: str, data: bytes) -> None:
        """A file that never changes."""

        def work() -> None:
            if _read(self._root / path) != data:
                _write(self._root / path, data)

        await _in_thread(work)

    async def remove_under(self, path: str) -> None:
        """A folder of the mirror."""
        await _in_thread(lambda: shutil.rmtree(self._root / path, ignore_errors=True))


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise _translated(error) from None


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}{_UNFINISHED}")
    with unfinished.open("wb") as written:
        written.write(data)
        written.flush()
        os.fsync(written.fileno())
    unfinished.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _translated(error: OSError) -> NotaryError:
    if isinstance(error, PermissionError):
        return FailedPrecondition("the mirror's folder may not be written to")
    return Unavailable(f"the mirror's folder cannot be used: {error.strerror}", retry_after=5.0)
