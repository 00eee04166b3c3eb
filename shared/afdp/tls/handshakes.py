"""Handshakes that fail: counted, and told to the log with the reason, which the client hears as an alert at most."""

from __future__ import annotations

import logging
import ssl
from time import monotonic

from prometheus_client import Counter

from afdp.refusals import REFUSALS

logger = logging.getLogger(__name__)

FAILED = Counter("afdp_tls_handshake_failures", "TLS handshakes that servers of HTTP refused.", ["what"])
for _what in ("certificate", "protocol"):
    FAILED.labels(_what)  # there from the start, so that the first one is seen as a rise

_UNFINISHED = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""It goes on, or the client went away."""

_last_told: dict[str, float] = {}


class ToldHandshake(ssl.SSLObject):
    """A server's end of a connection."""

    def do_handshake(self) -> None:
        """As that of the standard library, which tells nobody what it found."""
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            tell(error)
            raise


def tell(error: OSError, address: str = "") -> None:
    """Counts a failed handshake; the log has one line a second of each kind, since a flood shall not flood it."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, _UNFINISHED):
        return
    what = "certificate" if isinstance(error, ssl.SSLCertVerificationError) else "protocol"
    reason = f"the TLS handshake failed: {_words(error)}"
    FAILED.labels(what).inc()
    REFUSALS.add("authentication", reason, address=address)
    if (now := monotonic()) - _last_told.get(reason, -1.0) >= 1.0:
        _last_told[reason] = now
        fields = {"reason": reason, **({"address": address} if address else {})}
        logger.warning("a connection is refused", extra={"fields": fields})


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's reason, which is one of its own list."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return error.verify_message
    return str(error.reason or "unknown").lower().replace("_", " ")
