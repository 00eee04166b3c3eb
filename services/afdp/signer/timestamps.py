"""What the signer does about time when it is asked to; the stamps in receipts are made with their signatures.

Knows no gRPC, no HTTP and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from afdp.errors import FailedPrecondition
from afdp.formats.certificates import Chain
from afdp.formats.note import Checkpoint
from afdp.signer.authority import Interval
from afdp.signer.external_answers import ExternalStamp
from afdp.signer.service import SignedStatement


@dataclass(frozen=True, slots=True)
class ListedAuthority:
    """A chain of certificates under which stamps count, and when.

    Attributes:
        url: where the authority answers; empty for the embedded one.
        certificates: X.509, DER, the one whose key signs first, the root last.
    """

    url: str
    certificates: tuple[bytes, ...]
    valid_from: datetime
    valid_until: datetime | None


class Embedded(Protocol):
    """The embedded authority (`authority.py`)."""

    async def respond(self, query: bytes) -> bytes:
        """The response (DER) to a query (DER), also where it is refused."""

    async def intervals(self) -> Sequence[Interval]:
        """Every chain that stamps were or are given under, oldest first."""


class SignedCheckpoints(Protocol):
    """What knows which checkpoints were signed here (`service.py`)."""

    def require_signed(self, checkpoint: Checkpoint) -> None:
        """Raises `FailedPrecondition` for one that was not."""


class OwnSignatures(Protocol):
    """What knows which signatures over statements were made here (`service.py`)."""

    async def require_own(self, signed: SignedStatement) -> None:
        """Raises `InvalidArgument` for one that was not."""


class External(Protocol):
    """The authorities outside (`external.py`)."""

    def known(self) -> Sequence[tuple[str, Chain]]:
        """The URL and the chain of each that has ever answered."""

    async def stamp(self, data: bytes) -> ExternalStamp:
        """A verified stamp over the SHA-256 of some data, by the first that gives one."""


class Timestamps:
    """The embedded authority, where it is on, and those outside, where there are some."""

    def __init__(self, embedded: Embedded | None, external: External | None = None) -> None:
        self._embedded = embedded
        self._external = external

    async def respond(self, query: bytes) -> bytes:
        """The embedded authority's response (DER) to a query (DER), also where it is refused (RFC 3161, 2.4.2).

        Raises:
            FailedPrecondition: there is no embedded authority here.
        """
        if self._embedded is None:
            raise FailedPrecondition("the embedded time-stamping authority is off; see AFDP_TSA")
        return await self._embedded.respond(query)

    async def stamp_checkpoint(self, checkpoint: Checkpoint, signed: SignedCheckpoints) -> ExternalStamp:
        """An external authority's stamp over a checkpoint's note body; only over one that was signed here.

        Raises:
            FailedPrecondition: it was not signed here, or no external authority is configured.
            Unavailable: no external authority gives a stamp that can be verified; the message says why.
        """
        if self._external is None:
            raise FailedPrecondition("no external time-stamping authority is configured; see AFDP_TSA_EXTERNAL")
        signed.require_signed(checkpoint)
        return await self._external.stamp(checkpoint.body().encode())

    async def stamp_signature(self, signed: SignedStatement, own: OwnSignatures) -> ExternalStamp:
        """An external authority's stamp over a signature; only over one that was made here.

        Raises:
            InvalidArgument: it was not made here.
            FailedPrecondition: no external authority is configured.
            Unavailable: no external authority gives a stamp that can be verified; the message says why.
        """
        if self._external is None:
            raise FailedPrecondition("no external time-stamping authority is configured; see AFDP_TSA_EXTERNAL")
        await own.require_own(signed)
        return await self._external.stamp(signed.signature)

    async def authorities(self) -> list[ListedAuthority]:
        """Every chain of every authority whose stamps count, the embedded one's first.

        Raises:
            Unavailable: the time-stamping key cannot be reached.
        """
        own = [
            ListedAuthority("", _ders(each.chain), each.valid_from, each.valid_until)
            for each in (await self._embedded.intervals() if self._embedded is not None else ())
        ]
        others = [
            ListedAuthority(url, _ders(chain), chain.authority.not_before, None)
            for url, chain in (self._external.known() if self._external is not None else ())
        ]
        return own + others


def _ders(chain: Chain) -> tuple[bytes, ...]:
    return tuple(each.der for each in chain.certificates)
