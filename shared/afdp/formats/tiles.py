"""Tiles and entry bundles, the static form of a log (C2SP tlog-tiles): their paths, widths and bytes.

A tile holds up to 256 hashes of one tile level (see `afdp.formats.merkle`), an entry bundle up to 256 entries. Both are
named by level, index and width; paths here have no leading slash.

    >>> tile_path(0, 1234067)
    'tile/0/x001/x234/067'
    >>> parse_tile_path("tile/entries/000.p/5")
    TileRef(level=None, index=0, width=5)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from afdp.formats.merkle import HASH_SIZE, MAX_SIZE

WIDTH = 256
"""Hashes in a full tile, entries in a full bundle."""

MAX_LEVEL = 63
MAX_ENTRY_SIZE = 65_535


class TileError(ValueError):
    """A tile's path or bytes are not exactly what they should be. The message says why."""


@dataclass(frozen=True, slots=True)
class TileRef:
    """One tile or entry bundle.

    Attributes:
        level: 0 to 63 for a tile, None for an entry bundle.
        index: its place in the level; the tile begins with hash 256 · index of its level.
        width: how many hashes or entries it holds, 1 to 256; under 256 it is partial.
    """

    level: int | None
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise TileError("a tile's level must be between 0 and 63")
        if not 1 <= self.width <= WIDTH:
            raise TileError("a tile's width must be between 1 and 256")
        if not 0 <= self.index < WIDTH**7:
            raise TileError("a tile's index must not be negative, nor beyond the largest tree")

    def path(self) -> str:
        """The path under the log's prefix, without a leading slash."""
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{_index_path(self.index)}{partial}"

    def start(self) -> int:
        """The index, within its tile level, of the first hash; for a bundle that of the first entry."""
        return self.index * WIDTH


def tile_path(level: int, n: int, width: int = WIDTH) -> str:
    """The path of a tile.

    Raises:
        TileError: the level, index or width is out of range.
    """
    return TileRef(level, n, width).path()


def entries_path(n: int, width: int = WIDTH) -> str:
    """The path of an entry bundle.

    Raises:
        TileError: the index or width is out of range.
    """
    return TileRef(None, n, width).path()


def parse_tile_path(path: str) -> TileRef:
    """The tile or bundle that a path names. Each has one path only: every other spelling is refused.

    Raises:
        TileError: it is no tile's path.
    """
    match = _PATH.fullmatch(path)
    if not match or len(match["index"]) > _LONGEST_INDEX:
        raise TileError("not the path of a tile: tile/<level or 'entries'>/<index>[.p/<width>]")
    level = None if match["level"] == "entries" else int(match["level"])
    ref = TileRef(level, int(_NO_DIGIT.sub("", match["index"])), int(match["width"] or WIDTH))
    if ref.path() != path:
        raise TileError(f"not the canonical path of a tile, which would be {ref.path()}")
    return ref


_PATH = re.compile(
    r"tile/(?P<level>[0-9]{1,2}|entries)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_NO_DIGIT = re.compile(r"[^0-9]")
_LONGEST_INDEX = 5 * 6 + 3  # 256^7 has 17 digits, so six groups


def _index_path(index: int) -> str:
    path = f"{index % 1000:03}"
    while index := index // 1000:
        path = f"x{index % 1000:03}/{path}"
    return path


# --- what exists at a size --------------------------------------------------------------------------------------------


def partial_width(level: int, size: int) -> int:
    """The width of the partial tile of this level in a tree of this size; 0 where there is none. Bundles: level 0."""
    return (size >> 8 * level) % WIDTH


def width_at(level: int, index: int, size: int) -> int:
    """How many hashes the tile has in a tree of this size: 256 if full, 0 if it does not exist. Bundles: level 0."""
    return max(0, min(WIDTH, (size >> 8 * level) - index * WIDTH))


def exists(ref: TileRef, size: int) -> bool:
    """Whether a log of this size may serve the tile: it is full, or narrower, which an older size has had."""
    return ref.width <= width_at(ref.level or 0, ref.index, size)


def tiles_at(size: int, level: int | None = 0) -> Iterator[TileRef]:
    """The tiles of one level, or the bundles (None), that make up a tree of this size, from the left."""
    hashes = size >> 8 * (level or 0)
    for index in range(hashes // WIDTH):
        yield TileRef(level, index)
    if hashes % WIDTH:
        yield TileRef(level, hashes // WIDTH, hashes % WIDTH)


def levels_at(size: int) -> int:
    """How many tile levels a tree of this size has; 0 if it is empty."""
    if not 0 <= size <= MAX_SIZE:
        raise TileError("a tree size must be between 0 and 2^63-1")
    return (size.bit_length() + 7) // 8


# --- bytes ------------------------------------------------------------------------------------------------------------


def encode_tile(hashes: Iterable[bytes]) -> bytes:
    """A tile: its hashes, 32 bytes each, one after the other."""
    return b"".join(hashes)


def decode_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """The hashes of a tile.

    Raises:
        TileError: the data has not exactly 32 · width bytes.
    """
    if len(data) != width * HASH_SIZE:
        raise TileError(f"a tile of width {width} has {width * HASH_SIZE} bytes, not {len(data)}")
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry after its length as 2 bytes, big-endian.

    Raises:
        TileError: an entry has more than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_SIZE:
            raise TileError(f"an entry must not have more than {MAX_ENTRY_SIZE} bytes; this one has {len(entry)}")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The entries of a bundle.

    Raises:
        TileError: the data is not exactly `width` entries.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or at > len(data):
            raise TileError(f"the bundle ends within entry {len(entries)}")
        entries.append(data[start:at])
    if len(entries) != width:
        raise TileError(f"the bundle has {len(entries)} entries, {width} are expected")
    return tuple(entries)
