"""The messages of the witness protocol (C2SP tlog-witness): a log asks for a cosignature over its newest checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from afdp.formats.encoding import b64, from_b64
from afdp.formats.merkle import HASH_SIZE
from afdp.formats.note import Note, NoteError, NoteSignature

ADD_CHECKPOINT = "add-checkpoint"
SIZE_MEDIA_TYPE = "text/x.tlog.size"
"""The type of a 409's body where it is the size that the witness has cosigned last."""
MAX_PROOF_HASHES = 63
MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 16 * 1024

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """What a log sends.

    Attributes:
        old_size: of the checkpoint that the witness has cosigned last, 0 if none.
        proof: the consistency proof from there, hashes of 32 bytes, 63 at most.
        note: the signed checkpoint; that it is one, and signed, was checked by nobody yet.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: Note

    def to_bytes(self) -> bytes:
        """The request's body."""
        proof = "".join(f"{b64(each)}\n" for each in self.proof)
        return f"old {self.old_size}\n{proof}\n{self.note}".encode()

    @classmethod
    def parse(cls, data: bytes) -> AddCheckpoint:
        """Reads a request's body.

        Raises:
            NoteError: it is not exactly one.
        """
        if len(data) > MAX_REQUEST_BYTES:
            raise NoteError(f"a request must not be larger than {MAX_REQUEST_BYTES} bytes")
        head, blank, note = data.partition(b"\n\n")
        if not blank:
            raise NoteError("a request is an old size, hashes, a blank line and a checkpoint")
        first, *hashes = head.decode("utf-8", "replace").split("\n")
        old = _OLD.fullmatch(first)
        if not old or int(old[1]) >= 2**63:
            raise NoteError("a request begins with 'old' and a size, a decimal number without leading zeros")
        if len(hashes) > MAX_PROOF_HASHES:
            raise NoteError(f"a consistency proof must not have more than {MAX_PROOF_HASHES} hashes")
        return cls(int(old[1]), tuple(map(_hash, hashes)), Note.parse(note))


def format_cosignatures(signatures: Iterable[NoteSignature]) -> bytes:
    """A witness's answer: its signature lines."""
    return "".join(each.line() for each in signatures).encode()


def parse_cosignatures(data: bytes) -> tuple[NoteSignature, ...]:
    """The signature lines of a witness's answer, verified by nobody yet.

    Raises:
        NoteError: it holds no line, or something that is none.
    """
    text = data.decode("utf-8", "replace")
    if len(data) > MAX_ANSWER_BYTES or not text.endswith("\n"):
        raise NoteError(f"an answer is signature lines, each ended by a newline, {MAX_ANSWER_BYTES} bytes at most")
    return tuple(map(NoteSignature.parse, text.removesuffix("\n").split("\n")))


def format_size(size: int) -> bytes:
    """The body of a 409 that tells the size which the witness has cosigned last."""
    return f"{size}\n".encode()


def parse_size(data: bytes) -> int:
    """The size in such a body.

    Raises:
        NoteError: it holds none.
    """
    found = _SIZE.fullmatch(data)
    if not found or int(found[1]) >= 2**63:
        raise NoteError("the witness's size is not a decimal number without leading zeros")
    return int(found[1])


def _hash(line: str) -> bytes:
    try:
        value = from_b64(line)
    except ValueError as error:
        raise NoteError(f"a hash {error}") from error
    if len(value) != HASH_SIZE:
        raise NoteError(f"a hash must have {HASH_SIZE} bytes")
    return value
