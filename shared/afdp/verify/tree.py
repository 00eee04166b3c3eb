"""A log's tree as its signed checkpoint vouches for it: every hash is checked against the root before it is used.

From the root downwards: the right edge's tiles together lead to the root, and each full tile to its own hash in the
tile above. So a proof or an entry that is given here is the log's, and what it served wrongly is named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from afdp.formats.merkle import (
    EMPTY_ROOT,
    Frontier,
    HashRange,
    consistency_proof,
    frontier,
    inclusion_proof,
    plan_consistency,
    plan_frontier,
    plan_inclusion,
    verify_consistency,
)
from afdp.formats.note import Checkpoint
from afdp.formats.tiles import WIDTH, TileRef, levels_at, partial_width, tiles_at, width_at
from afdp.verify.tile_files import (
    CHECKPOINT,
    BrokenLogError,
    Fault,
    TileSource,
    read_bundle,
    read_tile,
    require_growth,
    subtree_root,
)

_KEPT_TILES = 64


class VerifiedTree:
    """The tree of one checkpoint; every method raises `BrokenLogError` for what does not lead to its root."""

    def __init__(self, source: TileSource, checkpoint: Checkpoint, served: int | None = None) -> None:
        """The tree of a checkpoint.

        Args:
            source: the log's files.
            checkpoint: the newest, or an older one.
            served: the log's size now, where the checkpoint is an older one: its partial tiles may have been dropped.
        """
        self.checkpoint = checkpoint
        self._served = checkpoint.size if served is None else served
        self._source = source
        self._tiles: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._edge: dict[int, list[bytes]] | None = None

    def consistency_proof(self, old: int) -> tuple[bytes, ...]:
        """The consistency proof from an older size (RFC 9162, section 2.1.4.1)."""
        size = self.checkpoint.size
        return consistency_proof(old, size, self._hashes(plan_consistency(old, size)))

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The inclusion proof of an entry (RFC 9162, section 2.1.3.1)."""
        size = self.checkpoint.size
        return inclusion_proof(index, size, self._hashes(plan_inclusion(index, size)))

    def frontier(self, size: int) -> Frontier:
        """The right edge of the tree as it was at a size, which leads to the root it had."""
        return frontier(size, self._hashes(plan_frontier(size)))

    def require_follows(self, old: Checkpoint) -> None:
        """Checks that this tree goes on from that of an older checkpoint.

        Raises:
            BrokenLogError: it does not: the log has forked.
        """
        require_growth(old, self.checkpoint)
        if self.frontier(old.size).root() != old.root:
            reason = (
                f"the tree does not go on from the one of {old.size} entries that was signed before: the log has forked"
            )
            root_at = len(f"{self.checkpoint.origin}\n{self.checkpoint.size}\n".encode())
            raise BrokenLogError(Fault(CHECKPOINT, root_at, reason))
        proof = self.consistency_proof(old.size)  # the same said in the form that others take
        verify_consistency(old.size, old.root, self.checkpoint.size, self.checkpoint.root, proof)

    def leaf(self, index: int) -> bytes:
        """An entry's leaf hash."""
        return self._hash(0, index)

    def find(self, leaf: bytes, progress: Callable[[int, int], None] | None = None) -> int | None:
        """Where an entry with this leaf hash is: a log has no index, so every tile of leaf hashes may be read."""
        size = self.checkpoint.size
        files = self._source.read_all(ref.path() for ref in tiles_at(size))
        for ref, data in zip(tiles_at(size), files, strict=True):
            row = self._tile(0, ref.index, data)
            if leaf in row:
                return ref.start() + row.index(leaf)
            if progress:
                progress(ref.start() + ref.width, size)
        return None

    def entries(self, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """The entries from `start` up to, not including, `end`: some at a time, with the index of the first."""
        bundles = range(start // WIDTH, -(-end // WIDTH))

        def refs() -> Iterator[TileRef]:
            return (TileRef(None, index, width_at(0, index, self._served)) for index in bundles)

        files = self._source.read_all(path for ref in refs() for path in (ref.path(), _leaves(ref).path()))
        for ref in refs():
            file, tile = next(files), next(files)
            stored = self._tile(0, ref.index, tile)
            read = read_bundle(self._source, ref, file, stored)
            if read.leaves[: len(stored)] != stored:
                at = next(at for at, leaf in enumerate(stored) if leaf != read.leaves[at])
                raise BrokenLogError(read.fault(at, stored[at]))
            first = max(start - ref.start(), 0)
            yield ref.start() + first, read.entries[first : end - ref.start()]

    def _hashes(self, ranges: Iterable[HashRange]) -> dict[tuple[int, int], bytes]:
        found = {}
        for level, start, end in ranges:
            for index in range(start, end):
                found[level, index] = self._hash(level, index)
        return found

    def _hash(self, level: int, index: int) -> bytes:
        return self._tile(level, index // WIDTH)[index % WIDTH]

    def _tile(self, level: int, index: int, data: bytes | None = None) -> list[bytes]:
        """A tile, checked; those used last are kept."""
        if width_at(level, index, self.checkpoint.size) < WIDTH:
            return self._right_edge()[level]
        if kept := self._tiles.get((level, index)):
            self._tiles.move_to_end((level, index))
            return kept
        ref = TileRef(level, index)
        above = self._hash(level + 1, index)
        row = read_tile(self._source, ref, self._source.read(ref.path()) if data is None else data)
        if (root := subtree_root(row)) != above:
            reason = "the hashes do not lead to that of the tile above, which leads to the checkpoint's root"
            raise BrokenLogError(Fault(ref.path(), 0, reason, above.hex(), root.hex()))
        self._tiles[level, index] = row
        if len(self._tiles) > _KEPT_TILES:
            self._tiles.popitem(last=False)
        return row

    def _right_edge(self) -> dict[int, list[bytes]]:
        """The tiles that are not full, by level: together they lead to the root."""
        if self._edge is None:
            size, root = self.checkpoint.size, self.checkpoint.root
            edge, paths = {}, []
            for level in range(levels_at(size)):
                if width := partial_width(level, size):
                    index = (size >> 8 * level) // WIDTH
                    ref = TileRef(level, index, width_at(level, index, self._served))
                    edge[level] = read_tile(self._source, ref, self._source.read(ref.path()))[:width]
                    paths.append(ref.path())
            computed = _root_of(size, edge)
            if computed != root:
                reason = f"the tiles of the right edge ({', '.join(paths)}) do not lead to the checkpoint's root"
                raise BrokenLogError(Fault(paths[0] if paths else CHECKPOINT, None, reason, root.hex(), computed.hex()))
            self._edge = edge
        return self._edge


def _root_of(size: int, edge: dict[int, list[bytes]]) -> bytes:
    if not size:
        return EMPTY_ROOT
    hashes = {
        (level, (size >> 8 * level) // WIDTH * WIDTH + at): each
        for level, row in edge.items()
        for at, each in enumerate(row)
    }
    return frontier(size, hashes).root()


def _leaves(bundle: TileRef) -> TileRef:
    return TileRef(0, bundle.index, bundle.width)
