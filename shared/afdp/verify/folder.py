"""The trust root as a folder of files."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from afdp.errors import InvalidArgument
from afdp.formats.trust import REQUIRED_FILES, TSA_PEM, TrustRoot, read_trust_files

_MAX_FILE_BYTES = 16 * 1024 * 1024
_BETWEEN_LOOKS = 0.05  # seconds


def default_trust_folder() -> Path:
    """Where a user keeps it: `afdp/trust` in the user's configuration (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "afdp" / "trust"


def load_trust(folder: Path) -> TrustRoot:
    """Reads a trust root from the folder that `afdp trust export` or `afdp trust update` wrote.

    Raises:
        InvalidArgument: a file is missing or wrong, or two files disagree; the file is named.
        OSError: a file cannot be read.
    """
    try:
        return read_trust_files(_read(folder))
    except (InvalidArgument, FileNotFoundError):
        time.sleep(_BETWEEN_LOOKS)  # somebody may just have put another folder there, or be writing its files
        return read_trust_files(_read(folder))


def _read(folder: Path) -> dict[str, bytes]:
    """Its files, all of one folder: another that is put in its place meanwhile is not looked at."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = [*REQUIRED_FILES, TSA_PEM, *_key_names(opened)]
        found = [(name, _content(opened, name)) for name in names]
    finally:
        os.close(opened)
    return {name: data for name, data in found if data is not None}


def _key_names(folder: int) -> list[str]:
    try:
        keys = os.open("keys", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return sorted(f"keys/{name}" for name in os.listdir(keys) if name.endswith(".pem"))
    finally:
        os.close(keys)


def _content(folder: int, name: str) -> bytes | None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)  # or a pipe would hold us up
    except FileNotFoundError:
        return None
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        data = opened.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidArgument.field(name.rpartition("/")[2], f"is larger than {_MAX_FILE_BYTES} bytes")
    return data
