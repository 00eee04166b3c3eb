"""From settings to time: the clock, watched and compared, and the authorities that stamp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from afdp.signer.authority import EmbeddedAuthority
from afdp.signer.chains import Chains, GivenChains, OwnChains
from afdp.signer.clock import Clock
from afdp.signer.config import SignerSettings
from afdp.signer.disk import private_folder
from afdp.signer.external import AuthorityAccess, ExternalAuthorities, open_external
from afdp.signer.external_chains import ExternalChains
from afdp.signer.keys import KeyCatalogue
from afdp.signer.reference import Reference
from afdp.signer.status import Reporting
from afdp.signer.timestamps import Timestamps


@dataclass(frozen=True, slots=True)
class Timekeeping:
    """What the signer has of time; `authority` is None where the embedded one is off."""

    clock: Clock
    authority: EmbeddedAuthority | None
    external: ExternalAuthorities
    timestamps: Timestamps

    @property
    def reporting(self) -> Mapping[str, Reporting]:
        """What can say how it is, by name."""
        embedded = {"timestamp authority": self.authority} if self.authority else {}
        return {"clock": self.clock, **embedded, "external timestamps": self.external}


@asynccontextmanager
async def open_timekeeping(settings: SignerSettings, keys: KeyCatalogue) -> AsyncIterator[Timekeeping]:
    """The clock and the authorities, while the context is open.

    Raises:
        FailedPrecondition: a file with certificates is wrong; it is named.
        DataLoss: the memory of external authorities cannot be read.
    """
    clock = Clock(strict=settings.clock == "refuse", max_offset=settings.clock_max_offset_seconds)
    embedded = None
    if settings.tsa == "embedded":
        embedded = EmbeddedAuthority(keys, _chains(settings), clock, settings.tsa_policy_oid)
    memory = ExternalChains(private_folder(settings.data_dir / "tsa") / "external.json")
    async with open_external(_accesses(settings), memory, settings.tsa_proxy) as external, asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(clock.watch()), tasks.create_task(external.introduce())]
        if settings.clock_reference is not None:
            reference = Reference(clock, external, settings.clock_reference, settings.clock_reference_seconds)
            watches.append(tasks.create_task(reference.watch()))
        try:
            yield Timekeeping(clock, embedded, external, Timestamps(embedded, external))
        finally:
            for watch in watches:
                watch.cancel()


def _accesses(settings: SignerSettings) -> list[AuthorityAccess]:
    return [
        AuthorityAccess(
            url=each.url,
            ca_file=each.ca_file,
            tls_ca_file=each.tls_ca_file,
            user=each.user,
            password_file=each.password_file,
            timeout=each.timeout_seconds,
        )
        for each in settings.tsa_external
    ]


def _chains(settings: SignerSettings) -> Chains:
    if settings.tsa_chain_file is not None:
        memory = ExternalChains(private_folder(settings.data_dir / "tsa") / "given.json")
        return GivenChains(settings.tsa_chain_file, memory)
    return OwnChains(settings.data_dir / "tsa", settings.log_origins[0])
