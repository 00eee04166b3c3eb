"""Checking a whole log: its tree recomputed from its entries, beside what it serves (C2SP tlog-tiles).

The log is read once, from the left, in memory that does not grow with it. What is compared: every entry with its leaf
hash in the tiles, every tile hash with the one computed, the root with the checkpoint's, the checkpoint's signature
with the log's key, and the cosignatures with the keys of the witnesses that are known.

Full bundles are checked in segments, each by itself, by as many processes as there are; what is left of a bundle is one
hash, and the tree over these is grown here. What was checked may be kept, to go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from afdp.formats.merkle import HASH_SIZE, Frontier, TileHash, extend, frontier, plan_frontier
from afdp.formats.note import Checkpoint, VerifierKey
from afdp.formats.tiles import WIDTH, TileRef, encode_tile, partial_width
from afdp.verify.tile_files import (
    CHECKPOINT,
    VKEY,
    BrokenLogError,
    Bundle,
    Fault,
    Head,
    TileSource,
    first_difference,
    read_bundle,
    read_head,
    read_tile,
    require_growth,
    subtree_root,
)
from afdp.verify.tree import VerifiedTree

__all__ = [
    "CHECKPOINT", "VKEY", "Checked", "Fault", "LogReport", "Segment", "SegmentResult", "TileSource", "check_log",
    "check_segment",
]  # fmt: skip

_SEGMENT = 32
"""Full bundles in a segment: 8,192 entries, a few megabytes."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found good, kept to go on from there.

    Attributes:
        head: the largest checkpoint that was seen.
        read: the right edge over the entries that were read up to now, which their tiles agreed with.
        whole: whether that is all of the head's tree, and its root is the head's.
    """

    head: Head
    read: Frontier
    whole: bool


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found.

    Attributes:
        head: the checkpoint, if it could be read and is signed.
        start: entries that had been read before and were not read again.
        entries: how many are read by now, with those of before.
        fault: the first.
        served: the checkpoint as it came, whether it is good or not.
        contradicts: the checkpoint seen before, where the one that is served does not go on from it.
    """

    head: Head | None
    start: int
    entries: int
    tiles: int
    fault: Fault | None
    served: bytes | None = None
    contradicts: Head | None = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The head's."""
        return self.head.checkpoint if self.head else None


@dataclass(frozen=True, slots=True)
class Segment:
    """Full bundles that stand side by side: the first one's index, and how many."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first tile hash that is not the one computed; for a leaf's hash, the entry that it was computed from."""

    tile: Fault
    entry: Fault | None = None


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What became of a segment.

    Attributes:
        read: the root over each bundle's entries.
        stored: the root over each tile's leaf hashes.
        difference: between entries and leaf hashes.
        broken: where reading could not go on.
    """

    read: list[bytes]
    stored: list[bytes]
    difference: Difference | None
    broken: Fault | None


Checking = Callable[[Iterable[Segment]], Iterator[SegmentResult]]
"""Runs `check_segment` for each, in their order; it may run some at a time."""


def check_segment(source: TileSource, segment: Segment) -> SegmentResult:
    """Checks the bundles of a segment beside their tiles of leaf hashes."""
    refs = [TileRef(None, index) for index in range(segment.first, segment.first + segment.count)]
    result = SegmentResult([], [], None, None)
    difference = None
    try:
        for ref, bundle, tile in _pairs(source, refs):
            stored = read_tile(source, _leaves(ref), tile)
            read = read_bundle(source, ref, bundle, stored)
            difference = difference or _difference(read, stored)
            result.read.append(subtree_root(read.leaves))
            result.stored.append(result.read[-1] if read.leaves == stored else subtree_root(stored))
    except BrokenLogError as wrong:
        return SegmentResult(result.read, result.stored, difference, wrong.fault)
    return SegmentResult(result.read, result.stored, difference, None)


def check_log(
    source: TileSource,
    vkey: VerifierKey,
    progress: Callable[[int, int], None] | None = None,
    *,
    witnesses: Sequence[VerifierKey] = (),
    since: Checked | None = None,
    keep: Callable[[Checked], None] | None = None,
    checking: Checking | None = None,
) -> LogReport:
    """Reads and recomputes a whole log.

    Args:
        source: the log's files.
        vkey: the log's key.
        progress: called with the entries read so far and the log's size.
        witnesses: their cosignatures are verified where the checkpoint has them.
        since: what was kept of an earlier check: reading goes on from there, once the log still leads there.
        keep: called with what is good so far, now and then and at the end.
        checking: runs the checks of segments; by default here, one after the other.

    Raises:
        Unavailable: the log cannot be reached any more; what `keep` was given holds.
    """
    served = None
    check = None
    contradicts = since.head if since else None  # until the one that is served was found to go on from it
    try:
        served = source.read(CHECKPOINT)
        head = read_head(served, vkey, witnesses)
        check = _Check(source, head, keep or (lambda kept: None))
        if since:
            check.go_on_from(since)
        contradicts = None
        for done in check.run(checking or partial(map, partial(check_segment, source))):
            if progress:
                progress(done, head.checkpoint.size)
        fault = check.verdict()
        if fault is None:
            check.keep_whole()
        elif since and fault.path == CHECKPOINT:
            contradicts = since.head
    except BrokenLogError as wrong:
        fault = check.first(wrong.fault) if check else wrong.fault
    if check is None:
        return LogReport(None, 0, 0, 0, fault, served, contradicts)
    return LogReport(check.head, check.start, check.done, check.tiles, fault, served, contradicts)


@dataclass(slots=True)
class _Check:
    """The tree from the entries, as far as they were read.

    While entries and tiles agree there is one tree. From their first difference on a second one grows from the leaf
    hashes in the tiles: which of the two leads to the checkpoint's root tells whether an entry or a tile is wrong.

    Up to the last full bundle `read` and `stored` are right edges over the roots of bundles, not over entries.
    """

    source: TileSource
    head: Head
    keep: Callable[[Checked], None]
    read: Frontier = field(default_factory=Frontier.empty)
    stored: Frontier | None = None
    start: int = 0
    done: int = 0
    tiles: int = 0
    difference: Difference | None = None
    rows: dict[int, list[bytes]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.head.checkpoint.size

    # --- going on from what was kept ---------------------------------------------------------------------------------

    def go_on_from(self, since: Checked) -> None:
        """Begins where an earlier check ended, once this log still is the one that was read then.

        Raises:
            BrokenLogError: it is not.
        """
        require_growth(since.head.checkpoint, self.head.checkpoint)
        kept = since.read
        stored = self._edge_in_tiles(kept.size)
        if stored != kept:
            at = next(at for at, pair in enumerate(zip(stored.hashes, kept.hashes, strict=True)) if pair[0] != pair[1])
            reason = f"the {kept.size} entries that were read before have another tree now"
            ref = self._tile_of(kept.size, at)
            raise BrokenLogError(Fault(ref.path(), 0, reason, kept.hashes[at].hex(), stored.hashes[at].hex()))
        if not since.whole:  # what it was kept of is not read to its end: nothing else leads to the checkpoint of then
            VerifiedTree(self.source, self.head.checkpoint).require_follows(since.head.checkpoint)
        bundles, rest = divmod(kept.size, WIDTH)
        whole = Frontier(bundles, kept.hashes[: bundles.bit_count()])
        if rest:
            self._check_rest(extend_bundles(whole), kept, TileRef(None, bundles, self._width(bundles)), rest)
        self.read, self.start, self.done = whole, bundles * WIDTH, bundles * WIDTH

    def _edge_in_tiles(self, size: int) -> Frontier:
        """The right edge at a size as the log's tiles have it now; what it takes of full tiles' rows is kept."""
        hashes = {}
        for level, start, end in plan_frontier(size):
            index = start // WIDTH
            width = min(WIDTH, (self.size >> 8 * level) - index * WIDTH)
            row = self._tile(TileRef(level, index, width), None)
            hashes.update({(level, at): row[at - index * WIDTH] for at in range(start, end)})
            if level:
                self.rows[level] = row[: end - index * WIDTH]
        return frontier(size, hashes)

    def _check_rest(self, edge: Frontier, kept: Frontier, ref: TileRef, count: int) -> None:
        """The entries of the bundle that was not full then are those that were read."""
        stored = self._tile(_leaves(ref), None)
        read = read_bundle(self.source, ref, self.source.read(ref.path()), stored)
        if extend(edge, read.leaves[:count]).new != kept:
            wrong = (at for at in range(count) if read.leaves[at] != stored[at])
            raise BrokenLogError(read.fault(at := next(wrong, 0), stored[at]))

    def _width(self, bundle: int) -> int:
        return min(WIDTH, self.size - bundle * WIDTH)

    @staticmethod
    def _tile_of(size: int, hash_number: int) -> TileRef:
        """The tile that a hash of the right edge is computed from."""
        bits = [at for at in reversed(range(size.bit_length())) if size >> at & 1]
        level = bits[hash_number] // 8
        return TileRef(level, (size >> 8 * level) // WIDTH, partial_width(level, size))

    # --- reading -----------------------------------------------------------------------------------------------------

    def run(self, checking: Checking) -> Iterator[int]:
        """Reads every file; yields how many entries were read."""
        for result in checking(self._segments()):
            self._grow(result)
            yield self.done
        bundles = self.size // WIDTH
        self.read = extend_bundles(self.read)
        self.stored = self.stored and extend_bundles(self.stored)
        if self.size % WIDTH:
            self._read_rest(TileRef(None, bundles, self.size % WIDTH))
            yield self.done
        for level in sorted(self.rows):
            if row := self.rows[level]:
                self._compare(TileRef(level, (self.size >> 8 * level) // WIDTH, len(row)), encode_tile(row))

    def _segments(self) -> Iterator[Segment]:
        end = self.size // WIDTH
        for first in range(self.start // WIDTH, end, _SEGMENT):
            yield Segment(first, min(_SEGMENT, end - first))

    def _grow(self, result: SegmentResult) -> None:
        before = self.read
        if self.difference is None and result.difference:
            self.difference, self.stored = result.difference, self.read
        extension = extend(self.read, result.read)
        if self.stored is not None:
            self.stored = extend(self.stored, result.stored).new
        self.read = extension.new
        self.done += len(result.read) * WIDTH
        self.tiles += len(result.read)
        leaves = [TileHash(0, at, each) for at, each in enumerate(result.read, before.size)]
        for each in (*leaves, *extension.completed):
            self._complete(TileHash(each.level + 1, each.index, each.hash))
        if result.broken:
            raise BrokenLogError(result.broken)
        if self.difference is None:
            self.keep(Checked(self.head, extend_bundles(self.read), whole=False))

    def _complete(self, node: TileHash) -> None:
        row = self.rows.setdefault(node.level, [])
        row.append(node.hash)
        if len(row) == WIDTH:
            self._compare(TileRef(node.level, node.index // WIDTH), encode_tile(row))
            row.clear()

    def _read_rest(self, ref: TileRef) -> None:
        """The bundle that is not full."""
        (_, bundle, tile), *_ = _pairs(self.source, [ref])
        stored = self._tile(_leaves(ref), tile)
        read = read_bundle(self.source, ref, bundle, stored)
        if self.difference is None and (difference := _difference(read, stored)):
            self.difference, self.stored = difference, self.read
        self.read = extend(self.read, read.leaves).new
        if self.stored is not None:
            self.stored = extend(self.stored, stored).new
        self.done += ref.width

    def _compare(self, ref: TileRef, computed: bytes) -> None:
        tile = encode_tile(self._tile(ref, self.source.read(ref.path())))
        if self.difference is None and tile != computed:
            self.difference = Difference(_tile_fault(ref, tile, computed))

    def _tile(self, ref: TileRef, data: bytes | None) -> list[bytes]:
        self.tiles += 1
        return read_tile(self.source, ref, self.source.read(ref.path()) if data is None else data)

    # --- what was found ----------------------------------------------------------------------------------------------

    def verdict(self) -> Fault | None:
        """What is wrong, now that all was read."""
        root = self.head.checkpoint.root
        entries_hold = self.read.root() == root
        if self.difference is None:
            if entries_hold:
                return None
            checkpoint = self.head.checkpoint
            root_at = len(f"{checkpoint.origin}\n{checkpoint.size}\n".encode())
            reason = "the root hash is not that of the entries and tiles, which agree"
            return Fault(CHECKPOINT, root_at, reason, self.read.root().hex(), root.hex())
        tile, entry = self.difference.tile, self.difference.entry
        if entries_hold:
            return _because(tile, "the hash is not that of the entries, which lead to the checkpoint's root")
        if entry and self.stored and self.stored.root() == root:
            return entry
        beside = f" (beside {entry.path})" if entry else ""
        return _because(
            tile, f"the hash is not that of the entries{beside}, and neither leads to the checkpoint's root"
        )

    def first(self, broken: Fault) -> Fault:
        """What is wrong first, where reading could not go on."""
        if self.difference is None or broken.path == CHECKPOINT:
            return broken
        entry = self.difference.entry
        beside = f" (beside {entry.path})" if entry else ""
        reason = f"the hash is not that of the entries{beside}; which is right is not known, since reading ended at"
        return _because(self.difference.tile, f"{reason} {broken}")

    def keep_whole(self) -> None:
        """Keeps all of this tree as checked."""
        self.keep(Checked(self.head, self.read, whole=True))


def extend_bundles(bundles: Frontier) -> Frontier:
    """A right edge over the roots of full bundles as that over their entries: the hashes are the same."""
    return Frontier(bundles.size * WIDTH, bundles.hashes)


def _pairs(source: TileSource, bundles: Sequence[TileRef]) -> Iterator[tuple[TileRef, bytes | None, bytes | None]]:
    """Each bundle with its file, and with the file of its leaf hashes."""
    files = source.read_all(path for ref in bundles for path in (ref.path(), _leaves(ref).path()))
    for ref in bundles:
        yield ref, next(files), next(files)


def _difference(read: Bundle, stored: Sequence[bytes]) -> Difference | None:
    if read.leaves == stored:
        return None
    at = next(at for at, pair in enumerate(zip(read.leaves, stored, strict=True)) if pair[0] != pair[1])
    tile = _tile_fault(_leaves(read.ref), encode_tile(stored), encode_tile(read.leaves))
    return Difference(tile, read.fault(at, stored[at]))


def _tile_fault(ref: TileRef, tile: bytes, computed: bytes) -> Fault:
    offset = first_difference(tile, computed)
    whole = slice(offset - offset % HASH_SIZE, offset - offset % HASH_SIZE + HASH_SIZE)
    entry = None if ref.level else ref.start() + offset // HASH_SIZE
    return Fault(ref.path(), offset, "", computed[whole].hex(), tile[whole].hex(), entry)


def _because(fault: Fault, reason: str) -> Fault:
    return Fault(fault.path, fault.offset, reason, fault.expected, fault.found, fault.entry)


def _leaves(bundle: TileRef) -> TileRef:
    return TileRef(0, bundle.index, bundle.width)
