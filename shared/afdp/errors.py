"""The one tree of errors that crosses every hop.

A service raises these and nothing else; `afdp.rpc` turns them into a gRPC status with `google.rpc` details and back,
the gateway into an RFC 9457 problem document, the client into the exceptions that its callers see. The message says
what was wrong, where, and what to do; it is shown to callers, so it never holds a secret or personal data.

    NotaryError                    gRPC code             HTTP
    ├── InvalidArgument            INVALID_ARGUMENT       400   names each field
    │   ├── PayloadTooLarge        INVALID_ARGUMENT       413
    │   ├── UnsupportedMediaType   INVALID_ARGUMENT       415
    │   └── HeadersTooLarge        INVALID_ARGUMENT       431
    ├── Unauthenticated            UNAUTHENTICATED        401
    ├── PermissionDenied           PERMISSION_DENIED      403
    ├── NotFound                   NOT_FOUND              404
    │   └── Erased                 NOT_FOUND              410   says when, and which receipt certifies it
    ├── AlreadyExists              ALREADY_EXISTS         409
    ├── Aborted                    ABORTED                409
    ├── FailedPrecondition         FAILED_PRECONDITION    400
    ├── OutOfRange                 OUT_OF_RANGE           400
    ├── ResourceExhausted          RESOURCE_EXHAUSTED     429   may carry retry_after
    ├── Cancelled                  CANCELLED              499
    ├── Unimplemented              UNIMPLEMENTED          501
    ├── Unavailable                UNAVAILABLE            503   may carry retry_after
    ├── DeadlineExceeded           DEADLINE_EXCEEDED      504
    ├── DataLoss                   DATA_LOSS              500
    └── Internal                   INTERNAL               500
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that was refused: its path in proto names (`evidence_package.artifacts[0].hash_sha256`) and why."""

    field: str
    message: str


class NotaryError(Exception):
    """The root: a message for the caller, a canonical code and the HTTP status that goes with it.

    Attributes:
        message: one sentence for the caller.
        fields: the fields that were refused, if the fault is in the request.
        retry_after: seconds after which a retry makes sense, if any.
        metadata: short machine-readable facts (`google.rpc.ErrorInfo.metadata`).
    """

    code: ClassVar[str] = "UNKNOWN"
    number: ClassVar[int] = 2
    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = ""  # where there is more to say than the code (`google.rpc.ErrorInfo.reason`)

    def __init__(
        self,
        message: str,
        *,
        fields: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        if not self.fields:
            return self.message
        return f"{self.message}: " + "; ".join(f"{f.field}: {f.message}" for f in self.fields)


class InvalidArgument(NotaryError):
    """The request is wrong whatever the state of the system: fix the named fields and send it again."""

    code, number, http_status = "INVALID_ARGUMENT", 3, 400

    @classmethod
    def field(cls, field: str, message: str) -> InvalidArgument:
        """The error for a single field."""
        return cls("the request is not valid", fields=[FieldViolation(field, message)])


class PayloadTooLarge(InvalidArgument):
    """The body is over the limit."""

    http_status = 413


class UnsupportedMediaType(InvalidArgument):
    """The body is of a kind that is not spoken here."""

    http_status = 415


class HeadersTooLarge(InvalidArgument):
    """The request's head is over the limit."""

    http_status = 431


class Unauthenticated(NotaryError):
    """Who is calling is not known."""

    code, number, http_status = "UNAUTHENTICATED", 16, 401


class PermissionDenied(NotaryError):
    """The caller is known and may not do this."""

    code, number, http_status = "PERMISSION_DENIED", 7, 403


class NotFound(NotaryError):
    """What was asked for does not exist, or not for this caller."""

    code, number, http_status = "NOT_FOUND", 5, 404


class Erased(NotFound):
    """What was asked for was about a subject that was erased: nobody can read it any more.

    `metadata` has `erased_at` and `certificate`, each where it is known.
    """

    http_status, reason = 410, "ERASED"


class AlreadyExists(NotaryError):
    """Something else already stands under this name, such as other evidence under one idempotency key."""

    code, number, http_status = "ALREADY_EXISTS", 6, 409


class Aborted(NotaryError):
    """A concurrent change got in between: read again and retry."""

    code, number, http_status = "ABORTED", 10, 409


class FailedPrecondition(NotaryError):
    """The system is not in the state that this call needs; a retry alone does not help."""

    code, number, http_status = "FAILED_PRECONDITION", 9, 400


class OutOfRange(NotaryError):
    """Past the end of what exists."""

    code, number, http_status = "OUT_OF_RANGE", 11, 400


class ResourceExhausted(NotaryError):
    """A bound was reached: a full queue, a quota. Retry after `retry_after`."""

    code, number, http_status = "RESOURCE_EXHAUSTED", 8, 429


class Cancelled(NotaryError):
    """The caller went away."""

    code, number, http_status = "CANCELLED", 1, 499


class Unimplemented(NotaryError):
    """Known, and not built yet."""

    code, number, http_status = "UNIMPLEMENTED", 12, 501


class Unavailable(NotaryError):
    """A dependency cannot be reached. Nothing is lost; retry after `retry_after`."""

    code, number, http_status = "UNAVAILABLE", 14, 503


class DeadlineExceeded(NotaryError):
    """The time ran out. The act may or may not have happened: retry with an idempotency key."""

    code, number, http_status = "DEADLINE_EXCEEDED", 4, 504


class DataLoss(NotaryError):
    """Stored data is not what was stored. An operator is needed."""

    code, number, http_status = "DATA_LOSS", 15, 500


class Internal(NotaryError):
    """A fault of ours. The message is general; the log has the rest under the request ID."""

    code, number, http_status = "INTERNAL", 13, 500


BY_CODE: Mapping[str, type[NotaryError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Aborted,
        FailedPrecondition,
        OutOfRange,
        ResourceExhausted,
        Cancelled,
        Unimplemented,
        Unavailable,
        DeadlineExceeded,
        DataLoss,
        Internal,
    )
}
BY_NUMBER: Mapping[int, type[NotaryError]] = {kind.number: kind for kind in BY_CODE.values()}
BY_REASON: Mapping[str, type[NotaryError]] = {Erased.reason: Erased}
