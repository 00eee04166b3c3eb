"""Audit events in the Common Event Format, CEF:0, with the extension keys of its dictionary.

A key's value is cut to the length that the dictionary gives it, so that no receiver drops the event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import (
    HIGH,
    INFORMATIONAL,
    LOW,
    MEDIUM,
    message_of,
    severity_of,
    status_of,
    type_name_of,
    uid_of,
    valid_address,
)
from afdp.version import VERSION

SEVERITIES: Final = {INFORMATIONAL: 2, LOW: 4, MEDIUM: 6, HIGH: 8}
"""Of CEF, 0 to 10, by OCSF's severity_id."""

_OUTCOMES = {"Intended": "intended", "Success": "success", "Failure": "failure"}
# What no line may have in it, but for the ends of lines, which are escaped where they may be.
_CONTROL = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_PLAIN = re.compile("[^\\\\=\x00-\x1f\x7f\x85\u2028\u2029]*")
_LINE_END = re.compile("[\r\n]+")


def cef(event: RecordedEvent) -> bytes:
    """An event as one line of CEF in UTF-8, without the line's end."""
    did = "allowed" if event.result == "allow" else "denied"
    header = (
        "CEF:0",
        "AFDP",
        "Notary Service",
        VERSION,
        f"{event.step}.{event.result}",
        f"{type_name_of(event)}, {did}",
        str(SEVERITIES[severity_of(event)]),
    )
    facts = " ".join(f"{key}={escaped(value)}" for key, value in _extension(event, status_of(event)["status"]))
    return ("|".join(map(escaped_header, header)) + "|" + facts).encode()


def escaped_header(text: str) -> str:
    """A field of the header: a pipe and a backslash are escaped, and there is no way to tell of a line's end."""
    return _LINE_END.sub(" ", _CONTROL.sub(" ", text)).replace("\\", "\\\\").replace("|", "\\|")


def escaped(text: str) -> str:
    """A value of the extension: a backslash, an equals sign and ends of lines are escaped; a pipe is not."""
    if _PLAIN.fullmatch(text):
        return text
    plain = _CONTROL.sub(" ", text).replace("\\", "\\\\").replace("=", "\\=")
    return plain.replace("\r", "\\r").replace("\n", "\\n")


def _extension(event: RecordedEvent, status: str) -> Iterator[tuple[str, str]]:
    """Keys and values in order; nothing of what is empty. Labels come with what they name."""
    address = valid_address(event.address).partition("%")[0]
    plain = (
        ("rt", str(round(event.time.timestamp() * 1000)), 13),
        ("externalId", uid_of(event).replace("-", ""), 40),  # a UUID, and a place, fit without its signs
        ("cat", event.step, 1023),
        ("act", event.rpc, 63),
        ("outcome", _OUTCOMES[status], 63),
        ("reason", event.reason, 1023),
        ("msg", message_of(event), 1023),
        ("cnt", str(event.count), 19),
        ("suser", event.subject, 1023),
        ("src", "" if ":" in address else address, 15),
    )
    labelled = (
        ("c6a2", "Source IPv6 Address", address if ":" in address else "", 39),
        ("cs1", "tenant", event.tenant, 4000),
        ("cs2", "issuer", event.issuer, 4000),
        ("cs3", "resource", event.resource, 4000),
        ("cs4", "policies", ", ".join(event.policies), 4000),
        ("cs5", "permission", event.permission, 4000),
        ("cs6", "policyHash", event.policy_hash, 4000),
        ("flexString1", "requestId", event.request_id, 1023),
        ("flexString2", "authMethod", event.method, 1023),
    )
    yield from ((key, value[:most]) for key, value, most in plain if value)
    for key, label, value, most in labelled:
        if value:
            yield f"{key}Label", label
            yield key, value[:most]
