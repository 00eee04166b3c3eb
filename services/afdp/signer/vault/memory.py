"""Which key versions Vault ever showed, in one JSON file: `{"afdp-notary-key": {"1": {"spki": …, "valid_from": …}}}`.

Vault hides versions that were archived (`min_decryption_version`) and forgets those that were trimmed, while what they
signed is to be verified for ever. And a key that was deleted and made anew begins again with version 1: what is kept
here tells it from the one that signed before.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.disk import write_durably
from afdp.signer.keys import KeySpec, KeyVersion


class KeyMemory:
    """The list and its file."""

    def __init__(self, path: Path) -> None:
        """Reads what is there.

        Raises:
            DataLoss: the file is there and cannot be read.
        """
        self._path = path
        self._lock = asyncio.Lock()
        self._kept = _read(path)

    async def completed(self, spec: KeySpec, shown: Mapping[int, KeyVersion], oldest: int = 1) -> dict[int, KeyVersion]:
        """The versions that are shown, and those that were once. What is new is kept before this returns.

        `oldest` is the first that Vault still has; what was before that, and never shown, is lost.

        Raises:
            FailedPrecondition: a version is another key than it was, or one is hidden that was never shown.
            Unavailable: the disk refuses.
        """
        if any(_plain(version) != self._kept.get(spec.name, {}).get(number) for number, version in shown.items()):
            async with self._lock:
                await self._keep(spec, shown)
        kept = {number: _version(spec, number, entry) for number, entry in self._kept[spec.name].items()}
        if missing := sorted(set(range(oldest, max(kept))) - set(kept)):
            raise FailedPrecondition(
                f"Vault does not show {spec.name}:{missing[0]}, which was archived before the signer saw it: set"
                " min_decryption_version to 1, until the signer has read it"
            )
        return {**kept, **shown}

    async def _keep(self, spec: KeySpec, shown: Mapping[int, KeyVersion]) -> None:
        entries = dict(self._kept.get(spec.name, {}))
        for number, version in shown.items():
            if entries.setdefault(number, _plain(version))["spki"] != _plain(version)["spki"]:
                raise FailedPrecondition(
                    f"Vault's {version.key_id} is not the key that signed before: restore that one, or name this one"
                    " otherwise"
                )
        kept = {**self._kept, spec.name: entries}
        data = {name: {str(number): entry for number, entry in each.items()} for name, each in kept.items()}
        try:
            await asyncio.to_thread(write_durably, self._path, orjson.dumps(data, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise Unavailable("the signer cannot write its memory of key versions", retry_after=5.0) from error
        self._kept = kept


def _read(path: Path) -> dict[str, dict[int, dict[str, str]]]:
    if not path.exists():
        return {}
    try:
        data: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes())
        kept = {name: {int(number): _checked(entry) for number, entry in each.items()} for name, each in data.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{path} is not a list of key versions; restore it, do not remove it") from error
    return kept


def _checked(entry: dict[str, str]) -> dict[str, str]:
    spki, valid_from = base64.b64decode(entry["spki"], validate=True), parse_timestamp(entry["valid_from"])
    return {"spki": base64.b64encode(spki).decode(), "valid_from": format_timestamp(valid_from)}


def _plain(version: KeyVersion) -> dict[str, str]:
    return {"spki": base64.b64encode(version.spki).decode(), "valid_from": format_timestamp(version.valid_from)}


def _version(spec: KeySpec, number: int, entry: Mapping[str, str]) -> KeyVersion:
    return KeyVersion(
        key_id=f"{spec.name}:{number}",
        purpose=spec.purpose,
        algorithm=spec.algorithm,
        spki=base64.b64decode(entry["spki"]),
        valid_from=parse_timestamp(entry["valid_from"]),
        current=False,
    )
