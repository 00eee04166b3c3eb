"""Events of the audit trail on a real PostgreSQL, forwarded to sinks that take them, do not, or lie."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from afdp.audit.event import RecordedEvent
from afdp.audit.rows import write_row
from afdp.errors import FailedPrecondition, Unavailable
from afdp.metadata.audit_trail import AuditTrail, NewRow
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.sinks import forwarding as module
from afdp.metadata.sinks.checking import audit_sinks
from afdp.metadata.sinks.file import FileSink
from afdp.metadata.sinks.forwarding import Forwarder
from afdp.metadata.sinks.ledger import SinkState, TrailRow
from afdp.metadata.sinks.opening import forwarding
from afdp.metadata.sinks.settings import FileSettings, SyslogSettings
from afdp.metadata.sinks.sink import SinkError
from afdp.metadata.sinks.syslog import SyslogSink
from afdp.metadata.sinks.watch import SinkWatch
from tests.collector import Post, running_collector
from tests.local_tls import TlsAuthority
from tests.syslog_server import running_syslog

SETTINGS = FileSettings(name="kept", kind="file", path=Path("unused"), batch_events=10)


class Kept:
    """A sink in memory, which refuses as often as it is told to."""

    def __init__(self, *refusals: SinkError) -> None:
        self.events: list[RecordedEvent] = []
        self.batches = 0
        self.refusals = list(refusals)

    async def deliver(self, events: Sequence[RecordedEvent]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.batches += 1
        self.events += events

    async def probe(self) -> str:
        return "there"

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]


def row(reason: object, *items: dict[str, object], **more: object) -> NewRow:
    facts = {
        "time": datetime.now(UTC),
        "step": "authorization",
        "result": "allow",
        "rpc": "GetEvidence",
        "tenant": "acme",
        "reason": str(reason),
    }
    return NewRow.read(write_row({**facts, **more}, items))


async def recorded(store: PostgresStore, *rows: NewRow) -> None:
    """The rows are on record, and sealed."""
    trail = AuditTrail(store.audit)
    await trail.record(rows)
    await sealed(store)


async def sealed(store: PostgresStore) -> None:
    trail = AuditTrail(store.audit)
    async with asyncio.timeout(60):
        while (await trail.seal(HOLDER, timedelta(hours=1))).oldest is not None:
            pass


HOLDER = uuid4()


async def sent(forwarder: Forwarder) -> None:
    """All that there is to be sent, was."""
    while await forwarder.forward():
        pass


async def begun(store: PostgresStore, sink: Any, **more: Any) -> Forwarder:
    """A sink that is new, and begins with what comes next."""
    settings = SETTINGS.model_copy(update={"name": f"sink-{uuid4()}", "start": "now", **more})
    await store.sinks.begin(settings.name, at_end=settings.start == "now")
    return Forwarder(settings, sink, store.sinks)


async def test_a_sink_gets_every_event_once_and_in_order(store: PostgresStore) -> None:
    sink = Kept()
    forwarder = await begun(store, sink)
    await recorded(store, *(row(number) for number in range(25)))

    await sent(forwarder)
    await recorded(store, row("later"))
    await sent(forwarder)

    assert sink.reasons == [*map(str, range(25)), "later"]
    assert len({event.uid for event in sink.events}) == 26


async def test_each_item_of_a_row_is_an_event(store: PostgresStore) -> None:
    sink = Kept()
    forwarder = await begun(store, sink)
    await recorded(store, row("", *({"resource": f"evidence:{number}"} for number in range(23))), row("next"))

    await sent(forwarder)

    assert [event.resource for event in sink.events[:23]] == [f"evidence:{number}" for number in range(23)]
    assert sink.events[-1].reason == "next"
    assert sink.batches == 3


async def test_what_is_not_sealed_is_not_sent_as_a_row_could_still_appear_before_it(store: PostgresStore) -> None:
    sink = Kept()
    forwarder = await begun(store, sink)
    await AuditTrail(store.audit).record([row("unsealed")])

    await sent(forwarder)
    assert sink.reasons == []

    await sealed(store)
    await sent(forwarder)
    assert sink.reasons == ["unsealed"]


async def test_a_sink_gets_what_its_filters_let_through(store: PostgresStore) -> None:
    acme, serious = Kept(), Kept()
    by_tenant = await begun(store, acme, tenants=("acme",))
    by_severity = await begun(store, serious, severity="medium")
    await recorded(store, row(1), row(2, tenant="other"), row(3, result="deny"), row(4, result="error", tenant=""))

    await sent(by_tenant)
    await sent(by_severity)

    assert acme.reasons == ["1", "3"]
    assert serious.reasons == ["3", "4"]


async def test_a_sink_that_is_new_begins_where_it_is_told_to(store: PostgresStore) -> None:
    before = f"before-{uuid4()}"
    await recorded(store, row(before))
    late, whole = Kept(), Kept()
    from_now = await begun(store, late)
    from_the_beginning = await begun(store, whole, start="beginning")

    await recorded(store, row("after"))
    await sent(from_now)
    await sent(from_the_beginning)

    assert late.reasons == ["after"]
    assert whole.reasons[-2:] == [before, "after"]


async def test_where_a_sink_is_outlives_the_process(store: PostgresStore) -> None:
    first, second = Kept(), Kept()
    forwarder = await begun(store, first)
    await recorded(store, *(row(number) for number in range(15)))
    await forwarder.forward()
    await store.sinks.let_go(forwarder.name, forwarder._holder)

    settings = SETTINGS.model_copy(update={"name": forwarder.name})
    await sent(Forwarder(settings, second, store.sinks))

    assert first.reasons == [str(number) for number in range(10)]
    assert second.reasons == [str(number) for number in range(10, 15)]


async def test_one_process_at_a_time_feeds_a_sink(store: PostgresStore) -> None:
    ours, theirs = Kept(), Kept()
    forwarder = await begun(store, ours)
    other = Forwarder(SETTINGS.model_copy(update={"name": forwarder.name}), theirs, store.sinks)
    await recorded(store, row(1))

    await sent(forwarder)
    await recorded(store, row(2))
    assert not await other.forward()
    assert theirs.reasons == []

    await store.sinks.let_go(forwarder.name, forwarder._holder)
    await sent(other)
    assert theirs.reasons == ["2"]
    assert not await forwarder.forward()


async def test_who_has_lost_a_sink_meanwhile_cannot_move_its_place_on(
    store: PostgresStore, module_database: str
) -> None:
    theirs = Kept()

    class Slow(Kept):
        async def deliver(self, events: Sequence[RecordedEvent]) -> None:
            await super().deliver(events)
            await expired(module_database)
            await sent(other)

    ours = Slow()
    forwarder = await begun(store, ours)
    other = Forwarder(SETTINGS.model_copy(update={"name": forwarder.name}), theirs, store.sinks)
    await recorded(store, *(row(number) for number in range(12)))

    await sent(forwarder)

    assert ours.reasons == [str(number) for number in range(10)]
    assert theirs.reasons == [str(number) for number in range(12)]


async def expired(database: str) -> None:
    """The leases of all sinks are over."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE afdp_metadata.audit_sink SET held_until = now() - interval '1 second'")
    finally:
        await connection.close()


async def test_a_refused_batch_is_sent_again_whole_after_a_while(store: PostgresStore, module_database: str) -> None:
    sink = Kept(SinkError("it is full", retry_after=1800.0), SinkError("it is still full"))
    forwarder = await begun(store, sink)
    watch = SinkWatch([forwarder.name], store.sinks)
    await recorded(store, row(1), row(2))

    assert not await forwarder.forward()
    assert not await forwarder.forward()  # it is left alone
    [state] = await watch.states()
    assert (state.waiting, state.trouble) == (2, "it is full")
    assert state.since is not None
    assert 1000 < await due_in(module_database, forwarder.name) <= 1800
    await due_now(module_database)
    assert not await forwarder.forward()
    assert await due_in(module_database, forwarder.name) <= 2.0
    await due_now(module_database)
    await sent(forwarder)

    assert sink.reasons == ["1", "2"]
    [state] = await watch.states()
    assert (state.waiting, state.oldest, state.trouble, state.since) == (0, None, "", None)


async def test_a_sink_that_fails_as_nobody_foresaw_ends_nothing(store: PostgresStore, module_database: str) -> None:
    class Broken(Kept):
        async def deliver(self, events: Sequence[RecordedEvent]) -> None:
            if not self.batches:
                self.batches = 1
                raise ZeroDivisionError
            await super().deliver(events)

    sink = Broken()
    forwarder = await begun(store, sink)
    await recorded(store, row(1))

    assert not await forwarder.forward()
    assert (await state_of(store, forwarder.name)).trouble == "ZeroDivisionError: see the log"
    await due_now(module_database)
    await sent(forwarder)

    assert sink.reasons == ["1"]


async def due_in(database: str, name: str) -> float:
    """For how many seconds a sink is left alone."""
    connection = await asyncpg.connect(database)
    try:
        due = await connection.fetchval("SELECT due_at FROM afdp_metadata.audit_sink WHERE name = $1", name)
        return (due - await connection.fetchval("SELECT clock_timestamp()")).total_seconds()
    finally:
        await connection.close()


async def due_now(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE afdp_metadata.audit_sink SET due_at = '-infinity'")
    finally:
        await connection.close()


async def test_a_row_that_cannot_be_read_is_told_and_holds_up_nothing(
    store: PostgresStore, module_database: str
) -> None:
    sink = Kept()
    forwarder = await begun(store, sink)
    await recorded(store, row(1), row("spoilt"), row(3))
    connection = await asyncpg.connect(module_database)
    try:
        await connection.execute("ALTER TABLE afdp_metadata.audit_row DISABLE TRIGGER ALL")
        spoil = r"UPDATE afdp_metadata.audit_row SET row = '\x00' WHERE position($1::bytea IN row) > 0"
        assert await connection.execute(spoil, b'"reason":"spoilt"') == "UPDATE 1"
    finally:
        await connection.close()

    await sent(forwarder)

    assert [event.result for event in sink.events] == ["allow", "error", "allow"]
    assert "what is on record as audit event" in sink.events[1].reason


async def test_a_sink_that_hangs_holds_up_no_other(store: PostgresStore, tmp_path: Path) -> None:
    class Hanging(Kept):
        async def deliver(self, events: Sequence[RecordedEvent]) -> None:
            hangs.set()
            await asyncio.Event().wait()

    hangs = asyncio.Event()
    stuck = await begun(store, Hanging())
    file = tmp_path / "audit.ocsf"
    free = await begun(store, FileSink(FileSettings(name="disk", kind="file", path=file)))
    await recorded(store, row(1), row(2))

    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(stuck.run()), asyncio.create_task(free.run())]
        await hangs.wait()
        while not file.exists() or file.read_bytes().count(b"\n") < 2:  # noqa: ASYNC110 - of a file there is no event
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_while_the_database_is_away_a_sink_waits_and_then_goes_on(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    sink, away = Kept(), [Unavailable("PostgreSQL cannot be reached")] * 3
    forwarder = await begun(store, sink)
    await recorded(store, row(1))
    read = store.sinks.read

    async def reached(after: int, limit: int) -> Sequence[TrailRow]:
        if away:
            raise away.pop()
        return await read(after, limit)

    monkeypatch.setattr(store.sinks, "read", reached)
    running = asyncio.create_task(forwarder.run())
    async with asyncio.timeout(60):
        while not sink.events:  # noqa: ASYNC110 - it is the sink's
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert sink.reasons == ["1"]
    assert not away
    assert await store.sinks.hold(forwarder.name, HOLDER, timedelta(seconds=1)) is not None  # it was let go


async def test_of_what_waits_for_a_sink_that_is_stuck_no_more_is_read(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    reads: list[int] = []
    read = store.sinks.read

    async def counted(after: int, limit: int) -> Sequence[TrailRow]:
        reads.append(limit)
        return await read(after, limit)

    monkeypatch.setattr(store.sinks, "read", counted)
    stuck = await begun(store, Kept(*[SinkError("it is full", retry_after=3600.0)] * 9))
    await recorded(store, *(row(number) for number in range(50)))
    looks = 0

    async def looked(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await hold(*arguments)

    hold = store.sinks.hold
    monkeypatch.setattr(store.sinks, "hold", looked)
    running = asyncio.create_task(stuck.run())
    async with asyncio.timeout(60):
        while looks < 5:  # noqa: ASYNC110 - it is the forwarder's
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert reads == [10]


async def test_the_sinks_of_a_file_are_fed_and_looked_at(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    target, name = tmp_path / "audit.cef", f"disk-{uuid4()}"
    file = tmp_path / "sinks.yaml"
    file.write_text(f"sinks:\n  - {{name: {name}, kind: file, path: {target}, format: cef}}\n")
    await recorded(store, row(1))

    async with forwarding(file, store.sinks) as watch, asyncio.timeout(60):
        while not (states := await watch.states()) or states[0].waiting:  # noqa: ASYNC110 - of a table there is no event
            await asyncio.sleep(0.01)

    assert target.read_text().startswith("CEF:0|")


async def test_a_check_says_of_each_sink_whether_it_can_be_reached(store: PostgresStore, tmp_path: Path) -> None:
    file = tmp_path / "sinks.yaml"
    file.write_text(
        f"sinks:\n  - {{name: disk, kind: file, path: {tmp_path}/audit.ocsf}}\n"
        "  - {name: lake, kind: http, url: 'http://127.0.0.1:1/in'}\n"
    )
    settings = MetadataSettings.model_validate({"audit_sinks": file})

    disk, lake = await audit_sinks(settings)
    file.write_text("sinks:\n  - {name: disk, kind: file, colour: red}\n")
    wrong = await audit_sinks(settings)
    with pytest.raises(FailedPrecondition, match=r"AFDP_AUDIT_SINKS: .*: sinks\[0\]\.colour"):
        async with forwarding(file, store.sinks):
            pass

    assert (disk.name, disk.good) == ("audit sink disk", True)
    assert "can be written" in disk.detail
    assert (lake.name, lake.good) == ("audit sink lake", False)
    assert lake.detail == "http://127.0.0.1:1: Connection refused"
    assert ["sinks[0].path" in each.detail or "sinks[0].colour" in each.detail for each in wrong] == [True, True]


async def test_a_receiver_of_syslog_that_is_killed_gets_what_it_missed_once_it_is_back(
    store: PostgresStore, module_database: str, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    authority = TlsAuthority(tmp_path)
    cert, key = authority.issue("metadata")
    async with running_syslog(tool("syslog-ng"), tmp_path / "syslog", authority) as receiver:
        files = {"ca": authority.file, "cert": cert, "key": key}
        sink = SyslogSink(SyslogSettings(name="soc", kind="syslog", address=receiver.address, **files))
        forwarder = await begun(store, sink, batch_events=50)
        await recorded(store, *(row(number) for number in range(120)))
        assert await forwarder.forward()
        await receiver.received(50)

        receiver.freeze()
        sending = asyncio.create_task(forwarder.forward())
        await receiver.kill()
        assert not await sending
        assert (await state_of(store, forwarder.name)).trouble
        await receiver.start()
        await due_now(module_database)
        await sent(forwarder)
        async with asyncio.timeout(60):
            while len(told := dict.fromkeys(map(reason_of, receiver.messages()))) < 120:  # noqa: ASYNC110 - nor of this
                await asyncio.sleep(0.02)

    assert list(told) == [str(number) for number in range(120)]


def reason_of(message: dict[str, Any]) -> str:
    return str(orjson.loads(message["MESSAGE"])["status_detail"])


@asynccontextmanager
async def metadata_process(database: str, sinks: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service itself, for the length of a block."""
    settings = {"AFDP_DATABASE_URL": database, "AFDP_DATABASE_POOL_MIN": "1", "AFDP_AUDIT_SINKS": str(sinks)}
    said = {"AFDP_TLS": "off", "AFDP_ENCRYPTION": "off"}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AFDP_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.metadata"),
        env={**plain, **settings, "AFDP_PORT": "0", "AFDP_METRICS_PORT": "0", **said},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_process_that_is_killed_in_mid_batch_leaves_no_gap(
    own_store: PostgresStore, database: str, tmp_path: Path
) -> None:
    await recorded(own_store, *(row(number) for number in range(40)))
    file = tmp_path / "sinks.yaml"
    with running_collector() as collector:
        file.write_text(f"sinks:\n  - {{name: lake, kind: http, url: '{collector.url}', batch_events: 10}}\n")
        collector.lets_through = 2
        async with metadata_process(database, file) as killed:
            assert await asyncio.to_thread(collector.waits.wait, 120)
            killed.kill()
            await killed.wait()
        collector.going.set()
        async with asyncio.timeout(60):
            while len(collector.taken) < 3:  # noqa: ASYNC110 - what was sent is taken, and nobody is there to be told
                await asyncio.sleep(0.01)
        await expired(database)

        async with metadata_process(database, file), asyncio.timeout(120):
            while (await state_of(own_store, "lake")).waiting:  # noqa: ASYNC110 - of another process there is no event
                await asyncio.sleep(0.02)

    first_told = list(dict.fromkeys(event for post in collector.taken for event in reasons(post)))
    assert first_told == [str(number) for number in range(40)]
    assert [reasons(post) for post in collector.taken[-2:]] == [
        [str(number) for number in range(start, start + 10)] for start in (20, 30)
    ]


def reasons(post: Post) -> list[str]:
    return [event["status_detail"] for event in post.events]


async def state_of(store: PostgresStore, name: str) -> SinkState:
    [state] = await store.sinks.states([name])
    return state
