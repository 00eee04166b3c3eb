"""The memory of what was signed last for each log: one small file per origin, outside the log's own database.

It is what keeps a forked or rolled-back log from ever getting a signature. The file is the checkpoint's own text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from afdp.errors import DataLoss, ResourceExhausted, Unavailable
from afdp.formats.note import Checkpoint, NoteError
from afdp.signer.disk import private_folder, write_durably
from afdp.signer.origins import signs_for

MOST = 4096  # logs; what opens more is not an operator


class CheckpointGuard:
    """Keeps the largest checkpoint of each origin."""

    def __init__(self, folder: Path, origins: Sequence[str]) -> None:
        """Reads what is there of these origins (`*.domain`: of all under the domain).

        Raises:
            DataLoss: a file is there and cannot be read as its origin's checkpoint. Restore it; removing it would let
                a forked log be signed.
        """
        self._folder = private_folder(folder)
        self._scratch = private_folder(folder / "scratch")
        kept = {path.name for path in folder.iterdir() if path.is_file() and signs_for(origins, path.name)}
        self._last = {origin: _read(self._path(origin), origin) for origin in sorted(kept)}

    @property
    def kept(self) -> Sequence[Checkpoint]:
        """The largest checkpoint of each origin that has one."""
        return list(self._last.values())

    def last(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint that was kept."""
        return self._last.get(origin)

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint; it survives a crash once this returns.

        Raises:
            Unavailable: the disk refuses; nothing was kept.
            ResourceExhausted: there are `MOST` logs already.
        """
        if checkpoint.origin not in self._last and len(self._last) >= MOST:
            raise ResourceExhausted(f"checkpoints of {MOST} logs are remembered: no further log is signed")
        path = self._path(checkpoint.origin)
        try:
            await asyncio.to_thread(write_durably, path, checkpoint.body().encode(), scratch=self._scratch)
        except OSError as error:
            raise Unavailable("the signer cannot write its memory of checkpoints", retry_after=5.0) from error
        self._last[checkpoint.origin] = checkpoint

    def _path(self, origin: str) -> Path:
        return self._folder / origin


def _read(path: Path, origin: str) -> Checkpoint:
    try:
        found = Checkpoint.parse(path.read_text())
    except (NoteError, UnicodeDecodeError) as error:
        raise DataLoss(f"{path} is not a checkpoint; restore it, do not remove it: {error}") from error
    if found.origin != origin:
        raise DataLoss(f"{path} is a checkpoint of {found.origin}; restore it, do not remove it")
    return found
