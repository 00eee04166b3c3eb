"""Rules of the log that no other test here holds us to: the order of what is committed, and what a start reads."""

import asyncio
import os

import asyncpg
import pytest

from afdp.errors import NotFound, OutOfRange
from afdp.formats.merkle import leaf_hash
from afdp.formats.tiles import TileRef
from afdp.transparency.postgres import SCHEMA
from tests.log_rules import rule


class Steps:
    """Stands before store and signer, and says which step is about to be taken; it is taken when it is let."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[tuple[str, asyncio.Event]] = asyncio.Queue()
        self.armed = False

    def before(self, inner: object) -> object:
        steps = self

        class Stepping:
            def __getattr__(self, name: str) -> object:
                real = getattr(inner, name)
                if not steps.armed or name not in ("grow", "integrate", "sign", "publish"):
                    return real

                async def step(*arguments: object) -> object:
                    let = asyncio.Event()
                    steps.taken.put_nowait((name, let))
                    await let.wait()
                    return await real(*arguments)

                return step

        return Stepping()

    async def next(self, name: str) -> asyncio.Event:
        async with asyncio.timeout(20):
            found, let = await self.taken.get()
        assert found == name
        return let


@rule(1)
async def test_entries_are_committed_then_signed_then_published_and_only_then_seen(replica, database, sql) -> None:
    steps = Steps()
    async with replica(store=steps.before, signer=steps.before) as one, replica() as reader:
        await one.log.append([b"before"])
        steps.armed = True
        call = asyncio.create_task(one.log.append([b"entry"]))

        async def unseen() -> None:
            assert (await reader.log.checkpoint()).size == 1
            _, [found] = await reader.log.find([leaf_hash(b"entry")])
            assert found is None
            with pytest.raises(OutOfRange):
                await reader.log.inclusion(1, 2)
            with pytest.raises(NotFound):
                await reader.log.tile(TileRef(None, 0, 2))
            assert not call.done()

        commit = await steps.next("grow")
        assert await sql.fetchval("SELECT size FROM tree") == 1
        commit.set()
        sign = await steps.next("sign")
        # What is signed is durable, and another connection may take the lock: nobody holds it while the signer works.
        assert await sql.fetchval("SELECT size FROM tree") == 2
        assert await sql.fetchval("SELECT body FROM entry WHERE leaf_index = 1") == b"entry"
        other = await asyncpg.connect(database, server_settings={"search_path": SCHEMA})
        async with other.transaction():
            assert await other.fetchval("SELECT size FROM tree FOR UPDATE NOWAIT") == 2
        await other.close()
        await unseen()
        sign.set()
        publish = await steps.next("publish")
        await unseen()
        publish.set()
        checkpoint, _ = await call

        assert checkpoint.size == 2
        assert await reader.log.checkpoint() == checkpoint


@rule(3)
async def test_a_start_reads_the_right_edge_and_not_the_tree(replica) -> None:
    read: list[int] = []

    def counting(inner: object) -> object:
        class Counting:
            def __getattr__(self, name: str) -> object:
                real = getattr(inner, name)
                if name not in ("hashes", "entries"):
                    return real

                async def counted(*arguments: object) -> object:
                    found = await real(*arguments)
                    read.append(len(found))
                    return found

                return counted

        return Counting()

    async with replica() as one:
        for _ in range(4):
            await one.log.append([os.urandom(40) for _ in range(2500)])
    async with replica(store=counting) as anew:
        checkpoint, _ = await anew.log.append([b"more"])

    assert checkpoint.size == 10_001
    # At most the partial tile of each level, for each of the two checkpoints that it must go on from.
    assert sum(read) <= 2 * 2 * 255
