"""The one way in: a call is authenticated, held to its limits and authorised, and each decision is put on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

from afdp.errors import NotaryError, PermissionDenied, ResourceExhausted, Unauthenticated
from afdp.notary.access import admitted
from afdp.notary.access.audit import AuditEvent, AuditTrail, Result, Step
from afdp.notary.access.given import Given, Listed, receipts_given
from afdp.notary.access.labels import Labels
from afdp.notary.access.permissions import PERMISSIONS
from afdp.notary.access.policies import LivePolicies, Verdict
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.model import CheckedEvidence, Held, Principal
from afdp.policy.facts import AUTHENTICATED, EvidenceFacts
from afdp.rpc import answer
from afdp.rpc.caller import Caller, caller
from afdp.rpc.descriptors import Method

CREATE = "evidence.create"
READ = "evidence.read"

_LEEWAY = timedelta(seconds=300)
"""The most that an issuer's clock may be off by; when a call comes in, its own bound counts."""


class Authenticator(Protocol):
    """Finds out who calls."""

    async def authenticate(self, caller: Caller) -> Principal:
        """Whom the credentials of a call belong to.

        Raises:
            CredentialRefused: to nobody that is believed.
            Unavailable: that cannot be told now.
        """


class Limiter(Protocol):
    """Holds callers to how much they may do."""

    async def admit(self, principal: Principal, method: Method) -> None:
        """Counts a call.

        Raises:
            ResourceExhausted: it is one too many.
        """


class Gate:
    """Lets calls in, or not; and once in, evidence."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter | None,
        policies: LivePolicies,
        labels: Labels,
        trail: AuditTrail,
    ) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._policies = policies
        self._labels = labels
        self._trail = trail

    # --- calls --------------------------------------------------------------------------------------------------------

    async def admit(self, method: Method, refused: NotaryError | None = None) -> None:
        """Sets `principal` for the call that is being served, or refuses the call.

        A method that asks for no permission is open to everybody: who calls it is not even looked at. A call that was
        `refused` for its certificate is put on record, and that is all.

        Raises:
            Unauthenticated: the caller is nobody that is believed. It is told no more than that.
            ResourceExhausted: it calls too often.
            PermissionDenied: it may not do this.
            Unavailable: nothing can be decided, or not be recorded.
        """
        admitted.rpc.set(method.name)
        if refused is not None:
            reason = str(refused.__cause__ or refused.message)
            step: Step = "limit" if isinstance(refused, ResourceExhausted) else "authentication"
            self._record(step, "deny", method.permission, reason)
            return
        if not method.permission:
            return
        principal = await self._authenticated(method.permission)
        if self._limiter is not None:
            await self._within_limits(self._limiter, principal, method)
        if method.permission == AUTHENTICATED:
            self._record("authorization", "allow", AUTHENTICATED, "it takes no more than to be somebody", principal)
        else:
            self._require(principal, method)
        admitted.principal.set(principal)

    def _require(self, principal: Principal, method: Method) -> None:
        verdict = self._policies.decide(principal, method.permission, method.name, caller.get().address)
        self._authorization(principal, method.permission, verdict)
        if not verdict.allowed:
            raise PermissionDenied(f"you are not permitted to do this: it takes {method.permission}")

    async def _authenticated(self, permission: str) -> Principal:
        try:
            found = await self._authenticator.authenticate(caller.get())
            if _is_ours(found):
                raise CredentialRefused("it says to be the notary itself")
            return found
        except CredentialRefused as refused:
            self._record("authentication", "deny", permission, refused.reason)
            answer.tell(("www-authenticate", "Bearer"))  # RFC 6750, section 3, which asks for it
            raise Unauthenticated("the credentials are missing or not valid") from None
        except NotaryError as error:
            self._record("authentication", "error", permission, error.message)
            raise

    async def _within_limits(self, limiter: Limiter, principal: Principal, method: Method) -> None:
        try:
            await limiter.admit(principal, method)
        except ResourceExhausted as error:
            self._record("limit", "deny", method.permission, error.message, principal)
            raise

    # --- evidence -----------------------------------------------------------------------------------------------------

    def require_create(self, principal: Principal, evidence: CheckedEvidence) -> None:
        """Refuses evidence that the policies forbid, before anything is signed.

        Raises:
            PermissionDenied: they do.
            Unauthenticated: the credential has expired meanwhile, as in a stream that goes on.
            Unavailable: it cannot be recorded.
        """
        if _is_ours(principal):
            return
        self.require_unexpired(principal, CREATE)
        package = evidence.package
        labelled = self.asks_for_labels
        facts = self._labels.of(package.event_type, package.metadata) if labelled else EvidenceFacts(package.event_type)
        verdict = self._on_evidence(principal, CREATE, facts)
        self._authorization(principal, CREATE, verdict, f"evidence:{evidence.hash.hex()}")
        if not verdict.allowed:
            raise PermissionDenied("you are not permitted to notarise this evidence")

    def require_unexpired(self, principal: Principal, permission: str) -> None:
        """Refuses a caller whose credential has ended since the call began, as in a stream that goes on.

        Raises:
            Unauthenticated: it has.
            Unavailable: it cannot be recorded.
        """
        ends = principal.attributes.expires_at
        if ends is not None and datetime.now(UTC) >= ends + _LEEWAY:
            self._record("authentication", "deny", permission, "the credential has expired in mid-stream", principal)
            raise Unauthenticated("the credentials are missing or not valid")

    def may_read(self, principal: Principal, evidence_hash: bytes, evidence: bytes, receipt_id: str = "") -> bool:
        """Whether a principal may see evidence, of which `evidence` is the canonical form.

        On record it is named by its receipt, which says nothing of it once it is erased; by its hash where none is
        given.

        Raises:
            Unavailable: it cannot be recorded.
        """
        if _is_ours(principal):
            return True
        facts = self._labels.of_canonical(evidence)
        verdict = self._on_evidence(principal, READ, facts)
        resource = f"receipt:{receipt_id}" if receipt_id else f"evidence:{evidence_hash.hex()}"
        self._authorization(principal, READ, verdict, resource)
        return verdict.allowed

    @property
    def asks_for_labels(self) -> bool:
        """Whether more than its event type has to be known of evidence to say who may see it."""
        return self._policies.asks_for_labels

    def may_list(self, principal: Principal, many: Sequence[Listed]) -> list[bool]:
        """As `may_read`, of each of many. What a list leaves out is put on record, by the policies that say so.

        Raises:
            Unavailable: it cannot be recorded.
        """
        if _is_ours(principal):
            return [True] * len(many)
        verdicts = [self._on_evidence(principal, READ, self._facts(each)) for each in many]
        left_out: dict[tuple[str, ...], tuple[Verdict, list[str]]] = {}
        for each, verdict in zip(many, verdicts, strict=True):
            if not verdict.allowed:
                left_out.setdefault(verdict.policies, (verdict, []))[1].append(each.receipt_id)
        for verdict, receipt_ids in left_out.values():
            given = receipts_given(receipt_ids)
            reason = f"a list leaves {given.count} out: {verdict.reason}"
            self._record("authorization", "deny", READ, reason, principal, verdict, given.resource, given.members())
        return [verdict.allowed for verdict in verdicts]

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        """Puts on record what an answer gives of many things. Raises Unavailable."""
        if not _is_ours(principal):
            more = given.members()
            self._record("authorization", "allow", permission, "", principal, resource=given.resource, more=more)

    def _facts(self, listed: Listed) -> EvidenceFacts:
        if listed.evidence is None:
            return EvidenceFacts(listed.event_type)
        return self._labels.of_canonical(listed.evidence)

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """Each permission, by name, and the SHA-256 in hex of the policies that were asked. It is not put on record."""
        verdicts = {each: self._on_tenant(principal, each) for each in sorted(PERMISSIONS)}
        return [Held(name, each.allowed, each.policies) for name, each in verdicts.items()], self._policies.hash

    def _on_tenant(self, principal: Principal, permission: str) -> Verdict:
        return self._policies.decide(principal, permission, admitted.rpc.get(), caller.get().address)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Puts on record what a call that was let in is about, and why it was refused, if by no policy.

        Args:
            kind: such as `key`.
            named: its name, or bytes that are named by their SHA-256.
            refused: why; empty: it was not.
        """
        if _is_ours(principal):
            return
        resource = f"{kind}:{named if isinstance(named, str) else sha256(named).hexdigest()}"
        self._record("authorization", "deny" if refused else "allow", permission, refused, principal, resource=resource)

    def _on_evidence(self, principal: Principal, permission: str, facts: EvidenceFacts) -> Verdict:
        return self._policies.decide(principal, permission, admitted.rpc.get(), caller.get().address, facts)

    # --- the record ---------------------------------------------------------------------------------------------------

    def _authorization(self, principal: Principal, permission: str, verdict: Verdict, resource: str = "") -> None:
        result: Result = "allow" if verdict.allowed else "deny"
        self._record("authorization", result, permission, verdict.reason, principal, verdict, resource)

    def _record(
        self,
        step: Step,
        result: Result,
        permission: str,
        reason: str,
        principal: Principal | None = None,
        verdict: Verdict | None = None,
        resource: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        who = principal.submitter if principal is not None else None
        self._trail.record(
            AuditEvent(
                step=step,
                result=result,
                rpc=admitted.rpc.get(),
                permission=permission,
                reason=reason,
                issuer=who.issuer if who is not None else "",
                subject=who.subject if who is not None else "",
                tenant=principal.tenant if principal is not None else "",
                method=who.method if who is not None else "",
                resource=resource,
                policies=verdict.policies if verdict is not None else (),
                policy_hash=verdict.policy_hash if verdict is not None else "",
                address=caller.get().address,
                more=more or {},
            )
        )


def _is_ours(principal: Principal) -> bool:
    """Whether it is the notary itself, which no credential says: it notarises and looks up what happens to its keys."""
    return principal.submitter.method == "service"
