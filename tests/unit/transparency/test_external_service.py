"""What every replica makes of a log of others that an operator has let in again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from afdp.formats.note import Checkpoint
from afdp.transparency.external.service import ExternalLogs
from afdp.transparency.external.shards import NamedShard
from afdp.transparency.external.values import Answer, KnownShard, RefusedLog, SeenTree, Shard, Submission
from tests.local_log import LocalLog

ENTRY = b"an entry"


class Store:
    """What all replicas share."""

    def __init__(self, shard: Shard) -> None:
        self.known = KnownShard(shard)
        self.kept: SeenTree | None = None

    async def remember(self, shard: Shard) -> KnownShard:
        return self.known

    async def tree(self, log_id: bytes, origin: str) -> SeenTree | None:
        return self.kept

    async def advance(self, log_id: bytes, tree: SeenTree) -> bool:
        if self.kept and self.kept.checkpoint.size >= tree.checkpoint.size:
            return False
        self.kept = tree
        return True

    async def refuse(self, log_id: bytes, reason: str, known: str, refused: str) -> None:
        self.known = replace(self.known, refused=reason)

    def readmit(self) -> None:
        """An operator's word."""
        self.known, self.kept = replace(self.known, readmissions=self.known.readmissions + 1), None


class Rekor:
    """A log that answers from one of its histories."""

    def __init__(self) -> None:
        self.history = LocalLog()

    async def add(self, submission: Submission) -> Answer:
        return Answer(self.history.proven(0))

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> Sequence[bytes]:
        return ()


async def test_a_replica_that_was_idle_while_a_log_was_let_in_again_does_not_believe_what_it_had_agreed_to() -> None:
    rekor = Rekor()
    seen = rekor.history
    seen.append([ENTRY, b"another one"])
    other = LocalLog(key=seen.key)
    other.append([ENTRY, b"of another history", b"and so on"])
    shard = Shard("rekor", 2, "https://rekor", "https://rekor", seen.log)
    store: Any = Store(shard)
    idle, busy = (ExternalLogs({"rekor": NamedShard(shard)}, store, lambda _: rekor) for _ in range(2))
    await idle.log("rekor", Submission(ENTRY))
    store.readmit()
    rekor.history = other
    await busy.log("rekor", Submission(ENTRY))

    rekor.history = seen
    with pytest.raises(RefusedLog, match="tree of 3 entries does not go on from that of 2"):
        await idle.log("rekor", Submission(ENTRY))
    assert store.known.refused
