"""Which logs' checkpoints are signed: named one by one, or all under a domain, so that a new log needs no restart."""

from __future__ import annotations

from collections.abc import Sequence

from afdp.formats.note import NoteError, validate_origin

ANY = "*."


def signs_for(origins: Sequence[str], origin: str) -> bool:
    """Whether checkpoints of an origin are signed: it is one of the names, or under a domain that stands as `*.domain`.

    What is under a domain must be a bare host name in lower case, as every origin of a notary's log is.
    """
    if origin in origins:
        return True
    domains = [each.removeprefix("*") for each in origins if each.startswith(ANY)]
    return is_origin(origin) and any(origin.endswith(domain) for domain in domains)


def is_origin(origin: str) -> bool:
    """Whether a log of a notary may have this origin."""
    try:
        validate_origin(origin)
    except NoteError:
        return False
    return True
