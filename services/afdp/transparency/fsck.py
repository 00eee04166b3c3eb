"""Checking the stored log: the whole tree recomputed from its entries, beside every hash that is stored.

The log is read once, from the left, in memory that does not grow with it, and nothing is locked: entries that are
appended meanwhile are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afdp.errors import DataLoss
from afdp.formats.merkle import Frontier, HashRange, TileHash, extend, leaf_hash
from afdp.formats.note import Note, NoteError
from afdp.transparency.service import Store
from afdp.transparency.values import BrokenLog, Leaf, LogIdentity, SignedCheckpoint, StoredTree

# Of entries that may have 65,535 bytes each.
_AT_A_TIME = 1024

Progress = Callable[[int, int], None]
"""Called with the entries checked so far and the log's size."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: how many entries are right, of how many, and the first fault in one sentence."""

    checked: int
    size: int
    published: int
    fault: str | None


class _Fault(Exception):
    """The first thing that is wrong."""


async def check_store(store: Store, progress: Progress | None = None) -> Report:
    """Recomputes the log that is stored.

    Raises:
        Unavailable: the database cannot be reached, or is lost on the way.
    """
    identity, published, tree = await store.identity(), await store.published(), await store.tree()
    checking = _Checking(store, tree)
    fault = None
    try:
        if identity is None:
            raise _Fault("the database holds no log")
        _check_signature(published, identity, tree)
        await checking.run(published, progress)
    except _Fault as error:
        fault = str(error)
    return Report(checking.edge.size, tree.size, published.size if published else 0, fault)


class _Checking:
    def __init__(self, store: Store, tree: StoredTree) -> None:
        self.edge = Frontier.empty()
        self._store = store
        self._tree = tree

    async def run(self, published: SignedCheckpoint | None, progress: Progress | None) -> None:
        """Reads every entry; looks at the root twice: where the checkpoint is, and at the end."""
        if published:
            await self._read_to(published.size, progress)
            if self.edge.root() != published.root:
                raise _Fault(
                    f"entries 0 to {published.size - 1} have another root than the published checkpoint of that size"
                )
        await self._read_to(self._tree.size, progress)
        if self.edge.root() != self._tree.root:
            raise _Fault(f"entries 0 to {self._tree.size - 1} have another root than the tree's row")
        try:
            self._tree.verified()
        except BrokenLog as error:
            raise _Fault(error.message) from None

    async def _read_to(self, size: int, progress: Progress | None) -> None:
        while self.edge.size < size:
            start = self.edge.size
            entries = await self._read(start, min(start + _AT_A_TIME, size))
            hashes = [_checked(index, leaf) for index, leaf in enumerate(entries, start)]
            extension = extend(self.edge, hashes)
            await self._compare(extension.completed)
            self.edge = extension.new
            if progress:
                progress(self.edge.size, self._tree.size)

    async def _read(self, start: int, end: int) -> Sequence[Leaf]:
        try:
            return await self._store.entries(start, end)
        except DataLoss as error:
            raise _Fault(error.message) from None

    async def _compare(self, completed: Sequence[TileHash]) -> None:
        ranges = [HashRange(each.level, each.index, each.index + 1) for each in completed]
        try:
            stored = await self._store.hashes(ranges)
        except DataLoss as error:
            raise _Fault(error.message) from None
        for each in completed:
            if stored[each.level, each.index] != each.hash:
                first = each.index << 8 * each.level
                last = first + (1 << 8 * each.level) - 1
                raise _Fault(
                    f"the stored hash of level {each.level} and index {each.index} "
                    f"is not that of entries {first} to {last}"
                )


def _checked(index: int, leaf: Leaf) -> bytes:
    if leaf_hash(leaf.entry) != leaf.hash:
        raise _Fault(f"entry {index} is not what was logged: its leaf hash is not the stored one")
    return leaf.hash


def _check_signature(published: SignedCheckpoint | None, identity: LogIdentity, tree: StoredTree) -> None:
    if published is None:
        return
    try:
        signed = SignedCheckpoint.verified(Note.parse(published.note), identity)
    except NoteError as error:
        raise _Fault(f"the published checkpoint does not verify: {error}") from None
    if signed != published:
        raise _Fault("the published checkpoint's row does not say what its signed note says")
    if published.size > tree.size:
        raise _Fault(f"the published checkpoint has {published.size} entries, and the tree only {tree.size}")
