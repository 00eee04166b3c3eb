"""The single checks that tie an entry to a log: also what a notary runs on every receipt before it lets it go."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from afdp.errors import InvalidArgument
from afdp.formats import rekor1
from afdp.formats.bundle import LogEntry
from afdp.formats.hashedrekord import API_VERSION, KIND, SignatureAlgorithm, entry_body
from afdp.formats.merkle import ProofError, leaf_hash, verify_inclusion
from afdp.formats.note import Checkpoint, Note, NoteError, SignatureType, VerifiedSignature, VerifierKey, verify
from afdp.formats.spki import load_ec
from afdp.verify.result import NotVerifiedError


def check_body(body: bytes, pae: bytes, signature: bytes, spki: bytes, algorithm: SignatureAlgorithm) -> None:
    """Checks that a log entry is the one of this signature: rebuilt from the envelope and the key, byte for byte.

    Raises:
        NotVerifiedError: it is another one.
    """
    if entry_body(algorithm.digest(pae), signature, spki, algorithm) != body:
        raise NotVerifiedError("the log entry (canonicalizedBody) is not that of this envelope, signature and key")


def check_envelope_body(body: bytes, payload: bytes, signature: bytes, spki: bytes) -> None:
    """Checks that an entry of a Rekor v1 is the one of this envelope and key.

    Raises:
        NotVerifiedError: it is another one, or none.
    """
    try:
        entry = rekor1.DsseEntry.parse(body)
    except InvalidArgument as error:
        raise NotVerifiedError(f"the log entry (canonicalizedBody) cannot be read: {error}") from error
    if not rekor1.names_payload(entry, payload) or (entry.signature, entry.spki) != (signature, spki):
        raise NotVerifiedError("the log entry (canonicalizedBody) is not that of this envelope, signature and key")


def check_promise(entry: LogEntry, vkey: VerifierKey) -> None:
    """Checks what a Rekor v1 has signed when it took an entry: its body, time and place.

    Raises:
        NotVerifiedError: there is no promise, or it does not hold.
    """
    if not entry.promise:
        raise NotVerifiedError("the log entry has no inclusionPromise, which Rekor v1 gives with each")
    said = rekor1.promised(entry.body, entry.integrated_time, entry.log_id, entry.log_index)
    try:
        if vkey.kind is not SignatureType.ECDSA:
            raise ValueError("the key of a Rekor v1 is ECDSA")
        key = load_ec(vkey.public_key, SignatureAlgorithm.ECDSA_P256_SHA256)
        key.verify(entry.promise, said, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise NotVerifiedError("the log's promise (signedEntryTimestamp) does not hold") from error


def check_inclusion(entry: LogEntry) -> None:
    """Checks an entry's inclusion proof, and that the entry has the one form and the one place that it may have.

    The proof leads to the root hash that the entry names itself: `check_checkpoint` ties that to the log.

    Raises:
        NotVerifiedError: something is not as it should be.
    """
    if not entry.is_rekor1 and (entry.kind, entry.version) != (KIND, API_VERSION):
        raise NotVerifiedError(f"the log entry says it is a {entry.kind} {entry.version}, not a {KIND} {API_VERSION}")
    if entry.integrated_time and not entry.is_rekor1:
        raise NotVerifiedError("integratedTime is not 0; an entry of this kind of log has no time of its own")
    if entry.place != entry.log_index and not entry.is_rekor1:
        raise NotVerifiedError(f"the proof is for entry {entry.proof_index}, not for entry {entry.log_index}")
    try:
        verify_inclusion(entry.place, entry.tree_size, leaf_hash(entry.body), entry.hashes, entry.root_hash)
    except ProofError as error:
        raise NotVerifiedError(f"the inclusion proof does not hold: {error}") from error


def check_checkpoint(entry: LogEntry, vkey: VerifierKey) -> None:
    """Checks that the log signed the tree that the entry's proof is for, and a Rekor v1 its promise.

    Raises:
        NotVerifiedError: the signature does not hold, or the checkpoint is of another log, size or root.
    """
    if entry.is_rekor1:
        check_promise(entry, vkey)
    checkpoint = signed_tree(entry.checkpoint, vkey) if entry.is_rekor1 else signed_checkpoint(entry.checkpoint, vkey)
    if checkpoint.size != entry.tree_size:
        raise NotVerifiedError(f"the checkpoint is of {checkpoint.size} entries, the proof of {entry.tree_size}")
    if checkpoint.root != entry.root_hash:
        raise NotVerifiedError("the checkpoint has another root hash than the proof")


@lru_cache(maxsize=256)
def signed_checkpoint(note: str, vkey: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that the log's key has signed. Receipts of one batch share it, so it is remembered.

    Raises:
        NotVerifiedError: the note or the checkpoint is not well-formed, is not signed by this key, or names another
            origin than the key.
    """
    try:
        parsed = Note.parse(note)
        verify(parsed, [vkey])
        checkpoint = Checkpoint.parse(parsed.text)
    except NoteError as error:
        raise NotVerifiedError(f"the checkpoint does not hold: {error}") from error
    if checkpoint.origin != vkey.name:
        raise NotVerifiedError(f"the checkpoint is of {checkpoint.origin}, not of {vkey.name}")
    return checkpoint


@lru_cache(maxsize=256)
def signed_tree(note: str, vkey: VerifierKey) -> Checkpoint:
    """The checkpoint of a tree of a Rekor v1 in a note that its key has signed.

    Raises:
        NotVerifiedError: as for `signed_checkpoint`.
    """
    try:
        return rekor1.signed_tree(note, vkey)
    except NoteError as error:
        raise NotVerifiedError(f"the checkpoint does not hold: {error}") from error


def cosignatures(note: str, vkey: VerifierKey, witnesses: Iterable[VerifierKey]) -> list[VerifiedSignature]:
    """The signatures of those witnesses that have cosigned a checkpoint, each with its time.

    Raises:
        NotVerifiedError: the log's signature or that of a known witness does not hold.
    """
    try:
        signatures = verify(Note.parse(note), [vkey, *witnesses])
    except NoteError as error:
        raise NotVerifiedError(f"the checkpoint does not hold: {error}") from error
    return [each for each in signatures if each.key != vkey]
