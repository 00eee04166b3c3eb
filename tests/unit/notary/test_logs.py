"""Which log takes a tenant's entries, and how they get there while logs are frozen and followed by others."""

from __future__ import annotations

import asyncio

import pytest

from afdp.errors import DataLoss, FailedPrecondition, NotaryError, NotFound, Unavailable, Unimplemented
from afdp.items import to_item
from afdp.messages import transparency as pb
from afdp.messages.transparency import LogState
from afdp.notary.logs import LogDirectory

OPEN, STANDBY, FROZEN = LogState.OPEN, LogState.STANDBY, LogState.FROZEN


class Transparency:
    """The log service: what is in each log, and which are frozen."""

    def __init__(self, *logs: pb.Log) -> None:
        self.logs = list(logs)
        self.held: dict[str, list[bytes]] = {log.origin: [] for log in logs}
        self.away: NotaryError | None = None
        self.listed = 0

    async def list_logs(self, request: pb.ListLogsRequest, *, timeout: float) -> pb.ListLogsResponse:
        self.listed += 1
        if self.away:
            raise self.away
        return pb.ListLogsResponse(list(self.logs))

    async def get_log(self, request: pb.GetLogRequest, *, timeout: float) -> pb.GetLogResponse:
        return pb.GetLogResponse(origin=self.logs[0].origin)

    async def append(self, request: pb.AppendRequest, *, timeout: float) -> pb.AppendResponse:
        log = next(each for each in self.logs if each.origin == request.origin)
        held = self.held[log.origin]
        results = []
        for entry in request.entries:
            if entry not in held and log.state == FROZEN:
                results.append(pb.AppendResult(error=to_item(FailedPrecondition("frozen"))))
                continue
            if entry not in held:
                held.append(entry)
            results.append(pb.AppendResult(inclusion=pb.Inclusion(held.index(entry), b"leaf hash")))
        refused = log.state == FROZEN and any(each.error for each in results)
        return pb.AppendResponse(pb.Checkpoint(size=len(held)), results, refused, log.successor if refused else "")


def log(origin: str, state: LogState = OPEN, *tenants: str, successor: str = "") -> pb.Log:
    return pb.Log(origin=origin, state=state, tenants=list(tenants), successor=successor)


async def test_a_tenants_entries_go_to_its_own_log_and_all_others_to_the_one_for_all() -> None:
    directory = LogDirectory(
        Transparency(
            log("first", FROZEN, successor="second"),
            log("acme", OPEN, "acme", "acme-labs", successor="acme-next"),
            log("second", OPEN, successor="third"),
            log("third", STANDBY),
            log("acme-next", STANDBY, "acme", "acme-labs"),
            log("gone", FROZEN, "gone"),
        )
    )

    assert [await directory.of_tenant(tenant) for tenant in ("acme", "acme-labs", "bank", "")] == [
        *("acme", "acme", "second", "second")
    ]
    with pytest.raises(FailedPrecondition, match="the log gone is frozen, and no log goes on from it"):
        await directory.of_tenant("gone")


async def test_what_a_frozen_log_holds_keeps_its_place_and_the_rest_goes_to_the_one_that_is_open() -> None:
    peer = Transparency(log("a", OPEN, successor="b"), log("b", OPEN, successor="c"), log("c"))
    directory = LogDirectory(peer)
    await directory.append("a", [b"0", b"1"], 1.0)
    peer.logs[0].state = FROZEN
    await directory.append("a", [b"2"], 1.0)
    peer.logs[1].state = FROZEN

    appended = await directory.append("a", [b"3", b"1", b"2", b"4"], 1.0)
    again = await directory.append("a", [b"3", b"1", b"2", b"4"], 1.0)

    places = [
        {each.origin: {at: result.inclusion.leaf_index for at, result in each.results.items() if result.inclusion}}
        for each in appended
    ]
    assert places == [{"a": {1: 1}}, {"b": {2: 0}}, {"c": {0: 0, 3: 1}}]
    assert appended == again
    assert peer.held == {"a": [b"0", b"1"], "b": [b"2"], "c": [b"3", b"4"]}


async def test_where_no_log_goes_on_what_is_refused_stays_refused() -> None:
    peer = Transparency(log("a", FROZEN))
    peer.held["a"] = [b"0"]

    [appended] = await LogDirectory(peer).append("a", [b"0", b"1"], 1.0)

    assert appended.results[0].inclusion
    assert appended.results[1].error
    assert appended.results[1].error.code == "FAILED_PRECONDITION"


async def test_the_logs_are_remembered_while_nobody_can_be_asked_and_asked_for_again_when_told() -> None:
    peer = Transparency(log("a"))
    peer.away = Unavailable("the log is away")
    directory = LogDirectory(peer)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await directory.of_tenant("acme")

    peer.away = None
    assert await directory.of_tenant("acme") == "a"
    peer.logs.append(log("acme", OPEN, "acme"))
    assert await directory.of_tenant("acme") == "a"
    directory.forget()
    assert await directory.of_tenant("acme") == "acme"
    peer.away = DataLoss("the log is broken")
    directory.forget()
    assert await directory.of_tenant("acme") == "acme"
    assert (await directory.log("acme")).origin == "acme"
    listed = peer.listed
    await directory.of_tenant("acme")
    assert peer.listed == listed


async def test_a_log_that_is_not_listed_is_asked_for_before_it_is_missed() -> None:
    peer = Transparency(log("a"))
    directory = LogDirectory(peer)
    await directory.logs()
    peer.logs.append(log("b"))

    assert (await directory.log("b")).origin == "b"
    with pytest.raises(Unavailable):
        await directory.log("c")


async def test_a_log_service_of_the_release_before_has_one_log() -> None:
    peer = Transparency(log("a"))
    peer.away = Unimplemented("no such method")

    assert await LogDirectory(peer).of_tenant("acme") == "a"


async def test_a_replica_that_does_not_know_a_log_yet_is_asked_again_later() -> None:
    peer = Transparency(log("a"))

    async def append(request: pb.AppendRequest, *, timeout: float) -> pb.AppendResponse:
        raise NotFound("this deployment has no such log")

    peer.append = append  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the log b is not there"):
        await LogDirectory(peer).append("b", [b"0"], 1.0)


async def test_a_log_service_that_hangs_holds_up_nobody_who_writes() -> None:
    peer = Transparency(log("a"))
    directory = LogDirectory(peer)
    assert await directory.of_tenant("acme") == "a"
    asked, list_logs = asyncio.Event(), peer.list_logs

    async def hang(request: pb.ListLogsRequest, *, timeout: float) -> pb.ListLogsResponse:
        asked.set()
        await asyncio.Event().wait()
        return await list_logs(request, timeout=timeout)

    peer.list_logs = hang  # type: ignore[method-assign]
    directory.forget()
    running = asyncio.create_task(directory.run())
    await asked.wait()
    async with asyncio.timeout(30):
        assert await directory.of_tenant("acme") == "a"
    running.cancel()
