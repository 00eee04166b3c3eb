"""The one way in: a call is authenticated, held to its limits and authorised, and each decision is put on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from afdp.errors import NotaryError, PermissionDenied, ResourceExhausted, Unauthenticated
from afdp.notary.access.admitted import principal as admitted
from afdp.notary.access.audit import AuditEvent, AuditTrail, Result, Step
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.model import Principal
from afdp.rpc.caller import Caller, caller
from afdp.rpc.descriptors import Method


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say.

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


class Policies(Protocol):
    """What principals may do."""

    def on_tenant(self, principal: Principal, permission: str, rpc: str) -> Verdict:
        """Whether the principal has a permission in its own tenant."""


class Gate:
    """Lets calls in, or not."""

    def __init__(
        self, authenticator: Authenticator, limiter: Limiter | None, policies: Policies, trail: AuditTrail
    ) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._policies = policies
        self._trail = trail

    async def admit(self, method: Method) -> None:
        """Sets `principal` for the call that is being served, or refuses the call.

        A method that asks for no permission is open to everybody: who calls it is not even looked at.

        Raises:
            Unauthenticated: the caller is nobody that is believed. It is told no more than that.
            ResourceExhausted: it calls too often.
            PermissionDenied: it may not do this.
            Unavailable: nothing can be decided, or not be recorded.
        """
        if not method.permission:
            return
        principal = await self._authenticated(method)
        if self._limiter is not None:
            await self._limited(principal, method)
        verdict = self._policies.on_tenant(principal, method.permission, method.name)
        result: Result = "allow" if verdict.allowed else "deny"
        self._record(method, "authorization", result, verdict.reason, principal, verdict)
        if not verdict.allowed:
            raise PermissionDenied(f"you are not permitted to do this: it takes {method.permission}")
        admitted.set(principal)

    async def _authenticated(self, method: Method) -> Principal:
        try:
            return await self._authenticator.authenticate(caller.get())
        except CredentialRefused as refused:
            self._record(method, "authentication", "deny", refused.reason)
            raise Unauthenticated("the credentials are missing or not valid") from None
        except NotaryError as error:
            self._record(method, "authentication", "error", str(error))
            raise

    async def _limited(self, principal: Principal, method: Method) -> None:
        if self._limiter is None:
            return
        try:
            await self._limiter.admit(principal, method)
        except ResourceExhausted as error:
            self._record(method, "limit", "deny", str(error), principal)
            raise

    def _record(
        self,
        method: Method,
        step: Step,
        result: Result,
        reason: str,
        principal: Principal | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        submitter = principal.submitter if principal is not None else None
        self._trail.record(
            AuditEvent(
                step=step,
                result=result,
                rpc=method.name,
                permission=method.permission,
                reason=reason,
                issuer=submitter.issuer if submitter is not None else "",
                subject=submitter.subject if submitter is not None else "",
                tenant=principal.tenant if principal is not None else "",
                method=submitter.method if submitter is not None else "",
                policies=verdict.policies if verdict is not None else (),
                policy_hash=verdict.policy_hash if verdict is not None else "",
                address=caller.get().address,
            )
        )
