"""A transparency log in memory, for tests: the real formats and a key of its own, no server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.bundle import LogEntry
from afdp.formats.merkle import Frontier, extend, inclusion_proof, leaf_hash, plan_inclusion
from afdp.formats.note import Checkpoint, Note, NoteSignature
from afdp.formats.tiles import TileRef, encode_bundle, encode_tile, levels_at, tiles_at
from afdp.formats.trust import Log

FOUNDED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class LocalLog:
    """Entries, the tile hashes over them, and a key."""

    origin: str = "notary.localhost"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    entries: list[bytes] = field(default_factory=list)
    frontier: Frontier = field(default_factory=Frontier.empty)
    hashes: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @property
    def log(self) -> Log:
        """What a trust root says of it."""
        return Log(self.origin, self.key.public_key().public_bytes_raw(), FOUNDED)

    def append(self, entries: Iterable[bytes]) -> None:
        """Grows the tree."""
        added = list(entries)
        leaves = [leaf_hash(entry) for entry in added]
        self.hashes.update({(0, at): each for at, each in enumerate(leaves, len(self.entries))})
        extension = extend(self.frontier, leaves)
        self.hashes.update({(each.level, each.index): each.hash for each in extension.completed})
        self.entries += added
        self.frontier = extension.new

    def checkpoint(self, root: bytes | None = None) -> Note:
        """The signed checkpoint of the tree as it is, or of another root."""
        text = Checkpoint(self.origin, len(self.entries), root or self.frontier.root()).body()
        return Note(text, (NoteSignature.by(self.log.vkey, self.key.sign(text.encode())),))

    def proven(self, index: int) -> LogEntry:
        """An entry with its proof, as a bundle carries it."""
        size = len(self.entries)
        stored = {
            (span.level, at): self.hashes[span.level, at]
            for span in plan_inclusion(index, size)
            for at in range(span.start, span.end)
        }
        return LogEntry(
            log_index=index,
            log_id=self.log.log_id,
            body=self.entries[index],
            tree_size=size,
            root_hash=self.frontier.root(),
            hashes=inclusion_proof(index, size, stored),
            checkpoint=str(self.checkpoint()),
        )

    def write(self, folder: Path) -> Path:
        """The log as a folder of tiles (C2SP tlog-tiles), with its key."""
        size = len(self.entries)
        files = {"checkpoint": self.checkpoint().to_bytes(), "vkey": f"{self.log.vkey}\n".encode()}
        for ref in tiles_at(size, None):
            files[ref.path()] = encode_bundle(self.entries[ref.start() : ref.start() + ref.width])
        for level in range(levels_at(size)):
            for ref in tiles_at(size, level):
                files[ref.path()] = encode_tile(self._tile(ref, level))
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    def _tile(self, ref: TileRef, level: int) -> list[bytes]:
        return [self.hashes[level, at] for at in range(ref.start(), ref.start() + ref.width)]
