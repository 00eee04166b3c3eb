"""Headers of an answer that the service decides: trailing metadata over gRPC, HTTP headers over REST.

A service tells them while it serves a call; the gateway hears them with the notary's answer and passes them on:

    answer.tell(("ratelimit", '"client";r=41;t=1'))
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

Headers = tuple[tuple[str, str], ...]

NAMES = frozenset({"ratelimit", "ratelimit-policy", "retry-after", "www-authenticate"})
"""All that are passed on. What else stands in metadata is for gRPC alone."""

_told: ContextVar[Headers] = ContextVar("answer", default=())


def begin() -> None:
    """Forgets what was told for another call."""
    _told.set(())


def tell(*headers: tuple[str, str]) -> None:
    """Adds to the answer of the call that is being served, whether it succeeds or fails.

    Args:
        headers: names of `NAMES` with their values, printable ASCII; of two with one name the later one counts.
    """
    if not headers:
        return
    before = _told.get()
    if before:
        names = {name for name, _ in headers}
        before = tuple(each for each in before if each[0] not in names)
    _told.set(before + headers)


def told() -> Headers:
    """What the answer of the call that is being served has, so far."""
    return _told.get()


def heard(metadata: Iterable[tuple[str, str | bytes]] | None) -> Headers:
    """Those that stand in the trailing metadata of an answer."""
    return tuple((name, value) for name, value in metadata or () if name in NAMES and isinstance(value, str))
