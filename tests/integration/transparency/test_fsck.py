"""fsck of the database: whole logs pass, and each kind of damage is named with the first index that is wrong."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.merkle import Frontier
from afdp.formats.note import Note, SignatureType, VerifierKey
from afdp.transparency.fsck import check_store
from afdp.transparency.fsck_processes import reading_in_processes
from afdp.transparency.postgres_fsck import PostgresKeptCheckpoints
from afdp.transparency.values import SignedCheckpoint, Stamp, StampedCheckpoint
from tests.local_authority import LocalAuthority
from tests.local_witness import cosigned

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
    assert said in str(report.fault)


HASH = "WHERE leaf_index = "
PLACES = [
    # Which of an entry and its leaf hash is wrong is told by the hashes above, or at the right edge by the root.
    (f"UPDATE entry SET body = {FLIP.format('body')} {HASH} 700", ("entry", "leaf_index 700", "body", None, 700)),
    (f"UPDATE entry SET body = {FLIP.format('body')} {HASH} 1999", ("entry", "leaf_index 1999", "body", None, 1999)),
    (
        "UPDATE entry SET leaf_hash = set_byte(leaf_hash, 9, 255 - get_byte(leaf_hash, 9)) WHERE leaf_index = 700",
        ("entry", "leaf_index 700", "leaf_hash", 9, 700),
    ),
    (
        "UPDATE entry SET leaf_hash = set_byte(leaf_hash, 9, 255 - get_byte(leaf_hash, 9)) WHERE leaf_index = 1999",
        ("entry", "leaf_index 1999", "leaf_hash", 9, 1999),
    ),
    (
        "UPDATE node SET hash = set_byte(hash, 31, 255 - get_byte(hash, 31)) WHERE node_index = 5",
        ("node", "level 1, node_index 5", "hash", 31, None),
    ),
    (f"UPDATE tree SET root = {FLIP.format('root')}", ("tree", "", "root", 0, None)),
    (
        "UPDATE tree SET frontier = set_byte(frontier, 20, 255 - get_byte(frontier, 20))",
        ("tree", "", "frontier", 20, None),
    ),
]


async def test_several_processes_find_the_same_as_one(replica, settings, sql) -> None:
    async with replica() as one:
        for start in (0, 2650):
            await one.log.append([b"%d" % number for number in range(start, start + 2650)])
        async with reading_in_processes(settings(), one.store.log_id, 2) as reader:
            whole = await check_store(one.store, reader=reader, in_flight=5)
            for damage, said in (
                ("UPDATE entry SET body = 'forged' WHERE leaf_index = 4700", "entry 4700 is not what was logged"),
                (f"UPDATE entry SET leaf_hash = {FLIP.format('leaf_hash')} WHERE leaf_index = 3000", "leaf_hash"),
                ("DELETE FROM entry WHERE leaf_index = 2047", "entry 2047 is missing"),
            ):
                await sql.execute(damage)
                alone, together = [
                    await check_store(one.store, **beside) for beside in ({}, {"reader": reader, "in_flight": 5})
                ]
                assert said in str(together.fault)
                assert together == alone

    assert (whole.fault, whole.checked, whole.published) == (None, 5300, 5300)


async def test_the_first_bad_byte_is_named_by_table_row_column_and_place(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(2000)])
        for damage, place in PLACES:
            await sql.execute(damage)
            fault = (await check_store(one.store)).fault
            await sql.execute(damage)  # flips it back

            assert fault is not None
            assert (fault.table, fault.row, fault.column, fault.offset, fault.entry) == place
            assert fault.expected != fault.found
        assert (await check_store(one.store)).fault is None


async def test_what_was_checked_before_is_not_read_again_and_must_still_be_there(replica, sql) -> None:
    edges: list[Frontier] = []
    async with replica() as one:
        await one.log.append([b"%d" % number for number in range(2000)])
        await check_store(one.store, keep=edges.append)
        await one.log.append([b"later %d" % number for number in range(1000)])
        halfway, whole = edges
        for since in (halfway, whole):
            report = await check_store(one.store, since=since)
            assert (report.fault, report.start, report.checked) == (None, since.size, 3000)

        await sql.execute(FORGE + "700")
        await sql.execute("UPDATE node SET hash = sha256(hash) WHERE node_index = 2")
        changed = (await check_store(one.store, since=whole)).fault
        await sql.execute("DELETE FROM checkpoint")
        await sql.execute("UPDATE tree SET size = 1500")
        shrunk = (await check_store(one.store, since=whole)).fault

    assert "the 2000 entries that were checked before have another tree now" in str(changed)
    assert "the tree has 1500 entries, and 2000 were checked before" in str(shrunk)


KEPT = [
    (f"root = {FLIP.format('root')}", f"root = {FLIP.format('root')}", "row does not say what its signed note says"),
    ("size = 299", "size = 300", "row does not say what its signed note says"),
    ("note = replace(note, '300', '301')", "note = replace(note, '301', '300')", "does not verify"),
]


async def test_checkpoints_that_were_cosigned_or_stamped_take_part(replica, sql) -> None:
    async with replica() as one:
        checkpoint, _ = await one.log.append([b"%d" % number for number in range(300)])
        await one.store.keep_cosigned(checkpoint)
        await one.store.keep_stamp(StampedCheckpoint(checkpoint, stamp_over(checkpoint)))
        await one.log.append([b"later %d" % number for number in range(300)])
        kept = PostgresKeptCheckpoints(one.store)
        for table in ("cosigned_checkpoint", "stamped_checkpoint"):
            for damage, repair, said in KEPT:
                whole = await check_store(one.store, kept=kept)
                await sql.execute(f"UPDATE {table} SET {damage}")
                fault = (await check_store(one.store, kept=kept)).fault
                await sql.execute(f"UPDATE {table} SET {repair}")

                assert (whole.fault, whole.checkpoints) == (None, 2)
                assert fault is not None
                assert fault.table == table
                assert said in str(fault)


async def test_a_stamp_over_something_else_and_a_cosignature_that_is_wrong_are_found(replica, sql) -> None:
    key = Ed25519PrivateKey.generate()
    witness = VerifierKey("w.example", key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
    async with replica() as one:
        first, _ = await one.log.append([b"a"])
        checkpoint, _ = await one.log.append([b"b"])
        await one.store.keep_stamp(StampedCheckpoint(checkpoint, stamp_over(first)))
        kept = PostgresKeptCheckpoints(one.store)
        stamped = (await check_store(one.store, kept=kept)).fault
        await sql.execute("DELETE FROM stamped_checkpoint")
        note = Note.parse(checkpoint.note)
        lines = [cosigned(Note.parse(first.note), "w.example", key, 1_700_000_000)]
        wrong = SignedCheckpoint(checkpoint.size, checkpoint.root, str(note.with_signatures(lines)))
        await one.store.keep_cosigned(wrong)
        known = (await check_store(one.store, kept=kept, witnesses=[witness])).fault

    assert "is over other data" in str(stamped)
    assert "w.example" in str(known)


def stamp_over(checkpoint: SignedCheckpoint) -> Stamp:
    authority = LocalAuthority()
    time = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    return Stamp(authority.stamp(Note.parse(checkpoint.note).text.encode(), time), authority.uri, time)
