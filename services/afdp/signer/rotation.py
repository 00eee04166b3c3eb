"""Rotation by schedule: a key whose newest version is older than its policy allows gets a new one.

Several signers may share the keys of one Vault. Each looks again after a pause of its own before it rotates, so that
one does and the others find it done; that two do is possible and does no harm: there is one version more. Signing goes
on meanwhile, and a rotation that fails is tried again at the next look.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

from prometheus_client import Counter, Gauge

from afdp.errors import NotaryError
from afdp.signer.keys import KeyCatalogue, KeySpec, KeyVersion, Purpose

logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two looks
SPREAD = 30.0  # seconds of which a part is waited before a rotation

_age = Gauge("afdp_signer_key_age_seconds", "Age of the version that signs.", ["key"])
_rotations = Counter("afdp_signer_key_rotations", "Rotations by schedule.", ["key", "outcome"])


class KeyRotation:
    """Watches how old keys are, and rotates those that are to be.

    Args:
        keys: all keys.
        oldest: how old a version may become, by purpose; keys of others are only watched.
        now, wait: the clock, for tests.
    """

    def __init__(
        self,
        keys: KeyCatalogue,
        oldest: Mapping[Purpose, timedelta],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._oldest = oldest
        self._now = now
        self._wait = wait
        self._began: dict[str, datetime] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                if await self._due():
                    await self._wait(SPREAD * secrets.randbelow(1000) / 1000)
                    for spec in await self._due():
                        await self._rotate(spec)
            except NotaryError as error:
                logger.info("the age of the keys is not known", extra={"fields": {"reason": str(error)}})
            await self._wait(EVERY)

    async def _due(self) -> list[KeySpec]:
        """Keys whose newest version is too old; how old each is, is shown."""
        due = []
        for version in await self._keys.versions():
            if not version.current:
                continue
            name = self._watch(version)
            oldest = self._oldest.get(version.purpose)
            if oldest is not None and self._now() - version.valid_from >= oldest:
                due.append(self._keys.named(version.purpose, name))
        return due

    async def _rotate(self, spec: KeySpec) -> None:
        try:
            fresh = await self._keys.rotate(spec)
        except NotaryError as error:
            _rotations.labels(spec.name, "failed").inc()
            fields = {"key": spec.name, "code": error.code, "reason": str(error)}
            logger.warning("a key is due and could not be rotated", extra={"fields": fields})
            return
        self._watch(fresh)
        _rotations.labels(spec.name, "rotated").inc()
        logger.info("a key was rotated by schedule", extra={"fields": {"key_id": fresh.key_id}})

    def _watch(self, version: KeyVersion) -> str:
        """Shows how old the version is, whenever that is asked for; gives the key's name."""
        name = version.key_id.rpartition(":")[0]
        if name not in self._began:
            _age.labels(name).set_function(lambda: (self._now() - self._began[name]).total_seconds())
        self._began[name] = version.valid_from
        return name
