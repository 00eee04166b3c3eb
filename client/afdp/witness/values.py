"""The values that a witness speaks of, and the answers that are no cosignature."""

from __future__ import annotations

from dataclasses import dataclass

from afdp.errors import Aborted, InvalidArgument, NotaryError, NotFound, PermissionDenied
from afdp.formats.note import VerifierKey


@dataclass(frozen=True, slots=True)
class WitnessedLog:
    """A log whose checkpoints are cosigned.

    Attributes:
        origin: the first line of its checkpoints.
        keys: its keys; a checkpoint must be signed by one.
    """

    origin: str
    keys: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The checkpoint of a log that was cosigned last.

    Attributes:
        root: 32 bytes.
        note: with its log's signature.
        time: seconds since the epoch, as the cosignature says.
    """

    size: int
    root: bytes
    note: str
    time: int


class NotACheckpoint(InvalidArgument):
    """400: the body is no request, or its old size is beyond its checkpoint."""


class UnknownLog(NotFound):
    """404: its origin is not one of those that are witnessed."""


class Unsigned(PermissionDenied):
    """403: no key that is known of this log has signed it."""


class OtherSize(Aborted):
    """409: another size was cosigned last; the log proves from there.

    Attributes:
        size: that was cosigned last.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the last checkpoint that was cosigned has size {size}")
        self.size = size


class Forked(Aborted):
    """409: the log has signed two trees of one size."""


class Inconsistent(NotaryError):
    """422: nothing proves that the tree goes on from the one that was cosigned last."""

    code, number, http_status = "FAILED_PRECONDITION", 9, 422
