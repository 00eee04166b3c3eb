"""Reading what a command is given: small documents whole, large files as a hash, with a progress bar on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from afdp.cli.options import Unreadable

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
_CHUNK = 1024 * 1024
_LARGE = 64 * 1024 * 1024  # hashed in a tenth of a second: below that nobody waits

Report = Callable[[int, int | None], None]
"""Called with how much is done and how much there is in all, where that is known."""


def read_document(path: str) -> bytes:
    """A JSON or YAML document; `-` is standard input."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Unreadable(f"{path}: is larger than {MAX_DOCUMENT_BYTES} bytes")
    return data


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is either there whole or as it was before."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write: once the body has ended without an error it is there whole, else it is as it was before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~umask())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


def umask() -> int:
    """The bits that new files of this process do not get."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def hash_files(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file's bytes, in hex."""
    try:
        total = sum(path.stat().st_size for path in paths)
        with progress("hashing", shown=total >= _LARGE) as report:
            return _hashes(paths, total, report)
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from error


def _hashes(paths: Sequence[Path], total: int, report: Report) -> dict[Path, str]:
    hashes, done = {}, 0
    for path in paths:
        digest = sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                report(done, total)
        hashes[path] = digest.hexdigest()
    return hashes


@contextmanager
def progress(what: str, *, shown: bool = True, in_bytes: bool = True) -> Iterator[Report]:
    """A progress bar on standard error, if that is a terminal; the body calls what it gets."""
    if not shown or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn(what), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
