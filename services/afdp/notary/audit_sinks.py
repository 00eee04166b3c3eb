"""How the sinks of the audit trail are, which the metadata service feeds: for `/ready`, and for operators."""

from __future__ import annotations

from datetime import UTC, datetime

from afdp.errors import Unimplemented
from afdp.messages import metadata as store
from afdp.notary.status import Part

OLD = 300.0  # seconds from which on a sink is said to be behind

_TIMEOUT = 4.0


class AuditSinks:
    """Asks the metadata service."""

    def __init__(self, metadata: store.MetadataServiceClient) -> None:
        self._metadata = metadata

    async def status(self) -> list[Part]:
        """One part per sink.

        Raises:
            Unavailable: the metadata service is away.
        """
        try:
            answer = await self._metadata.get_audit_sinks(store.GetAuditSinksRequest(), timeout=_TIMEOUT)
        except Unimplemented:
            return []  # of an earlier version
        return [_part(each, datetime.now(UTC)) for each in answer.sinks]


def _part(sink: store.AuditSink, now: datetime) -> Part:
    """What anybody may read says nothing of why, which may name machines."""
    age = max(0.0, (now - sink.oldest).total_seconds()) if sink.oldest else 0.0
    waits = f"{sink.waiting} events wait, the oldest for {round(age)} seconds" if sink.waiting else "no event waits"
    name = f"audit sink {sink.name}"
    if sink.trouble:
        remedy = f"docs/siem.md: {sink.trouble}"
        return Part("metadata", name, False, f"it takes no audit events; {waits}", remedy, public=True)
    if age > OLD:
        remedy = "it takes fewer events than come, or no metadata service forwards them: docs/siem.md"
        return Part("metadata", name, False, f"it is behind; {waits}", remedy, public=True)
    return Part("metadata", name, True, waits, public=True)
