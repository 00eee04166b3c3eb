"""fsck of the database: whole logs pass, and each kind of damage is named with the first index that is wrong."""

import pytest

from afdp.transparency.fsck import check_store

FORGE = "UPDATE entry SET leaf_hash = sha256('\\x00666f72676564'), body = 'forged' WHERE leaf_index = "
FLIP = "set_byte({0}, 0, 255 - get_byte({0}, 0))"

DAMAGE = [
    ("UPDATE entry SET body = 'forged' WHERE leaf_index IN (700, 900)", "entry 700 is not what was logged"),
    ("DELETE FROM entry WHERE leaf_index = 1023", "entry 1023 is missing"),
    ("DELETE FROM entry WHERE leaf_index IN (5, 1500)", "entry 5 is missing"),
    (
        f"UPDATE node SET hash = {FLIP.format('hash')} WHERE node_index = 2",
        "level 1 and index 2 is not that of entries 512 to 767",
    ),
    ("DELETE FROM node WHERE node_index = 3", "level 1"),
    (f"UPDATE tree SET root = {FLIP.format('root')}", "another root than the tree's row"),
    (f"UPDATE tree SET frontier = {FLIP.format('frontier')}", "right edge"),
    (f"UPDATE checkpoint SET root = {FLIP.format('root')}", "does not say what its signed note says"),
    ("UPDATE checkpoint SET size = 1999", "does not say what its signed note says"),
    ("UPDATE checkpoint SET note = replace(note, '2000', '1999')", "does not verify"),
    (
        FORGE + "1030",
        "entries 1024 to 1279",
    ),
    (
        FORGE + "1999",
        "entries 0 to 1999 have another root than the published checkpoint",
    ),
]


async def test_a_whole_log_passes_and_says_how_far_it_was_read(replica) -> None:
    seen: list[tuple[int, int]] = []
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(2000)])
        report = await check_store(one.store, lambda done, size: seen.append((done, size)))

    assert report.fault is None
    assert (report.checked, report.size, report.published) == (2000, 2000, 2000)
    assert seen[-1] == (2000, 2000)


async def test_an_empty_log_and_one_ahead_of_its_checkpoint_are_whole(replica, sql) -> None:
    async with replica() as one:
        assert (await check_store(one.store)).fault is None
        await one.log.append([b"a"])
        row = await sql.fetchrow("SELECT * FROM checkpoint")
        await one.log.append([b"b"])
        await sql.execute("UPDATE checkpoint SET size = 1, root = $1, note = $2", row["root"], row["note"])
        report = await check_store(one.store)

    assert (report.fault, report.checked, report.published) == (None, 2, 1)


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
async def test_damage_is_named_with_the_first_index_that_is_wrong(replica, sql, damage, said) -> None:
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(2000)])
        await sql.execute(damage)

        report = await check_store(one.store)

    assert report.fault is not None
    assert said in report.fault
