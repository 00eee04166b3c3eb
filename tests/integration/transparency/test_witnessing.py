"""Checkpoints cosigned by witnesses, ours and one that is not: enough of them, in time, and what they remember."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from afdp.formats.merkle import verify_inclusion
from afdp.formats.note import Note, SignatureType, VerifierKey, verify
from afdp.formats.witness import AddCheckpoint
from afdp.transparency.cadence import beside
from afdp.transparency.config import WitnessSettings
from afdp.transparency.values import BrokenLog, WitnessPolicy
from afdp.transparency.witnesses import open_witnesses
from afdp.transparency.witnessing import OtherSize, Witnessing
from afdp.witness.folder import open_vkey
from afdp.witness.server import running_witness
from tests.litewitness import running_litewitness
from tests.local_log import LocalLog
from tests.local_witness import cosigned, make_witness
from tests.log_rules import rule


class Witness:
    """A witness in this process: it cosigns whatever comes, unless it is told to do something else."""

    def __init__(self, name: str = "w.example") -> None:
        self.key = Ed25519PrivateKey.generate()
        self.vkey = VerifierKey(name, self.key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
        self.asked: list[tuple[int, int]] = []
        self.times: list[float] = []
        self.size = 0
        self.error: Exception | None = None
        self.hangs = False
        self.forges = False
        self.skew = 0
        self.came = asyncio.Event()

    async def cosign(self, request: AddCheckpoint):
        size = int(request.note.text.split("\n")[1])
        self.asked.append((request.old_size, size))
        self.times.append(time.monotonic())
        self.came.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        if request.old_size != self.size:
            raise OtherSize(self.size)
        self.size = size
        key = Ed25519PrivateKey.generate() if self.forges else self.key
        line = cosigned(request.note, self.vkey.name, key, int(time.time()) + self.skew)
        return (type(line)(line.name, self.vkey.key_id, line.signature),)


def policy(quorum: int = 1, closed: bool = False, interval: float = 0.05, timeout: float = 2.0) -> WitnessPolicy:
    return WitnessPolicy(quorum, closed, interval, timeout)


@asynccontextmanager
async def witnessed(replica, witnesses, how: WitnessPolicy) -> AsyncIterator[Witnessing]:
    """The task at work on a replica, whose log knows of it."""
    witnessing = Witnessing(replica.store, witnesses, how, replica.log.identity().origin)
    witnessing.attend(replica.writer)
    replica.log.witnesses = witnessing
    async with beside(witnessing):
        yield witnessing


@pytest.fixture
def kept(sql: asyncpg.Connection, eventually) -> Callable[[int], object]:
    """`await kept(3)`: returns once a checkpoint of at least this size is kept with its cosignatures."""

    async def wait(size: int) -> None:
        async def holds() -> bool:
            return (await sql.fetchval("SELECT coalesce(max(size), 0) FROM cosigned_checkpoint")) >= size

        await eventually(holds)

    return wait


@rule(7)
async def test_real_witnesses_cosign_and_an_entry_has_the_first_such_checkpoint_over_it(
    replica, kept, tmp_path: Path, tool
) -> None:
    async with replica() as first:
        await first.log.append([b"a", b"b", b"c"])
        vkey = first.log.identity().vkey
    (tmp_path / "theirs").mkdir()
    make_witness(tmp_path / "ours", [vkey])
    async with (
        running_witness(tmp_path / "ours") as url,
        running_litewitness(tool, tmp_path / "theirs", [vkey]) as theirs,
    ):
        ours = open_vkey(tmp_path / "ours")
        known = [{"url": url, "vkey": str(ours)}, {"url": theirs.url, "vkey": str(theirs.vkey)}]
        async with replica(witnesses=known, witness_quorum=2) as one:
            await kept(3)
            await one.log.append([b"d"])
            await kept(4)
            for index, size in ((0, 3), (2, 3), (3, 4)):
                checkpoint, inclusion = await one.log.cosigned(index)
                assert checkpoint.size == size
                verify_inclusion(index, size, inclusion.leaf_hash, inclusion.proof, checkpoint.root)
                assert len(verify(Note.parse(checkpoint.note), [vkey, ours, theirs.vkey])) == 3
            served = await one.log.checkpoint()
            assert len(Note.parse(served.note).signatures) == 3

        # They were told once and remember; a new process finds out by itself from which size they must be proven.
        async with replica(witnesses=known, witness_quorum=2) as again:
            await again.log.append([b"e", b"f"])
            await kept(6)


@rule(7)
async def test_any_k_of_n_are_enough_and_one_that_hangs_holds_nobody_up(replica, kept, sql) -> None:
    witnesses = [Witness(f"w{each}.example") for each in range(4)]
    witnesses[0].hangs, witnesses[1].error = True, Unavailable("it is away")
    async with replica() as one:
        await one.log.append([b"a"])
        began = time.monotonic()
        async with witnessed(one, witnesses, policy(quorum=2, timeout=120)):
            await kept(1)
            assert time.monotonic() - began < 60
            note = Note.parse(await sql.fetchval("SELECT note FROM cosigned_checkpoint"))
            assert {each.name for each in note.signatures[1:]} == {"w2.example", "w3.example"}


@rule(7)
@pytest.mark.parametrize("closed", [False, True])
async def test_with_too_few_nothing_is_kept_and_readers_get_what_the_policy_says(
    replica, kept, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.transparency.witnessing.RETRY", 0.02)
    good, away = Witness("good.example"), Witness("away.example")
    away.error = Unavailable("it is away")
    async with replica() as one:
        await one.log.append([b"a"])
        async with witnessed(one, [good, away], policy(quorum=2, closed=closed)):
            async with asyncio.timeout(30):
                await away.came.wait()
            with pytest.raises(NotFound, match="yet"):
                await one.log.cosigned(0)
            if closed:
                with pytest.raises(NotFound, match="cosigned"):
                    await one.log.checkpoint()
            else:
                assert len(Note.parse((await one.log.checkpoint()).note).signatures) == 1
            away.error = None
            await kept(1)
            assert len(Note.parse((await one.log.checkpoint()).note).signatures) == 3
            await one.log.append([b"b"])
            if closed:
                assert len(Note.parse((await one.log.checkpoint()).note).signatures) == 3
            await kept(2)
            assert (await one.log.checkpoint()).size == 2


async def test_cosignatures_that_do_not_verify_or_state_an_impossible_time_do_not_count(replica, kept, sql) -> None:
    forger, late, good = Witness("forger.example"), Witness("late.example"), Witness("good.example")
    forger.forges, late.skew = True, 3600
    async with replica() as one:
        await one.log.append([b"a"])
        async with witnessed(one, [forger, late, good], policy()):
            await kept(1)
    note = Note.parse(await sql.fetchval("SELECT note FROM cosigned_checkpoint"))
    assert [each.name for each in note.signatures[1:]] == ["good.example"]


async def test_a_witness_is_proven_from_the_size_that_it_says(replica, kept) -> None:
    witness = Witness()
    witness.size = 2
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        await one.log.append([b"c"])
        async with witnessed(one, [witness], policy()):
            await kept(3)
            await one.log.append([b"d"])
            await kept(4)
    assert witness.asked == [(0, 3), (2, 3), (3, 4)]


@rule(7)
async def test_witnesses_are_asked_at_most_once_an_interval_by_all_replicas_together(replica, kept) -> None:
    witness = Witness()
    async with (
        replica() as one,
        replica() as other,
        witnessed(one, [witness], policy(interval=0.4)),
        witnessed(other, [witness], policy(interval=0.4)),
    ):
        began = time.monotonic()
        for each in range(30):
            await one.log.append([b"%d" % each])
            await asyncio.sleep(0.04)  # entries arrive for three intervals
        await kept(30)
        async with asyncio.timeout(30):  # both know of it now: nothing is left to ask for
            await asyncio.gather(*(each.log.witnesses.until_cosigned(30, 5) for each in (one, other)))
        intervals = (time.monotonic() - began) / 0.4
    sizes = dict.fromkeys(size for _, size in witness.asked)
    firsts = [witness.times[[size for _, size in witness.asked].index(each)] for each in sizes]
    assert len(firsts) <= intervals + 3
    assert all(later - before > 0.2 for before, later in pairwise(firsts))


async def test_a_witness_that_has_seen_more_than_the_database_holds_stops_writing_and_not_reading(
    replica, eventually
) -> None:
    witness = Witness()
    async with replica() as one:
        await one.log.append([b"a"])
        witness.size = 7
        async with witnessed(one, [witness], policy()):
            async with asyncio.timeout(30):
                await witness.came.wait()

            async def stopped() -> bool:
                try:
                    await one.log.check()
                except BrokenLog:
                    return True
                return False

            await eventually(stopped)
            with pytest.raises(DataLoss, match=r"holds 1 entries.*w\.example has cosigned 7.*backup"):
                await one.log.append([b"b"])
            assert (await one.log.checkpoint()).size == 1


@rule(6)
async def test_an_old_backup_is_found_by_a_witness_before_the_first_append(
    replica, signer, database: str, kept, tmp_path: Path, postgres, sql
) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
        vkey = one.log.identity().vkey
    make_witness(tmp_path, [vkey])
    async with running_witness(tmp_path) as url:
        known = [{"url": url, "vkey": str(open_vkey(tmp_path))}]
        backup = {table: await sql.fetch(f"SELECT * FROM {table}") for table in ("tree", "checkpoint")}
        async with replica(witnesses=known) as one:
            await one.log.append([b"b", b"c"])
            await kept(3)
        await _restore(sql, backup)
        await signer.forget()  # its memory went the same way

        async with replica(witnesses=known) as restored:
            with pytest.raises(DataLoss, match=r"holds 1 entries.*witness\.example has cosigned 3"):
                await restored.log.append([b"another history"])
        async with replica() as unwarned:
            await unwarned.log.append([b"another history"])


async def _restore(sql: asyncpg.Connection, backup) -> None:
    await sql.execute("DELETE FROM entry WHERE leaf_index > 0; DELETE FROM cosigned_checkpoint")
    for table, [row] in backup.items():
        values = dict(row)
        columns = ", ".join(f"{name} = ${at}" for at, name in enumerate(values, 1))
        await sql.execute(f"UPDATE {table} SET {columns}", *values.values())


async def test_with_a_closed_policy_nothing_is_appended_until_enough_witnesses_have_answered(
    replica, eventually
) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
    nobody = [{"url": "http://127.0.0.1:1", "vkey": str(Witness().vkey)}]
    async with replica(witnesses=nobody) as opened:
        await opened.log.append([b"b"])
    async with replica(witnesses=nobody, witness_policy="fail_closed") as closed:
        with pytest.raises(Unavailable, match="0 of the 1 witnesses"):
            await closed.log.append([b"c"])


async def test_a_caller_can_wait_for_cosignatures_for_so_long(replica) -> None:
    witness = Witness()
    witness.error = Unavailable("it is away")
    async with replica() as one:
        await one.log.append([b"a"])
        with pytest.raises(FailedPrecondition, match="no witnesses"):
            await one.log.cosigned(0)
        async with witnessed(one, [witness], policy()):
            with pytest.raises(NotFound):
                await one.log.cosigned(0, wait=0.1)
            waiting = asyncio.create_task(one.log.cosigned(0, wait=10))
            witness.error = None
            checkpoint, _ = await waiting
            assert checkpoint.size == 1


async def test_cosigned_checkpoints_that_were_changed_at_rest_are_withheld(replica, kept, sql) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
        async with witnessed(one, [Witness()], policy()):
            await kept(1)
            note = await sql.fetchval("SELECT note FROM cosigned_checkpoint")
            flipped = note[:-10] + ("A" if note[-10] != "A" else "B") + note[-9:]
            await sql.execute("UPDATE cosigned_checkpoint SET note = $1", flipped)
            with pytest.raises(DataLoss):
                await one.log.cosigned(0)
            with pytest.raises(DataLoss):
                await one.log.checkpoint()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, "text/plain", b""), "cannot be read"),
        ((200, "text/plain", b"\xff\n"), "cannot be read"),
        ((200, "text/plain", b"a" * 20_000), "larger"),
        ((409, "text/x.tlog.size", b"many\n"), "cannot be read"),
        ((409, "text/plain", b""), "another tree"),
        ((422, "text/plain", b""), "no proof"),
        ((404, "text/plain", b""), "does not know"),
        ((302, "text/plain", b""), "answers 302"),
        ((500, "text/plain", b""), "answers 500"),
    ],
)
async def test_whatever_a_witness_answers_is_understood_or_refused(answer, reason: str) -> None:
    status, kind, body = answer
    log = LocalLog()
    log.append([b"a"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        known = WitnessSettings(url=url, vkey=str(Witness().vkey))
        async with open_witnesses([known]) as [witness]:
            with pytest.raises((FailedPrecondition, Unavailable), match=reason):
                await witness.cosign(AddCheckpoint(0, (), log.checkpoint()))
