"""Proofs about whole logs, as files that are verified offline: that one tree goes on from another, and what was added.

A *consistency* proof is a JSON document: two signed checkpoints and the hashes of RFC 9162, section 2.1.4.1. A
*completeness* proof is lines of text: a JSON document with two signed checkpoints and the right edge of the older tree,
then every entry between them, or its leaf hash, in base64. From these the newer root is computed, so none is missing,
none is added and none has another place: in a log of a tenant's own they are all of its entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from afdp.formats.encoding import b64, from_b64
from afdp.formats.merkle import HASH_SIZE, Frontier, ProofError, extend, leaf_hash, verify_consistency
from afdp.formats.note import NoteError, VerifierKey
from afdp.formats.tiles import MAX_ENTRY_SIZE
from afdp.verify.tile_files import Head, signed_head

CONSISTENCY = "https://afdp.dev/log-consistency/v1"
COMPLETENESS = "https://afdp.dev/log-completeness/v1"

MAX_LINE_BYTES = 4 * 1024 * 1024
"""The longest line: a header has two notes, which may have many signatures; an entry 65,535 bytes."""

_AT_A_TIME = 4096


class LogProofError(ValueError):
    """It is not such a proof, or it does not hold. The message says why."""


# --- consistency ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That a log's newer tree begins with its older one; nothing of it has been verified.

    Attributes:
        old: the older signed note.
        new: the newer one.
        hashes: 32 bytes each.
    """

    old: str
    new: str
    hashes: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The file."""
        content = {"format": CONSISTENCY, "old": self.old, "new": self.new, "hashes": list(map(b64, self.hashes))}
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, data: bytes) -> ConsistencyProof:
        """Reads a file.

        Raises:
            LogProofError: it is not exactly one.
        """
        content = _document(data, CONSISTENCY, {"old", "new", "hashes"})
        return cls(_text(content, "old"), _text(content, "new"), _hashes(content, "hashes"))

    def verify(self, vkey: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> tuple[Head, Head]:
        """Checks that the log has signed both trees and that the newer one goes on from the older one; gives both.

        Raises:
            LogProofError: it has not, or it does not.
        """
        old, new = _heads(self.old, self.new, vkey, witnesses)
        try:
            verify_consistency(
                old.checkpoint.size, old.checkpoint.root, new.checkpoint.size, new.checkpoint.root, self.hashes
            )
        except ProofError as error:
            raise LogProofError(str(error)) from error
        return old, new


# --- completeness -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompletenessHeader:
    """What stands before the entries; nothing of it has been verified.

    Attributes:
        old: the older signed note; None is the empty log.
        new: the newer one.
        edge: the roots of the complete subtrees that the older tree is made of, largest first.
        bodies: whether the lines are entries; else they are leaf hashes.
    """

    old: str | None
    new: str
    edge: tuple[bytes, ...]
    bodies: bool

    def to_line(self) -> bytes:
        """The first line."""
        content = {
            "format": COMPLETENESS,
            "old": self.old,
            "new": self.new,
            "edge": list(map(b64, self.edge)),
            "holds": "entries" if self.bodies else "leaf_hashes",
        }
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, line: bytes) -> CompletenessHeader:
        """Reads the first line.

        Raises:
            LogProofError: it is not exactly one.
        """
        content = _document(line, COMPLETENESS, {"old", "new", "edge", "holds"})
        if content["holds"] not in ("entries", "leaf_hashes"):
            raise LogProofError("`holds` must be `entries` or `leaf_hashes`")
        old = None if content["old"] is None else _text(content, "old")
        return cls(old, _text(content, "new"), _hashes(content, "edge"), content["holds"] == "entries")


@dataclass(frozen=True, slots=True)
class Completeness:
    """What a proof that holds says: these are all entries from the older tree's size to the newer one's."""

    old: Head | None
    new: Head
    entries: int


def verify_completeness(
    header: CompletenessHeader,
    lines: Iterator[bytes],
    vkey: VerifierKey,
    witnesses: Sequence[VerifierKey] = (),
    wanted: set[bytes] | None = None,
) -> Completeness:
    """Checks that the lines are every entry between two trees that the log has signed, in memory that does not grow.

    Args:
        header: the file's first line, read.
        lines: those after it, each with its newline.
        vkey: the log's key.
        witnesses: their cosignatures are verified where the checkpoints have them.
        wanted: leaf hashes that are looked for; those that are found are taken out.

    Raises:
        LogProofError: they are not.
    """
    old, new = _ends(header, vkey, witnesses)
    edge = _edge(header, old)
    start, end = edge.size, new.checkpoint.size
    for leaves in _leaves(lines, header.bodies):
        edge = extend(edge, leaves).new
        if edge.size > end:
            raise LogProofError(f"it has more entries than the {end - start} between the two checkpoints")
        if wanted:
            wanted.difference_update(leaves)
    if edge.size < end:
        raise LogProofError(f"it has {edge.size - start} entries of the {end - start} between the two checkpoints")
    if edge.root() != new.checkpoint.root:
        raise LogProofError("the entries do not lead from the older root hash to the newer one")
    return Completeness(old, new, end - start)


def _ends(header: CompletenessHeader, vkey: VerifierKey, witnesses: Sequence[VerifierKey]) -> tuple[Head | None, Head]:
    if header.old is None:
        return None, _head("newer", header.new, vkey, witnesses)
    return _heads(header.old, header.new, vkey, witnesses)


def _edge(header: CompletenessHeader, old: Head | None) -> Frontier:
    try:
        edge = Frontier(old.checkpoint.size if old else 0, header.edge)
    except ValueError as error:
        raise LogProofError(f"the right edge of the older tree: {error}") from error
    if old and edge.root() != old.checkpoint.root:
        raise LogProofError("the right edge does not lead to the older checkpoint's root hash")
    return edge


def _leaves(lines: Iterator[bytes], bodies: bool) -> Iterator[list[bytes]]:
    leaves: list[bytes] = []
    for line in lines:
        data = _decoded(line)
        if len(data) > MAX_ENTRY_SIZE or (not bodies and len(data) != HASH_SIZE):
            raise LogProofError(f"a line is no {'entry' if bodies else 'leaf hash'}")
        leaves.append(leaf_hash(data) if bodies else data)
        if len(leaves) == _AT_A_TIME:
            yield leaves
            leaves = []
    yield leaves


def entry_lines(entries: Iterable[bytes], *, bodies: bool) -> Iterator[bytes]:
    """The lines after the first, of entries or of their leaf hashes."""
    for each in entries:
        yield b64(each if bodies else leaf_hash(each)).encode() + b"\n"


# --- reading ----------------------------------------------------------------------------------------------------------


def _heads(old: str, new: str, vkey: VerifierKey, witnesses: Sequence[VerifierKey]) -> tuple[Head, Head]:
    older, newer = _head("older", old, vkey, witnesses), _head("newer", new, vkey, witnesses)
    if older.checkpoint.size > newer.checkpoint.size:
        raise LogProofError("the older checkpoint has more entries than the newer one")
    return older, newer


def _head(which: str, note: str, vkey: VerifierKey, witnesses: Sequence[VerifierKey]) -> Head:
    try:
        return signed_head(note, vkey, witnesses)
    except NoteError as error:
        raise LogProofError(f"the {which} checkpoint does not hold: {error}") from error


def _document(data: bytes, form: str, members: set[str]) -> dict[str, Any]:
    try:
        content = orjson.loads(data)
    except ValueError as error:
        raise LogProofError("it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise LogProofError(f"it is not a proof of the format {form}")
    if set(content) != {"format", *members}:
        raise LogProofError(f"a proof has exactly the members format, {', '.join(sorted(members))}")
    return content


def _text(content: dict[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise LogProofError(f"`{name}` must be a signed note")
    return str(content[name])


def _hashes(content: dict[str, Any], name: str) -> tuple[bytes, ...]:
    try:
        hashes = tuple(map(from_b64, content[name]))
    except (ValueError, TypeError, AttributeError) as error:
        raise LogProofError(f"`{name}` must be hashes in base64") from error
    if len(hashes) > 64 or any(len(each) != HASH_SIZE for each in hashes):
        raise LogProofError(f"`{name}` must be at most 64 hashes of {HASH_SIZE} bytes")
    return hashes


def _decoded(line: bytes) -> bytes:
    if not line.endswith(b"\n"):
        raise LogProofError("it ends within a line, or a line is longer than any entry")
    try:
        return from_b64(line[:-1].decode("ascii"))
    except ValueError as error:
        raise LogProofError("a line is not base64") from error
