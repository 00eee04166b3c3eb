"""What is said of the audit trail's sinks at `/ready` and to operators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from afdp.errors import Unimplemented
from afdp.messages import metadata as store
from afdp.notary.audit_sinks import OLD, AuditSinks


class Peer:
    """A metadata service that says this of its sinks."""

    def __init__(self, *sinks: store.AuditSink, error: Exception | None = None) -> None:
        self._sinks, self._error = list(sinks), error

    async def get_audit_sinks(self, *_: Any, **__: Any) -> store.GetAuditSinksResponse:
        if self._error is not None:
            raise self._error
        return store.GetAuditSinksResponse(self._sinks)


async def parts_of(peer: Peer) -> list[Any]:
    return await AuditSinks(cast("store.MetadataServiceClient", peer)).status()


def old(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def test_a_sink_that_has_everything_is_well() -> None:
    [part] = await parts_of(Peer(store.AuditSink("soc")))

    assert (part.service, part.name, part.good, part.detail) == ("metadata", "audit sink soc", True, "no event waits")


async def test_a_sink_that_takes_nothing_is_named_to_all_and_why_to_operators() -> None:
    trouble = "siem.internal:6514: Connection refused"
    sink = store.AuditSink("soc", waiting=3, oldest=old(12), trouble=trouble, troubled_since=old(10))

    [part] = await parts_of(Peer(sink))

    assert not part.good
    assert part.public
    assert part.detail.startswith("it takes no audit events; 3 events wait, the oldest for 1")
    assert "siem.internal" not in part.detail
    assert trouble in part.remedy


@pytest.mark.parametrize(("age", "good"), [(OLD / 2, True), (OLD * 2, False)])
async def test_a_sink_that_is_far_behind_is_degraded(age: float, good: bool) -> None:
    [part] = await parts_of(Peer(store.AuditSink("soc", waiting=3, oldest=old(age))))

    assert part.good is good


async def test_a_metadata_service_of_before_has_no_sinks() -> None:
    assert await parts_of(Peer(error=Unimplemented("unknown"))) == []
