"""The trail as the notary writes it: what is durable where, in which order, and what happens when it can be nowhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from afdp.audit.rows import MAX_ROW_BYTES, events_of, write_row
from afdp.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotaryError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from afdp.messages.metadata import RecordAuditRowsRequest, RecordAuditRowsResponse, SearchRecordsRequest
from afdp.notary.access import acts, admitted
from afdp.notary.access.audit import AuditEvent
from afdp.notary.access.durable_trail import MOST_BYTES, DurableTrail
from afdp.notary.access.given import asked_for, receipts_given
from afdp.notary.access.open import OpenAccess
from afdp.notary.access.recorded import RecordedCalls
from afdp.notary.access.spool import Spool
from afdp.rpc.caller import Caller, caller
from afdp.rpc.descriptors import Method, service_methods
from afdp.telemetry.context import request_id

METHODS = {each.name: each for each in service_methods("afdp.notary.v1.NotaryService")}
ROOM = 1024 * 1024


class Metadata:
    """Takes rows while it is there."""

    def __init__(self) -> None:
        self.there = asyncio.Event()
        self.there.set()
        self.calls: list[list[bytes]] = []
        self.came = asyncio.Condition()

    async def record_audit_rows(
        self, request: RecordAuditRowsRequest, *, timeout: float | None = None
    ) -> RecordAuditRowsResponse:
        if not self.there.is_set():
            raise Unavailable("PostgreSQL cannot be reached")
        if any(len(row) > MAX_ROW_BYTES for row in request.rows):
            raise InvalidArgument("the rows are not good")
        async with self.came:
            self.calls.append(request.rows)
            self.came.notify_all()
        return RecordAuditRowsResponse()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(row) for call in self.calls for row in call]

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60), self.came:
            await self.came.wait_for(lambda: len(self.rows) >= count)
        return self.rows


@asynccontextmanager
async def running(trail: DurableTrail) -> AsyncIterator[DurableTrail]:
    task = asyncio.create_task(trail.run())
    try:
        yield trail
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def row(name: str) -> bytes:
    return write_row({"time": "2026-11-24T12:00:00Z", "step": "act", "result": "allow", "rpc": name})


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [each["rpc"] for each in rows]


async def test_rows_that_come_while_others_are_written_go_together(tmp_path: Path) -> None:
    metadata = Metadata()
    async with running(DurableTrail(metadata, Spool(tmp_path, ROOM), 1000, 60)) as trail:
        await asyncio.gather(*(trail.put(row(str(number))).settled() for number in range(100)))
        assert names(metadata.rows) == [str(number) for number in range(100)]
        assert len(metadata.calls) == 1


async def test_while_metadata_is_away_rows_are_on_disk_and_follow_in_order_before_newer_ones(
    tmp_path: Path,
) -> None:
    metadata = Metadata()
    metadata.there.clear()
    spool = Spool(tmp_path, ROOM)
    async with running(DurableTrail(metadata, spool, 1000, 60)) as trail:
        for number in range(3):
            await trail.put(row(str(number))).settled()
        assert spool.waiting
        metadata.there.set()
        await trail.put(row("3")).settled()
        assert names(await metadata.until(4)) == ["0", "1", "2", "3"]
    assert spool.waiting == 0


async def test_what_waits_on_disk_when_a_process_ends_goes_out_with_the_next_one(tmp_path: Path) -> None:
    away, metadata = Metadata(), Metadata()
    away.there.clear()
    spool = Spool(tmp_path, ROOM)
    async with running(DurableTrail(away, spool, 1000, 60)) as trail:
        await trail.put(row("before")).settled()
    spool.close()
    with (tmp_path / "audit-1.ndjson").open("ab") as file:
        file.write(b'{"cut off in mid-')  # nobody was told that this one is on record
    async with running(DurableTrail(metadata, Spool(tmp_path, ROOM), 1000, 60)):
        assert names(await metadata.until(1)) == ["before"]


async def test_where_neither_takes_rows_nobody_is_let_in_and_none_is_lost(tmp_path: Path) -> None:
    metadata = Metadata()
    metadata.there.clear()
    async with running(DurableTrail(metadata, Spool(tmp_path, 1), 1000, 60)) as trail:
        with pytest.raises(Unavailable):
            await trail.put(row("0")).settled()
        with pytest.raises(Unavailable):
            await RecordedCalls(None, trail).admit(METHODS["GetReceipt"])
        metadata.there.set()
        assert names(await metadata.until(1)) == ["0"]


async def test_all_who_wait_are_told_that_neither_takes_rows_and_none_is_lost() -> None:
    metadata = Metadata()
    metadata.there.clear()
    trail = DurableTrail(metadata, None, 1000, 60)
    groups = [trail.put(b" " * MOST_BYTES), trail.put(row("0"))]
    async with asyncio.timeout(60), running(trail):
        for group in groups:
            with pytest.raises(Unavailable):
                await group.settled()
    assert groups[0] is not groups[1]


async def test_a_row_that_is_refused_stands_in_nobodys_way_and_another_says_that_it_is_missing(tmp_path: Path) -> None:
    metadata = Metadata()
    metadata.there.clear()
    refused = write_row({"rpc": "1", "reason": "x" * MAX_ROW_BYTES})
    async with running(DurableTrail(metadata, Spool(tmp_path, ROOM), 1000, 60)) as trail:
        for each in (row("0"), refused, row("2")):
            await trail.put(each).settled()
        metadata.there.set()
        before, instead, after = await metadata.until(3)
    assert (before["rpc"], after["rpc"]) == ("0", "2")
    assert (instead["result"], sha256(refused).hexdigest() in instead["reason"]) == ("error", True)
    assert (tmp_path / "refused.ndjson").read_bytes() == refused + b"\n"


async def test_too_many_rows_that_wait_keep_everybody_out() -> None:
    trail = DurableTrail(Metadata(), None, 2, 60)  # nobody writes
    trail.put(row("0"))
    trail.put(row("1"))
    with pytest.raises(Unavailable):
        trail.put(row("2"))


def test_processes_of_one_folder_have_a_file_each(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, ROOM), Spool(tmp_path, ROOM)
    first.append([b"{}"])
    assert (first.waiting, second.waiting) == (3, 0)
    with pytest.raises(OSError, match="full"):
        second.append([b"x" * ROOM])
    assert second.waiting == 0


def drained(spool: Spool) -> list[bytes]:
    """All that waits, in the order in which it goes out."""
    found: list[bytes] = []
    while spool.waiting:
        rows, size = spool.next(2)
        found += rows
        spool.sent(size)
    return found


def test_what_several_processes_left_goes_out_in_order_and_their_files_go(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, ROOM), Spool(tmp_path, ROOM)
    rows = [b"%d" % number for number in range(6)]
    first.append(rows[:3])
    second.append(rows[3:])
    for each in (first, second):
        each.close()  # as the end of a process does
    spool = Spool(tmp_path, ROOM)
    spool.append([b"6"])
    assert drained(spool) == [*rows, b"6"]
    assert [each.name for each in tmp_path.iterdir()] == ["audit-3.ndjson"]


def test_the_room_of_what_has_gone_is_there_for_what_comes_though_some_always_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1600)
    rows = [b"%099d" % number for number in range(40)]
    for row in rows[:4]:
        spool.append([row])
    gone: list[bytes] = []
    for row in rows[4:]:
        spool.append([row])
        found, size = spool.next(1)
        spool.sent(size)
        gone += found
        assert spool.waiting == 400
        assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 1600
    assert gone + drained(spool) == rows
    with pytest.raises(OSError, match="full"):
        spool.append(rows[:17])
    spool.append(rows[:16])
    assert drained(spool) == rows[:16]


async def test_rows_that_are_being_spooled_when_the_process_is_told_to_end_are_whole(tmp_path: Path) -> None:
    """Their thread goes on after its task has ended; what is left is written beside it."""
    away = Metadata()
    away.there.clear()
    spool = Spool(tmp_path, ROOM)
    trail = DurableTrail(away, spool, 1000, 60)
    async with running(trail):
        await trail.put(row("0")).settled()
        for number in range(1, 50):
            trail.put(row(str(number)))
        await asyncio.sleep(0)
    spool.close()
    told = names([json.loads(each) for each in drained(Spool(tmp_path, ROOM))])
    assert list(dict.fromkeys(told)) == [str(number) for number in range(50)]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="file/spool"):
        Spool(tmp_path / "file" / "spool", ROOM)


# --- acts -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def calling(metadata: Metadata, interval: float = 60) -> AsyncIterator[tuple[DurableTrail, RecordedCalls]]:
    caller.set(Caller(address="10.0.0.7"))
    admitted.principal.set(admitted.ANYBODY)
    request_id.set("r-1")
    async with running(DurableTrail(metadata, None, 1000, interval)) as trail:
        yield trail, RecordedCalls(None, trail)


async def test_a_read_has_its_intent_on_record_before_its_answer_leaves_and_says_what_was_read() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, calls):
        act = await calls.admit(METHODS["GetReceipt"])
        assert act is not None
        trail.record(AuditEvent("authorization", "allow", "GetReceipt", "evidence.read", resource="receipt:1"))
        await act.done()
        assert metadata.rows[0].items() >= {"phase": "intent", "rpc": "GetReceipt", "request_id": "r-1"}.items()
        intent, outcome = await metadata.until(2)
    assert (outcome["phase"], outcome["result"], outcome["act"]) == ("outcome", "allow", intent["act"])
    assert [each.resource for each in events_of(json.dumps(outcome).encode())] == ["receipt:1"]
    assert outcome["address"] == "10.0.0.7"


async def test_a_read_that_a_policy_denies_is_on_record_as_denied_by_it_though_its_caller_is_told_of_nothing() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, calls):
        act = await calls.admit(METHODS["GetReceipt"])
        assert act is not None
        verdict = {"reason": "no policy permits it", "policies": ("own.forbid",), "policy_hash": "ab"}
        trail.record(
            AuditEvent("authorization", "deny", "GetReceipt", "evidence.read", resource="receipt:1", **verdict)
        )
        act.failed(NotFound("there is no such receipt"))
        await act.answering()
        outcome = metadata.rows[1]
    told = {**verdict, "policies": ["own.forbid"], "result": "deny", "resource": "receipt:1", "phase": "outcome"}
    assert outcome.items() >= {**told, "step": "authorization", "answered": "NOT_FOUND"}.items()


async def test_of_a_call_that_fails_midway_both_what_was_allowed_and_that_it_failed_are_events() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, calls):
        act = await calls.admit(METHODS["AddLogEntries"])
        assert act is not None
        for name in ("entry:1", "entry:2"):
            trail.record(AuditEvent("authorization", "allow", "AddLogEntries", "evidence.create", resource=name))
        act.failed(FailedPrecondition("the log is frozen"))
        await act.answering()
        told = [(each.resource, each.result, each.reason) for each in events_of(json.dumps(metadata.rows[1]).encode())]
    assert told == [("entry:1", "allow", ""), ("entry:2", "allow", ""), ("", "deny", "the log is frozen")]


async def test_what_a_stream_is_refused_or_gives_is_durable_before_its_next_answer_leaves() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, calls):
        act = await calls.admit(METHODS["SignEvidenceStream"])
        assert act is not None
        for number in range(3):
            name = f"evidence:{number}"
            trail.record(AuditEvent("authorization", "deny", "SignEvidenceStream", "evidence.create", resource=name))
            await act.answering()
            assert metadata.rows[-1]["items"][0]["resource"] == name
        await act.answering()
        assert len(metadata.rows) == 3
        metadata.there.clear()
        trail.record(
            AuditEvent("authorization", "deny", "SignEvidenceStream", "evidence.create", resource="evidence:3")
        )
        with pytest.raises(Unavailable):
            await act.answering()


async def test_what_a_read_gave_is_durable_before_its_answer_leaves() -> None:
    metadata = Metadata()
    async with calling(metadata) as (_, calls):
        act = await calls.admit(METHODS["SearchEvidence"])
        assert act is not None
        given = receipts_given(["r-1", "r-2"], {"by": ["actor_id"]})
        OpenAccess().gave(admitted.ANYBODY, "evidence.read", given)
        await act.done()
        [event] = events_of(json.dumps(metadata.rows[1]).encode())
        metadata.there.clear()
        act = await calls.admit(METHODS["SearchEvidence"])
        assert act is not None
        OpenAccess().gave(admitted.ANYBODY, "evidence.read", given)
        with pytest.raises(Unavailable):
            await act.done()
    assert event.resource == "receipts:" + sha256(b"r-1\nr-2\n").hexdigest()
    assert event.further | {"act": ""} == {
        "act": "",
        "asked": '{"by":["actor_id"]}',
        "first": "r-1",
        "last": "r-2",
        "listed": "2",
    }


async def test_who_is_refused_is_told_so_once_that_is_durable() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, _):

        async def admit(method: Method, refused: NotaryError | None) -> None:
            trail.record(AuditEvent("authorization", "deny", method.name, "keys.admin", "no policy", subject="ada"))
            raise PermissionDenied("you are not permitted to do this")

        with pytest.raises(PermissionDenied):
            await RecordedCalls(admit, trail).admit(METHODS["RotateKey"])
        assert [each["reason"] for each in metadata.rows] == ["no policy"]
        metadata.there.clear()
        with pytest.raises(Unavailable):
            await RecordedCalls(admit, trail).admit(METHODS["RotateKey"])


def test_of_what_was_asked_for_there_is_nothing_that_can_be_about_a_person() -> None:
    asked = asked_for(
        SearchRecordsRequest(
            tenant="acme",
            evidence_hash=b"\x01" * 32,
            artifact_hash=b"\x02" * 32,
            event_type="ai.model.deployed",
            actor_id="patient-17",
            submitter="ada@example.com",
            log_index=0,
            metadata=["patient.name=Jane Doe"],
            start_time=datetime(2026, 11, 24, tzinfo=UTC),
        )
    )
    assert asked == {
        "event_type": "ai.model.deployed",
        "log_index": 0,
        "start_time": "2026-11-24T00:00:00Z",
        "by": ["actor_id", "artifact_hash", "evidence_hash", "metadata.patient.name", "submitter"],
    }


async def test_what_changes_something_has_its_intent_on_record_before_it_begins() -> None:
    metadata = Metadata()
    async with calling(metadata) as (_, calls):
        act = await calls.admit(METHODS["RotateKey"])
        assert act is not None
        assert [each["phase"] for each in metadata.rows] == ["intent"]
        act.failed(NotFound("there is no such key"))
        _, outcome = await metadata.until(2)
    assert (outcome["result"], outcome["reason"]) == ("deny", "there is no such key")


ADMINISTRATIVE = sorted(
    each.name
    for each in METHODS.values()
    if each.permission and not each.permission.endswith(".read") and not each.permission.startswith("evidence.")
)


@pytest.mark.parametrize("name", ADMINISTRATIVE)
async def test_no_administrative_act_begins_before_its_intent_is_durable(name: str) -> None:
    metadata = Metadata()
    async with calling(metadata) as (_, calls):
        await calls.admit(METHODS[name])
        [intent] = metadata.rows  # the method is called once this has returned
        assert (intent["rpc"], intent["phase"], intent["permission"]) == (name, "intent", METHODS[name].permission)
        metadata.there.clear()
        with pytest.raises(Unavailable):
            await calls.admit(METHODS[name])


def test_what_is_administrative_is_known() -> None:
    assert {"RotateKey", "RevokeKey", "PublishTrust", "PlaceHold", "ReleaseHold", "RunRetention"} <= set(ADMINISTRATIVE)


async def test_a_call_that_is_cut_off_says_so_in_its_outcome() -> None:
    metadata = Metadata()
    async with calling(metadata) as (_, calls):
        act = await calls.admit(METHODS["ListKeys"])
        assert act is not None
        act.failed(asyncio.CancelledError())
        outcome = (await metadata.until(2))[1]
    assert outcome["result"] == "error"


async def test_where_the_intent_of_a_read_is_nowhere_its_answer_does_not_leave() -> None:
    metadata = Metadata()
    metadata.there.clear()
    async with calling(metadata) as (_, calls):
        act = await calls.admit(METHODS["GetReceipt"])
        assert act is not None
        with pytest.raises(Unavailable):
            await act.done()
        with pytest.raises(Unavailable):
            await calls.admit(METHODS["RotateKey"])


async def test_failures_of_nobody_and_calls_over_a_limit_are_counted_and_told_together() -> None:
    metadata = Metadata()
    async with calling(metadata, interval=0.05) as (trail, calls):
        for _ in range(3):
            act = await calls.admit(METHODS["SignEvidence"])
            assert act is not None
            act.failed(InvalidArgument("the evidence is not valid"))
            acts.current.set(None)
            trail.record(AuditEvent("limit", "deny", "SignEvidence", "evidence.create", "too often", subject="ada"))
        while sum(each.get("count", 0) for each in metadata.rows) < 6:
            await metadata.until(len(metadata.rows) + 1)
    assert {each["reason"] for each in metadata.rows} == {"the evidence is not valid", "too often"}
    assert all(each["count"] for each in metadata.rows)


async def test_a_package_that_is_refused_is_on_record_once_also_where_that_ends_the_call() -> None:
    metadata = Metadata()
    async with calling(metadata) as (trail, calls):
        act = await calls.admit(METHODS["SignEvidence"])
        assert act is not None
        act.admitted({**act.head, "subject": "ada", "method": "oidc"})
        error = FailedPrecondition("the log is frozen")
        act.refused(error, b"\x01" * 32)
        act.failed(error)
        quota = ResourceExhausted("the day is used up")
        act.refused(quota)
        await trail.put(row("last")).settled()
    told = [(each["step"], each.get("resource"), each["reason"]) for each in metadata.rows if "reason" in each]
    assert told == [
        ("act", f"evidence:{'01' * 32}", "the log is frozen"),
        ("limit", None, "the day is used up"),
    ]
