"""Checkpoints stamped by an authority outside of the notary: on a cadence, shared by replicas, in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from afdp.errors import DataLoss, FailedPrecondition, NotFound, OutOfRange, Unavailable
from afdp.formats.merkle import verify_inclusion
from afdp.formats.note import Note
from afdp.transparency.cadence import beside
from afdp.transparency.postgres import PostgresStore
from afdp.transparency.stamping import CheckpointStamper
from afdp.transparency.values import SignedCheckpoint, Stamp
from tests.openssl_authority import OpensslAuthority, openssl_verifies

ORIGIN = "notary.localhost"


class Authority:
    """`openssl ts` asked directly; it can be away, or not configured."""

    def __init__(self, openssl: OpensslAuthority) -> None:
        self.openssl = openssl
        self.asked: list[int] = []
        self.answered = asyncio.Event()
        self.error: Exception | None = None

    async def stamp(self, checkpoint: SignedCheckpoint, origin: str) -> Stamp:
        self.asked.append(checkpoint.size)
        self.answered.set()
        if self.error:
            raise self.error
        body = Note.parse(checkpoint.note).text.encode()
        assert body.decode().startswith(f"{origin}\n{checkpoint.size}\n")
        response = await asyncio.to_thread(self.openssl.stamp, body)
        return Stamp(response, self.openssl.url, datetime.now(UTC))


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory) -> OpensslAuthority:
    return OpensslAuthority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def authority(openssl: OpensslAuthority) -> Authority:
    return Authority(openssl)


@pytest.fixture
def kept(sql: asyncpg.Connection, eventually) -> Callable[[list[int]], object]:
    """`await kept([3, 7])`: returns once checkpoints of exactly these sizes are kept with a stamp."""

    async def wait(sizes: list[int]) -> None:
        async def holds() -> bool:
            rows = await sql.fetch("SELECT size FROM stamped_checkpoint ORDER BY size")
            return [row["size"] for row in rows] == sizes

        await eventually(holds)

    return wait


def stamper(replica, authority: Authority, interval: float = 0.05) -> CheckpointStamper:
    return CheckpointStamper(replica.log, replica.store, authority, ORIGIN, interval)


class Turns:
    """The store, and how often a stamper has looked into it."""

    def __init__(self, store: PostgresStore) -> None:
        self.keep_stamp = store.keep_stamp
        self._store, self._count, self._looked = store, 0, asyncio.Condition()

    async def newest_stamp(self) -> tuple[int, float] | None:
        found = await self._store.newest_stamp()
        async with self._looked:
            self._count += 1
            self._looked.notify_all()
        return found

    async def passed(self, count: int) -> None:
        async with self._looked:
            await self._looked.wait_for(lambda: self._count > count)


async def test_every_leaf_has_the_first_stamped_checkpoint_over_it_with_a_proof(
    replica, authority: Authority, kept, tmp_path: Path
) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b", b"c"])
        async with beside(stamper(one, authority)):
            await kept([3])
            await one.log.append([b"d"])
            await kept([3, 4])
        await one.log.append([b"e"])
        sizes = {}
        for index in range(4):
            found, inclusion = await one.log.stamped(index)
            checkpoint = found.checkpoint
            verify_inclusion(index, checkpoint.size, inclusion.leaf_hash, inclusion.proof, checkpoint.root)
            sizes[index] = checkpoint.size
        with pytest.raises(NotFound, match="yet"):
            await one.log.stamped(4)
        with pytest.raises(OutOfRange):
            await one.log.stamped(5)

    assert sizes == {0: 3, 1: 3, 2: 3, 3: 4}
    body = Note.parse(found.checkpoint.note).text.encode()
    assert openssl_verifies(tmp_path, found.stamp.response, body, authority.openssl.certificates)


async def test_a_log_that_has_not_grown_is_not_stamped_again(replica, authority: Authority, kept) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
        turns = Turns(one.store)
        async with beside(CheckpointStamper(one.log, turns, authority, ORIGIN, 0.01)):
            await turns.passed(10)
            await kept([1])

    assert authority.asked == [1]


async def test_an_empty_log_is_not_stamped(replica, authority: Authority, kept) -> None:
    async with replica() as one:
        turns = Turns(one.store)
        async with beside(CheckpointStamper(one.log, turns, authority, ORIGIN, 0.01)):
            await turns.passed(10)
            assert authority.asked == []
            await one.log.append([b"a"])
            await kept([1])


async def test_replicas_share_the_cadence(replica, authority: Authority, kept) -> None:
    async with replica() as one, replica() as other:
        await one.log.append([b"a"])
        async with beside(stamper(one, authority, interval=600)):
            await kept([1])
        await one.log.append([b"b"])
        turns = Turns(other.store)
        async with beside(CheckpointStamper(other.log, turns, authority, ORIGIN, 600)):
            await turns.passed(0)
            assert (await other.log.checkpoint()).size == 2

    assert authority.asked == [1]


async def test_an_authority_that_is_away_is_asked_again_and_nobody_waits(
    replica, authority: Authority, kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.transparency.stamping.RETRY", 0.02)
    authority.error = Unavailable("no authority answers", retry_after=1.0)
    async with replica() as one:
        await one.log.append([b"a"])
        async with beside(stamper(one, authority)):
            await authority.answered.wait()
            await one.log.append([b"b"])
            with pytest.raises(NotFound):
                await one.log.stamped(0)
            authority.error = None
            await kept([2])

    assert len(authority.asked) > 1


async def test_without_an_external_authority_nothing_is_stamped_and_it_is_said_once(
    replica, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    authority.error = FailedPrecondition("no external time-stamping authority is configured")
    async with replica() as one:
        await one.log.append([b"a"])
        async with beside(stamper(one, authority, interval=0.01)):
            while len(authority.asked) < 5:
                authority.answered.clear()
                await authority.answered.wait()

    assert [record.message for record in caplog.records].count("checkpoints are not stamped") == 1


async def test_a_checkpoint_that_the_signer_does_not_remember_is_tried_again_with_a_newer_one(
    replica, authority: Authority, kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.transparency.stamping.RETRY", 0.02)
    authority.error = FailedPrecondition("none of those that were signed here lately", metadata={"last_size": "2"})
    async with replica() as one:
        await one.log.append([b"a"])
        async with beside(stamper(one, authority, interval=600)):
            await authority.answered.wait()
            await one.log.append([b"b"])
            authority.error = None
            await kept([2])


async def test_a_stamped_checkpoint_that_was_changed_at_rest_is_withheld(
    replica, authority: Authority, kept, sql: asyncpg.Connection
) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        async with beside(stamper(one, authority)):
            await kept([2])
        await sql.execute("UPDATE stamped_checkpoint SET root = sha256(root)")
        with pytest.raises(DataLoss):
            await one.log.stamped(0)
