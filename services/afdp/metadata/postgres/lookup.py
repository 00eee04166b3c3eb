"""Narrow keys for wide values."""

from __future__ import annotations

from hashlib import sha256


def lookup_key(tenant: str, digest: bytes) -> int:
    """64 bits that stand for a hash (32 bytes) of a tenant in an index; the hash itself is compared as well.

    The tenant is part of it, so that an artifact that others use very much is found as fast as any.
    """
    return int.from_bytes(sha256(digest + tenant.encode()).digest()[:8], "big", signed=True)


def term_key(term: bytes) -> int:
    """The first 64 bits of a term, which is a hash already."""
    return int.from_bytes(term[:8], "big", signed=True)
