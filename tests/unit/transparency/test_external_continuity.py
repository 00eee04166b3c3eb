"""Which trees of other people's logs are of one history, before and after an operator lets a log in again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from afdp.formats.note import Checkpoint
from afdp.formats.spki import ed25519_spki
from afdp.formats.trust import Log
from afdp.transparency.external.continuity import Continuity
from afdp.transparency.external.values import ContradictionError, SeenTree, Shard

ORIGIN = "rekor.example"
SHARD = Shard(
    "rekor",
    2,
    "https://rekor.example",
    "https://rekor.example",
    Log.of(ORIGIN, ed25519_spki(bytes(32)), datetime.now(UTC)),
)


class Trees:
    """The table that all replicas share."""

    def __init__(self) -> None:
        self.kept: SeenTree | None = None

    async def tree(self, log_id: bytes, origin: str) -> SeenTree | None:
        return self.kept

    async def advance(self, log_id: bytes, tree: SeenTree) -> bool:
        if self.kept and self.kept.checkpoint.size >= tree.checkpoint.size:
            return False
        self.kept = tree
        return True


class NoProofs:
    """A log whose trees do not go on from each other."""

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> Sequence[bytes]:
        return ()


def tree(size: int, history: bytes = b"\1") -> SeenTree:
    return SeenTree(Checkpoint(ORIGIN, size, history * 32), f"a note of {size}")


async def accept(replica: Continuity, seen: SeenTree) -> None:
    await replica.accept(seen, replica.floors().get(ORIGIN, 0), NoProofs())


async def test_a_tree_that_went_back_is_a_contradiction_where_nobody_let_the_log_in_again() -> None:
    replica = Continuity(SHARD, Trees())
    await accept(replica, tree(10))

    with pytest.raises(ContradictionError, match="gone back from 10 to 5"):
        await accept(replica, tree(5))


async def test_a_log_that_was_let_in_again_is_judged_by_what_it_showed_since_by_every_replica() -> None:
    trees = Trees()
    idle, busy = Continuity(SHARD, trees), Continuity(SHARD, trees)
    await accept(idle, tree(10))
    trees.kept = None  # an operator's word
    await accept(busy, tree(5, b"\2"))

    await accept(idle, tree(5, b"\2"))

    assert idle.floors() == {ORIGIN: 5}
    with pytest.raises(ContradictionError, match="does not go on"):
        await accept(idle, tree(10))
    with pytest.raises(ContradictionError, match="gone back from 5 to 4"):
        await accept(idle, tree(4, b"\2"))


async def test_the_first_replica_to_meet_it_again_forgets_what_it_had_seen_of_it() -> None:
    trees = Trees()
    replica = Continuity(SHARD, trees)
    await accept(replica, tree(10))
    trees.kept = None

    await accept(replica, tree(5, b"\2"))
    await accept(replica, tree(5, b"\2"))

    assert replica.floors() == {ORIGIN: 5}
