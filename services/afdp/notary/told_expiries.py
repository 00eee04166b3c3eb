"""Whether the audit trail tells of each expiry that is on record: announced before it happened, and told after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from afdp.audit.rows import INTENT, OUTCOME, acts_of, events_of
from afdp.audit.verify import Fault, Finding, SealedRow
from afdp.errors import DataLoss
from afdp.messages import metadata as store
from afdp.notary.expiring import EXPIRE

_TIMEOUT = 30.0
_GRACE = timedelta(minutes=5)
"""How long an expiry may go without its rows: they are written beside it."""


@dataclass
class ToldExpiries:
    """What the trail says of expiries: the acts that were announced, and what has gone."""

    announced: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)

    def hear(self, row: SealedRow) -> None:
        """The next row."""
        if EXPIRE.encode() not in row.row:
            return
        phase, acts = acts_of(row.row)
        try:
            events = [event for event in events_of(row.row) if event.rpc == EXPIRE and event.method == "service"]
        except DataLoss:
            return
        if phase == INTENT and events:
            self.announced.update(acts)
        elif phase == OUTCOME:
            self.told.update(event.resource for event in events)


async def untold_expiries(metadata: store.MetadataServiceClient, trail: ToldExpiries) -> list[Finding]:
    """Those of the expiries on record that the trail does not tell of."""
    findings: list[Finding] = []
    after = ""
    while True:
        request = store.ListExpiriesRequest(all=True, after_expiry_id=after)
        page = (await metadata.list_expiries(request, timeout=_TIMEOUT)).expiries
        reasons = [(expiry.expiry_id, _untold(expiry, trail)) for expiry in page]
        findings += [Finding(Fault.EXPIRY_UNTOLD, f"expiry {name}", why) for name, why in reasons if why]
        if not page:
            return findings
        after = page[-1].expiry_id


def _untold(expiry: store.Expiry, trail: ToldExpiries) -> str:
    if expiry.expired_at is not None and datetime.now(UTC) - expiry.expired_at < _GRACE and not expiry.certificate:
        return ""
    if expiry.act not in trail.announced:
        return "no row says that it was about to happen"
    if expiry.certificate and f"expiry:{expiry.expiry_id}" not in trail.told:
        return "no row says that it happened"
    return ""
