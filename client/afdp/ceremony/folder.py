"""The ceremony's folder: everything but the keys may be copied around freely.

DIR/keys/          the offline keys that are kept here; they may be elsewhere
DIR/signed/        what the offline roles have signed, under the names that it is served under
DIR/draft/         what has not got all of its signatures yet
DIR/notary.json    what the notary said last: its keys, and the trust root that it would hand out
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from afdp.ceremony.notary import Notary, notary_json, read_notary
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.trust.offline import Offline, read_offline


class CeremonyFolder:
    """One repository's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys"
        self._signed, self._draft, self._notary = path / "signed", path / "draft", path / "notary.json"

    def require_new(self) -> None:
        """That nothing was signed here yet.

        Raises:
            FailedPrecondition: something was.
        """
        if self._signed.exists() or self._draft.exists():
            raise FailedPrecondition(f"{self.path} has a repository already: `afdp trust sign` goes on with it")

    def offline(self) -> Offline:
        """What was signed, verified.

        Raises:
            FailedPrecondition: nothing was, or it is damaged.
        """
        files = _read(self._signed)
        if not files:
            raise FailedPrecondition(f"{self.path} has no repository: `afdp trust init` begins one")
        try:
            return read_offline(files)
        except InvalidArgument as error:
            raise FailedPrecondition(f"{self._signed} is damaged: {error}") from error

    def keep(self, offline: Offline) -> None:
        """Keeps what was signed; a draft has served its purpose."""
        self.keep_signed(offline)
        self.discard()

    def keep_signed(self, offline: Offline) -> None:
        """Keeps what was signed, here or elsewhere."""
        stale = set(_read(self._signed)) - set(offline.files)
        _write(self._signed, offline.files)
        for name in stale:
            (self._signed / name).unlink()

    def draft(self) -> dict[str, bytes]:
        """What waits for signatures; nothing where nothing does."""
        return _read(self._draft)

    def keep_draft(self, files: Mapping[str, bytes]) -> None:
        """Keeps what waits for signatures."""
        _write(self._draft, files)

    def discard(self) -> None:
        """Forgets what waits for signatures."""
        if self._draft.exists():
            shutil.rmtree(self._draft)

    def notary(self) -> Notary:
        """What the notary said last.

        Raises:
            FailedPrecondition: it was never asked, or the file is damaged.
        """
        try:
            return read_notary(self._notary.read_bytes())
        except OSError as error:
            raise FailedPrecondition(f"{self._notary} cannot be read: {error.strerror}") from error
        except InvalidArgument as error:
            raise FailedPrecondition(f"{self._notary} is damaged: {error}") from error

    def keep_notary(self, notary: Notary) -> None:
        """Keeps what the notary said."""
        _write_whole(self._notary, notary_json(notary))


def _read(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Metadata last: it speaks of the others."""
    for name in sorted(files, key=lambda name: ("/" not in name, name)):
        _write_whole(folder / name, files[name])


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == data:
        return
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
