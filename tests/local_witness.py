"""A witness's folder, and what a log says to it, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.merkle import consistency_proof, plan_consistency
from afdp.formats.note import Note, NoteSignature, SignatureType, VerifierKey, cosignature_message, format_cosignature
from afdp.formats.witness import AddCheckpoint
from afdp.witness.folder import make_folder
from tests.local_log import LocalLog


def make_witness(
    folder: Path, vkeys: Iterable[VerifierKey], name: str = "witness.example", port: int = 0
) -> VerifierKey:
    """A new witness in a folder; gives its key."""
    return make_folder(folder, name, f"127.0.0.1:{port}", list(vkeys), None)


def consistency(log: LocalLog, old: int) -> tuple[bytes, ...]:
    """The proof from an old size of a log to its present one."""
    new = len(log.entries)
    if old in (0, new):
        return ()
    return consistency_proof(
        old,
        new,
        {
            (span.level, at): log.hashes[span.level, at]
            for span in plan_consistency(old, new)
            for at in range(span.start, span.end)
        },
    )


def asking(log: LocalLog, old: int, note: Note | None = None) -> AddCheckpoint:
    """What a log asks that proves from `old`."""
    return AddCheckpoint(old, consistency(log, old), note or log.checkpoint())


def cosigned(note: Note, name: str, key: Ed25519PrivateKey, time: int) -> NoteSignature:
    """A cosignature by somebody's key."""
    vkey = VerifierKey(name, key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
    return NoteSignature.by(vkey, format_cosignature(time, key.sign(cosignature_message(time, note.text))))
