"""A credential that is not believed."""

from __future__ import annotations


class CredentialRefused(Exception):
    """The caller has shown nothing, or nothing that proves who it is.

    Attributes:
        reason: why, for the operator; the caller is told nothing of it. One of a few fixed sentences: refusals are
            counted by it, and it quotes neither the credential nor what a stranger chose to write into it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
