"""What is said of logs that others run, and the errors that are their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from afdp.errors import DataLoss, FailedPrecondition, NotaryError, Unavailable
from afdp.formats.bundle import LogEntry
from afdp.formats.note import Checkpoint
from afdp.formats.trust import Log

ApiVersion = Literal[1, 2]


class FrozenShard(FailedPrecondition):
    """The shard takes no entries any more: the next one does."""


class UnreadableAnswer(Unavailable):
    """The log has answered something that is no answer; what became of the entry is not known."""


class WrongProof(DataLoss):
    """What the log gave does not prove that the entry is in it."""


class RefusedLog(FailedPrecondition):
    """The log was caught telling two stories: nothing goes there until an operator has looked at the evidence."""


@dataclass(frozen=True, slots=True)
class Submission:
    """An entry on its way.

    Attributes:
        body: of the entry as ours has it: canonical JSON of a `hashedrekord` 0.0.2.
        statement: what was signed; empty where the log does not take envelopes.
    """

    body: bytes
    statement: bytes = b""


@dataclass(frozen=True, slots=True)
class Shard:
    """One log behind a name: public logs open a new one every few months.

    Attributes:
        name: what it is called in the settings.
        url: where it takes entries, without a slash at its end.
        read_url: where a Rekor v2 has `checkpoint` and `tile/`.
        log: its origin, its key, and since when it is valid.
    """

    name: str
    api_version: ApiVersion
    url: str
    read_url: str
    log: Log


@dataclass(frozen=True, slots=True)
class KnownShard:
    """A shard that was met before.

    Attributes:
        refused: why nothing goes there; empty where nothing is wrong.
        readmissions: how often an operator has let it in again: what was seen of it before then does not count.
    """

    shard: Shard
    refused: str = ""
    refused_at: datetime | None = None
    readmissions: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a log has answered; nothing of it has been checked.

    Attributes:
        read: whether the proof is from its read path, which may lag a little.
    """

    entry: LogEntry
    read: bool = False


@dataclass(frozen=True, slots=True)
class SeenTree:
    """A tree that a log has signed, with the note that says so."""

    checkpoint: Checkpoint
    note: str


class ContradictionError(Exception):
    """Two notes of a log that cannot both be of one growing tree, or one that it has not signed."""

    def __init__(self, reason: str, known: str, refused: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.known = known  # the note from before; empty where there is none
        self.refused = refused


Outcome = LogEntry | NotaryError
