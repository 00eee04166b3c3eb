"""Proofs from stored hashes, and the check without which none is released."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import Counter

from afdp.errors import DataLoss, NotaryError
from afdp.formats.merkle import (
    EMPTY_ROOT,
    Extension,
    Frontier,
    HashRange,
    ProofError,
    TileHashes,
    consistency_proof,
    extend,
    frontier,
    inclusion_proof,
    merged_ranges,
    plan_consistency,
    plan_frontier,
    plan_inclusion,
    verify_consistency,
    verify_inclusion,
)
from afdp.formats.note import Note, NoteError
from afdp.transparency.values import Inclusion, LogIdentity, SignedCheckpoint

logger = logging.getLogger(__name__)

# So many proofs are made at a time: it bounds the hashes in memory, and how long other calls wait for the loop.
_AT_A_TIME = 64

_failures = Counter("afdp_log_release_failures", "Proofs, hashes or signatures that were wrong and not released.")


class HashStore(Protocol):
    """Where the tile hashes are."""

    async def hashes(self, ranges: Sequence[HashRange]) -> TileHashes:
        """The stored hashes of these ranges, by level and index.

        Raises:
            DataLoss: one is missing.
        """


class Prover:
    """Makes proofs. Each is verified against the root it is for before it leaves."""

    def __init__(self, store: HashStore) -> None:
        self._store = store

    async def inclusions(
        self, positions: Mapping[bytes, int], size: int, root: bytes, extension: Extension | None = None
    ) -> dict[bytes, Inclusion | NotaryError]:
        """The inclusions of leaves (leaf hash to index) in the tree of this size and root.

        The proofs of leaves that `extension` has added, if it leads to this size, need no stored hash. A leaf whose
        proof does not hold fails alone, with DataLoss.
        """
        found: dict[bytes, Inclusion | NotaryError] = {}
        leaves = sorted(positions.items(), key=lambda each: each[1])
        grown = extension if extension and extension.new.size == size else None
        stored = bisect_left(leaves, grown.old.size, key=lambda each: each[1]) if grown else len(leaves)
        for some in _batches(leaves[:stored]):
            found |= await self._from_store(some, size, root)
        if grown:
            for some in _batches(leaves[stored:]):
                for leaf, index in some:
                    found[leaf] = _released(Inclusion(index, leaf, grown.inclusion_proof(index)), size, root)
                await asyncio.sleep(0)
        return found

    async def root(self, size: int) -> bytes:
        """The root hash of the tree when it had this size.

        Raises:
            DataLoss: a stored hash is missing.
        """
        if size == 0:
            return EMPTY_ROOT
        return frontier(size, await self._store.hashes(plan_frontier(size))).root()

    async def verified_root(self, size: int, head: SignedCheckpoint) -> bytes:
        """The root hash of the tree when it had a size that is not that of a checkpoint at hand.

        Raises:
            DataLoss: the stored hashes do not lead from it to the checkpoint's root.
        """
        root = await self.root(size)
        try:
            verify_consistency(size, root, head.size, head.root, await self.consistency(size, head.size))
        except ProofError as error:
            raise withheld(f"the root at size {size}", error) from None
        return root

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The consistency proof between two sizes, verified by nobody yet.

        Raises:
            DataLoss: a stored hash is missing.
        """
        if old in (0, new):
            return ()
        return consistency_proof(old, new, await self._store.hashes(plan_consistency(old, new)))

    async def verified_consistency(self, old: int, new: int, new_root: bytes) -> tuple[bytes, ...]:
        """The consistency proof to a tree with this root.

        Raises:
            DataLoss: the stored hashes do not prove it.
        """
        proof = await self.consistency(old, new)
        try:
            verify_consistency(old, await self.root(old), new, new_root, proof)
        except ProofError as error:
            raise withheld(f"the consistency proof from {old} to {new}", error) from None
        return proof

    async def _from_store(
        self, leaves: Sequence[tuple[bytes, int]], size: int, root: bytes
    ) -> dict[bytes, Inclusion | NotaryError]:
        try:
            hashes = await self._store.hashes(merged_ranges(plan_inclusion(index, size) for _, index in leaves))
        except DataLoss as error:
            if len(leaves) == 1:
                return {leaves[0][0]: error}
            middle = len(leaves) // 2  # some may not need what is missing
            left = await self._from_store(leaves[:middle], size, root)
            return left | await self._from_store(leaves[middle:], size, root)
        return {
            leaf: _released(Inclusion(index, leaf, inclusion_proof(index, size, hashes)), size, root)
            for leaf, index in leaves
        }


def require_signed(checkpoint: SignedCheckpoint, identity: LogIdentity) -> None:
    """Checks that a stored checkpoint is what its note says, and that this log has signed the note.

    Raises:
        DataLoss: it is not; it is not released.
    """
    what = f"the stored checkpoint of size {checkpoint.size}"
    try:
        signed = SignedCheckpoint.verified(Note.parse(checkpoint.note), identity)
    except NoteError as error:
        raise withheld(what, error) from None
    if signed != checkpoint:
        raise withheld(what)


def root_of_full_tile(hashes: Sequence[bytes]) -> bytes:
    """The root over the 256 hashes of a full tile."""
    return extend(Frontier.empty(), hashes).new.root()


def withheld(what: str, error: Exception | None = None) -> DataLoss:
    """Counts a failure at the last check before release; gives the error for the caller."""
    _failures.inc()
    logger.error("withheld from release", extra={"fields": {"what": what, "reason": str(error) if error else ""}})
    return DataLoss(f"{what} does not hold: the stored log is damaged; run fsck")


def _batches(leaves: Sequence[tuple[bytes, int]]) -> Iterator[Sequence[tuple[bytes, int]]]:
    for at in range(0, len(leaves), _AT_A_TIME):
        yield leaves[at : at + _AT_A_TIME]


def _released(inclusion: Inclusion, size: int, root: bytes) -> Inclusion | NotaryError:
    try:
        verify_inclusion(inclusion.leaf_index, size, inclusion.leaf_hash, inclusion.proof, root)
    except ProofError as error:
        return withheld(f"the inclusion proof of leaf {inclusion.leaf_index} in a tree of size {size}", error)
    return inclusion
