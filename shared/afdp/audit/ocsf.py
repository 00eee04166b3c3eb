"""Audit events as OCSF JSON, the Open Cybersecurity Schema Framework (schema.ocsf.io).

- Authentication, 3002: who calls is found out, or not.
- Entity Management, 3004: an act upon a key, a hold, a subject or the like, by those who may administer them.
- API Activity, 6003: all else. Calls that are let in, refused or over a limit; evidence notarised, read or listed.

Accounts are changed where they are kept, at the issuer of tokens: there is no event of Account Change, 3001.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

import orjson

from afdp.audit.event import RecordedEvent
from afdp.version import VERSION

SCHEMA_VERSION: Final = "1.5.0"
"""Of OCSF. Later ones add to it; so a reader of 1.5 or later understands it."""

AUTHENTICATION: Final = 3002
ENTITY_MANAGEMENT: Final = 3004
API_ACTIVITY: Final = 6003

UNKNOWN: Final = "unknown"
SERVICE: Final = "afdp.notary.v1.NotaryService"

INFORMATIONAL, LOW, MEDIUM, HIGH = 1, 2, 3, 4
SEVERITIES: Final[Mapping[int, str]] = {INFORMATIONAL: "Informational", LOW: "Low", MEDIUM: "Medium", HIGH: "High"}

_CLASSES = {
    AUTHENTICATION: (3, "Identity & Access Management", "Authentication"),
    ENTITY_MANAGEMENT: (3, "Identity & Access Management", "Entity Management"),
    API_ACTIVITY: (6, "Application Activity", "API Activity"),
}
_CREATE, _READ, _UPDATE, _DELETE, _DISABLE, _DEACTIVATE, _OTHER = 1, 2, 3, 4, 9, 11, 99
_ACTIVITIES = {_CREATE: "Create", _READ: "Read", _UPDATE: "Update", _DELETE: "Delete"}
_ENTITY_ACTIVITIES = {**_ACTIVITIES, _DISABLE: "Disable", _DEACTIVATE: "Deactivate"}
# By the first word of a method's name.
_VERBS = {
    **dict.fromkeys(["Sign", "Create", "Add", "Place", "Hold", "Publish", "Anchor"], _CREATE),
    **dict.fromkeys(
        ["Get", "List", "Search", "Validate", "Watch", "Export", "Find", "Read", "Health", "Verify", "Who", "Count"],
        _READ,
    ),
    **dict.fromkeys(
        ["Decide", "Cancel", "Rotate", "Renew", "Rewrap", "Freeze", "Reconcile", "Set", "Update", "Put"], _UPDATE
    ),
    **dict.fromkeys(["Erase", "Delete", "Destroy", "Expire", "Purge"], _DELETE),
}
_ENTITY_VERBS = {**_VERBS, "Revoke": _DISABLE, "Release": _DEACTIVATE}
# What those look after who administer something, by the kind of a resource.
_ADMINISTERED = frozenset({"hold", "identity", "key", "log", "policy", "retention", "subject", "tenant"})
_FIRST_WORD = re.compile("[A-Z][a-z]*")

_SUCCESS, _FAILURE = 1, 2
_ALLOWED, _DENIED = 1, 2
_OPENID, _OTHER_PROTOCOL = 4, 99
_NETWORK_LOGON = 3
_OTHER_ENTITY = 99


def ocsf_json(event: RecordedEvent) -> bytes:
    """An event as one line of OCSF JSON, without the line's end."""
    return orjson.dumps(to_ocsf(event))


def to_ocsf(event: RecordedEvent) -> dict[str, Any]:
    """An event as an OCSF object, with all that its class requires. What is empty is left out."""
    kind = class_of(event)
    category, category_name, class_name = _CLASSES[kind]
    activity, activity_name = activity_of(event)
    severity = severity_of(event)
    allowed = event.result == "allow"
    told: dict[str, Any] = {
        "metadata": _metadata(event),
        "time": round(event.time.timestamp() * 1000),
        "category_uid": category,
        "category_name": category_name,
        "class_uid": kind,
        "class_name": class_name,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": kind * 100 + activity,
        "type_name": type_name_of(event),
        "severity_id": severity,
        "severity": SEVERITIES[severity],
        **status_of(event),
        "action_id": _ALLOWED if allowed else _DENIED,
        "action": "Allowed" if allowed else "Denied",
        "message": message_of(event),
        "src_endpoint": _source(event),
        **_of_class(kind, event),
    }
    if event.count > 1:
        told["count"] = event.count
    if event.policies:
        told["authorizations"] = [_authorization(event, name) for name in event.policies]
    if unmapped := _unmapped(event, kind):
        told["unmapped"] = unmapped
    return told


def class_of(event: RecordedEvent) -> int:
    """The number of an event's class."""
    if event.step == "authentication":
        return AUTHENTICATION
    kind = event.resource.partition(":")[0]
    administers = kind in _ADMINISTERED or (event.permission.endswith(".admin") and bool(event.rpc))
    return ENTITY_MANAGEMENT if administers and _verb(event, _ENTITY_VERBS) != _READ else API_ACTIVITY


def activity_of(event: RecordedEvent) -> tuple[int, str]:
    """The number and the name of what was done, within its class."""
    kind = class_of(event)
    if kind == AUTHENTICATION:
        return 1, "Logon"
    verbs, names = (_ENTITY_VERBS, _ENTITY_ACTIVITIES) if kind == ENTITY_MANAGEMENT else (_VERBS, _ACTIVITIES)
    found = _verb(event, verbs)
    return found, names.get(found) or event.rpc or "Other"


def type_name_of(event: RecordedEvent) -> str:
    """Class and activity in words, such as `API Activity: Read`."""
    return f"{_CLASSES[class_of(event)][2]}: {activity_of(event)[1]}"


def severity_of(event: RecordedEvent) -> int:
    """How much an event matters: OCSF's severity_id, 1 to 4."""
    if event.result == "error":
        return MEDIUM if event.step == "act" else HIGH
    administers = class_of(event) == ENTITY_MANAGEMENT
    if event.result == "allow":
        return LOW if administers else INFORMATIONAL
    if event.step == "authorization":
        return HIGH if administers else MEDIUM
    return LOW


def status_of(event: RecordedEvent) -> dict[str, Any]:
    """What came of it: `status_id`, `status`, and why."""
    if event.phase == "intent" and event.result == "allow":
        found: dict[str, Any] = {"status_id": 99, "status": "Intended"}
    elif event.result == "allow":
        found = {"status_id": _SUCCESS, "status": "Success"}
    else:
        found = {"status_id": _FAILURE, "status": "Failure", "status_code": event.result}
    return found | ({"status_detail": event.reason} if event.reason else {})


def message_of(event: RecordedEvent) -> str:
    """An event in one sentence."""
    what = event.rpc or "a call"
    if event.count > 1:
        what = f"{what}, {event.count} times"
    said = {"allow": "allowed", "deny": "refused", "error": "refused, as nothing could be decided"}
    told = "about to be done" if event.phase == "intent" else said.get(event.result, event.result)
    return f"{event.step}: {what}: {told}{': ' + event.reason if event.reason else ''}"


def uid_of(event: RecordedEvent) -> str:
    """What names an event; the same however often it is sent. Empty where nothing does."""
    return event.uid or (str(event.sequence) if event.sequence else "")


def valid_address(address: str) -> str:
    """An IP address as OCSF and CEF take it; empty where it is none."""
    try:
        found = ip_address(address)
    except ValueError:
        return ""
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _verb(event: RecordedEvent, verbs: Mapping[str, int]) -> int:
    word = _FIRST_WORD.match(event.rpc)
    return verbs.get(word[0], _OTHER) if word else _OTHER


def _metadata(event: RecordedEvent) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": SCHEMA_VERSION,
        "product": {"name": "AFDP Notary Service", "vendor_name": "AFDP", "uid": "afdp-notary", "version": VERSION},
        "profiles": ["security_control"],
        "log_name": "audit",
        "event_code": f"{event.step}.{event.result}",
    }
    if uid := uid_of(event):
        found["uid"] = uid
    if event.sequence:
        found["sequence"] = event.sequence
    if event.tenant:
        found["tenant_uid"] = event.tenant
    if event.request_id:
        found["correlation_uid"] = event.request_id
    if event.cut:
        found["labels"] = ["truncated"]
    return found


def _source(event: RecordedEvent) -> dict[str, Any]:
    """At least one way to say where from, which is required."""
    if address := valid_address(event.address):
        return {"ip": address}
    return {"svc_name": "afdp-notary"} if event.method == "service" else {"name": UNKNOWN}


def _of_class(kind: int, event: RecordedEvent) -> dict[str, Any]:
    if kind == AUTHENTICATION:
        return {
            "user": _user(event),
            "service": {"name": SERVICE},
            "logon_type_id": _NETWORK_LOGON,
            "logon_type": "Network",
            "is_remote": True,
            **_protocol(event.method),
        }
    if kind == ENTITY_MANAGEMENT:
        return {"actor": _actor(event), "entity": _entity(event), "comment": event.rpc}
    api: dict[str, Any] = {"operation": event.rpc or UNKNOWN, "service": {"name": SERVICE}}
    if event.request_id:
        api["request"] = {"uid": event.request_id}
    found: dict[str, Any] = {"actor": _actor(event), "api": api}
    if event.resource:
        name, _, named = event.resource.partition(":")
        found["resources"] = [{"uid": named or name, "type": name}]
    return found


def _entity(event: RecordedEvent) -> dict[str, Any]:
    """What is administered; its kind is the method's to say where its name is not known yet, as before the act."""
    kind, _, named = event.resource.partition(":")
    if kind:
        return {"uid": named or kind, "type_id": _OTHER_ENTITY, "type": kind}
    word = _FIRST_WORD.match(event.rpc)
    return {
        "name": UNKNOWN,
        "type_id": _OTHER_ENTITY,
        "type": event.rpc[word.end() if word else 0 :].lower() or UNKNOWN,
    }


def _protocol(method: str) -> dict[str, Any]:
    if method in ("oidc", "jwt"):
        return {"auth_protocol_id": _OPENID, "auth_protocol": "OpenID"}
    return {"auth_protocol_id": _OTHER_PROTOCOL, "auth_protocol": method} if method else {}


def _actor(event: RecordedEvent) -> dict[str, Any]:
    found: dict[str, Any] = {"user": _user(event)}
    if event.issuer:
        found["session"] = {"issuer": event.issuer}
    return found


def _user(event: RecordedEvent) -> dict[str, Any]:
    """Whoever called; one that nobody could find out has the name `unknown`, as a user is required."""
    found: dict[str, Any] = {"uid": event.subject} if event.subject else {"name": UNKNOWN}
    if event.issuer:
        found["domain"] = event.issuer
    if event.tenant:
        found["org"] = {"uid": event.tenant, "name": event.tenant}
    return found | {"type_id": 0, "type": "Unknown"}


def _authorization(event: RecordedEvent, name: str) -> dict[str, Any]:
    policy: dict[str, Any] = {"name": name}
    if event.policy_hash:
        policy["version"] = event.policy_hash
    return {"decision": event.result, "policy": policy}


def _unmapped(event: RecordedEvent, kind: int) -> dict[str, str]:
    """What is on record and has no place in a class."""
    found = {"step": event.step, "permission": event.permission, "method": event.method, "phase": event.phase}
    if kind == AUTHENTICATION:
        found |= {"rpc": event.rpc, "resource": event.resource}
    if not event.policies:
        found["policy_hash"] = event.policy_hash
    if event.address and not valid_address(event.address):
        found["address"] = event.address
    return {name: value for name, value in {**event.further, **found}.items() if value}
