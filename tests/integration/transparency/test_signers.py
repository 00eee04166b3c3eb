"""Several signers, each with a memory of its own, and somebody who forges the tree."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint
from afdp.messages.signer import SignerServiceClient
from afdp.rpc import GrpcCaller, open_channel
from afdp.transparency.signer import GrpcSigner

ORIGIN = "notary.localhost"


@pytest.fixture
async def second(signer, data_folder: Path) -> AsyncIterator[object]:
    """A second signer with the keys of the first, and a memory of its own."""
    folder = data_folder / "second"
    shutil.copytree(signer.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "second"))
    peer = type(signer)(folder)
    await peer.start()
    yield peer
    await peer.stop()


@asynccontextmanager
async def asked(peer) -> AsyncIterator[GrpcSigner]:
    """A client of one signer."""
    async with open_channel(peer.address) as channel:
        yield GrpcSigner(SignerServiceClient(GrpcCaller(channel)), 5.0)


async def last_of(peer) -> Checkpoint | None:
    async with asked(peer) as client:
        return await client.last(ORIGIN)


async def append(one, entry: bytes):
    """Until it is there: a signer that went is not known to be gone at once."""
    async with asyncio.timeout(20):
        while True:
            try:
                return (await one.log.append([entry]))[0]
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_appending_goes_on_with_another_signer_and_one_that_lagged_behind_catches_up(
    replica, signer, second, stored_leaves, root_of
) -> None:
    checkpoints = []
    async with replica(signer_address=f"{signer.address},{second.address}") as one:
        checkpoints += [await append(one, b"%d" % number) for number in range(3)]
        assert await last_of(second) is None
        await signer.stop()
        checkpoints += [await append(one, b"%d" % number) for number in range(3, 6)]
        await signer.start()
        behind = await last_of(signer)
        await second.stop()
        checkpoints += [await append(one, b"%d" % number) for number in range(6, 9)]
        caught_up = await last_of(signer)
        await second.start()

    leaves = await stored_leaves()
    assert [checkpoint.size for checkpoint in checkpoints] == list(range(1, 10))
    assert [checkpoint.root for checkpoint in checkpoints] == [root_of(leaves[:size]) for size in range(1, 10)]
    assert (behind.size, caught_up.size) == (3, 9)
    assert (await last_of(second)).size == 6


async def test_replicas_with_a_signer_each_make_one_log(replica, signer, second, stored_leaves, root_of) -> None:
    async with replica() as one, replica(signer_address=second.address) as other:
        answers = await asyncio.gather(
            *(
                each.log.append([b"%d of %d" % (number, who)])
                for number in range(20)
                for who, each in enumerate((one, other))
            )
        )

    leaves = await stored_leaves()
    assert len(leaves) == len(set(leaves)) == 40
    for checkpoint, _ in answers:
        assert checkpoint.root == root_of(leaves[: checkpoint.size])


async def test_each_signer_refuses_a_fork_of_what_it_has_signed(replica, signer, second) -> None:
    async with replica() as one, replica(signer_address=second.address) as other:
        await one.log.append([b"a", b"b"])
        ours, _ = await one.log.append([b"c"])
        await other.log.append([b"d", b"e"])

    fork = extend(Frontier.empty(), [leaf_hash(each) for each in (b"a", b"b", b"C")])
    grown = extend(fork.new, [leaf_hash(each) for each in (b"d", b"e", b"f")])
    for peer in (signer, second):
        last = await last_of(peer)
        async with asked(peer) as client:
            for size, tree, proof in (
                (last.size, grown.old if last.size == 3 else None, []),
                (6, grown.new, grown.consistency_proof()),
            ):
                root = tree.root() if tree else os.urandom(32)
                with pytest.raises(FailedPrecondition, match=r"not consistent|must lead from") as refused:
                    await client.sign(Checkpoint(ORIGIN, size, root), last.size, proof)
                assert refused.value.metadata["last_size"] == str(last.size)
        assert await last_of(peer) == last
    assert ours.size == 3


async def test_a_forged_tree_is_never_signed_and_writing_stops_with_both_roots_in_the_log(
    replica, signer, second, sql, caplog
) -> None:
    async with replica() as one, replica(signer_address=second.address) as other:
        await one.log.append([b"a", b"b"])
        signed, _ = await other.log.append([b"c"])
        await one.log.append([b"d"])
        published = await sql.fetchrow("SELECT size, root FROM checkpoint")
        # Somebody with the database's password exchanges an entry, and all that follows from it.
        forged = extend(Frontier.empty(), [leaf_hash(each) for each in (b"a", b"b", b"FORGED", b"d")]).new
        await sql.execute("UPDATE entry SET body = 'FORGED', leaf_hash = $1 WHERE leaf_index = 2", leaf_hash(b"FORGED"))
        await sql.execute("UPDATE tree SET root = $1, frontier = $2", forged.root(), forged.to_bytes())

        with caplog.at_level(logging.CRITICAL):
            for each in (one, other):
                with pytest.raises(DataLoss, match="of another tree"):
                    await each.log.append([b"e"])
        for each in (one, other):
            with pytest.raises(DataLoss, match="of another tree"):
                await each.log.append([b"f"])
    for peer in (signer, second):
        async with replica(signer_address=peer.address) as again:
            with pytest.raises(DataLoss, match="another root at size"):
                await again.log.append([b"g"])

    evidence = [record.fields for record in caplog.records if "has signed another" in record.message]
    assert [each["signed_size"] for each in evidence] == [4, 3]
    assert evidence[0]["signed_root"] == published["root"].hex()
    assert evidence[1]["signed_root"] == signed.root.hex()
    assert all(each["refused_root"] not in (published["root"].hex(), signed.root.hex()) for each in evidence)
    assert await sql.fetchrow("SELECT size, root FROM checkpoint") == published
