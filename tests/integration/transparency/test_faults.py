"""Crashes, outages and damage: nothing is lost, nothing is forked, and the answer says what is wrong."""

import asyncio
import os

import pytest

from afdp.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from afdp.formats.merkle import verify_consistency
from afdp.formats.note import Checkpoint
from afdp.transparency.values import BrokenLog, WrongLog
from tests.log_rules import rule


class Halting:
    """Stands before an adapter and never returns from one method, as when the process dies there."""

    def __init__(self, inner: object, method: str, after: bool) -> None:
        self._inner, self._method, self._after = inner, method, after
        self.reached = asyncio.Event()
        self.armed = False

    def __getattr__(self, name: str) -> object:
        real = getattr(self._inner, name)
        if name != self._method or not self.armed:
            return real

        async def halt(*arguments: object) -> object:
            if self._after:
                await real(*arguments)
            self.reached.set()
            return await asyncio.Event().wait()

        return halt


class Failing:
    """Stands before an adapter and raises from one method, before or after it has done its work."""

    def __init__(self, inner: object, method: str, after: bool, error: Exception) -> None:
        self._inner, self._method, self._after, self._error = inner, method, after, error
        self.times = 0

    def __getattr__(self, name: str) -> object:
        real = getattr(self._inner, name)
        if name != self._method or not self.times:
            return real

        async def fail(*arguments: object) -> object:
            self.times -= 1
            if self._after:
                await real(*arguments)
            raise self._error

        return fail


class Gate:
    """Stands before an adapter and holds one method's calls back until it is opened."""

    def __init__(self, inner: object, method: str) -> None:
        self._inner, self._method = inner, method
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        real = getattr(self._inner, name)
        if name != self._method:
            return real

        async def held(*arguments: object) -> object:
            self.reached.set()
            await self.open.wait()
            return await real(*arguments)

        return held


POINTS = [
    ("store", "grow", False),
    ("store", "grow", True),
    ("signer", "sign", False),
    ("signer", "sign", True),
    ("store", "publish", False),
    ("store", "publish", True),
]


@pytest.mark.parametrize(("part", "method", "after"), POINTS)
async def test_a_crash_between_two_steps_is_healed_by_the_next_start(
    replica, stored_leaves, root_of, assert_logged, part, method, after
) -> None:
    halting: list[Halting] = []

    def before(inner: object) -> object:
        halting.append(Halting(inner, method, after))
        return halting[0]

    entries = [os.urandom(40) for _ in range(5)]
    async with replica(**{part: before}) as dying:
        await dying.log.append([b"before"])
        halting[0].armed = True
        call = asyncio.create_task(dying.log.append(entries))
        async with asyncio.timeout(10):
            await halting[0].reached.wait()
    with pytest.raises(Unavailable, match="ending"):
        await call

    async with replica() as next_one:
        checkpoint, answers = await next_one.log.append([*entries, b"after"])
        for entry, answer in zip([*entries, b"after"], answers, strict=True):
            assert_logged(next_one.log.identity(), checkpoint, entry, answer)
        assert (await next_one.log.checkpoint()).size == 7

    leaves = await stored_leaves()
    assert len(leaves) == len(set(leaves)) == 7
    assert checkpoint.root == root_of(leaves)


@pytest.mark.parametrize(("part", "method", "after"), POINTS)
async def test_an_outage_in_any_step_is_told_at_once_and_healed_by_trying_again(
    replica, stored_leaves, root_of, assert_logged, eventually, part, method, after
) -> None:
    failing: list[Failing] = []

    def before(inner: object) -> object:
        failing.append(Failing(inner, method, after, Unavailable("it is away", retry_after=1.0)))
        return failing[0]

    async with replica(**{part: before}) as one:
        await one.log.append([b"before"])
        failing[0].times = 1
        with pytest.raises(Unavailable, match="it is away") as away:
            await one.log.append([b"entry"])

        async def healthy() -> bool:
            try:
                await one.log.check()
            except Unavailable:
                return False
            return True

        await eventually(healthy)
        checkpoint, (answer,) = await one.log.append([b"entry"])

    assert away.value.retry_after
    assert assert_logged(one.log.identity(), checkpoint, b"entry", answer) == 1
    assert checkpoint.root == root_of(await stored_leaves())


async def test_a_tree_that_a_dead_writer_left_unsigned_is_signed_without_any_append(replica, eventually) -> None:
    halting: list[Halting] = []

    def before(inner: object) -> object:
        halting.append(Halting(inner, "sign", False))
        return halting[0]

    async with replica() as living:
        async with replica(signer=before) as dying:
            halting[0].armed = True
            call = asyncio.create_task(dying.log.append([b"orphan"]))
            async with asyncio.timeout(10):
                await halting[0].reached.wait()
        with pytest.raises(Unavailable):
            await call

        async def published() -> bool:
            await living.log.check()  # as the health watch does every second
            return (await living.store.heads()).published == 1

        await eventually(published)


async def test_while_the_signer_is_away_appends_fail_at_once_and_reads_go_on(
    replica, signer, eventually, assert_logged
) -> None:
    async with replica() as one:
        await one.log.append([b"first"])
        await signer.stop()
        with pytest.raises(Unavailable, match="signer") as away:
            await one.log.append([b"second"])
        with pytest.raises(Unavailable):
            await one.log.check()
        inclusion, size, _ = await one.log.inclusion(0)
        await signer.start()

        async def signed() -> bool:
            return (await one.store.heads()).published == 2

        await eventually(signed)
        checkpoint, (answer,) = await one.log.append([b"second"])
        await one.log.check()

    assert away.value.retry_after
    assert (inclusion.leaf_index, size) == (0, 1)
    assert assert_logged(one.log.identity(), checkpoint, b"second", answer) == 1


async def test_the_service_starts_while_its_signer_is_away_and_opens_the_log_when_it_is_there(
    replica, signer, eventually
) -> None:
    await signer.stop()
    async with replica() as one:
        with pytest.raises(Unavailable, match="signer"):
            await one.log.append([b"early"])
        with pytest.raises(Unavailable):
            one.log.identity()
        await signer.start()

        async def open_now() -> bool:
            try:
                await one.log.append([b"early"])
            except Unavailable:
                return False
            return True

        await eventually(open_now)


async def test_the_service_starts_while_its_database_is_away(signer, replica) -> None:
    async with replica(database="postgresql://afdp:x@127.0.0.1:1/afdp", database_connect_timeout_seconds=1.0) as one:
        with pytest.raises(Unavailable, match="PostgreSQL") as away:
            await one.log.append([b"early"])
        with pytest.raises(Unavailable):
            await one.log.check()

    assert away.value.retry_after


async def test_a_connection_that_the_database_ends_is_replaced_unseen(replica, sql, assert_logged) -> None:
    async with replica() as one:
        await one.log.append([b"first"])
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'afdp-transparency' AND datname = current_database()"
        )
        checkpoint, (answer,) = await one.log.append([b"second"])

    assert assert_logged(one.log.identity(), checkpoint, b"second", answer) == 1


@rule(6)
async def test_a_database_restored_from_an_old_backup_is_found_before_the_first_append(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        backup = [await sql.fetchrow(f"SELECT * FROM {table}") for table in ("tree", "checkpoint")]
        await one.log.append([b"c"])
    await restore(sql, backup, keep=2)

    async with replica() as restored:
        with pytest.raises(DataLoss, match="holds 2 entries, and 3 were signed"):
            await restored.log.append([b"d"])
        with pytest.raises(DataLoss, match="old backup"):
            await restored.log.check()
        inclusion, size, _ = await restored.log.inclusion(1)

    assert (inclusion.leaf_index, size) == (1, 2)
    assert await sql.fetchval("SELECT count(*) FROM entry") == 2


@rule(6)
async def test_a_restore_under_a_running_service_is_found_too(replica, sql) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        backup = [await sql.fetchrow(f"SELECT * FROM {table}") for table in ("tree", "checkpoint")]
        await one.log.append([b"c"])
        await restore(sql, backup, keep=2)

        with pytest.raises(DataLoss, match="old backup"):
            await one.log.append([b"d"])
        with pytest.raises(DataLoss, match="old backup"):
            await one.log.append([b"e"])

    assert await sql.fetchval("SELECT count(*) FROM entry") == 2


async def test_a_tree_that_took_another_way_than_what_was_signed_is_refused(replica, signer, sql) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b"])
        backup = [await sql.fetchrow(f"SELECT * FROM {table}") for table in ("tree", "checkpoint")]
        await one.log.append([b"c"])
    memory = signer.folder / "checkpoints" / "notary.localhost"
    signed = memory.read_bytes()
    await restore(sql, backup, keep=2)
    await signer.forget()
    async with replica() as fork:
        await fork.log.append([b"C", b"D"])
    await signer.stop()
    memory.write_bytes(signed)
    await signer.start()

    async with replica() as forked:
        with pytest.raises(DataLoss, match="another root at size 3 than was signed"):
            await forked.log.append([b"e"])


@rule(2)
async def test_the_signer_stops_a_writer_whose_tree_was_exchanged_under_it(replica, signer, sql, eventually) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
        # What another log's signer remembers: the same size, another tree.
        await signer.stop()
        memory = signer.folder / "checkpoints" / "notary.localhost"
        memory.write_text(Checkpoint("notary.localhost", 1, bytes(32)).body())
        await signer.start()

        async def stopped() -> bool:
            try:
                await one.log.append([b"b"])
            except Unavailable:  # the channel has to find the signer again
                return False
            except DataLoss:
                return True
            raise AssertionError("an append went through")

        await eventually(stopped)
        with pytest.raises(DataLoss, match="has signed size 1 of another tree"):
            await one.log.append([b"c"])

    assert await sql.fetchval("SELECT size FROM checkpoint") == 1


@rule(2)
@pytest.mark.parametrize("column", ["root", "frontier", "size"])
async def test_a_right_edge_that_was_tampered_with_stops_the_writer(replica, sql, column) -> None:
    async with replica() as one:
        await one.log.append([b"a", b"b", b"c"])
        if column == "size":
            await sql.execute("UPDATE tree SET size = 4")
        else:
            await sql.execute(f"UPDATE tree SET {column} = set_byte({column}, 9, get_byte({column}, 9) # 1)")

        with pytest.raises(DataLoss, match="right edge"):
            await one.log.append([b"d"])
        with pytest.raises(BrokenLog, match="right edge"):
            await one.log.check()
        assert (await one.log.inclusion(2))[1] == 3

    assert await sql.fetchval("SELECT count(*) FROM entry") == 3


@rule(1)
async def test_a_checkpoint_that_comes_late_never_replaces_a_larger_one(replica, sql, assert_logged, root_of) -> None:
    gates: list[Gate] = []

    def before(inner: object) -> object:
        gates.append(Gate(inner, "sign"))
        return gates[0]

    async with replica(signer=before) as late, replica() as early:
        call = asyncio.create_task(late.log.append([b"late"]))
        await gates[0].reached.wait()
        larger, (second,) = await early.log.append([b"early"])
        gates[0].open.set()
        smaller, (first,) = await call
        published = await late.log.checkpoint()
        proof, _ = await early.log.consistency(1, 2)

    assert assert_logged(late.log.identity(), smaller, b"late", first) == 0
    assert assert_logged(late.log.identity(), larger, b"early", second) == 1
    assert (smaller.size, larger.size) == (1, 2)
    assert published == larger
    verify_consistency(1, smaller.root, 2, larger.root, proof)


async def test_a_caller_that_gives_up_breaks_nobody_elses_append(replica, stored_leaves) -> None:
    gates: list[Gate] = []

    def before(inner: object) -> object:
        gates.append(Gate(inner, "sign"))
        return gates[0]

    async with replica(signer=before) as one:
        under_way = [asyncio.create_task(one.log.append([b"first"]))]
        await gates[0].reached.wait()
        waiting = [asyncio.create_task(one.log.append([b"%d" % number])) for number in range(9)]
        await asyncio.sleep(0)
        for call in (*under_way, *waiting[::3]):
            call.cancel()
        gates[0].open.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)

    for number, answer in enumerate(answers):
        assert isinstance(answer, asyncio.CancelledError) == (number % 3 == 0), number
    # What was under way when its caller left is in the log; what only waited is not.
    assert len(await stored_leaves()) == 7


async def test_a_full_queue_refuses_at_once_with_a_hint(replica) -> None:
    halting: list[Halting] = []

    def before(inner: object) -> object:
        halting.append(Halting(inner, "sign", False))
        return halting[0]

    async with replica(signer=before, log_queue_entries=10, log_queue_bytes=1000) as one:
        await one.log.append([b"first"])
        halting[0].armed = True
        calls = [asyncio.create_task(one.log.append([b"in the group"]))]
        await halting[0].reached.wait()
        calls += [asyncio.create_task(one.log.append([b"%d" % number for number in range(8)]))]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as by_count:
            await one.log.append([b"a", b"b", b"c"])
        with pytest.raises(ResourceExhausted) as by_size:
            await one.log.append([bytes(999)])
        calls += [asyncio.create_task(one.log.append([b"fits"]))]
        await asyncio.sleep(0)
        assert not calls[-1].done()

    assert by_count.value.retry_after
    assert by_size.value.retry_after
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, Unavailable)


async def test_another_origin_than_the_databases_is_refused(replica) -> None:
    async with replica():
        pass
    with pytest.raises(WrongLog, match=r"holds the log notary\.localhost") as refused:
        async with replica(log_origin="other.example"):
            pass

    assert "AFDP_LOG_ORIGIN is other.example" in str(refused.value)


async def test_another_key_than_the_one_the_log_was_created_with_is_refused(replica, signer) -> None:
    async with replica() as one:
        await one.log.append([b"a"])
    await signer.stop()
    signer.folder = signer.folder / "other"
    signer.folder.mkdir(mode=0o700)
    await signer.start()

    with pytest.raises(WrongLog, match="not the one that the log"):
        async with replica():
            pass


async def test_a_wrong_log_that_is_found_later_ends_the_service(replica, signer) -> None:
    async with replica():
        pass
    await signer.stop()
    signer.folder = signer.folder / "other"
    signer.folder.mkdir(mode=0o700)

    async def serve_until_ended() -> None:
        async with asyncio.timeout(10), replica():
            await signer.start()
            await asyncio.Event().wait()

    with pytest.raises(WrongLog):
        await serve_until_ended()


async def test_a_signer_that_refuses_for_another_reason_is_heard(replica) -> None:
    failing: list[Failing] = []

    def before(inner: object) -> object:
        failing.append(Failing(inner, "sign", False, FailedPrecondition("the log key is revoked")))
        return failing[0]

    async with replica(signer=before) as one:
        failing[0].times = 1
        with pytest.raises(FailedPrecondition, match="revoked"):
            await one.log.append([b"a"])


async def restore(sql, backup, keep: int) -> None:
    """Puts the rows of `tree` and `checkpoint` back and drops the entries that came later."""
    tree, checkpoint = backup
    await sql.execute("DELETE FROM entry WHERE leaf_index >= $1", keep)
    await sql.execute(
        "UPDATE tree SET size = $1, root = $2, frontier = $3", tree["size"], tree["root"], tree["frontier"]
    )
    await sql.execute(
        "UPDATE checkpoint SET size = $1, root = $2, note = $3",
        checkpoint["size"],
        checkpoint["root"],
        checkpoint["note"],
    )
