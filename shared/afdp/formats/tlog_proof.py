"""The proof that an entry is in a log, as one text file (C2SP tlog-proof): index, inclusion proof, checkpoint.

It names neither the entry nor the key of the log: who verifies brings both. `extra` may carry the entry along; nothing
in the file vouches for it but the proof itself.

    >>> TlogProof(0, (), checkpoint="…").to_bytes()[:31]
    b'c2sp.org/tlog-proof@v1\\nindex 0'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from afdp.formats.encoding import b64, from_b64
from afdp.formats.merkle import HASH_SIZE, MAX_SIZE, verify_inclusion
from afdp.formats.note import MAX_NOTE_SIZE, Checkpoint, Note, NoteError, VerifiedSignature, VerifierKey, verify

FIRST_LINE = "c2sp.org/tlog-proof@v1"
EXTENSION = ".tlog-proof"
"""What a file's name ends in."""

MAX_HASHES = 63
MAX_EXTRA_SIZE = 1_000_000
_MAX_HEAD_SIZE = 2 * MAX_EXTRA_SIZE

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class TlogProofError(ValueError):
    """It is not exactly one tlog-proof, or it does not hold. The message says why."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof as it was read: nothing of it has been verified.

    Attributes:
        index: zero-based place of the entry.
        hashes: the inclusion proof, from the leaf's sibling upwards, 32 bytes each.
        checkpoint: the log's signed note, as it was issued, with the cosignatures it has.
        extra: opaque bytes that nothing authenticates; None where there are none.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE:
            raise TlogProofError("an index must be between 0 and 2^63-2")
        if len(self.hashes) > MAX_HASHES:
            raise TlogProofError(f"an inclusion proof must not have more than {MAX_HASHES} hashes")
        if any(len(each) != HASH_SIZE for each in self.hashes):
            raise TlogProofError(f"a hash must have {HASH_SIZE} bytes")
        if self.extra is not None and not 1 <= len(self.extra) <= MAX_EXTRA_SIZE:
            raise TlogProofError(f"extra data must have 1 to {MAX_EXTRA_SIZE} bytes")

    def to_bytes(self) -> bytes:
        """The file."""
        lines = [FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {b64(self.extra)}")
        lines += [f"index {self.index}", *map(b64, self.hashes), "", self.checkpoint]
        return "\n".join(lines).encode()

    @classmethod
    def parse(cls, data: bytes) -> TlogProof:
        """Reads a file. The checkpoint is taken as it stands; `verify` looks at it.

        Raises:
            TlogProofError: it is not exactly one.
        """
        if len(data) > _MAX_HEAD_SIZE + MAX_NOTE_SIZE:
            raise TlogProofError(f"a proof must not be larger than {_MAX_HEAD_SIZE + MAX_NOTE_SIZE} bytes")
        try:
            head, blank, checkpoint = data.decode().partition("\n\n")
        except UnicodeDecodeError as error:
            raise TlogProofError("a proof must be UTF-8") from error
        first, *lines = head.split("\n")
        if first != FIRST_LINE:
            raise TlogProofError(f"a proof's first line is {FIRST_LINE}")
        if not blank or not checkpoint:
            raise TlogProofError("a proof is an index, hashes, a blank line and a checkpoint")
        extra = _decoded("extra data", lines.pop(0).removeprefix("extra ")) if _has_extra(lines) else None
        index = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if not index:
            raise TlogProofError("a proof has a line 'index' with a decimal number without leading zeros")
        return cls(int(index[1]), tuple(_decoded("a hash", each) for each in lines), checkpoint, extra)

    def verify(
        self, leaf: bytes, log: VerifierKey, witnesses: Iterable[VerifierKey] = ()
    ) -> tuple[Checkpoint, list[VerifiedSignature]]:
        """Checks that the log has signed a tree with this leaf at this index.

        Args:
            leaf: the entry's leaf hash, 32 bytes, which the verifier has computed itself.
            log: the log's key; its name is the origin.
            witnesses: those that are known; how many must have cosigned is for the caller to say.

        Returns:
            The checkpoint, and the cosignatures of known witnesses.

        Raises:
            TlogProofError: the checkpoint is none, is not signed by this log, or has a wrong cosignature; or the proof
                does not lead to its root.
        """
        try:
            note = Note.parse(self.checkpoint)
            signatures = verify(note, [log, *witnesses])
            checkpoint = Checkpoint.parse(note.text)
        except NoteError as error:
            raise TlogProofError(f"the checkpoint does not hold: {error}") from error
        if checkpoint.origin != log.name:
            raise TlogProofError(f"the checkpoint is of {checkpoint.origin}, not of {log.name}")
        if all(each.key != log for each in signatures):
            raise TlogProofError(f"the checkpoint is not signed by {log.name}")
        try:
            verify_inclusion(self.index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        except ValueError as error:
            raise TlogProofError(str(error)) from error
        return checkpoint, [each for each in signatures if each.key != log]


def _has_extra(lines: list[str]) -> bool:
    return bool(lines) and lines[0].startswith("extra ")


def _decoded(what: str, text: str) -> bytes:
    try:
        return from_b64(text)
    except ValueError as error:
        raise TlogProofError(f"{what} {error}") from error
