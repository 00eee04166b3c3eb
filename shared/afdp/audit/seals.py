"""Seals over rows of the audit trail, each linked to the one before.

A seal's tree is that of RFC 6962 over its rows by ascending sequence. A leaf is the row's sequence and the time of its
recording in microseconds since 1970, 8 bytes each, big-endian, and then the row. The seal's body names the root and the
hash of the seal before; its own hash, SHA-256 of the body, is what the log gets to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import orjson

from afdp.errors import DataLoss
from afdp.formats.evidence import SPEC_VERSION, Actor, Artifact, EvidencePackage
from afdp.formats.merkle import HASH_SIZE, Frontier, extend, leaf_hash
from afdp.formats.timestamps import format_timestamp, parse_timestamp

BEFORE_THE_FIRST = bytes(HASH_SIZE)
EVENT_TYPE = "afdp.audit.sealed"
"""Of the evidence that a seal is notarised by; its one artifact has the seal's hash."""

TENANT = "afdp"
"""Whose that evidence is: the deployment's own, so that no tenant finds it among its own."""

ISSUER = "afdp-notary"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a seal says.

    Attributes:
        number: from 1.
        previous: the hash of the seal before; zeros for the first.
        first, last: the sequences of its first and last row.
        rows: how many it has.
        root: of the tree over them.
        time: when it was made.
    """

    number: int
    previous: bytes
    first: int
    last: int
    rows: int
    root: bytes
    time: datetime

    def body(self) -> bytes:
        """Its bytes: JSON with sorted keys."""
        members = {
            "first": self.first,
            "last": self.last,
            "number": self.number,
            "previous": self.previous.hex(),
            "root": self.root.hex(),
            "rows": self.rows,
            "time": format_timestamp(self.time),
        }
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def parse(cls, body: bytes) -> Seal:
        """Reads what `body` wrote.

        Raises:
            DataLoss: it is no such body.
        """
        try:
            members = orjson.loads(body)
            seal = cls(
                number=members["number"],
                previous=bytes.fromhex(members["previous"]),
                first=members["first"],
                last=members["last"],
                rows=members["rows"],
                root=bytes.fromhex(members["root"]),
                time=parse_timestamp(members["time"]) or _EPOCH,
            )
            if seal.body() == body:
                return seal
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise DataLoss("the body of a seal of the audit trail is none")


def seal_hash(body: bytes) -> bytes:
    """What names a seal for ever."""
    return sha256(body).digest()


def row_leaf(sequence: int, recorded_at: datetime, row: bytes) -> bytes:
    """The leaf hash of a row."""
    micros = (recorded_at - _EPOCH) // timedelta(microseconds=1)
    return leaf_hash(sequence.to_bytes(8, "big") + micros.to_bytes(8, "big") + row)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over rows' leaf hashes."""
    return extend(Frontier.empty(), leaves).new.root()


def proofs_of(leaves: Sequence[bytes], places: Sequence[int]) -> list[tuple[bytes, ...]]:
    """The inclusion proofs of the leaves at these places."""
    tree = extend(Frontier.empty(), leaves)
    return [tree.inclusion_proof(at) for at in places]


def next_seal(before: bytes | None, sequences: Sequence[int], leaves: Sequence[bytes], time: datetime) -> Seal:
    """The seal over rows that follows the one with this body; None: it is the first."""
    number = 1 if before is None else Seal.parse(before).number + 1
    previous = BEFORE_THE_FIRST if before is None else seal_hash(before)
    return Seal(number, previous, sequences[0], sequences[-1], len(leaves), root_of(leaves), time)


def seal_evidence(body: bytes) -> EvidencePackage:
    """What is notarised of a seal: the same for the same seal, always.

    Raises:
        DataLoss: it is no seal's body.
    """
    seal = Seal.parse(body)
    return EvidencePackage(
        spec_version=SPEC_VERSION,
        timestamp_utc=seal.time,
        event_type=EVENT_TYPE,
        actor=Actor("service", ISSUER),
        artifacts=(Artifact(f"audit-seal-{seal.number}", seal_hash(body).hex()),),
        metadata={"number": seal.number, "previous": seal.previous.hex(), "root": seal.root.hex(), "rows": seal.rows},
    )
