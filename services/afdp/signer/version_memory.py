"""Every key version that was ever listed, in one JSON file by key ID: what it signed is to be verified for ever.

What holds the keys may change (files, Vault, a token), a tenant's own key may be given up: then their versions are no
longer there to be asked for, and are listed from here, with an end. Verifiers hold on to that end, so such a version
signs nothing any more, also where it comes back. The file also tells a key that was made anew under the name of one
that was lost from the one that signed before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.formats.encoding import b64, from_b64
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.disk import write_durably
from afdp.signer.keys import GRACE, KeyVersion, Purpose

_ENDING = (Purpose.EVIDENCE, Purpose.TIMESTAMP)  # trust roots have no end of the others


class VersionMemory:
    """The list and its file."""

    def __init__(self, path: Path, *, keeps: bool = True) -> None:
        """Reads what is there. One that does not keep writes nothing: for who only looks, with whatever settings.

        Raises:
            DataLoss: the file is there and cannot be read.
        """
        self._path = path
        self._keeps = keeps
        self._lock = asyncio.Lock()
        self._kept = _read(path)

    def require_signing(self, version: KeyVersion) -> None:
        """That a version may sign: it is the key that it was, and was not given up.

        Raises:
            FailedPrecondition: it may not.
        """
        self._require_same(version)
        known = self._kept.get(version.key_id)
        if known is not None and known.valid_until is not None:
            raise FailedPrecondition(
                f"{version.key_id} was given up, and verifiers know its end: afdp keys rotate --key {_name(version)}"
            )

    def _require_same(self, version: KeyVersion) -> None:
        known = self._kept.get(version.key_id)
        if known is not None and known.spki != version.spki:
            raise FailedPrecondition(
                f"{version.key_id} is not the key that signed before: restore that one, or name this one otherwise"
            )

    async def completed(self, held: Sequence[KeyVersion], purpose: Purpose | None) -> list[KeyVersion]:
        """The versions that are held, after those of a purpose that were once and are no longer.

        What is new is kept before this returns.

        Raises:
            FailedPrecondition: a version is another key than it was.
            Unavailable: the disk refuses.
        """
        for version in held:
            self._require_same(version)
        names = {version.key_id for version in held}
        gone = [each for each in self._kept.values() if each.key_id not in names and purpose in (None, each.purpose)]
        lasting = [self._remembered(each) for each in _settled(held)]
        fresh = [each for each in lasting if each != self._kept.get(each.key_id)]
        held_names = {_name(each) for each in held}  # a version of theirs may be out of sight for a moment, in a token
        given_up = [each for each in gone if _name(each) not in held_names and each.purpose in _ENDING]
        fresh += [_ended(each) for each in given_up if each.valid_until is None]
        if fresh and self._keeps:
            await self._keep(fresh)
        return [*(self._kept[each.key_id] for each in gone), *map(self._with_its_end, held)]

    def _remembered(self, version: KeyVersion) -> KeyVersion:
        """As it is kept: while it is held, its keyring says when it ends, but for one that was given up."""
        known = self._kept.get(version.key_id)
        end = known.valid_until if known is not None else None
        return replace(version, current=False, valid_until=end, revoked=None)

    def _with_its_end(self, version: KeyVersion) -> KeyVersion:
        known = self._kept.get(version.key_id)
        ends = [end for end in (version.valid_until, known.valid_until if known else None) if end is not None]
        return replace(version, valid_until=min(ends, default=None))

    async def _keep(self, versions: Sequence[KeyVersion]) -> None:
        async with self._lock:
            kept = {**self._kept, **{each.key_id: each for each in versions}}
            data = orjson.dumps({name: _plain(each) for name, each in kept.items()}, option=orjson.OPT_INDENT_2)
            try:
                await asyncio.to_thread(write_durably, self._path, data)
            except OSError as error:
                raise Unavailable("the signer cannot write its memory of key versions", retry_after=5.0) from error
            self._kept = kept


def _settled(held: Sequence[KeyVersion]) -> list[KeyVersion]:
    """Without versions after the current one of their key: in a token such a one may yet be withdrawn."""
    settled: list[KeyVersion] = []
    later: set[str] = set()
    for version in held:
        if _name(version) not in later:
            settled.append(version)
        if version.current:
            later.add(_name(version))
    return settled


def _name(version: KeyVersion) -> str:
    return version.key_id.rpartition(":")[0]


def _ended(version: KeyVersion) -> KeyVersion:
    return replace(version, valid_until=datetime.now(UTC).replace(microsecond=0) + GRACE)


def _plain(version: KeyVersion) -> dict[str, Any]:
    return {
        "purpose": version.purpose.value,
        "algorithm": version.algorithm,
        "spki": b64(version.spki),
        "valid_from": format_timestamp(version.valid_from),
        "valid_until": format_timestamp(version.valid_until) if version.valid_until else None,
        "tenants": list(version.tenants),
        "origins": list(version.origins),
    }


def _version(key_id: str, entry: dict[str, Any]) -> KeyVersion:
    return KeyVersion(
        key_id=key_id,
        purpose=Purpose(entry["purpose"]),
        algorithm=str(entry["algorithm"]),
        spki=from_b64(entry["spki"]),
        valid_from=parse_timestamp(entry["valid_from"]),
        current=False,
        valid_until=parse_timestamp(entry["valid_until"]) if entry["valid_until"] else None,
        tenants=tuple(map(str, entry["tenants"])),
        origins=tuple(map(str, entry["origins"])),
    )


def _read(path: Path) -> dict[str, KeyVersion]:
    if not path.exists():
        return {}
    try:
        return {key_id: _version(key_id, entry) for key_id, entry in orjson.loads(path.read_bytes()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{path} is not a list of key versions; restore it, do not remove it") from error
