"""Events that are told together, so that a flood fills no disk: of nobody in particular, and of calls over a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from afdp.notary.access.audit import AuditEvent

NO_TIME = datetime.min.replace(tzinfo=UTC)

_KINDS = 256  # of what is told together; what is more is told as one
_OTHER = AuditEvent("authentication", "deny", "", "", "of many more kinds", time=NO_TIME)


@dataclass(frozen=True, slots=True)
class Together:
    """Events of one kind: what is the same of them, how many there were, and the last one."""

    kind: AuditEvent
    count: int
    latest: AuditEvent


class Counts:
    """Counts events by kind until they are told."""

    def __init__(self) -> None:
        self._counts: Counter[AuditEvent] = Counter()
        self._latest: dict[AuditEvent, AuditEvent] = {}

    def add(self, event: AuditEvent, count: int = 1) -> None:
        """Counts one, or as many as are alike."""
        kind = _kind(event)
        if kind not in self._counts and len(self._counts) >= _KINDS:
            kind = _OTHER
        self._counts[kind] += count
        self._latest[kind] = event

    def take(self) -> list[Together]:
        """What is to be told, counted anew from now on."""
        counts, latest = self._counts, self._latest
        self._counts, self._latest = Counter(), {}
        return [Together(kind, count, latest[kind]) for kind, count in counts.items()]


def of_nobody(event: AuditEvent) -> bool:
    """Whether it is told together with others of its kind."""
    return not event.subject or event.step == "limit" or (event.method == "none" and event.result != "allow")


def _kind(event: AuditEvent) -> AuditEvent:
    """What is the same of events that are told together: not who asked for what, but what came of it, and why."""
    return AuditEvent(
        step=event.step,
        result=event.result,
        rpc="",
        permission="",
        reason=event.reason,
        issuer=event.issuer,
        subject=event.subject,
        tenant=event.tenant,
        method=event.method,
        request_id="",
        time=NO_TIME,
    )
