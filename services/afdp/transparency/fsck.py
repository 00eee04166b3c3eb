"""Checking the stored log: the whole tree recomputed from its entries, beside every hash that is stored.

The log is read once, from the left, in memory that does not grow with it, and nothing is locked: entries that are
appended meanwhile are left out. Every row takes part: entries with their leaf hashes, nodes, the tree's right edge,
the published checkpoint, and those that witnesses have cosigned and authorities have stamped, each where the tree had
its size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

from afdp.errors import DataLoss
from afdp.formats.merkle import (
    HASH_SIZE,
    Frontier,
    HashRange,
    TileHash,
    TileHashes,
    extend,
    frontier,
    leaf_hash,
    plan_frontier,
)
from afdp.formats.note import Note, NoteError, VerifierKey, verify
from afdp.formats.rfc3161 import read_granted
from afdp.formats.tiles import WIDTH
from afdp.transparency.proofs import root_of_full_tile
from afdp.transparency.service import Store
from afdp.transparency.values import BrokenLog, LogIdentity, SignedCheckpoint, Stamp, StoredTree

# Of entries that may have 65,535 bytes each.
_AT_A_TIME = 1024
_IN_FLIGHT = 3

_Read = TypeVar("_Read")

Progress = Callable[[int, int], None]
"""Called with the entries checked so far and the log's size."""


@dataclass(frozen=True, slots=True)
class StoreFault:
    """The first thing that is wrong.

    Attributes:
        reason: one sentence.
        table: that holds it.
        row: which one, by its key.
        column: the value that is wrong, where that is known.
        offset: the first byte in it that is wrong.
        expected: what was to stand there, in hex.
        found: what stands there.
        entry: the index of the entry that is wrong, where it is one.
    """

    reason: str
    table: str
    row: str
    column: str | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None
    entry: int | None = None

    def __str__(self) -> str:
        place = f"{self.table}, {self.row}" if self.row else self.table
        column = f", {self.column}" if self.column else ""
        byte = "" if self.offset is None else f", byte {self.offset}"
        compared = f": expected {self.expected}, found {self.found}" if self.expected else ""
        return f"{self.reason} ({place}{column}{byte}{compared})"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        start: entries that had been checked before and were not read again.
        checked: how many are right, with those of before.
        size: of the tree.
        published: the size of the checkpoint that readers see.
        checkpoints: cosigned and stamped ones that were checked.
        edge: the right edge over what was checked.
        fault: the first.
    """

    start: int
    checked: int
    size: int
    published: int
    checkpoints: int
    edge: Frontier
    fault: StoreFault | None


class ReadLeaves(NamedTuple):
    """What neighbouring entries come to: all that is needed of them in a process that has not read them.

    Attributes:
        hashes: the leaf hash of each entry, computed, one after the other.
        wrong: the index of the first entry that has another leaf hash stored.
    """

    hashes: bytes
    wrong: int | None


Reader = Callable[[int, int], Awaitable[ReadLeaves]]
"""Reads entries from `start` up to before `end`. Raises DataLoss where some are missing, Unavailable."""


async def read_leaves(store: Store, start: int, end: int) -> ReadLeaves:
    """Reads entries and computes their leaf hashes, as `Reader`."""
    leaves = await store.entries(start, end)
    hashes = [leaf_hash(leaf.entry) for leaf in leaves]
    wrong = (start + at for at, leaf in enumerate(leaves) if leaf.hash != hashes[at])
    return ReadLeaves(b"".join(hashes), next(wrong, None))


class KeptCheckpoint(NamedTuple):
    """A checkpoint that was cosigned or stamped, as its row has it; nothing of it has been checked."""

    table: str
    checkpoint: SignedCheckpoint
    stamp: Stamp | None


class KeptCheckpoints(Protocol):
    """Where they are: `postgres_fsck.py`."""

    async def between(self, start: int, end: int) -> Sequence[KeptCheckpoint]:
        """Those of sizes above `start` up to `end`, smallest first."""


class _FaultFound(Exception):
    """The first thing that is wrong."""

    def __init__(self, fault: StoreFault) -> None:
        super().__init__(str(fault))
        self.fault = fault


async def check_store(
    store: Store,
    progress: Progress | None = None,
    *,
    kept: KeptCheckpoints | None = None,
    witnesses: Sequence[VerifierKey] = (),
    since: Frontier | None = None,
    keep: Callable[[Frontier], None] | None = None,
    reader: Reader | None = None,
    in_flight: int = _IN_FLIGHT,
) -> Report:
    """Recomputes the log that is stored.

    Args:
        store: where it is.
        progress: called while it reads.
        kept: checkpoints that were cosigned and stamped.
        witnesses: those whose cosignatures are verified.
        since: the right edge over what an earlier check has found good: reading goes on from there, once the stored
            tree still has it.
        keep: called with the right edge over what is good so far.
        reader: reads the entries; by default here.
        in_flight: batches of 1,024 entries that are read ahead.

    Raises:
        Unavailable: the database cannot be reached, or is lost on the way.
    """
    identity, published, tree = await store.identity(), await store.published(), await store.tree()
    checking = _Checking(store, tree, kept, keep, reader or partial(read_leaves, store), in_flight)
    fault = None
    try:
        if identity is None:
            raise _FaultFound(StoreFault("the database holds no log", "tree", ""))
        _check_signature(published, identity, tree)
        checking.keys = (identity, tuple(witnesses))
        if since:
            await checking.go_on_from(since)
        await checking.run(published, progress)
    except _FaultFound as error:
        fault = error.fault
    edge, size = checking.edge, published.size if published else 0
    return Report(checking.start, edge.size, tree.size, size, checking.checkpoints, edge, fault)


class _Batch(NamedTuple):
    """Neighbouring entries as they are stored, the nodes above that they complete, and checkpoints of their sizes."""

    start: int
    read: ReadLeaves
    nodes: TileHashes
    kept: Sequence[KeptCheckpoint]


class _Checking:
    def __init__(
        self,
        store: Store,
        tree: StoredTree,
        kept: KeptCheckpoints | None,
        keep: Callable[[Frontier], None] | None,
        reader: Reader,
        in_flight: int,
    ) -> None:
        self.edge = Frontier.empty()
        self.start = 0
        self.checkpoints = 0
        self.keys: tuple[LogIdentity, tuple[VerifierKey, ...]] | None = None
        self._store = store
        self._tree = tree
        self._kept = kept
        self._keep = keep or (lambda edge: None)
        self._reader = reader
        self._in_flight = in_flight

    async def go_on_from(self, since: Frontier) -> None:
        """Begins where an earlier check ended, once the stored hashes still lead there."""
        if since.size > self._tree.size:
            reason = f"the tree has {self._tree.size} entries, and {since.size} were checked before"
            raise _FaultFound(StoreFault(reason, "tree", "", "size", None, str(since.size), str(self._tree.size)))
        stored = frontier(since.size, await self._hashes(plan_frontier(since.size)))
        if stored != since:
            reason = f"the {since.size} entries that were checked before have another tree now"
            compared = (since.root().hex(), stored.root().hex())
            raise _FaultFound(
                StoreFault(reason, "entry, node", f"leaf_index below {since.size}", None, None, *compared)
            )
        self.edge, self.start = since, since.size

    async def run(self, published: SignedCheckpoint | None, progress: Progress | None) -> None:
        """Reads every entry; looks at the root where the checkpoint is, where others are, and at the end."""
        async for batch in self._batches():
            await self._check(batch, published)
            self._keep(self.edge)
            if progress:
                progress(self.edge.size, self._tree.size)
        if self.edge.root() != self._tree.root:
            reason = f"entries 0 to {self._tree.size - 1} have another root than the tree's row"
            raise _FaultFound(_in_tree(reason, "root", self.edge.root(), self._tree.root))
        try:
            self._tree.verified()
        except BrokenLog as error:
            raise _FaultFound(_in_tree(error.message, "frontier", self.edge.to_bytes(), self._tree.frontier)) from None

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _batches(self) -> AsyncIterator[_Batch]:
        """The rest of the log, some of it read ahead."""
        starts = iter(range(self.edge.size - self.edge.size % _AT_A_TIME, self._tree.size, _AT_A_TIME))
        ahead: deque[asyncio.Task[_Batch]] = deque()
        try:
            for start in starts:
                first, end = max(start, self.edge.size), min(start + _AT_A_TIME, self._tree.size)
                if first < end:
                    ahead.append(asyncio.create_task(self._batch(first, end)))
                if len(ahead) == self._in_flight:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _batch(self, start: int, end: int) -> _Batch:
        spans = [HashRange(level, start >> 8 * level, end >> 8 * level) for level in range(1, 8)]
        read = await self._lost(start, end, self._reader(start, end))
        nodes = await self._hashes([span for span in spans if span.start < span.end])
        return _Batch(start, read, nodes, await self._kept.between(start, end) if self._kept else ())

    async def _lost(self, start: int, end: int, reading: Awaitable[_Read]) -> _Read:
        """What is read of entries; where some are missing that is the fault."""
        try:
            return await reading
        except DataLoss as error:
            raise _FaultFound(StoreFault(error.message, "entry", f"leaf_index {start} to {end - 1}")) from None

    async def _hashes(self, ranges: Sequence[HashRange]) -> TileHashes:
        if not ranges:
            return {}
        try:
            return await self._store.hashes(ranges)
        except DataLoss as error:
            rows = ", ".join(f"level {each.level}, node_index {each.start} to {each.end - 1}" for each in ranges)
            raise _FaultFound(StoreFault(error.message, "node", rows)) from None

    # --- checking ----------------------------------------------------------------------------------------------------

    async def _check(self, batch: _Batch, published: SignedCheckpoint | None) -> None:
        if batch.read.wrong is not None:
            raise _FaultFound(await self._entry_fault(batch.read.wrong))
        whole = batch.read.hashes
        hashes = [whole[at : at + HASH_SIZE] for at in range(0, len(whole), HASH_SIZE)]
        heads = {each.checkpoint.size for each in batch.kept}
        end = batch.start + len(hashes)
        if published and batch.start < published.size <= end:
            heads.add(published.size)
        for size in (*sorted(heads), end):
            extension = extend(self.edge, hashes[self.edge.size - batch.start : size - batch.start])
            for node in extension.completed:
                _compare(node, batch.nodes)
            self.edge = extension.new
            self._check_heads(size, [each for each in batch.kept if each.checkpoint.size == size], published)

    def _check_heads(self, size: int, kept: Sequence[KeptCheckpoint], published: SignedCheckpoint | None) -> None:
        if published and published.size == size and self.edge.root() != published.root:
            reason = f"entries 0 to {size - 1} have another root than the published checkpoint of that size"
            compared = (self.edge.root().hex(), published.root.hex())
            raise _FaultFound(StoreFault(reason, "checkpoint", "", "root", None, *compared))
        for each in kept:
            self._check_kept(each)

    def _check_kept(self, kept: KeptCheckpoint) -> None:
        checkpoint, row = kept.checkpoint, f"size {kept.checkpoint.size}"
        if self.keys is None:
            return
        identity, witnesses = self.keys
        try:
            signed = SignedCheckpoint.verified(Note.parse(checkpoint.note), identity)
            verify(Note.parse(checkpoint.note), [identity.vkey, *witnesses])
        except NoteError as error:
            raise _FaultFound(
                StoreFault(f"a kept checkpoint does not verify: {error}", kept.table, row, "note")
            ) from None
        if signed != checkpoint:
            reason = "a kept checkpoint's row does not say what its signed note says"
            raise _FaultFound(StoreFault(reason, kept.table, row))
        if checkpoint.root != self.edge.root():
            reason = f"entries 0 to {checkpoint.size - 1} have another root than the kept checkpoint of that size"
            compared = (self.edge.root().hex(), checkpoint.root.hex())
            raise _FaultFound(StoreFault(reason, kept.table, row, "root", None, *compared))
        if kept.stamp and (wrong := _stamp_fault(checkpoint, kept.stamp)):
            raise _FaultFound(StoreFault(wrong, kept.table, row, "timestamp"))
        self.checkpoints += 1

    async def _entry_fault(self, index: int) -> StoreFault:
        """Which is wrong of an entry and its leaf hash: the one that does not lead to the hashes above."""
        first = index - index % WIDTH
        end = min(first + WIDTH, self._tree.size)
        leaves = await self._lost(first, end, self._store.entries(first, end))
        stored, read = [leaf.hash for leaf in leaves], [leaf_hash(leaf.entry) for leaf in leaves]
        leaf, row = leaves[index - first], f"leaf_index {index}"
        above = await self._above(first, len(leaves))
        if above(read):
            offset = next(at for at in range(HASH_SIZE) if leaf.hash[at] != read[index - first][at])
            reason = f"the stored leaf hash of entry {index} is not that of the entry, which leads to the tree's hashes"
            compared = (read[index - first].hex(), leaf.hash.hex())
            return StoreFault(reason, "entry", row, "leaf_hash", offset, *compared, index)
        column = "body" if above(stored) else None
        reason = f"entry {index} is not what was logged: its leaf hash is not the stored one"
        return StoreFault(reason, "entry", row, column, None, leaf.hash.hex(), read[index - first].hex(), index)

    async def _above(self, first: int, count: int) -> Callable[[Sequence[bytes]], bool]:
        """Tells whether a bundle's leaf hashes lead to what is stored above it."""
        if count == WIDTH:
            node = await self._hashes([HashRange(1, first // WIDTH, first // WIDTH + 1)])
            return lambda leaves: root_of_full_tile(leaves) == node[1, first // WIDTH]
        before = frontier(first, await self._hashes(plan_frontier(first)))
        return lambda leaves: extend(before, leaves).new.root() == self._tree.root


def _compare(node: TileHash, stored: TileHashes) -> None:
    found = stored[node.level, node.index]
    if found == node.hash:
        return
    first = node.index << 8 * node.level
    last = first + (1 << 8 * node.level) - 1
    offset = next(at for at in range(HASH_SIZE) if found[at] != node.hash[at])
    reason = f"the stored hash of level {node.level} and index {node.index} is not that of entries {first} to {last}"
    row = f"level {node.level}, node_index {node.index}"
    raise _FaultFound(StoreFault(reason, "node", row, "hash", offset, node.hash.hex(), found.hex()))


def _in_tree(reason: str, column: str, computed: bytes, stored: bytes) -> StoreFault:
    same = min(len(computed), len(stored))
    offset = next((at for at in range(same) if computed[at] != stored[at]), same)
    return StoreFault(reason, "tree", "", column, offset, computed.hex(), stored.hex())


def _stamp_fault(checkpoint: SignedCheckpoint, stamp: Stamp) -> str | None:
    """What is wrong with the stamp on a checkpoint, as far as it says itself; whose it is is for who relies on it."""
    try:
        info = read_granted(stamp.response).info
    except ValueError as error:
        return f"the timestamp over a kept checkpoint {error}"
    if info.imprint.digest != sha256(Note.parse(checkpoint.note).text.encode()).digest():
        return "the timestamp over a kept checkpoint is over other data"
    return (
        None if info.time == stamp.time else "the timestamp over a kept checkpoint is of another time than its row says"
    )


def _check_signature(published: SignedCheckpoint | None, identity: LogIdentity, tree: StoredTree) -> None:
    if published is None:
        return
    try:
        signed = SignedCheckpoint.verified(Note.parse(published.note), identity)
    except NoteError as error:
        reason = f"the published checkpoint does not verify: {error}"
        raise _FaultFound(StoreFault(reason, "checkpoint", "", "note")) from None
    if signed != published:
        reason = "the published checkpoint's row does not say what its signed note says"
        raise _FaultFound(StoreFault(reason, "checkpoint", ""))
    if published.size > tree.size:
        reason = f"the published checkpoint has {published.size} entries, and the tree only {tree.size}"
        raise _FaultFound(StoreFault(reason, "checkpoint", "", "size"))
