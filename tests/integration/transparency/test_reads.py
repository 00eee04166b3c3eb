"""Proofs and lookups: only what is published, and nothing that does not hold."""

import os

import pytest
from prometheus_client import REGISTRY

from afdp.errors import DataLoss, InvalidArgument, NotFound, OutOfRange
from afdp.formats.merkle import leaf_hash, verify_consistency, verify_inclusion
from tests.log_rules import rule


async def test_every_leaf_is_proven_in_every_published_size(replica, root_of) -> None:
    async with replica() as one:
        for batch in ([b"%d" % number for number in range(9)], [b"%d" % number for number in range(9, 21)]):
            await one.log.append(batch)
        leaves = [leaf_hash(b"%d" % number) for number in range(21)]
        for size in range(1, 22):
            for index in range(size):
                inclusion, tree_size, root = await one.log.inclusion(index, size)
                assert (inclusion.leaf_index, inclusion.leaf_hash, tree_size) == (index, leaves[index], size)
                assert root == root_of(leaves[:size])
                verify_inclusion(index, size, leaves[index], inclusion.proof, root)
            for old in range(size + 1):
                proof, new_size = await one.log.consistency(old, size)
                assert new_size == size
                verify_consistency(old, root_of(leaves[:old]), size, root_of(leaves[:size]), proof)


async def test_zero_means_the_latest_size(replica) -> None:
    async with replica() as one:
        checkpoint, _ = await one.log.append([b"a", b"b", b"c"])
        inclusion, size, root = await one.log.inclusion(1)
        proof, new_size = await one.log.consistency(1)

    assert (inclusion.leaf_index, size, root) == (1, 3, checkpoint.root)
    assert (len(proof), new_size) == (2, 3)


async def test_what_is_not_published_is_out_of_range_with_its_field(replica) -> None:
    async with replica() as one:
        with pytest.raises(NotFound, match="empty"):
            await one.log.checkpoint()
        with pytest.raises(OutOfRange) as empty:
            await one.log.inclusion(0)
        await one.log.append([b"a", b"b"])
        with pytest.raises(OutOfRange) as leaf:
            await one.log.inclusion(2)
        with pytest.raises(OutOfRange) as leaf_of_smaller:
            await one.log.inclusion(1, 1)
        with pytest.raises(OutOfRange) as tree:
            await one.log.inclusion(0, 3)
        with pytest.raises(OutOfRange) as new:
            await one.log.consistency(1, 2**64 - 1)
        with pytest.raises(OutOfRange) as old:
            await one.log.consistency(3, 2)

    named = [error.value.fields[0].field for error in (empty, leaf, leaf_of_smaller, tree, new, old)]
    assert named == ["leaf_index", "leaf_index", "leaf_index", "tree_size", "new_size", "old_size"]


async def test_leaves_are_found_by_their_hashes(replica) -> None:
    entries = [os.urandom(20) for _ in range(700)]
    async with replica() as one:
        assert await one.log.find([leaf_hash(b"x")]) == (None, [None])
        checkpoint, _ = await one.log.append(entries)
        wanted = [leaf_hash(entries[699]), leaf_hash(b"absent"), leaf_hash(entries[0]), leaf_hash(entries[699])]
        latest, found = await one.log.find(wanted)
        everything, all_found = await one.log.find([leaf_hash(each) for each in entries])

    assert latest == everything == checkpoint
    assert [each and each.leaf_index for each in found] == [699, None, 0, 699]
    for each in filter(None, (*found, *all_found)):
        verify_inclusion(each.leaf_index, 700, each.leaf_hash, each.proof, checkpoint.root)
    assert [each.leaf_index for each in all_found] == list(range(700))


async def test_a_leaf_that_no_checkpoint_covers_is_not_found(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"published"])
        # As another replica leaves it between committing the tree and publishing.
        await sql.execute(
            "INSERT INTO entry (log_id, leaf_index, leaf_hash, body) VALUES (1, 1, $1, 'unpublished')",
            leaf_hash(b"unpublished"),
        )
        _, found = await one.log.find([leaf_hash(b"unpublished"), leaf_hash(b"published")])

    assert found[0] is None
    assert found[1].leaf_index == 0


@pytest.mark.parametrize(
    ("hashes", "field"),
    [([], "leaf_hashes"), ([bytes(32)] * 4097, "leaf_hashes"), ([bytes(32), bytes(31)], "leaf_hashes[1]")],
)
async def test_a_lookup_that_is_not_valid_names_its_field(replica, hashes, field) -> None:
    async with replica() as one:
        with pytest.raises(InvalidArgument) as refused:
            await one.log.find(hashes)

    assert refused.value.fields[0].field == field


@rule(4)
async def test_a_proof_that_does_not_hold_is_never_released(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(300)])
        before = failures()
        await sql.execute(
            "UPDATE entry SET leaf_hash = set_byte(leaf_hash, 3, 255 - get_byte(leaf_hash, 3)) WHERE leaf_index = 5"
        )

        with pytest.raises(DataLoss, match="leaf 4"):
            await one.log.inclusion(4)
        with pytest.raises(DataLoss):
            await one.log.find([leaf_hash(b"4")])
        with pytest.raises(DataLoss, match="consistency"):
            await one.log.consistency(5)
        _, answers = await one.log.append([b"4", b"fresh", b"299"])

    # The proof of leaf 299 needs the subtree of leaf 5 as a whole, and its root is stored apart.
    assert isinstance(answers[0], DataLoss)
    assert [each.leaf_index for each in answers[1:]] == [300, 299]
    assert failures() >= before + 4


@rule(4)
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE checkpoint SET note = replace(note, E'\\n2\\n', E'\\n1\\n'), size = 1",
        "UPDATE checkpoint SET size = 1",
        "UPDATE checkpoint SET root = sha256(root)",
    ],
)
async def test_a_checkpoint_that_the_log_has_not_signed_is_never_released(replica, sql, damage) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        await sql.execute(damage)

        with pytest.raises(DataLoss, match="checkpoint"):
            await one.log.checkpoint()
        with pytest.raises(DataLoss, match="checkpoint"):
            await one.log.find([leaf_hash(b"a")])
        with pytest.raises(DataLoss, match="checkpoint"):
            await one.log.append([b"a"])


async def test_a_missing_entry_fails_only_what_needs_it(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(1024)])
        await sql.execute("DELETE FROM entry WHERE leaf_index = 700")
        _, answers = await one.log.append([b"0", b"699", b"300"])

    assert answers[0].leaf_index == 0
    assert isinstance(answers[1], DataLoss)
    assert answers[2].leaf_index == 300


def failures() -> float:
    return REGISTRY.get_sample_value("afdp_log_release_failures_total") or 0.0
