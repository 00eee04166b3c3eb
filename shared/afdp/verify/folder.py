"""The trust root as a folder of files."""

from __future__ import annotations

import os
import time
from pathlib import Path

from afdp.errors import InvalidArgument
from afdp.formats.trust import REQUIRED_FILES, TSA_PEM, TrustRoot, read_trust_files

_MAX_FILE_BYTES = 16 * 1024 * 1024
_BETWEEN_FILES = 0.05  # seconds


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
    except InvalidArgument:
        time.sleep(_BETWEEN_FILES)  # somebody may be writing the folder just now, one whole file after the other
        return read_trust_files(_read(folder))


def _read(folder: Path) -> dict[str, bytes]:
    files = {}
    for path in (*(folder / name for name in (*REQUIRED_FILES, TSA_PEM)), *sorted((folder / "keys").glob("*.pem"))):
        if path.is_file():
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise InvalidArgument.field(path.name, f"is larger than {_MAX_FILE_BYTES} bytes")
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files
