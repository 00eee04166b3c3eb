"""The files of a tiled log as they come from wherever it is kept, and what is wrong with them (C2SP tlog-tiles).

Nothing here trusts a file: each is as long as its name says, or it is a fault of the log that is named to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from afdp.formats.merkle import HASH_SIZE
from afdp.formats.note import MAX_NOTE_SIZE, Checkpoint, Note, NoteError, VerifiedSignature, VerifierKey, verify
from afdp.formats.tiles import MAX_ENTRY_SIZE, WIDTH, TileRef

CHECKPOINT, VKEY = "checkpoint", "vkey"

MAX_BUNDLE_BYTES = WIDTH * (2 + MAX_ENTRY_SIZE)
_MAX_VKEY_BYTES = 16_384


def largest(path: str) -> int:
    """The most bytes that the file of a log at this path can have."""
    if path == CHECKPOINT:
        return MAX_NOTE_SIZE
    if path == VKEY:
        return _MAX_VKEY_BYTES
    return MAX_BUNDLE_BYTES if path.startswith("tile/entries/") else WIDTH * HASH_SIZE


class TileSource(Protocol):
    """Where a log's files are: a folder, a URL.

    What is longer than `largest` is a `BrokenLogError`; a source that cannot be reached raises `Unavailable`.
    """

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
        expected: what was to stand there, where that is known; bytes in hex.
        found: what stands there.
        entry: the index of the entry that is wrong, where it is one.
    """

    path: str
    offset: int | None
    reason: str
    expected: str | None = None
    found: str | None = None
    entry: int | None = None

    def __str__(self) -> str:
        compared = f" (expected {self.expected}, found {self.found})" if self.expected else ""
        return f"{self.path}{'' if self.offset is None else f', byte {self.offset}'}: {self.reason}{compared}"


class BrokenLogError(Exception):
    """Ends a check: what the log serves is not what it must be."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.fault)


@dataclass(frozen=True, slots=True)
class Head:
    """A checkpoint that its log has signed.

    Attributes:
        note: as it was served.
        cosignatures: of the witnesses that are known, verified.
    """

    checkpoint: Checkpoint
    note: str
    cosignatures: tuple[VerifiedSignature, ...] = ()


def read_head(data: bytes | None, vkey: VerifierKey, witnesses: Iterable[VerifierKey] = ()) -> Head:
    """The checkpoint in a log's file.

    Raises:
        BrokenLogError: there is none, or it is not signed by this key, or a known witness's cosignature is wrong.
    """
    if data is None:
        raise BrokenLogError(Fault(CHECKPOINT, None, "is missing"))
    try:
        return signed_head(data, vkey, witnesses)
    except NoteError as error:
        raise BrokenLogError(Fault(CHECKPOINT, 0, str(error))) from error


def signed_head(data: bytes | str, vkey: VerifierKey, witnesses: Iterable[VerifierKey] = ()) -> Head:
    """The checkpoint in a note that the log has signed.

    Raises:
        NoteError: it is none, or a known signature is missing or wrong.
    """
    note = Note.parse(data)
    signatures = verify(note, [vkey, *witnesses])
    if all(each.key != vkey for each in signatures):
        raise NoteError(f"the note is not signed by {vkey.name}")
    # Other logs may have lines after these three; what they say does not concern the tree (tlog-checkpoint).
    checkpoint = Checkpoint.parse("".join(note.text.splitlines(keepends=True)[:3]))
    if checkpoint.origin != vkey.name:
        raise NoteError(f"is of {checkpoint.origin}, and the key is of {vkey.name}")
    return Head(checkpoint, str(note), tuple(each for each in signatures if each.key != vkey))


def require_growth(old: Checkpoint, new: Checkpoint) -> None:
    """Checks what two checkpoints of a log say themselves: it has not shrunk, and has one root for one size.

    Raises:
        BrokenLogError: the new one does not come after the old one.
    """
    if new.size < old.size:
        reason = f"the log has {new.size} entries, and had signed {old.size} before: it was rolled back"
        raise BrokenLogError(Fault(CHECKPOINT, len(new.origin.encode()) + 1, reason, str(old.size), str(new.size)))
    if new.size == old.size and new.root != old.root:
        reason = f"the log has signed another root hash for {old.size} entries before: it has forked"
        root_at = len(f"{new.origin}\n{new.size}\n".encode())
        raise BrokenLogError(Fault(CHECKPOINT, root_at, reason, old.root.hex(), new.root.hex()))


def whole_file(source: TileSource, ref: TileRef, data: bytes | None) -> tuple[TileRef, bytes]:
    """The file as it was read, or the full one: a log that has grown may have dropped the partial one.

    Raises:
        BrokenLogError: neither is there.
    """
    if data is not None:
        return ref, data
    full = TileRef(ref.level, ref.index)
    data = source.read(full.path()) if ref.width < WIDTH else None
    if data is None:
        raise BrokenLogError(Fault(ref.path(), None, "is missing"))
    return full, data


def read_tile(source: TileSource, ref: TileRef, data: bytes | None) -> list[bytes]:
    """A tile's hashes, as many as its width asks for.

    Raises:
        BrokenLogError: the file is missing, or has another length.
    """
    wanted, (ref, data) = ref.width, whole_file(source, ref, data)
    whole = ref.width * HASH_SIZE
    if len(data) != whole:
        wrong = f"has {len(data)} bytes; a tile of {ref.width} hashes has {whole}"
        raise BrokenLogError(Fault(ref.path(), min(len(data), whole), wrong))
    return [data[at : at + HASH_SIZE] for at in range(0, wanted * HASH_SIZE, HASH_SIZE)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Entries as they were read.

    Attributes:
        ref: the file that they are in.
        entries: as many as were asked for.
        leaves: their hashes (RFC 9162, section 2.1.1).
    """

    ref: TileRef
    entries: list[bytes]
    leaves: list[bytes]

    def fault(self, at: int, stored: bytes) -> Fault:
        """What is wrong with the entry at this place in the bundle, whose leaf hash should be the stored one."""
        index = self.ref.start() + at
        offset = sum(2 + len(entry) for entry in self.entries[:at])
        reason = f"entry {index} is not what was logged: its leaf hash is not that in the tile"
        return Fault(self.ref.path(), offset, reason, stored.hex(), self.leaves[at].hex(), index)


def read_bundle(source: TileSource, ref: TileRef, data: bytes | None, stored: Sequence[bytes]) -> Bundle:
    """An entry bundle, beside the leaf hashes that its tile has.

    Raises:
        BrokenLogError: the file is missing, or is not exactly so many entries.
    """
    wanted, (ref, data) = ref.width, whole_file(source, ref, data)
    entries, end = _split(data)
    leaves = [sha256(b"\x00" + entry).digest() for entry in entries]
    if len(entries) != ref.width or end != len(data):
        # A wrong length shifts all that follows: the first entry that is not the tile's is where it began.
        wrong = (at for at, leaf in enumerate(leaves) if at >= len(stored) or leaf != stored[at])
        at = next(wrong, len(entries))
        offset = sum(2 + len(entry) for entry in entries[:at])
        reason = f"is not an entry bundle of exactly {ref.width} entries"
        raise BrokenLogError(Fault(ref.path(), offset, reason, entry=ref.start() + at))
    return Bundle(ref, entries[:wanted], leaves[:wanted])


def _split(data: bytes) -> tuple[list[bytes], int]:
    """The entries that can be read, and where reading ended."""
    entries: list[bytes] = []
    at, length = 0, len(data)
    while at + 2 <= length:
        start = at + 2
        end = start + (data[at] << 8 | data[at + 1])
        if end > length:
            break
        entries.append(data[start:end])
        at = end
    return entries, at


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The root over the hashes of a full tile, or of any power of two of them."""
    row = list(hashes)
    while len(row) > 1:
        row = [sha256(b"\x01" + row[at] + row[at + 1]).digest() for at in range(0, len(row), 2)]
    return row[0]


def first_difference(one: bytes, other: bytes) -> int:
    """The first byte in which two strings of one length differ."""
    return next(at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
