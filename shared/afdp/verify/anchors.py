"""The check of an anchor: also what a notary runs on each before it lets it go."""

from __future__ import annotations

from collections.abc import Sequence

from afdp.formats.anchor import Anchor
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.merkle import ProofError, verify_inclusion
from afdp.formats.note import Note, VerifierKey
from afdp.verify.log import signed_checkpoint
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import Stamp, verify_stamp


def check_anchor(
    anchor: Anchor, leaf_hash: bytes, log_index: int, vkey: VerifierKey, authorities: Sequence[TimestampAuthority]
) -> Stamp:
    """Checks that a leaf was in the log when its checkpoint was stamped; gives the stamp.

    Args:
        anchor: as it was read.
        leaf_hash: of the entry, 32 bytes.
        log_index: the entry's place, as its own proof has it.
        vkey: the log's key.
        authorities: those that may have stamped.

    Raises:
        UnknownAuthorityError: none of these has stamped it.
        NotVerifiedError: something else does not hold.
    """
    if anchor.log_index != log_index:
        raise NotVerifiedError(f"the anchor is of entry {anchor.log_index}, not of entry {log_index}")
    checkpoint = signed_checkpoint(anchor.checkpoint, vkey)
    if checkpoint.size != anchor.tree_size:
        raise NotVerifiedError(f"the anchor's checkpoint is of {checkpoint.size} entries, not of {anchor.tree_size}")
    try:
        verify_inclusion(log_index, anchor.tree_size, leaf_hash, anchor.hashes, checkpoint.root)
    except ProofError as error:
        raise NotVerifiedError(f"the anchor's inclusion proof does not hold: {error}") from error
    return verify_stamp(anchor.timestamp, Note.parse(anchor.checkpoint).text.encode(), authorities)
