"""The memory of what was signed last for each online role of the trust root: one small file per role.

It is what keeps whoever controls the notary from having an older state of the trust root signed again. The file is the
signed metadata's own text.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from afdp.errors import DataLoss, NotaryError, Unavailable
from afdp.formats.repository import ONLINE_ROLES
from afdp.signer.disk import private_folder, write_durably
from afdp.signer.trust_metadata import OnlineMetadata, read_online_metadata


class TrustMemory:
    """Keeps the newest metadata of each role."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there.

        Raises:
            DataLoss: a file is there and cannot be read as its role's metadata. Restore it; removing it would let an
                older state of the trust root be signed.
        """
        self._folder = private_folder(folder)
        self._last = {role: _read(self._path(role), role) for role in ONLINE_ROLES}

    def last(self, role: str) -> OnlineMetadata | None:
        """The metadata that was kept last."""
        return self._last[role]

    async def keep(self, metadata: OnlineMetadata) -> None:
        """Keeps metadata; it survives a crash once this returns.

        Raises:
            Unavailable: the disk refuses; nothing was kept.
        """
        try:
            await asyncio.to_thread(write_durably, self._path(metadata.role), metadata.signed)
        except OSError as error:
            raise Unavailable("the signer cannot write its memory of trust metadata", retry_after=5.0) from error
        self._last[metadata.role] = metadata

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.json"


def _read(path: Path, role: str) -> OnlineMetadata | None:
    if not path.exists():
        return None
    try:
        found = read_online_metadata(path.read_bytes())
    except NotaryError as error:
        raise DataLoss(f"{path} is not trust metadata; restore it, do not remove it: {error}") from error
    if found.role != role:
        raise DataLoss(f"{path} is metadata of {found.role}; restore it, do not remove it")
    return found
