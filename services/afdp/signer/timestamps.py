"""What the signer does about time when it is asked to; the stamps in receipts are made with their signatures.

Knows no gRPC, no HTTP and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from afdp.errors import FailedPrecondition
from afdp.signer.authority import Interval


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


class Timestamps:
    """The embedded authority, where it is on."""

    def __init__(self, embedded: Embedded | None) -> None:
        self._embedded = embedded

    async def respond(self, query: bytes) -> bytes:
        """The embedded authority's response (DER) to a query (DER), also where it is refused (RFC 3161, 2.4.2).

        Raises:
            FailedPrecondition: there is no embedded authority here.
        """
        if self._embedded is None:
            raise FailedPrecondition("the embedded time-stamping authority is off; see AFDP_TSA")
        return await self._embedded.respond(query)

    async def authorities(self) -> list[ListedAuthority]:
        """Every chain of every authority whose stamps count, the embedded one's first.

        Raises:
            Unavailable: the time-stamping key cannot be reached.
        """
        intervals = await self._embedded.intervals() if self._embedded else []
        return [
            ListedAuthority("", tuple(c.der for c in each.chain.certificates), each.valid_from, each.valid_until)
            for each in intervals
        ]
