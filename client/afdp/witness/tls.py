"""The witness's TLS: version 1.3, with a certificate that is read again when its file has changed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from afdp.errors import FailedPrecondition

logger = logging.getLogger(__name__)


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context for as long as the process lives; each handshake is made with what the files hold then.

    Raises:
        FailedPrecondition: they do not serve.
    """
    try:
        stamp, current = _stamp(cert, key), _context(cert, key)
        listening = _context(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise FailedPrecondition(f"tls_cert {cert} with tls_key {key} cannot be used: {_why(error)}") from None

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context_: ssl.SSLContext) -> None:
        nonlocal stamp, current
        try:
            found = _stamp(cert, key)
            if found != stamp:
                stamp, current = found, _context(cert, key)
        except OSError as error:  # half written, perhaps: what was read before goes on
            logger.error("the certificate cannot be read again", extra={"fields": {"reason": _why(error)}})
        connection.context = current

    listening.sni_callback = choose  # called without a name, too
    return listening


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key, password=_no_password)
    return context


def _no_password() -> str:
    return ""  # OpenSSL would ask at the terminal


def _stamp(*files: Path) -> tuple[tuple[int, int], ...]:
    return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files))


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is refused").replace("_", " ").lower()
    return error.strerror or type(error).__name__
