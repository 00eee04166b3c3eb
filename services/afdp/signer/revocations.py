"""Which key versions are revoked, in one JSON file. A revocation is never taken back."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from afdp.errors import DataLoss, Unavailable
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.disk import write_durably
from afdp.signer.keys import Revocation


class Revocations:
    """The list and its file."""

    def __init__(self, path: Path) -> None:
        """Reads what is there.

        Raises:
            DataLoss: the file is there and cannot be read.
        """
        self._path = path
        self._lock = asyncio.Lock()
        self._revoked = _read(path)

    def of(self, key_id: str) -> Revocation | None:
        """The revocation of a version, if there is one."""
        return self._revoked.get(key_id)

    async def keep(self, key_id: str, revocation: Revocation) -> None:
        """Keeps a version's revocation in place of what it had; it survives a crash once this returns.

        Raises:
            Unavailable: the disk refuses; nothing was kept.
        """
        async with self._lock:
            revoked = {**self._revoked, key_id: revocation}
            data = orjson.dumps({key: _plain(each) for key, each in revoked.items()}, option=orjson.OPT_INDENT_2)
            try:
                await asyncio.to_thread(write_durably, self._path, data)
            except OSError as error:
                raise Unavailable("the signer cannot write its list of revocations", retry_after=5.0) from error
            self._revoked = revoked


def _read(path: Path) -> dict[str, Revocation]:
    if not path.exists():
        return {}
    try:
        return {key: _revocation(each) for key, each in orjson.loads(path.read_bytes()).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{path} is not a list of revocations; restore it, do not remove it") from error


def _plain(revocation: Revocation) -> dict[str, str | None]:
    since = revocation.compromised_since
    return {
        "at": format_timestamp(revocation.at),
        "compromised_since": format_timestamp(since) if since else None,
        "reason": revocation.reason,
    }


def _revocation(value: dict[str, Any]) -> Revocation:
    since: datetime | None = parse_timestamp(value["compromised_since"]) if value["compromised_since"] else None
    return Revocation(parse_timestamp(value["at"]), since, str(value["reason"]))
