"""What is on record of each decision about access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from afdp.telemetry.context import request_id

Step = Literal["authentication", "limit", "authorization", "act"]
Result = Literal["allow", "deny", "error"]


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who wanted to do what, and whether that one was let. Holds no secret, and nothing of a credential but its owner.

    Attributes:
        step: what decided; `act`: nothing did, it is what came of a call that was let in.
        result: what was decided; `error` where nothing could be, which lets nobody in.
        rpc: the name of the method that was called.
        permission: what it asks for.
        reason: why, for the operator.
        issuer, subject, tenant, method: who, as authenticated; empty where that failed.
        resource: what it is about, such as `evidence:` and its hash; empty: the tenant as a whole.
        policies: the names of the policies that decided.
        policy_hash: SHA-256 of all policies that were asked, in hex; empty: none were.
        address: the IP address that the call came from; empty where that is not known.
        request_id: of the call.
        time: when it was decided.
        more: what else is told of it, by name.
    """

    step: Step
    result: Result
    rpc: str
    permission: str
    reason: str = ""
    issuer: str = ""
    subject: str = ""
    tenant: str = ""
    method: str = ""
    resource: str = ""
    policies: tuple[str, ...] = ()
    policy_hash: str = ""
    address: str = ""
    request_id: str = field(default_factory=request_id.get)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    more: Mapping[str, Any] = field(default_factory=dict, compare=False)


class AuditTrail(Protocol):
    """Where events go."""

    def record(self, event: AuditEvent) -> None:
        """Puts an event on record, without waiting for anything. The call's act knows when it is durable.

        Raises:
            Unavailable: it can go nowhere; what it is about must not happen.
        """
