"""A witness cosigns one history of each log, whatever it is asked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afdp.errors import FailedPrecondition, Unavailable
from afdp.formats.merkle import EMPTY_ROOT
from afdp.formats.note import Checkpoint, Note, NoteSignature, verify
from afdp.formats.witness import AddCheckpoint
from afdp.witness.config import STATE
from afdp.witness.folder import open_config, open_cosigner
from afdp.witness.service import Witness
from afdp.witness.state import open_state
from afdp.witness.values import Forked, Inconsistent, NotACheckpoint, OtherSize, UnknownLog, Unsigned
from tests.local_log import LocalLog
from tests.local_witness import asking, consistency, make_witness

NOW = 1_800_000_000


class Clock:
    """Tells the time that it is set to."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> LocalLog:
    log = LocalLog()
    log.append([b"a", b"b", b"c"])
    return log


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def opened(folder: Path, clock: Clock) -> Iterator[Witness]:
    config = open_config(folder)
    with open_state(folder / STATE) as state:
        yield Witness(config.logs, state, open_cosigner(folder, config), clock)


@pytest.fixture
def witness(tmp_path: Path, log: LocalLog, clock: Clock) -> Iterator[Witness]:
    make_witness(tmp_path, [log.log.vkey])
    with opened(tmp_path, clock) as witness:
        yield witness


def vkey(folder: Path) -> object:
    return open_cosigner(folder, open_config(folder)).vkey


async def test_a_checkpoint_that_goes_on_is_cosigned_with_the_time(
    witness: Witness, log: LocalLog, clock: Clock, tmp_path: Path
) -> None:
    for old, time in ((0, NOW), (3, NOW + 7)):
        clock.now = time + 0.9
        note = log.checkpoint()
        signatures = await witness.add_checkpoint(asking(log, old).to_bytes())
        [verified] = verify(Note(note.text, signatures), [vkey(tmp_path)])
        assert verified.time == time
        log.append([b"d", b"e"])


async def test_the_same_checkpoint_is_cosigned_again(witness: Witness, log: LocalLog) -> None:
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    assert await witness.add_checkpoint(asking(log, 3).to_bytes())


async def test_another_old_size_is_answered_with_the_last_one(witness: Witness, log: LocalLog) -> None:
    with pytest.raises(OtherSize) as none_yet:
        await witness.add_checkpoint(asking(log, 2).to_bytes())
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    log.append([b"d"])
    with pytest.raises(OtherSize) as known:
        await witness.add_checkpoint(asking(log, 0).to_bytes())

    assert (none_yet.value.size, known.value.size) == (0, 3)


async def test_two_trees_of_one_size_are_a_fork_and_both_notes_are_kept(
    witness: Witness, log: LocalLog, tmp_path: Path
) -> None:
    first, forged = log.checkpoint(), log.checkpoint(root=bytes(32))
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    for _ in range(2):
        with pytest.raises(Forked):
            await witness.add_checkpoint(asking(log, 3, forged).to_bytes())

    rows = sqlite3.connect(tmp_path / STATE).execute("SELECT origin, cosigned, other FROM evidence").fetchall()
    assert rows == [(log.origin, str(first), str(forged))]


async def test_a_larger_tree_that_does_not_go_on_is_not_cosigned(witness: Witness, log: LocalLog) -> None:
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    other = LocalLog(key=log.key)
    other.append([b"x", b"y", b"z", b"d"])
    with pytest.raises(Inconsistent):
        await witness.add_checkpoint(asking(other, 3).to_bytes())
    log.append([b"d"])
    with pytest.raises(Inconsistent):
        await witness.add_checkpoint(AddCheckpoint(3, consistency(log, 3)[:-1], log.checkpoint()).to_bytes())
    assert await witness.add_checkpoint(asking(log, 3).to_bytes())


async def test_a_proof_from_nothing_must_be_empty(witness: Witness, log: LocalLog) -> None:
    with pytest.raises(Inconsistent):
        await witness.add_checkpoint(AddCheckpoint(0, (bytes(32),), log.checkpoint()).to_bytes())


async def test_the_empty_tree_has_one_root(witness: Witness, log: LocalLog) -> None:
    empty = LocalLog(key=log.key)
    with pytest.raises(Inconsistent):
        await witness.add_checkpoint(asking(empty, 0, empty.checkpoint(root=bytes(32))).to_bytes())
    assert await witness.add_checkpoint(asking(empty, 0, empty.checkpoint(root=EMPTY_ROOT)).to_bytes())
    assert await witness.add_checkpoint(asking(log, 0).to_bytes())


async def test_who_is_not_known_is_told_so(witness: Witness, log: LocalLog) -> None:
    stranger, thief = LocalLog(origin="elsewhere.example"), LocalLog()
    for each in (stranger, thief):
        each.append([b"a"])
    with pytest.raises(UnknownLog):
        await witness.add_checkpoint(asking(stranger, 0).to_bytes())
    with pytest.raises(Unsigned):
        await witness.add_checkpoint(asking(thief, 0).to_bytes())
    forged = Note(thief.checkpoint().text, (NoteSignature.by(log.log.vkey, bytes(64)),))
    with pytest.raises(Unsigned):
        await witness.add_checkpoint(asking(thief, 0, forged).to_bytes())


async def test_signatures_of_others_are_ignored(witness: Witness, log: LocalLog) -> None:
    other = NoteSignature("someone.example", b"1234", bytes(64))
    note = log.checkpoint()
    assert await witness.add_checkpoint(asking(log, 0, Note(note.text, (other, *note.signatures))).to_bytes())


async def test_an_old_size_beyond_the_checkpoint_is_refused(witness: Witness, log: LocalLog) -> None:
    with pytest.raises(NotACheckpoint, match="beyond"):
        await witness.add_checkpoint(AddCheckpoint(4, (), log.checkpoint()).to_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"",
        lambda body: b"\xff" + body,
        lambda body: body.replace(b"old 0", b"old 00"),
        lambda body: body.replace(b"old 0", b"old -1"),
        lambda body: body.replace(b"old 0", b"old " + b"9" * 19),
        lambda body: body.replace(b"old 0\n", b"old 0\nAAAA\n"),
        lambda body: body.replace(b"old 0\n", b"old 0\n" + b"A" * 43 + b"=\n" * 64),
        lambda body: body.replace(b"old 0\n", b"old 0\r\n"),
        lambda body: body.replace(b"old 0\n\n", b"old 0\n"),
        lambda body: body[:-1],
        lambda body: body.replace(b"\n3\n", b"\n03\n"),
        lambda body: body + b"\n" * 65_536,
    ],
)
async def test_what_is_no_request_is_refused(witness: Witness, log: LocalLog, spoil) -> None:
    with pytest.raises(NotACheckpoint):
        await witness.add_checkpoint(spoil(asking(log, 0).to_bytes()))
    assert await witness.add_checkpoint(asking(log, 0).to_bytes())


async def test_63_hashes_are_read_and_64_are_not(log: LocalLog) -> None:
    most = AddCheckpoint(1, (bytes(32),) * 63, log.checkpoint())
    assert AddCheckpoint.parse(most.to_bytes()) == most
    with pytest.raises(ValueError, match="63"):
        AddCheckpoint.parse(AddCheckpoint(1, (bytes(32),) * 64, log.checkpoint()).to_bytes())


async def test_of_many_at_once_each_old_size_has_one_winner(witness: Witness, log: LocalLog) -> None:
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    bodies = []
    for each in range(20):
        log.append([b"%d" % each])
        bodies.append(asking(log, 3).to_bytes())
    answers = await asyncio.gather(*map(witness.add_checkpoint, bodies), return_exceptions=True)

    assert [type(each) for each in answers].count(tuple) == 1
    assert [type(each) for each in answers].count(OtherSize) == 19


async def test_of_two_processes_on_one_memory_one_wins(
    witness: Witness, log: LocalLog, clock: Clock, tmp_path: Path
) -> None:
    with opened(tmp_path, clock) as other:
        bodies = []
        for each in (b"d", b"e"):
            bodies.append(asking(log, 0).to_bytes())
            log.append([each])
        answers = await asyncio.gather(
            witness.add_checkpoint(bodies[0]), other.add_checkpoint(bodies[1]), return_exceptions=True
        )
    assert [isinstance(each, tuple) for each in answers].count(True) == 1
    assert all(isinstance(each, tuple | OtherSize | Unavailable) for each in answers)


async def test_too_many_at_once_are_told_to_come_again(witness: Witness, log: LocalLog) -> None:
    body = asking(log, 0).to_bytes()
    answers = await asyncio.gather(*(witness.add_checkpoint(body) for _ in range(200)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Unavailable)]
    assert len(refused) == 200 - 64
    assert all(each.retry_after for each in refused)


async def test_a_clock_that_was_set_back_is_not_believed(
    witness: Witness, log: LocalLog, clock: Clock, tmp_path
) -> None:
    await witness.add_checkpoint(asking(log, 0).to_bytes())
    log.append([b"d"])
    clock.now = NOW - 3600
    with pytest.raises(Unavailable, match="clock"):
        await witness.add_checkpoint(asking(log, 3).to_bytes())
    clock.now = NOW - 2
    signatures = await witness.add_checkpoint(asking(log, 3).to_bytes())
    [verified] = verify(Note(log.checkpoint().text, signatures), [vkey(tmp_path)])
    assert verified.time == NOW


async def test_it_remembers_across_restarts_and_does_not_start_without_its_memory(
    log: LocalLog, clock: Clock, tmp_path: Path
) -> None:
    make_witness(tmp_path, [log.log.vkey])
    with opened(tmp_path, clock) as witness:
        await witness.add_checkpoint(asking(log, 0).to_bytes())
    with opened(tmp_path, clock) as witness:
        with pytest.raises(OtherSize) as known:
            await witness.add_checkpoint(asking(log, 0).to_bytes())
        assert known.value.size == 3
    (tmp_path / STATE).unlink()
    with pytest.raises(FailedPrecondition, match="forgotten"), opened(tmp_path, clock):
        pass


_steps = st.lists(
    st.tuples(st.sampled_from(["honest", "fork", "rewind", "stale"]), st.integers(1, 5), st.integers(0, 20)),
    max_size=12,
)


@given(_steps)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_a_log_tries_what_is_cosigned_is_one_history(tmp_path_factory, steps) -> None:
    folder, log, clock = tmp_path_factory.mktemp("witness"), LocalLog(), Clock()
    make_witness(folder, [log.log.vkey])
    history: list[Checkpoint] = []
    with opened(folder, clock) as witness:
        for act, more, seed in steps:
            told = log
            if act == "honest":
                log.append([b"%d" % (seed + each) for each in range(more)])
            elif act == "fork":
                told = LocalLog(key=log.key)
                told.append([b"fork %d" % (seed + each) for each in range(len(log.entries) + more - 1)])
            elif act == "rewind":
                told = LocalLog(key=log.key)
                told.append(log.entries[: seed % (len(log.entries) + 1)])
            last = history[-1].size if history else 0
            old = min(seed if act == "stale" else last, len(told.entries))
            try:
                await witness.add_checkpoint(asking(told, old).to_bytes())
            except (Forked, Inconsistent, OtherSize):
                continue
            history.append(Checkpoint.parse(told.checkpoint().text))

    sizes = [each.size for each in history]
    assert sizes == sorted(sizes)
    if history and history[-1].root == _root(log, history[-1].size):  # then all before it are of that tree too
        assert all(each.root == _root(log, each.size) for each in history)


def _root(log: LocalLog, size: int) -> bytes | None:
    if size > len(log.entries):
        return None
    again = LocalLog(key=log.key)
    again.append(log.entries[:size])
    return again.frontier.root()
