"""TLS 1.3 towards a sink, by files that are read anew for each connection."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from afdp.metadata.sinks.sink import SinkError


def client_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """A context that looks at the server's certificate and its name. Blocks.

    Raises:
        SinkError: a file does not serve.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise SinkError(f"{ca} holds no authorities that can be read: {_why(error)}") from None
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=_none)
        except (OSError, ValueError) as error:
            raise SinkError(f"{cert} and {key} are no certificate and its key: {_why(error)}") from None
    return context


def why_not(error: OSError) -> str:
    """Why a connection failed, in words that hold nothing of what was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "it ended the connection in the midst"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'it failed').lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return _told(error) or type(error).__name__


def _none() -> str:
    """Instead of asking at a terminal for the password of a key."""
    return ""


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and _told(error)) or "it is not PEM"


def _told(error: OSError) -> str:
    """The system's own words, where it has some: asyncio puts others in their place."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or ""
