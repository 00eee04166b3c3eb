"""The values that travel through the notary."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from afdp.errors import NotaryError
from afdp.formats.evidence import EvidencePackage
from afdp.formats.statement import Submitter
from afdp.messages import metadata as store
from afdp.messages.notary import ReceiptState
from afdp.notary.access import acts
from afdp.notary.access.acts import Act


@dataclass(frozen=True, slots=True)
class Attributes:
    """What else is known of a caller, for policies that ask.

    Attributes:
        credential: what it showed.
        groups: those that its identity provider tells, as they are named there.
        clearance: the highest classification that it may see; empty: none is known.
        residency: where it may have data, such as `EU`; empty: not known.
        mfa: whether its provider says that it showed more than one factor.
        authenticated_at: when it showed who it is, which may be long before its credential was made.
        expires_at: when its credential ends.
        address: the IP address that it comes from; empty where that is not known.
    """

    credential: Literal["none", "token", "certificate"] = "none"
    groups: frozenset[str] = frozenset()
    clearance: str = ""
    residency: str = ""
    mfa: bool = False
    authenticated_at: datetime | None = None
    expires_at: datetime | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as authenticated, and for which tenant.

    Attributes:
        tenant: from the credential, never from a request.
        submitter: the identity itself.
        roles: those of the policies, such as `ai_engineer`.
        scopes: what its token is for; None where the credential knows none, as a certificate.
        attributes: what else is known.
    """

    tenant: str
    submitter: Submitter
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] | None = None
    attributes: Attributes = Attributes()


@dataclass(frozen=True, slots=True)
class Held:
    """A permission, and whether a principal has it.

    Attributes:
        policies: the names of those that decide; none: no policy permits it, or none is asked.
    """

    permission: str
    allowed: bool
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedEvidence:
    """An evidence package that was found valid, with its canonical form."""

    package: EvidencePackage
    canonical: bytes
    hash: bytes  # SHA-256 of it


@dataclass(frozen=True, slots=True)
class RefusedEvidence:
    """An evidence package of a batch that breaks a rule."""

    error: NotaryError
    hash: bytes  # SHA-256 of what was sent: the same package sent again has the same


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller wants done with one evidence package."""

    evidence: CheckedEvidence
    principal: Principal
    idempotency_key: str = ""
    dedupe: bool = False
    wait_for: ReceiptState = ReceiptState.UNSPECIFIED  # as the log is: logged, or signed where others run it
    batch_id: str = ""  # UUIDv7, or empty
    act: Act | None = field(default_factory=acts.current.get, compare=False)  # of the call that it came with


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an order became.

    Attributes:
        fresh: whether the record was signed for it just now; else it was read from the store.
    """

    record: store.Record
    fresh: bool


@dataclass(eq=False, slots=True)
class Submission:
    """An order on its way through the pipeline, and where its caller waits for the record."""

    order: Order
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def tenant(self) -> str:
        """Whose turn in the queue it takes."""
        return self.order.principal.tenant

    @property
    def size(self) -> int:
        """The most that its draft takes in a message, in bytes: its weight in the queue and in a batch.

        The statement repeats the evidence, and names each artifact with its hash once more, as does what search needs;
        the rest is what surrounds them, with the signature and its timestamp.
        """
        evidence = self.order.evidence
        return 3 * len(evidence.canonical) + 64 * len(evidence.package.artifacts) + 4096

    def succeed(self, record: store.Record, *, fresh: bool) -> None:
        """Gives the record to the caller, if it still waits."""
        if not self.outcome.done():
            self.outcome.set_result(Outcome(record, fresh))

    def fail(self, error: Exception) -> None:
        """Gives the error to the caller, if it still waits."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
