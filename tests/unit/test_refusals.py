"""What is refused before it is a call, from where it is counted to where it is on record."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from afdp.errors import InvalidArgument, Unavailable
from afdp.gateway.descriptors import load_api
from afdp.gateway.reporting import RefusalReports
from afdp.messages import edge as pb
from afdp.notary.access.audit import AuditEvent
from afdp.notary.access.counted import Counts
from afdp.notary.edge import EdgeServicer
from afdp.refusals import MOST_KINDS, OTHER, REFUSALS, Refusals, Refused
from afdp.tls import handshakes

SLOW = Refused("limit", "too slow", 3, "192.0.2.9", "r-3")


class Notary:
    """What the gateway reports to, as long as it is there."""

    def __init__(self) -> None:
        self.away = False
        self.counts = Counts()
        self.asked = asyncio.Event()
        self._servicer = EdgeServicer(self)

    def count(self, event: AuditEvent, count: int) -> None:
        self.counts.add(event, count)

    async def call(self, path: str, request: bytes, timeout: float, metadata: Any) -> bytes:
        assert path == "/afdp.edge.v1.EdgeService/ReportRefusals"
        self.asked.set()
        if self.away:
            raise Unavailable("the notary cannot be reached")
        return bytes(await self._servicer.report_refusals(pb.ReportRefusalsRequest().parse(request)))


def test_refusals_are_told_by_kind_with_the_last_one_and_once() -> None:
    refusals = Refusals()
    for number in (1, 2, 3):
        refusals.add("limit", "too slow", address=f"192.0.2.{number}", request_id=f"r-{number}")
    refusals.add("authentication", "the certificate is revoked")

    assert refusals.take() == [
        Refused("limit", "too slow", 3, "192.0.2.3", "r-3"),
        Refused("authentication", "the certificate is revoked", 1),
    ]
    assert refusals.take() == []


def test_a_flood_of_kinds_takes_no_more_room_than_a_few() -> None:
    refusals = Refusals()
    for number in range(10 * MOST_KINDS):
        refusals.add("limit", f"reason {number}")

    found = refusals.take()

    assert len(found) == MOST_KINDS + 1
    assert found[-1].reason == OTHER
    assert sum(each.count for each in found) == 10 * MOST_KINDS


async def test_what_the_notary_could_not_be_told_is_told_when_it_is_back() -> None:
    notary, refusals = Notary(), Refusals()
    notary.away = True
    refusals.add("limit", "too slow", address="192.0.2.9", request_id="r-3", count=3)
    reports: Any = RefusalReports(load_api(), notary, 0.01, refusals)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reports.run())
        await notary.asked.wait()
        notary.away = False
        running.cancel()  # and what is left is told at the end

    [told] = notary.counts.take()
    assert (told.kind.step, told.kind.result, told.kind.reason) == ("limit", "deny", "at the gateway: too slow")
    assert (told.count, told.latest.address, told.latest.request_id) == (3, "192.0.2.9", "r-3")


@pytest.mark.parametrize(
    "told",
    [
        pb.Refusals(step="authorization", reason="x", count=1),
        pb.Refusals(step="limit", reason="", count=1),
        pb.Refusals(step="limit", reason="x" * 257, count=1),
        pb.Refusals(step="limit", reason="x", count=0),
        pb.Refusals(step="limit", reason="x", count=2**63),
        pb.Refusals(step="limit", reason="x", count=1, last_address="x" * 129),
    ],
)
async def test_a_report_that_is_none_is_refused_and_nothing_of_it_is_on_record(told: pb.Refusals) -> None:
    notary = Notary()
    good = pb.Refusals(step="limit", reason="too slow", count=1)

    with pytest.raises(InvalidArgument):
        await EdgeServicer(notary).report_refusals(pb.ReportRefusalsRequest([good, told]))

    assert notary.counts.take() == []


def test_a_handshake_that_goes_on_or_is_given_up_is_no_refusal() -> None:
    REFUSALS.take()
    for error in (ssl.SSLWantReadError(), ssl.SSLEOFError(), ConnectionResetError()):
        handshakes.tell(error)
    assert REFUSALS.take() == []
