"""Checking a whole log: its tree recomputed from its entries, beside what it serves (C2SP tlog-tiles).

The log is read once, from the left, in memory that does not grow with it. What is compared: every entry with its leaf
hash in the tiles, every tile hash with the one computed, the root with the checkpoint's, the checkpoint's signature
with the log's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from afdp.formats.merkle import HASH_SIZE, Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint, Note, NoteError, VerifierKey, verify
from afdp.formats.tiles import WIDTH, TileRef, encode_tile, levels_at, tiles_at

CHECKPOINT, VKEY = "checkpoint", "vkey"


class TileSource(Protocol):
    """Where a log's files are: a folder, a URL."""

    def read(self, path: str) -> bytes | None:
        """The file at a path under the log's prefix; None where there is none."""

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """The files at these paths, in their order; it may read ahead."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong.

    Attributes:
        path: the file, under the log's prefix.
        offset: the first byte in it that is wrong, or where the wrong part begins; None where the file is missing.
        reason: one sentence.
    """

    path: str
    offset: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.path}{'' if self.offset is None else f', byte {self.offset}'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found: the checkpoint, if it could be read and is signed; how much was read; the first fault."""

    checkpoint: Checkpoint | None
    entries: int
    tiles: int
    fault: Fault | None


class _BrokenLogError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def check_log(source: TileSource, vkey: VerifierKey, progress: Callable[[int, int], None] | None = None) -> LogReport:
    """Reads and recomputes a whole log.

    Args:
        source: the log's files.
        vkey: the log's key.
        progress: called with the entries read so far and the log's size.
    """
    checkpoint = None
    recomputation = None
    try:
        checkpoint, data = _checkpoint(source, vkey)
        recomputation = _Recomputation(source, checkpoint.size)
        for done in recomputation.run():
            if progress:
                progress(done, checkpoint.size)
        fault = recomputation.verdict(checkpoint, data)
    except _BrokenLogError as wrong:
        fault = wrong.fault
    if recomputation is None:
        return LogReport(checkpoint, 0, 0, fault)
    return LogReport(checkpoint, recomputation.read.size, recomputation.tiles, fault)


def _checkpoint(source: TileSource, vkey: VerifierKey) -> tuple[Checkpoint, bytes]:
    data = source.read(CHECKPOINT)
    if data is None:
        raise _BrokenLogError(Fault(CHECKPOINT, None, "is missing"))
    try:
        note = Note.parse(data)
        verify(note, [vkey])
        checkpoint = Checkpoint.parse(note.text)
    except NoteError as error:
        raise _BrokenLogError(Fault(CHECKPOINT, 0, str(error))) from error
    if checkpoint.origin != vkey.name:
        raise _BrokenLogError(Fault(CHECKPOINT, 0, f"is of {checkpoint.origin}, and the key is of {vkey.name}"))
    return checkpoint, data


@dataclass(frozen=True, slots=True)
class _Difference:
    """The first tile hash that is not the one computed; for a leaf's hash, the entry that it was computed from."""

    tile: str
    offset: int
    entry: Fault | None = None


@dataclass(slots=True)
class _Recomputation:
    """The tree from the entries, as far as they were read.

    While entries and tiles agree there is one tree. From their first difference on a second one grows from the leaf
    hashes in the tiles: which of the two leads to the checkpoint's root tells whether an entry or a tile is wrong.
    """

    source: TileSource
    size: int
    read: Frontier = field(default_factory=Frontier.empty)
    stored: Frontier | None = None
    tiles: int = 0
    difference: _Difference | None = None
    rows: dict[int, list[bytes]] = field(default_factory=dict)

    def run(self) -> Iterator[int]:
        """Reads every file; yields how many entries were read."""
        paths = (path for ref in tiles_at(self.size, None) for path in (ref.path(), _leaves(ref).path()))
        files = iter(self.source.read_all(paths))
        for ref in tiles_at(self.size, None):
            bundle, tile = next(files), next(files)
            self._grow(ref, bundle, tile)
            yield self.read.size
        for level in range(1, levels_at(self.size)):
            if row := self.rows.get(level):
                self._compare(TileRef(level, (self.size >> 8 * level) // WIDTH, len(row)), encode_tile(row))

    def verdict(self, checkpoint: Checkpoint, data: bytes) -> Fault | None:
        """What is wrong, now that all was read."""
        entries_hold = self.read.root() == checkpoint.root
        if self.difference is None:
            if entries_hold:
                return None
            root_at = len(f"{checkpoint.origin}\n{checkpoint.size}\n".encode())
            return Fault(CHECKPOINT, root_at, "the root hash is not that of the entries and tiles, which agree")
        tile = self.difference.tile, self.difference.offset
        if entries_hold:
            return Fault(*tile, "the hash is not that of the entries, which lead to the checkpoint's root")
        if self.difference.entry and self.stored and self.stored.root() == checkpoint.root:
            return self.difference.entry
        beside = f" (beside {self.difference.entry.path})" if self.difference.entry else ""
        return Fault(*tile, f"the hash is not that of the entries{beside}, and neither leads to the checkpoint's root")

    def _grow(self, ref: TileRef, bundle: bytes | None, tile: bytes | None) -> None:
        leaves = _leaves(ref)
        stored = self._hashes(leaves, tile)
        entries = self._entries(ref, bundle, stored)
        hashes = [leaf_hash(entry) for _, entry in entries]
        extension = extend(self.read, hashes)
        if self.difference is None and hashes != stored:
            at = next(at for at, each in enumerate(hashes) if each != stored[at])
            offset = at * HASH_SIZE + _first_difference(stored[at], hashes[at])
            reason = f"entry {ref.start() + at} is not what was logged: its leaf hash is not that in the tile"
            self.difference = _Difference(leaves.path(), offset, Fault(ref.path(), entries[at][0], reason))
            self.stored = self.read
        if self.stored is not None:
            self.stored = extend(self.stored, stored).new
        self.read = extension.new
        for each in extension.completed:
            row = self.rows.setdefault(each.level, [])
            row.append(each.hash)
            if len(row) == WIDTH:
                self._compare(TileRef(each.level, each.index // WIDTH), encode_tile(row))
                row.clear()

    def _entries(self, ref: TileRef, data: bytes | None, stored: list[bytes]) -> list[tuple[int, bytes]]:
        """A bundle's entries, each with where it begins in the file."""
        ref, data = self._file(ref, data)
        expected = ref.width
        entries, rest = _split(data)
        if len(entries) != expected or rest != len(data):
            # A wrong length shifts all that follows: the first entry that is not the tile's is where it began.
            wrong = (at for at, (_, entry) in enumerate(entries) if at >= len(stored) or leaf_hash(entry) != stored[at])
            first = next(wrong, None)
            offset = rest if first is None else entries[first][0]
            raise _BrokenLogError(Fault(ref.path(), offset, f"is not an entry bundle of exactly {expected} entries"))
        return entries[: len(stored)]

    def _hashes(self, ref: TileRef, data: bytes | None) -> list[bytes]:
        tile = self._tile(ref, data)
        return [tile[at : at + HASH_SIZE] for at in range(0, len(tile), HASH_SIZE)]

    def _compare(self, ref: TileRef, computed: bytes) -> None:
        tile = self._tile(ref, self.source.read(ref.path()))
        if self.difference is None and tile != computed:
            self.difference = _Difference(ref.path(), _first_difference(tile, computed))

    def _tile(self, ref: TileRef, data: bytes | None) -> bytes:
        """A tile's bytes, as many as its width asks for."""
        length = ref.width * HASH_SIZE
        ref, data = self._file(ref, data)
        whole = ref.width * HASH_SIZE
        if len(data) != whole:
            wrong = f"has {len(data)} bytes; a tile of {ref.width} hashes has {whole}"
            raise _BrokenLogError(Fault(ref.path(), min(len(data), whole), wrong))
        self.tiles += 1
        return data[:length]

    def _file(self, ref: TileRef, data: bytes | None) -> tuple[TileRef, bytes]:
        """The file as it was read, or the full one: a log that has grown may have dropped the partial one."""
        if data is not None:
            return ref, data
        full = TileRef(ref.level, ref.index)
        data = self.source.read(full.path()) if ref.width < WIDTH else None
        if data is None:
            raise _BrokenLogError(Fault(ref.path(), None, "is missing"))
        return full, data


def _leaves(bundle: TileRef) -> TileRef:
    return TileRef(0, bundle.index, bundle.width)


def _split(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """The entries that can be read with their offsets, and where reading ended."""
    entries: list[tuple[int, bytes]] = []
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            break
        entries.append((at, data[at + 2 : end]))
        at = end
    return entries, at


def _first_difference(one: bytes, other: bytes) -> int:
    return next(at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
