"""How the signer is: each part that it stands on says so itself, in a sentence that an operator reads.

A part is anything with `status()`: a keyring, the clock, an authority, the cryptographic module. What it says goes to
`afdp doctor` and into the details of `/ready`; it changes nothing and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Protocol

from afdp.errors import NotaryError
from afdp.fips import Mode, described
from afdp.signer.keys import KeyCatalogue, KeyVersion, Purpose
from afdp.signer.part import Part

_PATIENCE = 3.0  # seconds that a part has to answer
_LATE = timedelta(hours=1)  # after which a rotation by schedule is overdue
_NO_POLICY: Mapping[Purpose, timedelta] = MappingProxyType({})


class Reporting(Protocol):
    """What can say how it is."""

    async def status(self) -> Sequence[Part]:
        """How it is, in one part or more.

        Raises:
            NotaryError: it cannot even tell; the report has the error's message in its place.
        """


class StatusReport:
    """Asks all parts at once; one that fails or does not answer is reported as that."""

    def __init__(self, sources: Mapping[str, Reporting], patience: float = _PATIENCE) -> None:
        self._sources = dict(sources)
        self._patience = patience

    async def parts(self) -> list[Part]:
        """What each part says, in the order they were given."""
        answers = await asyncio.gather(*(self._ask(name, source) for name, source in self._sources.items()))
        return [part for answer in answers for part in answer]

    async def _ask(self, name: str, source: Reporting) -> Sequence[Part]:
        try:
            async with asyncio.timeout(self._patience):
                return await source.status()
        except NotaryError as error:
            return [Part(name, False, str(error))]
        except TimeoutError:
            remedy = "look at what it depends on, and at the signer's log"
            return [Part(name, False, f"gave no answer within {self._patience:g} seconds", remedy)]


class KeyStatus:
    """Each key's current version, its age, and whether it may still sign."""

    def __init__(self, keys: KeyCatalogue, oldest: Mapping[Purpose, timedelta] = _NO_POLICY) -> None:
        """`oldest` is how old a version may become by purpose, where a schedule rotates it (`rotation.py`)."""
        self._keys = keys
        self._oldest = oldest

    async def status(self) -> Sequence[Part]:
        """As `Reporting.status`: one part per key, named `key NAME`."""
        of_key: dict[str, list[KeyVersion]] = {}
        for version in await self._keys.versions():
            of_key.setdefault(version.key_id.rpartition(":")[0], []).append(version)
        return [_key_part(name, versions, self._oldest) for name, versions in of_key.items()]


class FipsStatus:
    """Which OpenSSL runs, and whether in FIPS mode; as it was at the start, for nothing changes it later."""

    def __init__(self, mode: Mode) -> None:
        self._part = Part("fips", True, described(mode), public=True)

    async def status(self) -> Sequence[Part]:
        """As `Reporting.status`."""
        return [self._part]


def _key_part(name: str, versions: Sequence[KeyVersion], policy: Mapping[Purpose, timedelta]) -> Part:
    current = next((version for version in versions if version.current), None)
    if current is None:
        what = "1 version verifies" if len(versions) == 1 else f"{len(versions)} versions verify"
        return Part(f"key {name}", True, f"{versions[0].purpose.value}, given up; {what} for ever")
    number = current.key_id.rpartition(":")[2]
    if current.revoked is not None:
        remedy = f"make a new version: afdp keys rotate --key {name}"
        if current.purpose is Purpose.LOG:
            remedy = "open a new log with a key of its own: a log's key is part of its identity"
        return Part(f"key {name}", False, f"version {number} is revoked, so that nothing is signed with it", remedy)
    if current.valid_until is not None:
        remedy = f"make a new version: afdp keys rotate --key {name}"
        return Part(f"key {name}", False, f"version {number} was given up, so that nothing is signed with it", remedy)
    age, oldest = datetime.now(UTC) - current.valid_from, policy.get(current.purpose)
    older = f", {len(versions) - 1} older" if len(versions) > 1 else ""
    detail = f"{current.purpose.value}, version {number}, {_days(age)} old{older}"
    if oldest is not None and age > oldest + _LATE:
        remedy = "see in the signer's log why it does not rotate; by hand: afdp keys rotate --key " + name
        return Part(f"key {name}", False, f"{detail}; its schedule says {_days(oldest)}", remedy)
    return Part(f"key {name}", True, detail)


def _days(span: timedelta) -> str:
    return f"{span.days} {'day' if span.days == 1 else 'days'}"
