"""Syslog messages of RFC 5424 and their frames of RFC 5425."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import HIGH, INFORMATIONAL, LOW, MEDIUM, severity_of, uid_of
from afdp.version import VERSION

LOG_AUDIT: Final = 13
"""The facility "log audit" (RFC 5424, section 6.2.1)."""

DOCUMENTATION: Final = 32473
"""The private enterprise number of examples (RFC 5612), for who has none of its own."""

# Informational, Notice, Warning, Error (RFC 5424, section 6.2.1).
_SEVERITIES = {INFORMATIONAL: 6, LOW: 5, MEDIUM: 4, HIGH: 3}
_NOT_PRINTED = re.compile("[^!-~]")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_TO_ESCAPE = re.compile(r'(["\\\]])')


@dataclass(frozen=True, slots=True)
class Originator:
    """Who sends messages.

    Attributes:
        hostname: as the receiver knows this machine.
        process: of it, such as its number.
        facility: 0 to 23.
        enterprise: the number in the name of our structured data.
    """

    hostname: str
    process: str = ""
    facility: int = LOG_AUDIT
    enterprise: int = DOCUMENTATION


def syslog_message(event: RecordedEvent, body: bytes, sender: Originator) -> bytes:
    """A message with an event in some format as its text, and what to sort it by as structured data.

    The text is of MSG-ANY: UTF-8 without the mark that RFC 5424 would begin it with, which readers of JSON and of CEF
    stumble over.
    """
    priority = sender.facility * 8 + _SEVERITIES[severity_of(event)]
    time = event.time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    name, process = _name(sender.hostname, 255), _name(sender.process, 128)
    header = f"<{priority}>1 {time} {name} afdp-notary {process} {_name(event.step, 32)} {_structured(event, sender)} "
    return header.encode() + body


def framed(message: bytes) -> bytes:
    """A message with its length in front (RFC 5425, section 4.3)."""
    return b"%d %s" % (len(message), message)


def _structured(event: RecordedEvent, sender: Originator) -> str:
    """What section 7.2 defines of who sends, and ours."""
    ours = {
        "uid": uid_of(event),
        "sequence": str(event.sequence or ""),
        "tenant": event.tenant,
        "rpc": event.rpc,
        "result": event.result,
        "requestId": event.request_id,
    }
    elements = (
        ("origin", {"software": "afdp-notary", "swVersion": VERSION[:32]}),
        (f"afdp@{sender.enterprise}", ours),
    )
    return "".join(_element(name, values) for name, values in elements if any(values.values()))


def _element(name: str, values: dict[str, str]) -> str:
    told = "".join(f' {key}="{escaped(value)}"' for key, value in values.items() if value)
    return f"[{name}{told}]"


def escaped(value: str) -> str:
    """A value of structured data: quotes, backslashes and closing brackets are escaped (section 6.3.3)."""
    return _TO_ESCAPE.sub(r"\\\1", _CONTROL.sub("\ufffd", value))


def _name(text: str, most: int) -> str:
    """A field of the header: printable ASCII without a space, or the sign for nothing."""
    return _NOT_PRINTED.sub("_", text)[:most] or "-"
