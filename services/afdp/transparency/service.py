"""What the transparency log promises, whatever stores it and whatever signs it.

Knows leaves, trees, checkpoints and proofs. Knows no gRPC, no SQL and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from afdp.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound, OutOfRange
from afdp.formats.merkle import EMPTY_ROOT, HASH_SIZE, HashRange, TileHashes, frontier, leaf_hash, plan_frontier
from afdp.formats.note import Checkpoint, Note, NoteError, VerifierKey
from afdp.formats.note import verify as verify_note
from afdp.formats.tiles import MAX_ENTRY_SIZE, WIDTH, TileRef, encode_bundle, encode_tile, exists, width_at
from afdp.transparency.newest import Newest
from afdp.transparency.proofs import Prover, require_signed, root_of_full_tile, withheld
from afdp.transparency.values import (
    Growth,
    Heads,
    Inclusion,
    Leaf,
    Logged,
    LogIdentity,
    SignedCheckpoint,
    StampedCheckpoint,
    StoredTree,
    WitnessPolicy,
)

MAX_ENTRIES = 4096

Plan = Callable[[StoredTree, Mapping[bytes, int]], Growth | None]
"""Decides under the tree's lock, from the tree's row and the positions of leaves that are in it, how it grows."""


class Store(Protocol):
    """One technology that keeps a log: `postgres.py`. Each write is one transaction and may be repeated.

    Leaves that are to be added are looked for from the index `since` on, or a bit before it.

    Every method raises Unavailable while the technology cannot be reached. A write that raises may have been made.
    """

    async def identity(self) -> LogIdentity | None:
        """The log that is kept; None before it is created."""

    async def create(self, identity: LogIdentity) -> None:
        """Creates the log, empty, unless one is there already."""

    async def tree(self) -> StoredTree:
        """The tree as it is, published or not."""

    async def grow(self, growth: Growth, since: int = 0) -> bool:
        """Grows the tree if it still is `growth.extension.old`, not frozen, without the leaves; else does nothing."""

    async def integrate(self, leaf_hashes: Sequence[bytes], plan: Plan, since: int = 0) -> Mapping[bytes, int]:
        """Locks the tree, grows it as `plan` says, and gives the positions that `plan` was told."""

    async def publish(self, checkpoint: SignedCheckpoint) -> None:
        """Makes it the checkpoint that readers see, unless a larger one is."""

    async def published(self) -> SignedCheckpoint | None:
        """The checkpoint that readers see."""

    async def heads(self) -> Heads:
        """How far tree and checkpoint are."""

    async def hashes(self, ranges: Sequence[HashRange]) -> TileHashes:
        """The stored hashes of these ranges. Raises DataLoss if one is missing."""

    async def positions(self, leaf_hashes: Sequence[bytes]) -> Mapping[bytes, int]:
        """Where these leaves are; those that are not in the tree are left out."""

    async def stamped_over(self, leaf_index: int) -> StampedCheckpoint | None:
        """The smallest checkpoint that covers the leaf and has the stamp of an authority outside of the notary."""

    async def newest_cosigned(self) -> SignedCheckpoint | None:
        """The largest checkpoint that enough witnesses have cosigned."""

    async def cosigned_over(self, leaf_index: int) -> SignedCheckpoint | None:
        """The smallest such checkpoint that covers the leaf."""

    async def entries(self, start: int, end: int) -> Sequence[Leaf]:
        """The entries from index `start` up to, not including, `end`, as stored. Raises DataLoss if one is missing."""


class CheckpointSigner(Protocol):
    """What signs checkpoints and remembers the last: `signer.py`.

    Every method raises Unavailable while it cannot be reached.
    """

    async def sign(self, checkpoint: Checkpoint, last_size: int, proof: Sequence[bytes]) -> bytes:
        """The Ed25519 signature over the checkpoint, verified by nobody yet.

        `proof` leads between the checkpoint and the one signed last, of `last_size`, from the smaller to the larger.

        Raises:
            FailedPrecondition: it does not; `last_size` in its metadata says to which size to prove.
        """

    async def last(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint signed for an origin."""

    async def public_key(self, origin: str) -> bytes:
        """The raw Ed25519 key that signs an origin's checkpoints now, 32 bytes."""


class Appender(Protocol):
    """What puts leaves into the log: `writer.py`."""

    async def append(self, leaves: Sequence[Leaf], made_after: int = 0) -> Logged:
        """Returns when a published checkpoint covers every leaf; no leaf may be given twice.

        None of them is in the tree of the size `made_after`, the caller knows.
        """

    def identity(self) -> LogIdentity:
        """The log's identity. Raises Unavailable until it is known."""

    async def check(self) -> None:
        """Raises what keeps appends from succeeding."""


class Witnesses(Protocol):
    """Who cosigns checkpoints, and how many must: `witnessing.py`."""

    @property
    def vkeys(self) -> Sequence[VerifierKey]:
        """Their keys."""

    @property
    def policy(self) -> WitnessPolicy:
        """How many it takes, and what readers get without."""

    async def until_cosigned(self, size: int, seconds: float) -> None:
        """Returns once a checkpoint of at least this size is cosigned, or when the time is over."""


class TransparencyLog:
    """One append-only log."""

    def __init__(self, store: Store, appender: Appender, base_url: str, witnesses: Witnesses | None = None) -> None:
        self.witnesses = witnesses
        self.base_url = base_url
        self._store = store
        self._appender = appender
        self._prover = Prover(store)
        self._known: SignedCheckpoint | None = None
        self._newest = Newest(store.published)

    async def check(self) -> None:
        """Raises what keeps appends from succeeding; reads may go on."""
        await self._appender.check()

    async def check_reads(self) -> None:
        """Raises Unavailable while nothing can be read."""
        self._appender.identity()
        await self._store.heads()

    def identity(self) -> LogIdentity:
        """The log's origin and key.

        Raises:
            Unavailable: neither database nor signer were reached yet.
        """
        return self._appender.identity()

    async def append(
        self, entries: Sequence[bytes], made_after: int = 0
    ) -> tuple[SignedCheckpoint | None, list[Inclusion | NotaryError]]:
        """Appends entries; an entry that is there already keeps its place. One answer per entry, in order.

        Returns once a published checkpoint covers them; it is None where every entry was refused. A frozen log refuses
        each entry that it does not hold, with FrozenLog.

        Args:
            entries: as bytes.
            made_after: a size that the tree had before any of the entries was made; 0 where that is not known.
                In the tree of that size nobody looks for them.

        Raises:
            InvalidArgument: no entry, or too many; a size below zero.
            ResourceExhausted: too much waits already; nothing was appended.
            Unavailable: database or signer are away. Entries may have been appended: append them again.
            DataLoss: the stored tree is not the one that was signed; nothing is appended any more.
        """
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise InvalidArgument.field("entries", f"must be 1 to {MAX_ENTRIES} entries, not {len(entries)}")
        if made_after < 0:
            raise InvalidArgument.field("made_after_size", "must not be negative")
        answers = [_refused(index, entry) or leaf_hash(entry) for index, entry in enumerate(entries)]
        # Equal entries of one call are one leaf.
        leaves = {
            each: Leaf(each, entry)
            for each, entry in zip(answers, entries, strict=True)
            if not isinstance(each, NotaryError)
        }
        if not leaves:
            return None, [each for each in answers if isinstance(each, NotaryError)]
        logged = await self._appender.append(list(leaves.values()), made_after)
        if logged.checkpoint:
            self._remember(logged.checkpoint)
        return logged.checkpoint, [
            each if isinstance(each, NotaryError) else logged.inclusions[each] for each in answers
        ]

    async def find(self, leaf_hashes: Sequence[bytes]) -> tuple[SignedCheckpoint | None, list[Inclusion | None]]:
        """The latest checkpoint and, per leaf hash in order, the leaf's inclusion in it; None where it is not in it.

        Raises:
            InvalidArgument: no leaf hash, too many, or one that has not 32 bytes.
            DataLoss: a proof does not hold.
        """
        if not 1 <= len(leaf_hashes) <= MAX_ENTRIES:
            raise InvalidArgument.field("leaf_hashes", f"must be 1 to {MAX_ENTRIES} hashes, not {len(leaf_hashes)}")
        for at, each in enumerate(leaf_hashes):
            if len(each) != HASH_SIZE:
                raise InvalidArgument.field(f"leaf_hashes[{at}]", f"must have {HASH_SIZE} bytes, not {len(each)}")
        checkpoint = await self._published()
        if checkpoint is None:
            return None, [None] * len(leaf_hashes)
        positions = await self._store.positions(leaf_hashes)
        covered = {leaf: index for leaf, index in positions.items() if index < checkpoint.size}
        found = await self._prover.inclusions(covered, checkpoint.size, checkpoint.root)
        return checkpoint, [_or_raise(found[each]) if each in found else None for each in leaf_hashes]

    async def inclusion(self, leaf_index: int, tree_size: int = 0) -> tuple[Inclusion, int, bytes]:
        """The inclusion of one leaf in the tree of a published size (0: the latest), that size and its root.

        Raises:
            OutOfRange: no such size was published yet, or the tree of this size has no such leaf.
            DataLoss: the proof does not hold.
        """
        size = await self._published_size("tree_size", tree_size)
        if not 0 <= leaf_index < size:
            raise _out_of_range("leaf_index", f"must be less than the tree's size, {size}")
        root = await self._root(size)
        return await self._inclusion(leaf_index, size, root), size, root

    async def stamped(self, leaf_index: int) -> tuple[StampedCheckpoint, Inclusion]:
        """The first checkpoint over a leaf that an authority outside of the notary has stamped, and the leaf in it.

        Raises:
            NotFound: no checkpoint over it is stamped yet.
            OutOfRange: there is no such leaf.
            DataLoss: checkpoint or proof do not hold.
        """
        if not 0 <= leaf_index < await self._published_size("leaf_index", 0):
            raise _out_of_range("leaf_index", "must be less than the size of the published tree")
        found = await self._store.stamped_over(leaf_index)
        if found is None:
            raise NotFound("no checkpoint over this leaf is stamped yet")
        checkpoint = found.checkpoint
        require_signed(checkpoint, self._appender.identity())
        return found, await self._inclusion(leaf_index, checkpoint.size, checkpoint.root)

    async def consistency(self, old_size: int, new_size: int = 0) -> tuple[tuple[bytes, ...], int]:
        """The consistency proof between two published sizes (0 as the new one: the latest), and the new size.

        Raises:
            OutOfRange: no such size was published yet, or the old one is larger than the new one.
            DataLoss: the proof does not hold.
        """
        size = await self._published_size("new_size", new_size)
        if not 0 <= old_size <= size:
            raise _out_of_range("old_size", f"must not be more than the new size, {size}")
        return await self._prover.verified_consistency(old_size, size, await self._root(size)), size

    async def cosigned(self, leaf_index: int, wait: float = 0.0) -> tuple[SignedCheckpoint, Inclusion]:
        """The first checkpoint over a leaf that enough witnesses have cosigned, and the leaf in it.

        Args:
            leaf_index: zero-based.
            wait: how long to wait for one, in seconds.

        Raises:
            NotFound: none over it is cosigned yet.
            OutOfRange: there is no such leaf.
            FailedPrecondition: the log has no witnesses.
            DataLoss: checkpoint or proof do not hold.
        """
        if self.witnesses is None:
            raise FailedPrecondition("this log has no witnesses")
        if not 0 <= leaf_index < await self._published_size("leaf_index", 0):
            raise _out_of_range("leaf_index", "must be less than the size of the published tree")
        found = await self._store.cosigned_over(leaf_index)
        if found is None and wait > 0:
            await self.witnesses.until_cosigned(leaf_index + 1, wait)
            found = await self._store.cosigned_over(leaf_index)
        if found is None:
            raise NotFound("no checkpoint over this leaf is cosigned yet")
        self._require_cosigned(found, self.witnesses)
        return found, await self._inclusion(leaf_index, found.size, found.root)

    async def checkpoint(self) -> SignedCheckpoint:
        """The latest checkpoint, with its cosignatures if it has enough; with a closed policy the latest that has.

        Raises:
            NotFound: the log is empty, or, with a closed policy, no checkpoint is cosigned yet.
        """
        published = await self._published()
        if published is None:
            raise NotFound("the log is empty: it has no checkpoint yet")
        if self.witnesses is None:
            return published
        cosigned = await self._store.newest_cosigned()
        if cosigned and (self.witnesses.policy.closed or cosigned.size >= published.size):
            self._require_cosigned(cosigned, self.witnesses)
            return cosigned
        if self.witnesses.policy.closed:
            raise NotFound("no checkpoint is cosigned by enough witnesses yet")
        return published

    async def entries(self, start: int, limit: int) -> tuple[Sequence[Leaf], int]:
        """At most `limit` entries of the published tree, as stored, and the tree's size.

        Raises:
            DataLoss: one of them is not there.
        """
        published = await self._published()
        size = published.size if published else 0
        return await self._store.entries(start, min(start + limit, size)) if start < size else [], size

    async def tile(self, ref: TileRef) -> bytes:
        """The bytes of a tile or entry bundle (C2SP tlog-tiles), whole or as wide as an earlier size had it.

        Raises:
            NotFound: no published size has it.
            DataLoss: what is stored is not what was logged.
        """
        head = await self._head_for(ref)
        if head is None or not exists(ref, head.size):
            raise NotFound("there is no such tile in the published tree")
        hashes = (await self._tile(ref.level or 0, ref.index, head))[: ref.width]
        if ref.level is not None:
            return encode_tile(hashes)
        leaves = await self._store.entries(ref.start(), ref.start() + ref.width)
        return _bundle(leaves, hashes, ref.start())

    async def _tile(self, level: int, index: int, head: SignedCheckpoint) -> list[bytes]:
        """The hashes of a tile, as wide as it is at this size: those that their parent, or the root, is made of.

        Raises:
            DataLoss: they are not.
        """
        width, start = width_at(level, index, head.size), index * WIDTH
        full = width == WIDTH
        above = [HashRange(level, start, start + width), HashRange(level + 1, index, index + 1)]
        hashes = await self._store.hashes(above if full else plan_frontier(head.size))
        tile = [hashes[level, at] for at in range(start, start + width)]
        if full and root_of_full_tile(tile) != hashes[level + 1, index]:
            raise withheld(f"tile {TileRef(level, index).path()}")
        if not full and frontier(head.size, hashes).root() != head.root:
            raise withheld(f"tile {TileRef(level, index, width).path()}, or another at the right edge,")
        return tile

    async def _inclusion(self, leaf_index: int, size: int, root: bytes) -> Inclusion:
        leaf = (await self._store.hashes([HashRange(0, leaf_index, leaf_index + 1)]))[0, leaf_index]
        found = await self._prover.inclusions({leaf: leaf_index}, size, root)
        return _or_raise(found[leaf])

    def _require_cosigned(self, checkpoint: SignedCheckpoint, witnesses: Witnesses) -> None:
        """Checks what was stored before it leaves; a witness that is not one of ours any more does not count."""
        identity = self._appender.identity()
        require_signed(checkpoint, identity)
        try:
            verified = verify_note(Note.parse(checkpoint.note), [identity.vkey, *witnesses.vkeys])
        except NoteError as error:
            raise withheld(f"the cosigned checkpoint of size {checkpoint.size}", error) from None
        if len(verified) - 1 < witnesses.policy.quorum:
            raise NotFound("the checkpoint was cosigned by other witnesses than those of now")

    async def _head_for(self, ref: TileRef) -> SignedCheckpoint | None:
        """A published checkpoint: one that is known, if its tree has the tile, else the latest."""
        if self._known and exists(ref, self._known.size):
            return self._known
        return await self._published()

    async def _published_size(self, field: str, wanted: int) -> int:
        checkpoint = self._known if self._known and 0 < wanted <= self._known.size else await self._published()
        latest = checkpoint.size if checkpoint else 0
        if not 0 <= wanted <= latest:
            raise _out_of_range(field, f"must not be more than the latest published size, {latest}")
        return wanted or latest

    async def _published(self) -> SignedCheckpoint | None:
        """The latest checkpoint.

        Raises:
            DataLoss: it does not hold, or is not what was served before, or after it.
        """
        known, checkpoint = self._known, await self._newest()
        if checkpoint and checkpoint != known:
            require_signed(checkpoint, self._appender.identity())
            self._remember(checkpoint)
        if known and (checkpoint is None or checkpoint.size < known.size):
            raise withheld(f"the published checkpoint, behind that of size {known.size} which was served,")
        return checkpoint

    async def _root(self, size: int) -> bytes:
        """The root at a published size; if it is not at hand, it was checked to lead to one that is."""
        if size == 0:
            return EMPTY_ROOT
        if self._known is None or self._known.size < size:
            await self._published()
        known = self._known
        if known is None or known.size < size:
            raise withheld(f"the root at size {size}, which was published before,")
        return known.root if known.size == size else await self._prover.verified_root(size, known)

    def _remember(self, checkpoint: SignedCheckpoint) -> None:
        if self._known is None or self._known.size < checkpoint.size:
            self._known = checkpoint


def _refused(index: int, entry: bytes) -> NotaryError | None:
    if 1 <= len(entry) <= MAX_ENTRY_SIZE:
        return None
    return InvalidArgument.field(f"entries[{index}]", f"must have 1 to {MAX_ENTRY_SIZE} bytes, not {len(entry)}")


def _bundle(leaves: Sequence[Leaf], hashes: Sequence[bytes], start: int) -> bytes:
    for index, (leaf, expected) in enumerate(zip(leaves, hashes, strict=True), start):
        if leaf_hash(leaf.entry) != expected:
            raise withheld(f"entry {index}")
    return encode_bundle([leaf.entry for leaf in leaves])


def _or_raise(answer: Inclusion | NotaryError) -> Inclusion:
    if isinstance(answer, NotaryError):
        raise answer
    return answer


def _out_of_range(field: str, message: str) -> OutOfRange:
    return OutOfRange("the log does not reach that far", fields=[FieldViolation(field, message)])
