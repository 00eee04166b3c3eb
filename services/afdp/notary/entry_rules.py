"""Which entries that callers have signed are logged here."""

from __future__ import annotations

from dataclasses import dataclass

from afdp.errors import InvalidArgument
from afdp.formats.entry_request import REQUEST, EntryAlgorithm, EntryRequest


@dataclass(frozen=True, slots=True)
class EntryRules:
    """What is taken.

    Attributes:
        accepted: whether any entry is.
        certificates: whether a certificate may stand in the place of a key: often it holds an e-mail address, which
            then is in the log for ever.
        log: the origin of the log that takes them, or what goes on from it; empty: that of the caller's tenant.
    """

    accepted: bool
    algorithms: frozenset[EntryAlgorithm]
    certificates: bool
    log: str = ""

    def check(self, request: EntryRequest) -> None:
        """Raises where the request is for what is not taken.

        Raises:
            InvalidArgument: names the member.
        """
        verifier = f"{REQUEST}.signature.verifier"
        if request.certified and not self.certificates:
            reason = "is not taken by this log, which is to hold no identities: send publicKey"
            raise InvalidArgument.field(f"{verifier}.x509Certificate", reason)
        if request.algorithm not in self.algorithms:
            known = ", ".join(sorted(self.algorithms))
            raise InvalidArgument.field(f"{verifier}.keyDetails", f"must be one of {known}")
