"""Several logs in one deployment: apart from each other, opened and frozen while replicas write."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext

import asyncpg
import httpx
import pytest

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from afdp.formats.merkle import ProofError, leaf_hash, verify_inclusion
from afdp.formats.note import Note, NoteError, verify
from afdp.messages.signer import SignerServiceClient
from afdp.messages.transparency import AppendRequest, AppendResponse, FindLeavesRequest, ListLogsRequest
from afdp.messages.transparency import LogState as Listed
from afdp.postgres import Database, migrate, migrate_database, open_database, packaged
from afdp.rpc import GrpcCaller, open_channel
from afdp.telemetry.context import deadline
from afdp.transparency.config import TransparencySettings
from afdp.transparency.fsck import check_store
from afdp.transparency.http import serving_reads
from afdp.transparency.logs import freeze_log, open_log
from afdp.transparency.parts import open_logs
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.servicer import TransparencyServicer
from afdp.transparency.signer import GrpcSigner
from afdp.transparency.values import FrozenLog, Inclusion, KnownLog, LogIdentity, LogState, NewLog
from tests.old_log import write_log

FIRST = "notary.localhost"


class Operator:
    """Opens and freezes logs in a test's database, as the commands do."""

    def __init__(self, database: Database, signer: GrpcSigner) -> None:
        self.database = database
        self._catalogue = PostgresCatalogue(database)
        self._signer = signer

    async def open(self, origin: str, *tenants: str, successor_of: str = "") -> KnownLog:
        return await open_log(self._catalogue, self._signer, NewLog(origin, tenants, successor_of))

    async def freeze(self, origin: str) -> KnownLog:
        return await freeze_log(self._catalogue, origin)

    async def entries(self, origin: str) -> list[bytes]:
        """What a log holds, after it was recomputed."""
        number = next(each.number for each in await self._catalogue.logs() if each.origin == origin)
        store = PostgresStore(self.database, number)
        report = await check_store(store)
        assert report.fault is None
        return [leaf.entry for leaf in await store.entries(0, report.size)]


@pytest.fixture
async def operator(settings: Callable[..., TransparencySettings]) -> AsyncIterator[Operator]:
    known = settings()
    async with (
        open_database(known, SCHEMA, SERVICE, packaged("afdp.transparency"), SESSION) as database,
        open_channel(known.signer_address) as channel,
    ):
        yield Operator(database, GrpcSigner(SignerServiceClient(GrpcCaller(channel)), 5.0))


async def test_strangers_are_told_which_logs_there_are_and_not_whose(replica, settings, operator: Operator) -> None:
    following = "2027.example.org"
    async with replica() as one, serving_reads(one.logs, settings()) as port, httpx.AsyncClient() as client:
        await one.log.append([b"a"])
        await operator.open("acme.example.org", "acme")
        await operator.open(following, successor_of=FIRST)
        await operator.freeze(FIRST)
        await one.logs.listed()
        url = f"http://127.0.0.1:{port}/"
        answer = await client.get(f"{url}logs")
        same = await client.get(f"{url}logs", headers={"If-None-Match": answer.headers["etag"]})
        logs = answer.json()["logs"]
        vkeys = [(await client.get(f"{url}{each['path']}vkey")).text.strip() for each in logs]

    assert (answer.status_code, answer.headers["content-type"], same.status_code) == (200, "application/json", 304)
    assert answer.headers["cache-control"] == "public, max-age=10, no-transform"
    assert [(each["origin"], each["state"], each["path"], each["successor"]) for each in logs] == [
        (FIRST, "frozen", "", following),
        ("acme.example.org", "open", "logs/acme.example.org/", ""),
        (following, "open", f"logs/{following}/", ""),
    ]
    assert vkeys == [each["vkey"] for each in logs]
    assert logs[1]["url"].endswith("/log/logs/acme.example.org")
    assert "tenant" not in answer.text


async def test_each_log_holds_its_own_entries_and_its_proofs_hold_for_no_other(replica, operator: Operator) -> None:
    async with replica() as one:
        await operator.open("acme.example.org", "acme")
        await operator.open("own-key.example.org", "bank")
        logs = [await one.logs.of(origin) for origin in ("", "acme.example.org", "own-key.example.org")]
        appended = [await log.append([f"{at}-{number}".encode() for number in range(3)]) for at, log in enumerate(logs)]

        assert [checkpoint.size for checkpoint, _ in appended if checkpoint] == [3, 3, 3]
        assert await operator.entries("acme.example.org") == [b"1-0", b"1-1", b"1-2"]
        assert (await logs[0].find([leaf_hash(b"1-0")]))[1] == [None]
        for checkpoint, answers in appended:
            assert checkpoint is not None
            for other, log in zip(appended, logs, strict=True):
                same = other[0] is checkpoint
                note, found = Note.parse(checkpoint.note), answers[1]
                assert isinstance(found, Inclusion)
                assert other[0] is not None
                with nullcontext() if same else pytest.raises(NoteError):
                    verify(note, [log.identity().vkey])
                with nullcontext() if same else pytest.raises(ProofError):
                    verify_inclusion(1, 3, found.leaf_hash, found.proof, other[0].root)

    keys = {log.identity().public_key for log in logs}
    assert len(keys) == 2
    assert logs[0].identity().public_key == logs[1].identity().public_key


async def test_a_log_is_named_listed_and_read_under_a_path_of_its_own(replica, settings, operator: Operator) -> None:
    async with replica() as one, serving_reads(one.logs, settings()) as port, httpx.AsyncClient() as client:
        await one.log.append([b"of all"])
        await operator.open("acme.example.org", "acme")
        servicer = TransparencyServicer(one.logs)
        answer = await servicer.append(AppendRequest([b"of acme"], origin="acme.example.org"))
        listed = (await servicer.list_logs(ListLogsRequest())).logs
        root = f"http://127.0.0.1:{port}"
        read = {path: await client.get(f"{root}/{path}") for path in _PATHS}

        assert [(each.origin, each.tenants, each.state) for each in listed] == [
            (FIRST, [], Listed.OPEN),
            ("acme.example.org", ["acme"], Listed.OPEN),
        ]
        assert listed[1].base_url == f"{listed[0].base_url}/logs/acme.example.org"
        assert answer.checkpoint
        assert read["logs/acme.example.org/checkpoint"].text == answer.checkpoint.note
        assert read["logs/acme.example.org/vkey"].text == f"{listed[1].vkey}\n"
        assert read["logs/acme.example.org/tile/entries/000.p/1"].content == b"\0\7of acme"
        assert read["logs/acme.example.org/tile/0/000.p/1"].content == leaf_hash(b"of acme")
        assert read["checkpoint"].text == read[f"logs/{FIRST}/checkpoint"].text
        assert read["checkpoint"].text.startswith(f"{FIRST}\n1\n")
        assert [read[path].status_code for path in _PATHS[-2:]] == [404, 404]


_PATHS = (
    *("checkpoint", f"logs/{FIRST}/checkpoint"),
    *(f"logs/acme.example.org/{path}" for path in ("checkpoint", "vkey", "tile/entries/000.p/1", "tile/0/000.p/1")),
    *("logs/other.example.org/checkpoint", "logs/acme.example.org/tile/0/000.p/2"),
)


async def test_freezing_while_replicas_write_loses_no_entry_and_doubles_none(replica, operator: Operator) -> None:
    async with replica() as one, replica() as two:
        servicers = [TransparencyServicer(each.logs) for each in (one, two)]
        await one.log.append([b"begin"])
        await operator.open("2027.example.org", successor_of=FIRST)
        written: list[bytes] = []
        enough, frozen = asyncio.Event(), asyncio.Event()

        async def write(worker: int, servicer: TransparencyServicer) -> None:
            number = 0
            while number < 10 or not frozen.is_set():
                entries = [f"{worker}-{number}-{each}".encode() for each in range(5)]
                await _logged(servicer, entries, FIRST)
                written.extend(entries)
                number += 1
                if len(written) >= 60:
                    enough.set()

        async def freeze() -> KnownLog:
            await enough.wait()
            known = await operator.freeze(FIRST)
            frozen.set()
            return known

        async with asyncio.TaskGroup() as tasks:
            for worker in range(6):
                tasks.create_task(write(worker, servicers[worker % 2]))
            freezing = tasks.create_task(freeze())

        old, new = await operator.entries(FIRST), await operator.entries("2027.example.org")
        assert Counter(old + new) == Counter([b"begin", *written])
        assert old
        assert new
        assert freezing.result().successor == "2027.example.org"
        checkpoint = await one.log.checkpoint()
        assert checkpoint.size == len(old)
        # What is in it keeps its place, and is told again; what is not is refused by both.
        for servicer in servicers:
            again = await servicer.append(AppendRequest([old[7], b"late"]))
            assert again.results[0].inclusion
            assert again.results[0].inclusion.leaf_index == 7
            assert again.results[1].error
            assert again.results[1].error.code == "FAILED_PRECONDITION"
            assert (again.frozen, again.successor) == (True, "2027.example.org")
        assert (await two.log.inclusion(3))[1] == len(old)


async def _logged(servicer: TransparencyServicer, entries: list[bytes], origin: str) -> AppendResponse:
    """Appends as the notary does: what a frozen log does not hold goes to its successor."""
    answer = await servicer.append(AppendRequest(entries, origin=origin))
    refused = [entry for entry, each in zip(entries, answer.results, strict=True) if each.error]
    if refused:
        assert answer.frozen
        answer = await _logged(servicer, refused, answer.successor)
    return answer


async def test_a_log_that_is_opened_is_there_for_every_replica_and_after_a_restart(replica, operator: Operator) -> None:
    async with replica() as one, replica() as two:
        known = await operator.open("acme.example.org", "acme", "acme-labs")
        again = await operator.open("acme.example.org", "acme", "acme-labs")
        for each, entry in ((one, b"1"), (two, b"2")):
            await (await each.logs.of("acme.example.org")).append([entry])
    async with replica() as later:
        servicer = TransparencyServicer(later.logs)
        found = await servicer.find_leaves(FindLeavesRequest([leaf_hash(b"1")], origin="acme.example.org"))

    assert known == again
    assert found.checkpoint
    assert found.checkpoint.size == 2
    assert found.results[0].inclusion
    assert found.results[0].inclusion.leaf_index == 0


async def test_a_log_that_a_request_has_found_outlives_the_requests_deadline(replica, operator: Operator) -> None:
    async with replica() as one:
        await operator.open("acme.example.org", "acme")
        until = asyncio.get_running_loop().time() + 0.5
        serving = deadline.set(until)
        acme = await one.logs.of("acme.example.org")
        deadline.reset(serving)
        while asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - the deadline passes, and nothing tells
            await asyncio.sleep(0.05)

        checkpoint, _ = await acme.append([b"later"])

    assert checkpoint


async def test_logs_of_the_settings_are_opened_by_themselves_in_their_order(
    settings: Callable[..., TransparencySettings], operator: Operator
) -> None:
    known = settings(
        logs=(
            {"origin": "acme.example.org", "tenants": ("acme",), "base_url": "https://acme.example.org/log/"},
            {"origin": "2027.example.org", "successor_of": FIRST},
        )
    )
    async with open_channel(known.signer_address) as channel:
        client = SignerServiceClient(GrpcCaller(channel))
        for _ in range(2):  # the second start finds them
            async with open_logs(known, operator.database, client, []) as logs, asyncio.timeout(20):
                while len(listed := await logs.listed()) < 3:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.02)
                await (await logs.of("acme.example.org")).append([b"1"])

    assert [(each.origin, each.state, each.tenants) for each in listed] == [
        (FIRST, LogState.OPEN, ()),
        ("acme.example.org", LogState.OPEN, ("acme",)),
        ("2027.example.org", LogState.STANDBY, ()),
    ]
    assert logs.base_url(listed[1]) == "https://acme.example.org/log"


async def test_a_log_that_cannot_be_opened_is_refused_by_name(replica, operator: Operator) -> None:
    async with replica() as one:
        await operator.open("acme.example.org", "acme")
        await operator.open("next.example.org", successor_of=FIRST)
        refused = {
            "other.example": (PermissionDenied, ("acme2",), ""),
            "Capital.example.org": (InvalidArgument, ("acme2",), ""),
            "acme2.example.org": (InvalidArgument, ("acme",), ""),
            "nobody.example.org": (InvalidArgument, (), ""),
            "both.example.org": (InvalidArgument, ("acme2",), FIRST),
            "unknown.example.org": (InvalidArgument, (), "none.example.org"),
            "second.example.org": (InvalidArgument, (), FIRST),
            "acme.example.org": (InvalidArgument, ("acme", "acme2"), ""),
            "all.example.org": (InvalidArgument, ("*",), ""),
        }
        for origin, (error, tenants, before) in refused.items():
            with pytest.raises(error):
                await operator.open(origin, *tenants, successor_of=before)
        for origin, error in (("none.example.org", NotFound), ("not an origin", InvalidArgument)):
            with pytest.raises(error) as raised:
                await one.logs.of(origin)
            assert [each.field for each in raised.value.fields] == ["origin"]
        with pytest.raises(NotFound):
            await operator.freeze("none.example.org")
        assert len(await one.logs.listed()) == 3


async def test_a_fork_of_any_log_is_refused_by_the_signer_and_costs_the_others_nothing(
    replica, operator: Operator, sql: asyncpg.Connection
) -> None:
    async with replica() as one:
        await operator.open("acme.example.org", "acme")
        acme = await one.logs.of("acme.example.org")
        await acme.append([b"1", b"2"])
        await one.log.append([b"3"])
    # An older database: the second log's entries are gone, and the signer remembers them.
    empty = await sql.fetchrow("SELECT root, frontier FROM tree WHERE log_id = 1")
    assert empty
    await sql.execute("DELETE FROM entry WHERE log_id = 2; DELETE FROM checkpoint WHERE log_id = 2")
    await sql.execute(
        "UPDATE tree SET size = 1, root = $1, frontier = $2 WHERE log_id = 2", empty["root"], empty["frontier"]
    )

    async with replica() as one:
        with pytest.raises(DataLoss, match="1 entries, and 2 were signed"):
            await (await one.logs.of("acme.example.org")).append([b"4"])
        checkpoint, _ = await one.log.append([b"5"])
        await one.logs.check()

    assert checkpoint
    assert checkpoint.size == 2


async def test_a_log_whose_key_is_not_the_signers_takes_nothing_and_stops_no_other(
    replica, operator: Operator, sql: asyncpg.Connection
) -> None:
    async with replica() as one:
        await operator.open("acme.example.org", "acme")
        await (await one.logs.of("acme.example.org")).append([b"1"])
    await sql.execute("UPDATE tree SET public_key = sha256(public_key) WHERE log_id = 2")

    async with replica() as one:
        with pytest.raises(FailedPrecondition, match="the signer's log key is not the one"):
            await (await one.logs.of("acme.example.org")).append([b"2"])
        checkpoint, _ = await one.log.append([b"3"])
        await one.logs.check()

    assert checkpoint


async def test_a_database_of_the_release_before_goes_on_with_its_log(
    replica, signer, settings: Callable[..., TransparencySettings], sql: asyncpg.Connection
) -> None:
    await migrate(sql, SCHEMA, packaged("afdp.transparency")[:3])
    async with open_channel(signer.address) as channel:
        client = GrpcSigner(SignerServiceClient(GrpcCaller(channel)), 5.0)
        await write_log(sql, 1, LogIdentity(FIRST, await client.public_key(FIRST)), [b"before"])
        await migrate_database(settings(), SCHEMA, SERVICE, packaged("afdp.transparency"))
        async with replica() as one, open_database(settings(), SCHEMA, SERVICE, session=SESSION) as database:
            operator = Operator(database, client)
            await one.log.append([b"after"])
            known = await operator.open("acme.example.org", "acme")
            kept = await operator.entries(FIRST)

    assert kept == [b"before", b"after"]
    assert known.number == 2


async def test_an_entry_that_is_refused_by_a_frozen_log_says_so_in_a_sentence(replica, operator: Operator) -> None:
    async with replica() as one:
        await operator.freeze(FIRST)
        checkpoint, [answer] = await one.log.append([b"late"])

    assert checkpoint is None
    assert isinstance(answer, FrozenLog | FailedPrecondition)
    assert "notary.localhost is frozen" in answer.message
