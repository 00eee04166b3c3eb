"""Small files: written so that each is either the old one or the new one, whatever crashes; read only where private."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from afdp.errors import FailedPrecondition


def write_durably(path: Path, data: bytes, mode: int = 0o600, *, scratch: Path | None = None) -> None:
    """Replaces a file's content; when this returns it survives a crash. The folder must exist.

    It is written beside the file, or in the folder `scratch` of the same file system, and renamed.

    Raises:
        OSError: the disk refuses; the old content stands.
    """
    fresh = (scratch or path.parent) / f"{path.name}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes every byte: a disk that is almost full takes a part, and says so only to who asks for the rest."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(path: Path) -> None:
    """What was made, renamed or removed in the folder survives a crash once this returns."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_folder(path: Path) -> Path:
    """The folder, made if need be, for its owner only."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def read_private(path: Path) -> bytes:
    """A file's content.

    Raises:
        FailedPrecondition: it cannot be read, or may be read or changed by others.
    """
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise FailedPrecondition(f"{path} may be read or changed by others: chmod 600 it")
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None


def read_passphrase(path: Path, *, make: bool) -> bytes:
    """The passphrase that encrypts what stands on disk; with `make`, a random one is written where there is none.

    Raises:
        FailedPrecondition: it cannot be read, may be read by others, or is empty.
    """
    if make and not path.exists():
        private_folder(path.parent)
        write_durably(path, secrets.token_urlsafe(32).encode())
    passphrase = read_private(path).strip()
    if not passphrase:
        raise FailedPrecondition(f"{path} is empty: it must hold the passphrase of the key files")
    return passphrase
