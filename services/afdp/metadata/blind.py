"""Blind indexes: what stands for a value where it must be found by equality and not be read.

HMAC-SHA-256 under the tenant's index key. Who does not have the key can neither read a value nor test a guess, not of a
hash either; and two tenants never share an index.
"""

from __future__ import annotations

from hmac import digest

_ACTOR, _ARTIFACT, _EVIDENCE, _ISSUER, _SUBJECT, _SUBMITTER, _TERM = (
    bytes([number]) for number in range(1, 8)
)  # no value of one kind has the index of another kind


class IndexKey:
    """The index key of one tenant. What it gives for a value never changes, or nothing would be found again."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes."""
        self._key = key

    def evidence(self, sha256: bytes) -> bytes:
        """For the hash of evidence, also as the fingerprint of what was asked under an idempotency key: 32 bytes."""
        return digest(self._key, _EVIDENCE + sha256, "sha256")

    def artifact(self, sha256: bytes) -> bytes:
        """For the hash of an artifact: 32 bytes."""
        return digest(self._key, _ARTIFACT + sha256, "sha256")

    def actor(self, actor_id: str) -> str:
        """For an actor's ID: 32 characters."""
        return digest(self._key, _ACTOR + actor_id.encode(), "sha256")[:16].hex()

    def submitter(self, subject: str) -> str:
        """For the subject of who submits: 32 characters."""
        return digest(self._key, _SUBMITTER + subject.encode(), "sha256")[:16].hex()

    def issuer(self, issuer: str) -> str:
        """For who vouches for who submits: 32 characters."""
        return digest(self._key, _ISSUER + issuer.encode(), "sha256")[:16].hex()

    def term(self, term: bytes) -> bytes:
        """For a search term: 16 bytes."""
        return digest(self._key, _TERM + term, "sha256")[:16]

    def subject(self, subject: str) -> bytes:
        """For whom or what evidence is about, and whose key seals it: 16 bytes."""
        return digest(self._key, _SUBJECT + subject.encode(), "sha256")[:16]
