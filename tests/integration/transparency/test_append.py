"""Appending, with a real database and the real signer."""

import asyncio
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.transparency.values import Inclusion
from tests.log_rules import rule


async def test_an_appended_entry_is_proven_in_a_signed_checkpoint(replica, assert_logged) -> None:
    async with replica() as one:
        for count in range(1, 6):
            entry = os.urandom(490)
            checkpoint, (answer,) = await one.log.append([entry])

            assert assert_logged(one.log.identity(), checkpoint, entry, answer) == count - 1
            assert checkpoint.size == count
            assert await one.log.checkpoint() == checkpoint


async def test_an_entry_that_is_there_already_keeps_its_place(replica, stored_leaves, assert_logged) -> None:
    entries = [os.urandom(100) for _ in range(300)]
    async with replica() as one:
        first, places = await one.log.append(entries)
        mixed = [os.urandom(100), entries[7], os.urandom(100), entries[299]]
        second, again = await one.log.append(mixed)
        third, once_more = await one.log.append(mixed)

    assert [each.leaf_index for each in places] == list(range(300))
    assert [each.leaf_index for each in again] == [300, 7, 301, 299]
    assert [each.leaf_index for each in once_more] == [300, 7, 301, 299]
    assert (first.size, second.size, third.size) == (300, 302, 302)
    assert not any(each.existed for each in places)
    assert [each.existed for each in again] == [False, True, False, True]
    assert all(each.existed for each in once_more)
    for entry, answer in zip(mixed, again, strict=True):
        assert_logged(one.log.identity(), second, entry, answer)
    assert len(await stored_leaves()) == 302


async def test_equal_entries_of_one_call_and_of_one_group_are_one_leaf(replica, stored_leaves) -> None:
    async with replica() as one:
        _, twice = await one.log.append([b"same", b"other", b"same"])
        answers = await asyncio.gather(*(one.log.append([b"once", b"same"]) for _ in range(20)))

    assert [each.leaf_index for each in twice] == [0, 1, 0]
    assert {tuple(each.leaf_index for each in found) for _, found in answers} == {(2, 0)}
    assert len(await stored_leaves()) == 3


async def test_an_entry_that_is_refused_fails_alone(replica) -> None:
    async with replica() as one:
        checkpoint, answers = await one.log.append([b"good", b"", bytes(65_536), bytes(65_535)])
        nothing, refused = await one.log.append([b""])

    assert [type(each) for each in answers] == [Inclusion, InvalidArgument, InvalidArgument, Inclusion]
    assert checkpoint.size == 2
    assert answers[1].fields[0].field == "entries[1]"
    assert answers[2].fields[0].field == "entries[2]"
    assert "65536" in answers[2].fields[0].message
    assert nothing is None
    assert refused[0].fields[0].field == "entries[0]"


@pytest.mark.parametrize("count", [0, 4097])
async def test_a_call_with_no_entry_or_too_many_is_refused(replica, count) -> None:
    async with replica() as one:
        with pytest.raises(InvalidArgument) as refused:
            await one.log.append([b"x"] * count)

    assert refused.value.fields[0].field == "entries"


@rule(2)
async def test_many_writers_make_one_log(replica, stored_leaves, root_of, assert_logged) -> None:
    mine: dict[bytes, int] = {}
    checkpoints = []

    async def caller(one, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            # Some entries are everybody's: whoever comes first, there is one leaf.
            entries = [os.urandom(60) for _ in range(chance.randint(1, 40))] + [b"shared %d" % chance.randint(0, 30)]
            checkpoint, answers = await one.log.append(entries)
            checkpoints.append(checkpoint)
            for entry, answer in zip(entries, answers, strict=True):
                index = assert_logged(one.log.identity(), checkpoint, entry, answer)
                assert mine.setdefault(entry, index) == index

    async with replica() as one, replica() as two, replica() as three:
        await asyncio.gather(*(caller(each, seed) for seed, each in enumerate((one, two, three) * 3)))
        last = await one.log.checkpoint()

    leaves = await stored_leaves()
    assert len(leaves) == len(set(leaves)) == len(mine) == last.size
    assert root_of(leaves) == last.root
    for checkpoint in random.Random(1).sample(checkpoints, 10):
        assert root_of(leaves[: checkpoint.size]) == checkpoint.root


@rule(3)
async def test_an_append_reads_the_right_edge_only(replica, sql, eventually) -> None:
    async def rows_read() -> int:
        row = await sql.fetchrow(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) AS rows FROM pg_stat_user_tables "
            "WHERE schemaname = 'afdp_log' AND relname IN ('entry_1_0', 'node')"
        )
        return int(row["rows"])

    async with replica() as one:
        for _ in range(5):
            await one.log.append([os.urandom(50) for _ in range(2000)])
        for _ in range(20):
            await one.log.append([os.urandom(50) for _ in range(32)])

    async def reported() -> bool:  # a session reports what it did within a second
        return bool(
            await sql.fetchval("SELECT n_tup_ins = 10640 FROM pg_stat_user_tables WHERE relid = 'entry_1_0'::regclass")
        )

    await eventually(reported)
    assert await rows_read() == 0


SIZES = st.one_of(
    st.integers(1, 4),
    st.sampled_from([255, 256, 257]),
    st.integers(250, 260),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SIZES, min_size=1, max_size=6), st.randoms(use_true_random=False))
async def test_any_sequence_of_batches_gives_the_tree_of_rfc_9162(
    postgres, signer, replica, root_of, assert_logged, batches, chance
) -> None:
    database = await postgres.create_database(f"batches_{os.urandom(8).hex()}")
    leaves: list[bytes] = []
    await signer.forget()  # each example is a log of its own
    async with replica(database=database) as one:
        for size in batches:
            entries = [chance.randbytes(8) + os.urandom(8) for _ in range(size)]
            checkpoint, answers = await one.log.append(entries)
            leaves += [answer.leaf_hash for answer in answers]
            for entry, answer in zip(entries, answers, strict=True):
                assert_logged(one.log.identity(), checkpoint, entry, answer)
            assert checkpoint.root == root_of(leaves)
        for size in {*range(1, min(len(leaves), 4)), len(leaves)}:
            inclusion, _, root = await one.log.inclusion(size - 1, size)
            assert root == root_of(leaves[:size])
            assert inclusion.leaf_hash == leaves[size - 1]


async def test_the_tree_grows_over_the_second_level_of_tiles(replica, stored_leaves, root_of, assert_logged) -> None:
    async with replica() as one:
        for start in range(0, 65_530, 4096):
            await one.log.append([b"%d" % index for index in range(start, min(start + 4096, 65_530))])
        for size in range(65_531, 65_541):
            entry = b"%d" % (size - 1)
            checkpoint, (answer,) = await one.log.append([entry])
            assert assert_logged(one.log.identity(), checkpoint, entry, answer) == size - 1
        for index in (0, 255, 256, 65_279, 65_280, 65_535, 65_536, 65_539):
            inclusion, size, _ = await one.log.inclusion(index)
            assert_logged(one.log.identity(), checkpoint, b"%d" % index, inclusion)
        for old in (1, 255, 256, 65_535, 65_536, 65_537):
            await one.log.consistency(old)

    leaves = await stored_leaves()
    assert len(leaves) == 65_540
    assert checkpoint.root == root_of(leaves)
