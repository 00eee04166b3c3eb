"""URLs that secrets may be sent to, and that what they answer is believed of; and what may be asked in plain text."""

from __future__ import annotations

from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, AnyHttpUrl

from afdp.tls.plain import is_loopback

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

U = TypeVar("U", str, AnyHttpUrl)


def refuse_plain(url: U) -> U:
    """The URL itself, unless it would be plain text to another machine.

    Raises:
        ValueError: it would.
    """
    try:
        parts = urlsplit(str(url))
        host = parts.hostname or ""
    except ValueError:
        raise ValueError("must be a URL") from None
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("is plain text to another machine, and plain text stays on this one: use https")
    return url


OutgoingUrl = Annotated[AnyHttpUrl, AfterValidator(refuse_plain)]
"""What is asked over TLS, or on this machine."""


def check_private_url(url: str) -> str:
    """The URL itself, if nobody between here and there can read along or answer in its place.

    Raises:
        ValueError: it is neither https nor http on loopback; or it has a user or a fragment.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL") from None
    if not host or parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable():
        raise ValueError("must be a URL without user and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise ValueError("must begin with https:// (http:// on loopback only)")
    return url
