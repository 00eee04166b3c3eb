"""One history per tree: each checkpoint that a log gives is compared with the largest that was seen before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from afdp.errors import Unavailable
from afdp.formats.merkle import ProofError, verify_consistency
from afdp.formats.note import Checkpoint
from afdp.transparency.external.values import ContradictionError, SeenTree, Shard

_REMEMBERED = 256  # trees that were found to be of one history


class Trees(Protocol):
    """Where the largest tree is kept, for all replicas."""

    async def tree(self, log_id: bytes, origin: str) -> SeenTree | None:
        """The largest tree that was seen."""

    async def advance(self, log_id: bytes, tree: SeenTree) -> bool:
        """Keeps a larger tree; False where one at least as large is there already."""


class Prover(Protocol):
    """What gives consistency proofs: the log itself."""

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> Sequence[bytes]:
        """The proof between two trees of one log."""


class Continuity:
    """The trees of one log: one of a Rekor v2; a Rekor v1 may have several."""

    def __init__(self, shard: Shard, trees: Trees) -> None:
        self._log_id = shard.log.log_id
        self._trees = trees
        self._largest: dict[str, int] = {}
        self._agreed: dict[Checkpoint, None] = {}
        self._lock = asyncio.Lock()

    def floors(self) -> Mapping[str, int]:
        """How large each tree is known to be now: an answer to what is asked from now on is of no smaller one."""
        return dict(self._largest)

    async def accept(self, tree: SeenTree, floor: int, prover: Prover) -> None:
        """Takes a tree that the log has signed, or finds that it does not belong to what was seen.

        Args:
            tree: its signature has been verified.
            floor: the size that it has at least where the log has not gone back.
            prover: asked for proofs, which are verified here.

        Raises:
            ContradictionError: it is another history, or a smaller tree than it may be.
            Unavailable: no proof is to be had at present, or the database is away.
        """
        if self._is_agreed(tree, floor):
            return
        async with self._lock:
            if self._is_agreed(tree, floor):  # many entries share a checkpoint, and one of them was first
                return
            while not await self._compare(tree, floor, prover):
                pass  # another replica has seen a larger one meanwhile
            self._remember(tree.checkpoint)

    def _is_agreed(self, tree: SeenTree, floor: int) -> bool:
        return tree.checkpoint in self._agreed and tree.checkpoint.size >= floor

    async def _compare(self, tree: SeenTree, floor: int, prover: Prover) -> bool:
        seen = tree.checkpoint
        known = await self._trees.tree(self._log_id, seen.origin)
        self._follow(seen.origin, known.checkpoint.size if known else 0)
        if known is None:
            return await self._trees.advance(self._log_id, tree)
        if seen.size < min(floor, known.checkpoint.size):
            reason = f"its tree has gone back from {known.checkpoint.size} to {seen.size} entries"
            raise ContradictionError(reason, known.note, tree.note)
        await _require_one_history(known, tree, prover)
        return seen.size <= known.checkpoint.size or await self._trees.advance(self._log_id, tree)

    def _follow(self, origin: str, size: int) -> None:
        """Takes the size that all replicas share.

        It shrinks only where an operator lets the log in again: what is remembered here is of before then.
        """
        if size < self._largest.get(origin, 0):
            self._agreed = {each: None for each in self._agreed if each.origin != origin}
        self._largest[origin] = size

    def _remember(self, checkpoint: Checkpoint) -> None:
        self._largest[checkpoint.origin] = max(checkpoint.size, self._largest.get(checkpoint.origin, 0))
        self._agreed[checkpoint] = None
        if len(self._agreed) > _REMEMBERED:
            del self._agreed[next(iter(self._agreed))]


async def _require_one_history(known: SeenTree, seen: SeenTree, prover: Prover) -> None:
    small, large = sorted((known.checkpoint, seen.checkpoint), key=lambda each: each.size)
    if small.size == large.size:
        if small.root != large.root:
            raise ContradictionError(f"it has signed two trees of {small.size} entries", known.note, seen.note)
        return
    try:
        proof = await prover.consistency(small, large)
    except TimeoutError:
        raise Unavailable("the log does not prove in time that its tree has only grown", retry_after=5.0) from None
    try:
        verify_consistency(small.size, small.root, large.size, large.root, proof)
    except ProofError:
        reason = f"its tree of {large.size} entries does not go on from that of {small.size}"
        raise ContradictionError(reason, known.note, seen.note) from None
