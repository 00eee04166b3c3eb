"""What the service stands on, for its operators: its peers, and what the signer says of its own parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from afdp.errors import NotaryError, Unimplemented
from afdp.fips import Mode, described
from afdp.messages.signer import GetSignerStatusRequest, SignerPart, SignerServiceClient
from afdp.notary.health import PeerHealth, PeerWatch
from afdp.version import VERSION

EVERY = 15.0  # seconds between two looks for `/ready`
RETRY = 1.0
_TIMEOUT = 5.0  # seconds; the signer gives each of its parts less

_NEEDS = {
    "signer": "what holds its keys: see its own parts",
    "transparency": "PostgreSQL, or the signer: look at its log, and at AFDP_DATABASE_URL and AFDP_SIGNER_ADDRESS",
    "metadata": "PostgreSQL: look at its log, and at AFDP_DATABASE_URL",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that the service stands on, as `StatusPart` of the API."""

    service: str
    name: str
    good: bool
    detail: str
    remedy: str = ""
    public: bool = False  # whether its detail may be told to anybody, at `/ready`


class Reporting(Protocol):
    """A part of the notary that says how it is."""

    async def status(self) -> list[Part]:
        """How it is. Raises `NotaryError` where it cannot tell."""


class ServiceStatus:
    """Asks the peers; remembers what the signer said, so that `/ready` costs nothing."""

    def __init__(self, peers: PeerWatch, signer: SignerServiceClient, fips: Mode, *own: Reporting) -> None:
        """`own` are parts of the notary itself."""
        self._own = own
        self._fips = Part("notary", "fips", True, described(fips))
        self._peers = peers
        self._signer = signer
        self._seen: list[SignerPart] = []
        self._own_seen: list[Part] = []

    async def run(self) -> None:
        """Looks now and then until cancelled."""
        while True:
            self._own_seen = [part for part in await self._own_parts() if part.public]
            try:
                self._seen = await self._ask()
                await asyncio.sleep(EVERY)
            except NotaryError:
                self._seen = []  # that it is away is said by the peers' health
                await asyncio.sleep(RETRY)

    async def parts(self) -> list[Part]:
        """Every part, asked now, all at once: an answer takes no longer than the slowest may."""
        lived = Part("notary", "service", True, f"version {VERSION}, {_lived(self._peers.uptime)}")
        own, signer, peers = await asyncio.gather(
            self._own_parts(),
            _said("signer", self._signer_parts()),
            self._peers.peers(),
        )
        return [lived, self._fips, *own, *map(_peer_part, peers), *signer]

    async def _own_parts(self) -> list[Part]:
        said = await asyncio.gather(*(_said("notary", reporting.status()) for reporting in self._own))
        return [part for parts in said for part in parts]

    async def _signer_parts(self) -> list[Part]:
        try:
            said = await self._ask()
        except Unimplemented:
            return []  # a signer of an earlier version
        return [Part("signer", each.name, each.good, each.detail, each.remedy) for each in said]

    def seen(self) -> list[SignerPart | Part]:
        """The notary's own public parts and the signer's as they were at most `EVERY` seconds ago; none of one away."""
        return [*self._own_seen, *self._seen]

    async def _ask(self) -> list[SignerPart]:
        return (await self._signer.get_signer_status(GetSignerStatusRequest(), timeout=_TIMEOUT)).parts


async def _said(service: str, asked: Awaitable[list[Part]]) -> list[Part]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await asked
    except NotaryError as error:
        return [Part(service, "status", False, str(error), "see which service is away, and its log")]
    except TimeoutError:
        return [Part(service, "status", False, f"not known within {_TIMEOUT:g} seconds", "see which service is away")]


def _peer_part(peer: PeerHealth) -> Part:
    if peer.healthy:
        return Part(peer.name, "service", True, f"answers in {max(1, round(peer.response_time * 1000))} ms")
    if peer.reachable:
        return Part(peer.name, "service", False, peer.error, f"it misses {_NEEDS[peer.name]}")
    remedy = f"start it, or set the notary's AFDP_{peer.name.upper()}_ADDRESS to where it is"
    return Part(peer.name, "service", False, peer.error, remedy)


def _lived(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"up for {count} {unit}{'' if count == 1 else 's'}"
    return f"up for {int(seconds)} seconds"
