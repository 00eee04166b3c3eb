"""What policies are asked about, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

DEPLOYMENT_WIDE = frozenset({"keys.admin", "retention.admin", "status.read"})
"""Permissions that concern every tenant."""

AUTHENTICATED = "authenticated"
"""What a method asks for that everybody may call who is somebody: no policy is asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who: the schema's `Principal`. `clearance` is the name of one, empty where none is known."""

    tenant: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] | None = None
    issuer: str = ""
    subject: str = ""
    method: str = "oidc"
    credential: str = "token"
    groups: frozenset[str] = frozenset()
    clearance: str = ""
    residency: str = ""
    mfa: bool = False
    authenticated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EvidenceFacts:
    """What about: the schema's `Evidence`. `classification` is the name of one, empty where it has none."""

    event_type: str
    classification: str = ""
    residency: str = ""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """When and how: the schema's `Circumstances`, without what is the same for every call."""

    now: datetime
    rpc: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether `who` may do `action`, on its tenant, on the deployment, or with this evidence."""

    who: Subject
    action: str
    evidence: EvidenceFacts | None
    circumstances: Circumstances


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is the same for every question.

    Attributes:
        classifications: their names, lowest first.
        operators: the tenants whose administrators look after the deployment.
        region: where it keeps its data; empty: not said.
    """

    classifications: tuple[str, ...] = ()
    operators: frozenset[str] = frozenset()
    region: str = ""

    def request(self, question: Question) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A question as Cedar's JSON: the request and its entities."""
        who, evidence = question.who, question.evidence
        tenant = _uid("Tenant", who.tenant)
        principal = _uid("Principal", f"{who.issuer}|{who.subject}")
        entities = [{"uid": principal, "attrs": self._attributes(who), "parents": [_uid("Role", r) for r in who.roles]}]
        resource = _uid("Deployment", "") if question.action in DEPLOYMENT_WIDE else tenant
        if evidence is not None:
            resource = _uid("Evidence", "")
            entities.append({"uid": resource, "attrs": self._evidence(evidence), "parents": [tenant]})
        request = {
            "principal": principal,
            "action": _uid("Action", question.action),
            "resource": resource,
            "context": self._context(question.circumstances),
        }
        return request, entities

    def _attributes(self, who: Subject) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "tenant": {"__entity": _uid("Tenant", who.tenant)},
            "issuer": who.issuer,
            "subject": who.subject,
            "method": who.method,
            "credential": who.credential,
            "groups": sorted(who.groups),
            "clearance": self._place(who.clearance, unknown=0),
            "mfa": who.mfa,
        }
        if who.scopes is not None:
            attributes["scopes"] = sorted(who.scopes)
        if who.residency:
            attributes["residency"] = who.residency
        if who.authenticated_at is not None:
            attributes["authenticated_at"] = _datetime(who.authenticated_at)
        return attributes

    def _evidence(self, evidence: EvidenceFacts) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "event_type": evidence.event_type,
            "classification": self._place(evidence.classification, unknown=len(self.classifications) + 1),
        }
        if evidence.residency:
            attributes["residency"] = evidence.residency
        return attributes

    def _context(self, circumstances: Circumstances) -> dict[str, Any]:
        now = circumstances.now.astimezone(UTC)
        context: dict[str, Any] = {
            "now": _datetime(now),
            "hour": now.hour,
            "weekday": now.isoweekday(),
            "rpc": circumstances.rpc,
            "operators": [{"__entity": _uid("Tenant", each)} for each in sorted(self.operators)],
        }
        if self.region:
            context["region"] = self.region
        if _is_address(circumstances.address):
            context["address"] = {"__extn": {"fn": "ip", "arg": circumstances.address}}
        return context

    def _place(self, name: str, unknown: int) -> int:
        """From 1; 0 for no name."""
        if not name:
            return 0
        return self.classifications.index(name) + 1 if name in self.classifications else unknown


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _datetime(time: datetime) -> dict[str, Any]:
    text = time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"__extn": {"fn": "datetime", "arg": text}}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
