"""From settings to time: the clock, watched, and the authority that stamps by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from afdp.signer.authority import EmbeddedAuthority
from afdp.signer.chains import Chains, GivenChains, OwnChains
from afdp.signer.clock import Clock
from afdp.signer.config import SignerSettings
from afdp.signer.keys import KeyCatalogue
from afdp.signer.status import Reporting
from afdp.signer.timestamps import Timestamps


@dataclass(frozen=True, slots=True)
class Timekeeping:
    """What the signer has of time; `authority` is None where the embedded one is off."""

    clock: Clock
    authority: EmbeddedAuthority | None
    timestamps: Timestamps

    @property
    def reporting(self) -> Mapping[str, Reporting]:
        """What can say how it is, by name."""
        return {"clock": self.clock} | ({"timestamp authority": self.authority} if self.authority else {})


@asynccontextmanager
async def open_timekeeping(settings: SignerSettings, keys: KeyCatalogue) -> AsyncIterator[Timekeeping]:
    """The clock and the authority, while the context is open.

    Raises:
        FailedPrecondition: the file with the authority's certificates is wrong.
    """
    clock = Clock(strict=settings.clock == "refuse", max_offset=settings.clock_max_offset_seconds)
    authority = None
    if settings.tsa == "embedded":
        authority = EmbeddedAuthority(keys, _chains(settings), clock, settings.tsa_policy_oid)
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(clock.watch())
        try:
            yield Timekeeping(clock, authority, Timestamps(authority))
        finally:
            watch.cancel()


def _chains(settings: SignerSettings) -> Chains:
    if settings.tsa_chain_file is not None:
        return GivenChains(settings.tsa_chain_file)
    return OwnChains(settings.data_dir / "tsa", settings.log_origins[0])
