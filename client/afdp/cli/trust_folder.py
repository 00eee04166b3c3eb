"""The folder of a trust root, written as one: whoever reads it sees all of the old one or all of the new one.

A new folder is made beside it, synced, and exchanged with it in one step (renameat2(2), RENAME_EXCHANGE). Where that
cannot be, as for a mount point, or must not, as for a folder that has other things in it or that we stand in, the files
are written one by one: each whole, keys before what speaks of them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from afdp.cli.files import umask, write_whole
from afdp.cli.options import Unreadable
from afdp.cli.output import reasons
from afdp.errors import InvalidArgument
from afdp.formats.repository import ROOT_FILE
from afdp.formats.trust import KEYS, LOG_VKEY, REQUIRED_FILES, TRUSTED_ROOT, TSA_PEM, TrustRoot
from afdp.verify.folder import load_trust

STATE = "tuf"
"""Where a folder that follows a repository remembers what it saw (`update.py`)."""

_LAST = (LOG_VKEY, TSA_PEM, KEYS, TRUSTED_ROOT)  # after the keys that they speak of
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
# Another file system, a mount point, a parent that is not ours to write, a kernel or file system without exchanging.
_CANNOT = {errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def read_folder(folder: Path) -> TrustRoot | None:
    """The trust root that is in a folder; None where there is none."""
    if not (folder / TRUSTED_ROOT).exists():
        return None
    try:
        return load_trust(folder)
    except (InvalidArgument, OSError) as error:
        why = reasons(error) if isinstance(error, InvalidArgument) else error.strerror
        raise Unreadable(f"{folder} has a trust root that cannot be read: {why} (see --replace)") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else changes the folder meanwhile, so that what was compared with it is what is replaced.

    A folder that is not there yet has no lock.
    """
    try:
        held = _locked(folder)
    except OSError:  # it is not there, or its file system knows no locks
        held = None
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def write_folder(folder: Path, files: Mapping[str, bytes], *, forget: bool = False) -> None:
    """Writes a trust root's files in place of those that are there; other files of the folder stay.

    With `forget`, what was seen of a repository goes.

    Raises:
        Unreadable: something cannot be written; the folder is as it was.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if _exchanged(folder, files, forget=forget):
            return
    except OSError as error:
        raise Unreadable(f"{error.filename or folder}: {error.strerror}") from error
    if forget:
        shutil.rmtree(folder / STATE, ignore_errors=True)
    for name in sorted(files, key=lambda name: (name.startswith(STATE), name in _LAST, name)):
        write_whole(folder / name, files[name])


def _locked(folder: Path) -> int:
    while True:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(held), folder.stat()):
                return held
        except BaseException:
            os.close(held)
            raise
        os.close(held)  # somebody has put another folder there meanwhile: that one is to be locked


def _exchanged(folder: Path, files: Mapping[str, bytes], *, forget: bool) -> bool:
    """Whether the folder could be replaced as a whole."""
    if not _is_ours(folder, files):
        return False
    try:
        fresh = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    try:
        _fill(fresh, folder, files, forget=forget)
        return _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # what was there before, or what could not be put there


def _is_ours(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether nothing but a trust root is in the folder, and nobody is in it who started us."""
    if not folder.exists():
        return True
    names = {name.partition("/")[0] for name in files} | {STATE, ROOT_FILE, *REQUIRED_FILES, TSA_PEM}
    return names >= set(os.listdir(folder)) and not Path.cwd().is_relative_to(folder)


def _fill(fresh: Path, folder: Path, files: Mapping[str, bytes], *, forget: bool) -> None:
    if folder.exists():
        gone = shutil.ignore_patterns(STATE) if forget else None
        shutil.copytree(folder, fresh, ignore=gone, symlinks=True, dirs_exist_ok=True)
        fresh.chmod(stat.S_IMODE(folder.stat().st_mode))
    else:
        fresh.chmod(0o777 & ~umask())
    for name, data in files.items():
        write_whole(fresh / name, data)
    for path in (fresh, *(each for each in fresh.rglob("*") if each.is_dir())):
        _sync(path)


def _put_in_place(fresh: Path, folder: Path) -> bool:
    try:
        if folder.exists():
            _exchange(fresh, folder)
        else:
            fresh.rename(folder)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    _sync(folder.parent)
    return True


def _exchange(one: Path, other: Path) -> None:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(file)
    finally:
        os.close(file)
