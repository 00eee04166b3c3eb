"""What the gateway refused by itself goes on record here, where the audit trail is."""

from __future__ import annotations

from typing import Protocol

from afdp.errors import InvalidArgument
from afdp.messages import edge as pb
from afdp.notary.access.audit import AuditEvent, Step
from afdp.refusals import MOST_KINDS, MOST_REASON

AT_THE_GATEWAY = "at the gateway: "
"""What the reasons of its refusals begin with."""

_STEPS: dict[str, Step] = {"authentication": "authentication", "limit": "limit"}
_MOST_ID = 128
_MOST_COUNT = 2**53


class Counting(Protocol):
    """As much of the trail as is needed (`durable_trail.py`)."""

    def count(self, event: AuditEvent, count: int) -> None:
        """Puts as many events on record as are alike. Raises Unavailable where they can go nowhere."""


class EdgeServicer(pb.EdgeServiceBase):
    """afdp.edge.v1.EdgeService."""

    def __init__(self, trail: Counting) -> None:
        self._trail = trail

    async def report_refusals(self, request: pb.ReportRefusalsRequest) -> pb.ReportRefusalsResponse:
        """Counts them among the refusals of nobody in particular.

        Raises:
            InvalidArgument: it is no such report.
            Unavailable: the trail takes nothing.
        """
        if len(request.refusals) > MOST_KINDS + 1:
            raise InvalidArgument.field("refusals", f"must be {MOST_KINDS + 1} kinds at most")
        events = [(_event(each), each.count) for each in request.refusals]
        for event, count in events:
            self._trail.count(event, count)
        return pb.ReportRefusalsResponse()


def _event(told: pb.Refusals) -> AuditEvent:
    if (step := _STEPS.get(told.step)) is None:
        raise InvalidArgument.field("step", "must be authentication or limit")
    texts = (told.last_address, told.last_request_id)
    if not 0 < len(told.reason) <= MOST_REASON or any(len(each) > _MOST_ID for each in texts):
        raise InvalidArgument.field("refusals", "must have a reason, and texts that are not too long")
    if not 0 < told.count <= _MOST_COUNT:
        raise InvalidArgument.field("count", "must be one at least, and no more than there can be")
    return AuditEvent(
        step=step,
        result="deny",
        rpc="",
        permission="",
        reason=AT_THE_GATEWAY + told.reason,
        address=told.last_address,
        request_id=told.last_request_id,
    )
