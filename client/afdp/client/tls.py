"""TLS of a client: whom it believes, and the certificate that it shows.

Other than services, a client reads its files once: when it is made.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from afdp.errors import FailedPrecondition
from afdp.tls.plain import is_loopback

CA, CERT, KEY = "AFDP_CA", "AFDP_CLIENT_CERT", "AFDP_CLIENT_KEY"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files, all PEM.

    Attributes:
        ca: the authorities that the notary's certificate may be from; none: those of the system.
        cert: the client's own certificate; none: it shows none.
        key: its key, not encrypted; none: it stands in `cert`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environment(cls) -> ClientTls:
        """What `AFDP_CA`, `AFDP_CLIENT_CERT` and `AFDP_CLIENT_KEY` name."""
        ca, cert, key = (Path(value) if (value := os.environ.get(name)) else None for name in (CA, CERT, KEY))
        return cls(ca, cert, key)

    @property
    def is_given(self) -> bool:
        """Whether anything is named."""
        return self != ClientTls()

    def context(self) -> ssl.SSLContext:
        """For HTTP.

        Raises:
            FailedPrecondition: a file cannot be read, or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.ca)) if self.ca else httpx.create_ssl_context()
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:  # the latter is one of the former, and has no file name
            raise FailedPrecondition(f"the files of TLS cannot be used: {error.strerror or error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """For gRPC: the authorities, the key, the certificate.

        Raises:
            FailedPrecondition: a file cannot be read.
        """
        try:
            files = (self.ca, self.key or self.cert, self.cert)
            ca, key, cert = (path.read_bytes() if path else None for path in files)
        except OSError as error:
            raise FailedPrecondition(f"the files of TLS cannot be used: {error.filename}: {error.strerror}") from None
        return ca, key, cert


def http_options(url: str, tls: ClientTls | None = None) -> dict[str, Any]:
    """The options of an httpx client of a URL that have to do with TLS.

    Raises:
        FailedPrecondition: it would be plain text to another machine, or a file cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise FailedPrecondition(f"{parts.hostname} is another machine, and plain text stays on this one: use https")
    return {"verify": (tls or ClientTls.from_environment()).context()} if parts.scheme == "https" else {}
