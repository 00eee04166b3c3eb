"""URLs that secrets may be sent to, and that what they answer is believed of."""

from __future__ import annotations

from urllib.parse import urlsplit

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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
