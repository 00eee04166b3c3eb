"""Whether each legal hold that the audit trail tells of is on record, and in force until somebody released it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from afdp.audit.rows import OUTCOME, acts_of, events_of
from afdp.audit.verify import Fault, Finding, SealedRow
from afdp.errors import DataLoss
from afdp.messages import metadata as store

_PLACE, _RELEASE = "PlaceHold", "ReleaseHold"
_NAME = "hold:"
_TIMEOUT = 30.0
_PAGE = 1000
_GRACE = timedelta(minutes=5)
"""How long a release may go without its row: it is written beside it."""


@dataclass
class ToldHolds:
    """What the trail says of holds: the IDs of those that were placed, with their tenants, and of those released."""

    placed: dict[str, str] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)

    def hear(self, row: SealedRow) -> None:
        """The next row."""
        if _NAME.encode() not in row.row or acts_of(row.row)[0] != OUTCOME:
            return
        try:
            events = [each for each in events_of(row.row) if each.result == "allow" and each.resource.startswith(_NAME)]
        except DataLoss:
            return
        for event in events:
            name = event.resource.removeprefix(_NAME)
            if event.rpc == _PLACE:
                self.placed[name] = event.tenant
            elif event.rpc == _RELEASE:
                self.released.add(name)


async def missing_holds(metadata: store.MetadataServiceClient, trail: ToldHolds) -> list[Finding]:
    """Those of the holds that the trail tells of that are not on record as it says."""
    there: dict[str, store.Hold] = {}
    for tenant in sorted(set(trail.placed.values())):
        there |= await _holds(metadata, tenant)
    findings = []
    for name in trail.placed:
        if (hold := there.get(name)) is None:
            why = "it was placed, and is not on record"
        elif name not in trail.released and _is_released(hold):
            why = "it is released on record, and no row says that somebody did"
        else:
            continue
        findings.append(Finding(Fault.HOLD_MISSING, f"hold {name}", why))
    return findings


def _is_released(hold: store.Hold) -> bool:
    return hold.released_at is not None and datetime.now(UTC) - hold.released_at > _GRACE


async def _holds(metadata: store.MetadataServiceClient, tenant: str) -> dict[str, store.Hold]:
    found: dict[str, store.Hold] = {}
    before = ""
    while True:
        request = store.ListHoldsRequest(tenant, True, _PAGE, before)
        page = (await metadata.list_holds(request, timeout=_TIMEOUT)).holds
        found |= {each.hold_id: each for each in page}
        if len(page) < _PAGE:
            return found
        before = page[-1].hold_id
