"""The values that the transparency log speaks of, and the errors that are its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from afdp.errors import DataLoss, FailedPrecondition, NotaryError
from afdp.formats.merkle import Extension, Frontier
from afdp.formats.note import Checkpoint, Note, VerifierKey, key_digest, verify


class WrongLog(FailedPrecondition):
    """The settings or the signer's key belong to another log than the database holds: the process must not go on."""


class BrokenLog(DataLoss):
    """The stored tree is not the tree that was signed: nothing may be appended until an operator has looked."""


class FrozenLog(FailedPrecondition):
    """The log takes no entries any more; those that are in it keep their place."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What makes a log this log; fixed when it is created.

    Attributes:
        origin: a bare host name, which is also the name of its key.
        public_key: raw Ed25519, 32 bytes.
    """

    origin: str
    public_key: bytes

    @property
    def vkey(self) -> VerifierKey:
        """The key that verifies its checkpoints."""
        return VerifierKey(self.origin, self.public_key)

    @property
    def log_id(self) -> bytes:
        """The untruncated checkpoint key ID, 32 bytes: `logId.keyId` of Sigstore's bundles and trusted roots."""
        return key_digest(self.origin, self.public_key)


class LogState(Enum):
    """Whether a log takes entries. On standby it does, and none are brought until its predecessor is frozen."""

    OPEN = "open"
    STANDBY = "standby"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log of this deployment, as it stands.

    Attributes:
        number: its key in the tables.
        base_url: where readers find it; empty: under the first log's base URL.
        tenants: whose entries it takes; none: those of all tenants that no other log is for.
        predecessor: the origin of the log that it goes on from; empty where there is none.
        successor: the origin of the log that goes on from it; empty where none is named yet.
        opened_at: None where it is the first, which is there from the start.
        waits: whether its predecessor is not frozen yet.
    """

    number: int
    identity: LogIdentity
    base_url: str = ""
    tenants: tuple[str, ...] = ()
    predecessor: str = ""
    successor: str = ""
    opened_at: datetime | None = None
    frozen_at: datetime | None = None
    waits: bool = False

    @property
    def origin(self) -> str:
        """Its name."""
        return self.identity.origin

    @property
    def state(self) -> LogState:
        """Whether it takes entries."""
        if self.frozen_at is not None:
            return LogState.FROZEN
        return LogState.STANDBY if self.waits else LogState.OPEN


@dataclass(frozen=True, slots=True)
class NewLog:
    """A log to be opened, as `KnownLog` has it; a successor names no tenants: they are its predecessor's."""

    origin: str
    tenants: tuple[str, ...] = ()
    predecessor: str = ""
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry with its RFC 6962 leaf hash."""

    hash: bytes
    entry: bytes


@dataclass(frozen=True, slots=True)
class StoredTree:
    """The tree's row as it is stored: nothing of it has been checked.

    Attributes:
        frontier: `Frontier.to_bytes`.
        frozen: whether nothing may be appended any more.
    """

    size: int
    root: bytes
    frontier: bytes
    frozen: bool = False

    def verified(self) -> Frontier:
        """The right edge, recomputed.

        Raises:
            BrokenLog: size, root and right edge do not belong together.
        """
        try:
            frontier = Frontier.from_bytes(self.frontier)
        except ValueError:
            frontier = None
        if frontier is None or frontier.size != self.size or frontier.root() != self.root:
            raise BrokenLog(
                f"the stored right edge of the tree does not lead to its root at size {self.size}: "
                "run fsck and restore the database; nothing is appended until then"
            )
        return frontier


@dataclass(frozen=True, slots=True)
class Growth:
    """New leaves and what they make of the tree; the first has the index `extension.old.size`."""

    extension: Extension
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with its log's signature.

    Attributes:
        root: 32 bytes.
        note: the whole signed note.
    """

    size: int
    root: bytes
    note: str

    @classmethod
    def verified(cls, note: Note, identity: LogIdentity) -> SignedCheckpoint:
        """The checkpoint in a note that this log has signed.

        Raises:
            NoteError: it has not, or the note is no checkpoint.
        """
        verify(note, [identity.vkey])
        checkpoint = Checkpoint.parse(note.text)
        return cls(checkpoint.size, checkpoint.root, str(note))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an authority outside of the notary says of a checkpoint.

    Attributes:
        response: RFC 3161 response over the checkpoint's note body, DER.
        authority: its URL.
        time: as it states it.
    """

    response: bytes
    authority: str
    time: datetime


@dataclass(frozen=True, slots=True)
class StampedCheckpoint:
    """A checkpoint with its stamp."""

    checkpoint: SignedCheckpoint
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """How many cosignatures make a checkpoint a cosigned one, and what readers get without.

    Attributes:
        quorum: any so many of the witnesses.
        closed: whether a checkpoint without them is kept from readers.
        interval: seconds between two checkpoints that witnesses are asked for, at least.
        timeout: seconds that a witness may take.
    """

    quorum: int
    closed: bool
    interval: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a leaf is, with the audit path to a checkpoint's root, from its sibling upwards.

    Attributes:
        existed: told by an append: whether the leaf was there before it.
    """

    leaf_index: int
    leaf_hash: bytes
    proof: tuple[bytes, ...]
    existed: bool = False


@dataclass(frozen=True, slots=True)
class Logged:
    """What became of appended leaves, by leaf hash; each inclusion is in the checkpoint's tree.

    Attributes:
        checkpoint: None where every leaf was refused.
    """

    checkpoint: SignedCheckpoint | None
    inclusions: Mapping[bytes, Inclusion | NotaryError]


@dataclass(frozen=True, slots=True)
class Heads:
    """How far the log is: the tree's size, and that of the published checkpoint (0 where there is none)."""

    tree: int
    published: int
