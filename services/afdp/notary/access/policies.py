"""The policies in force: asked at each call, renewed when their files change, and never replaced by wrong ones."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge

from afdp.notary.model import Principal
from afdp.notary.status import Part
from afdp.policy import sources
from afdp.policy.cedar import Decision, PolicySet
from afdp.policy.facts import Circumstances, Deployment, EvidenceFacts, Question, Subject
from afdp.policy.sources import PolicyError

logger = logging.getLogger(__name__)

_REMEMBERED = 20_000
"""Decisions that are kept."""

_OF_TIME = frozenset({"now", "hour", "weekday"})

_LABELS = frozenset({"classification", "residency"})

_info = Gauge("afdp_policy_info", "1 for the policies in force, by the SHA-256 of their files.", ["sha256"])
_reloads = Counter("afdp_policy_reloads", "Times that changed policy files were read, by what came of it.", ["outcome"])
for _outcome in ("taken", "refused"):
    _reloads.labels(_outcome)  # there from the start, so that the first one is seen as a rise


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and what decided.

    Attributes:
        allowed: whether some policy permits it and none forbids it.
        reason: why, for the operator.
        policies: the names of those that decided.
        policy_hash: SHA-256 of all of them, in hex.
    """

    allowed: bool
    reason: str
    policies: tuple[str, ...]
    policy_hash: str


class LivePolicies:
    """Answers from the policies in force. Decisions are remembered for as long as nothing they stand on can change.

    Attributes:
        asks_for_labels: whether any policy asks for what evidence says of itself beyond its type.
    """

    def __init__(self, folders: Sequence[str], deployment: Deployment, interval: float) -> None:
        """Reads them. Raises PolicyError."""
        self._folders = folders
        self._deployment = deployment
        self._interval = interval
        self._remembered: OrderedDict[tuple[object, ...], Verdict] = OrderedDict()
        self._wrong = ""
        self._listener: Callable[[str], None] = lambda _: None
        self._set = PolicySet(sources.read(folders), deployment)
        self._take(self._set)

    @property
    def hash(self) -> str:
        """SHA-256 of the policies in force, in hex."""
        return self._set.hash

    @property
    def described(self) -> str:
        """How many there are, and which."""
        return f"{len(self._set.policies)} policies, SHA-256 {self.hash[:16]}…"

    def tell(self, listener: Callable[[str], None]) -> None:
        """Has a listener hear the hash of those in force, now and whenever others are."""
        self._listener = listener
        listener(self.hash)

    async def status(self) -> list[Part]:
        """How they are, for the operators."""
        remedy = "mend the files: the log has each fault with its line" if self._wrong else ""
        wrong = "; changed files are wrong and were not taken" if self._wrong else ""
        return [Part("notary", "policies", not self._wrong, self.described + wrong, remedy)]

    def decide(
        self, principal: Principal, permission: str, rpc: str, address: str, evidence: EvidenceFacts | None = None
    ) -> Verdict:
        """Whether the principal has a permission: in its tenant, or for one evidence package."""
        now = datetime.now(UTC).replace(microsecond=0)
        key = (principal, permission, rpc, address, evidence, now if self._timed else None)
        found = self._remembered.get(key)
        if found is not None:
            self._remembered.move_to_end(key)
            return found
        circumstances = Circumstances(now, rpc, address)
        decision = self._set.decide(Question(_subject(principal), permission, evidence, circumstances))
        return self._remember(key, decision)

    async def run(self) -> None:
        """Looks for changed files until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.reload()

    async def reload(self) -> None:
        """Takes the files as they are now. What is wrong is told, and then the policies in force stay."""
        try:
            changed = await asyncio.to_thread(self._changed)
        except PolicyError as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                _reloads.labels("refused").inc()
                faults = {"faults": [str(fault) for fault in error.faults], "in_force": self.hash}
                logger.error("changed policies are wrong: the old ones stay", extra={"fields": faults})
            return
        self._wrong = ""
        if changed is not None:
            _reloads.labels("taken").inc()
            logger.info("policies changed", extra={"fields": {"from": self.hash, "to": changed.hash}})
            self._take(changed)

    def _changed(self) -> PolicySet | None:
        read = sources.read(self._folders)
        return PolicySet(read, self._deployment) if read.hash != self.hash else None

    def _take(self, policies: PolicySet) -> None:
        _info.clear()
        _info.labels(policies.hash).set(1)
        self._set = policies
        self._timed = not policies.attributes.isdisjoint(_OF_TIME)
        self.asks_for_labels = not policies.attributes.isdisjoint(_LABELS)
        self._remembered.clear()
        self._listener(policies.hash)

    def _remember(self, key: tuple[object, ...], decision: Decision) -> Verdict:
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.popitem(last=False)  # the one that was asked for the longest time ago
        verdict = Verdict(decision.allowed, decision.reason, decision.policies, self.hash)
        if decision.errors:
            logger.error("a policy could not be evaluated", extra={"fields": {"errors": list(decision.errors)}})
        self._remembered[key] = verdict
        return verdict


def _subject(principal: Principal) -> Subject:
    known = principal.attributes
    return Subject(
        tenant=principal.tenant,
        roles=principal.roles,
        scopes=principal.scopes,
        issuer=principal.submitter.issuer,
        subject=principal.submitter.subject,
        method=principal.submitter.method,
        credential=known.credential,
        groups=known.groups,
        clearance=known.clearance.lower(),
        residency=known.residency,
        mfa=known.mfa,
        authenticated_at=known.authenticated_at,
    )
