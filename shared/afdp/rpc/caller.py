"""Who calls, as the transport tells it: nothing here has been judged yet."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A client certificate that the TLS handshake has verified.

    Attributes:
        uris, dns: its subject alternative names of these two kinds, as they stand there.
        der: the certificate itself.
        ends: until when it is valid, in seconds since 1970.
    """

    uris: tuple[str, ...]
    dns: tuple[str, ...]
    der: bytes
    ends: float


@dataclass(frozen=True, slots=True)
class Caller:
    """What a call brings to show who makes it.

    Attributes:
        authorization: the value of its `authorization` header; empty where it has none.
        certificate: its client's, where TLS asked for one.
        address: the IP address that it comes from; empty where that is not known.
    """

    authorization: str = ""
    certificate: PeerCertificate | None = None
    address: str = ""


caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - it is immutable
"""Of the call that is being served."""
