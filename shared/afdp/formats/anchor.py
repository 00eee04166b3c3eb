"""An anchor: a checkpoint over a log entry that an authority outside of the notary has stamped (RFC 3161).

What a receipt itself holds rests on keys of the notary: the evidence key, the log's, the embedded time-stamping
authority's. An anchor adds a time that does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from afdp.formats.encoding import b64
from afdp.formats.members import Members
from afdp.formats.merkle import HASH_SIZE


@dataclass(frozen=True, slots=True)
class Anchor:
    """Reading one proves nothing: `afdp.verify` does.

    Attributes:
        log_index: zero-based place of the entry in the log.
        tree_size: of the checkpoint.
        hashes: the inclusion proof, from the leaf upwards, 32 bytes each.
        checkpoint: the signed note over that tree.
        timestamp: RFC 3161 TimeStampResp over the note's body, DER.
    """

    log_index: int
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    timestamp: bytes

    def to_object(self) -> dict[str, object]:
        """The anchor as a JSON object; numbers and bytes as a Sigstore bundle has them."""
        return {
            "logIndex": str(self.log_index),
            "treeSize": str(self.tree_size),
            "hashes": [b64(each) for each in self.hashes],
            "checkpoint": self.checkpoint,
            "timestamp": b64(self.timestamp),
        }

    def to_json(self) -> bytes:
        """The anchor as JSON."""
        return orjson.dumps(self.to_object())

    @classmethod
    def from_object(cls, value: object, *, path: str = "") -> Anchor:
        """Reads an anchor from a JSON object.

        Raises:
            InvalidArgument: names the member that is missing, unknown or of another form; `path` stands before it.
        """
        members = Members(value, path)
        anchor = cls(
            log_index=members.decimal("logIndex"),
            tree_size=members.decimal("treeSize"),
            hashes=members.base64_items("hashes", size=HASH_SIZE),
            checkpoint=members.string("checkpoint"),
            timestamp=members.base64("timestamp"),
        )
        members.end()
        return anchor
