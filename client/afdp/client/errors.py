"""What a client raises: the tree of `afdp.errors`, and what only happens on the way.

    NotaryError
    ├── InvalidArgument, NotFound, AlreadyExists, … as the notary answered
    ├── Unavailable
    │   └── Unreachable       no answer: the connection broke
    │       └── NotConnected  nothing was sent: nobody listens there, or the name is unknown
    ├── DeadlineExceeded
    │   └── TimedOut          no answer in time; the act may have happened
    └── Internal
        └── UnexpectedAnswer  an answer, and not one of a notary

`metadata["request_id"]` is what the notary's logs know the request by, where it said so.
"""

from __future__ import annotations

from afdp.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotaryError,
    NotFound,
    OutOfRange,
    PayloadTooLarge,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    UnsupportedMediaType,
)


class Unreachable(Unavailable):
    """No answer: the connection broke. The act may or may not have happened."""


class NotConnected(Unreachable):
    """Nothing was sent: nobody listens there, or the name is unknown."""


class TimedOut(DeadlineExceeded):
    """No answer in time. The act may or may not have happened."""


class UnexpectedAnswer(Internal):
    """An answer that is not one of a notary: another server, or a proxy's page."""


__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "NotConnected",
    "NotFound",
    "NotaryError",
    "OutOfRange",
    "PayloadTooLarge",
    "PermissionDenied",
    "ResourceExhausted",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Unimplemented",
    "Unreachable",
    "UnsupportedMediaType",
]
