"""Entries in partitions: made ahead of need, with no rights of those who append, and without holding them up."""

import asyncio
import os

import asyncpg
import pytest

from afdp.errors import InvalidArgument
from afdp.formats.merkle import Frontier
from afdp.messages.signer import SignerServiceClient
from afdp.postgres import migrate, packaged
from afdp.rpc import GrpcCaller, open_channel
from afdp.transparency.fsck import check_store
from afdp.transparency.postgres import SCHEMA
from afdp.transparency.signer import GrpcSigner
from afdp.transparency.values import LogIdentity
from tests.old_log import write_log

SPAN = 1 << 21  # entries of one partition
MIGRATIONS = packaged("afdp.transparency")


def edge_of(size: int) -> Frontier:
    """The right edge of a tree of this size whose leaves nobody has."""
    return Frontier(size, tuple(os.urandom(32) for _ in range(size.bit_count())))


async def set_tree(sql: asyncpg.Connection, edge: Frontier, log: int = 1) -> None:
    """Lets the tree be one that has grown to this size."""
    await sql.execute(
        "UPDATE tree SET size = $1, root = $2, frontier = $3 WHERE log_id = $4",
        edge.size,
        edge.root(),
        edge.to_bytes(),
        log,
    )


async def partitions(sql: asyncpg.Connection) -> dict[str, int]:
    """How many entries each has."""
    names = [row["name"] for row in await sql.fetch("SELECT relid::text AS name FROM pg_partition_tree('entry')")]
    return {name: await sql.fetchval(f"SELECT count(*) FROM ONLY {name}") for name in names if name != "entry"}


async def test_a_log_grows_over_the_end_of_a_partition_and_finds_what_is_in_each(replica, sql, assert_logged) -> None:
    async with replica() as one:
        await set_tree(sql, edge_of(SPAN - 5))
        entries = [os.urandom(40) for _ in range(10)]
        checkpoint, answers = await one.log.append(entries)
        again, same = await one.log.append([*entries, b"new"])

    identity = one.log.identity()
    placed = [assert_logged(identity, checkpoint, *each) for each in zip(entries, answers, strict=True)]
    assert placed == list(range(SPAN - 5, SPAN + 5))
    # Those of the partition that is full cannot be proven anew here, as nobody has the leaves before them.
    assert assert_logged(identity, again, b"new", same[-1]) == SPAN + 5
    assert await partitions(sql) == {"entry_1_0": 5, "entry_1_1": 6}


async def test_the_next_partition_is_there_before_it_is_needed(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
        await set_tree(sql, edge_of(SPAN // 2 - 1))
        await one.store.make_room()
        early = await partitions(sql)
        await set_tree(sql, edge_of(SPAN // 2))
        await asyncio.gather(*(one.store.make_room() for _ in range(8)))

    assert list(early) == ["entry_1_0"]
    assert list(await partitions(sql)) == ["entry_1_0", "entry_1_1"]


async def test_nobody_who_appends_waits_for_a_partition_that_is_being_made(replica, sql) -> None:
    async with replica() as one:
        await set_tree(sql, edge_of(SPAN // 2))
        async with sql.transaction():
            await sql.execute("SELECT make_partition(1::smallint, 1)")
            async with asyncio.timeout(10):
                await one.log.append([b"b"])

    assert await sql.fetchval("SELECT size FROM tree") == SPAN // 2 + 1


async def test_a_role_that_may_only_write_rows_grows_a_log_into_new_partitions(
    replica, sql, database, assert_logged
) -> None:
    role = f"writer_{os.urandom(6).hex()}"
    await migrate(sql, SCHEMA, MIGRATIONS)
    await sql.execute(f"CREATE ROLE {role} LOGIN NOINHERIT PASSWORD 'row-writer'; GRANT afdp_log_writer TO {role}")
    _, _, place = database.partition("@")
    async with replica(database=f"postgresql://{role}:row-writer@{place}") as one:
        await set_tree(sql, edge_of(SPAN - 1))
        checkpoint, answers = await one.log.append([b"b", b"c"])
        for statement in (
            "CREATE TABLE afdp_log.mine ()",
            "SELECT FROM afdp_log.entry",
            "SET ROLE afdp_log_writer; UPDATE afdp_log.entry SET body = '1'",
            "SET ROLE afdp_log_writer; DELETE FROM afdp_log.entry",
            "SET ROLE afdp_log_writer; SELECT FROM afdp_log.entry_1_0",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg_as(database, role, statement)

    for entry, answer in zip((b"b", b"c"), answers, strict=True):
        assert_logged(one.log.identity(), checkpoint, entry, answer)
    assert await partitions(sql) == {"entry_1_0": 1, "entry_1_1": 1}


async def test_who_wrote_before_the_upgrade_may_make_room_after_it_and_nobody_else_may(sql, database) -> None:
    writer, stranger = (f"role_{os.urandom(6).hex()}" for _ in range(2))
    await migrate(sql, SCHEMA, MIGRATIONS[:8])
    for role in (writer, stranger):
        await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'row-writer'; GRANT USAGE ON SCHEMA {SCHEMA} TO {role}")
    await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {writer}")
    await migrate(sql, SCHEMA, MIGRATIONS)

    await asyncpg_as(database, writer, f"SELECT {SCHEMA}.make_room(1::smallint)")
    await asyncpg_as(database, writer, f"SET ROLE afdp_log_writer; SELECT {SCHEMA}.make_room(1::smallint)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="make_room"):
        await asyncpg_as(database, stranger, f"SELECT {SCHEMA}.make_room(1::smallint)")


@pytest.mark.parametrize(
    ("schema", "package"), [(SCHEMA, "afdp.transparency"), ("afdp_metadata", "afdp.metadata.postgres")]
)
async def test_a_function_with_the_rights_of_its_owner_is_for_nobody_but_who_is_named(
    sql, schema: str, package: str
) -> None:
    await sql.execute(f"SET search_path = {schema}, public")
    await migrate(sql, schema, packaged(package))

    rows = await sql.fetch(
        "SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS right_"
        " WHERE pronamespace = $1::regnamespace AND prosecdef AND right_.grantee = 0",
        schema,
    )
    assert rows == []


async def asyncpg_as(database: str, role: str, statement: str) -> None:
    _, _, place = database.partition("@")
    connection = await asyncpg.connect(f"postgresql://{role}:row-writer@{place}")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_an_entry_keeps_its_place_where_its_maker_says_since_when_it_can_be_there(replica, stored_leaves) -> None:
    async with replica() as one, replica() as other:
        before, _ = await one.log.append([b"a", b"b"])
        size = before.size
        _, (first,) = await one.log.append([b"c"], made_after=size)
        await other.log.append([b"d"])
        _, (again,) = await one.log.append([b"c"], made_after=size)
        _, (elsewhere,) = await other.log.append([b"c"], made_after=size)
        _, (old,) = await one.log.append([b"a"])

    assert (first.leaf_index, again.leaf_index, elsewhere.leaf_index, old.leaf_index) == (2, 2, 2, 0)
    assert len(await stored_leaves()) == 4


async def test_only_the_newest_partition_is_read_where_a_call_says_that_its_entries_are_new(replica, sql) -> None:
    async def looked_up(name: str) -> int:
        return await sql.fetchval(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1", f"{name}_leaf_hash_idx"
        )

    async with replica() as one:
        await set_tree(sql, edge_of(SPAN + 5))
        await one.store.make_room()
        checkpoint, _ = await one.log.append([b"a"])
        for number in range(20):
            checkpoint, _ = await one.log.append([b"%d" % number], made_after=checkpoint.size)
        await one.log.append([b"b"])

    async with asyncio.timeout(20):
        while await looked_up("entry_1_1") < 21:  # noqa: ASYNC110 - a session reports what it did when it ends
            await asyncio.sleep(0.05)
    # The two calls that did not say so; the first one looked before it appended and while it did.
    assert await looked_up("entry_1_0") == 3


async def test_a_size_below_zero_is_refused(replica) -> None:
    async with replica() as one:
        with pytest.raises(InvalidArgument) as refused:
            await one.log.append([b"a"], made_after=-1)

    assert refused.value.fields[0].field == "made_after_size"


async def test_a_database_of_the_shape_before_keeps_every_entry_and_grows_on(
    sql, signer, replica, assert_logged
) -> None:
    entries = [b"%d" % number for number in range(600)]
    await migrate(sql, SCHEMA, MIGRATIONS[:3])
    async with open_channel(signer.address) as channel:
        key = await GrpcSigner(SignerServiceClient(GrpcCaller(channel)), 5.0).public_key("notary.localhost")
    await write_log(sql, 1, LogIdentity("notary.localhost", key), entries)
    await write_log(sql, 2, LogIdentity("second.example.org", key), entries[:3])

    async with replica() as one:
        checkpoint, answers = await one.log.append([b"7", b"new"])
        report = await check_store(one.store)

    identity = one.log.identity()
    assert [assert_logged(identity, checkpoint, *each) for each in zip((b"7", b"new"), answers, strict=True)] == [
        7,
        600,
    ]
    assert (report.fault, report.checked) == (None, 601)
    assert await partitions(sql) == {"entry_1_0": 601, "entry_2_0": 3}
    assert [row["body"] for row in await sql.fetch("SELECT body FROM entry WHERE log_id = 2 ORDER BY leaf_index")] == [
        b"0",
        b"1",
        b"2",
    ]
