"""A `NotaryError` on the wire: a gRPC status with `google.rpc` details, and back.

Fields travel as `BadRequest`, a retry hint as `RetryInfo`, facts and the exact kind as `ErrorInfo` (AIP-193).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from afdp.errors import BY_NUMBER, BY_REASON, FieldViolation, Internal, NotaryError, Unavailable

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "afdp.dev"

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: NotaryError, request_id: str = "") -> tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]:
    """Code, message and trailing metadata for `context.abort`.

    The message names the first fields too, for callers who do not read details.
    """
    fields = _fitting(error.fields)
    message = error.message + _named(fields)
    status = Status(code=error.number, message=message)
    if fields:
        violations = [BadRequest.FieldViolation(field=f.field, description=f.message) for f in fields]
        _pack(status, BadRequest(field_violations=violations))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        _pack(status, RetryInfo(retry_delay=delay))
    facts = {**error.metadata, "request_id": request_id} if request_id else error.metadata
    _pack(status, ErrorInfo(reason=error.reason or error.code, domain=DOMAIN, metadata=facts))
    # The answer of a service that runs is final: gRPC's own retries are for connections that fail.
    trailing = ((DETAILS_KEY, status.SerializeToString()), ("grpc-retry-pushback-ms", "-1"))
    return CODES[error.number], message, trailing


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> NotaryError:
    """The error that a call ended in. `peer` names the service in errors that the transport made itself."""
    number = error.code().value[0]
    kind = BY_NUMBER.get(number, Internal)
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if not isinstance(details, bytes):
        return of_transport(kind, peer)
    return from_details(details, kind, error.details() or "")


def of_transport(kind: type[NotaryError], peer: str) -> NotaryError:
    """What is said of an error of the transport's own.

    Its words name addresses and errno: they stay in the log, callers get a sentence.
    """
    sentence = _TRANSPORT.get(kind.code, "{peer} failed").format(peer=peer)
    return kind(sentence, retry_after=1.0 if kind is Unavailable else None)


def from_status(data: bytes, peer: str) -> NotaryError:
    """The error in a `google.rpc.Status`; one without details is the transport's own."""
    try:
        status = Status.FromString(data)
    except DecodeError:
        return of_transport(Internal, peer)
    kind = BY_NUMBER.get(status.code, Internal)
    return from_details(data, kind, status.message) if status.details else of_transport(kind, peer)


def from_details(details: bytes, kind: type[NotaryError], message: str) -> NotaryError:
    """The error in a `google.rpc.Status`; `kind` and `message` stand where it cannot be read."""
    try:
        status = Status.FromString(details)
    except DecodeError:
        return kind(message)
    fields: list[FieldViolation] = []
    retry_after: float | None = None
    metadata: dict[str, str] = {}
    for detail in status.details:
        if detail.Is(BadRequest.DESCRIPTOR):
            bad = BadRequest.FromString(detail.value)
            fields = [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(RetryInfo.DESCRIPTOR):
            retry_after = RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds() / 1000
        elif detail.Is(ErrorInfo.DESCRIPTOR):
            info = ErrorInfo.FromString(detail.value)
            kind, metadata = BY_REASON.get(info.reason, kind), dict(info.metadata)
    metadata.pop("request_id", None)
    return kind(status.message.removesuffix(_named(fields)), fields=fields, retry_after=retry_after, metadata=metadata)


_TRANSPORT = {
    "UNAVAILABLE": "{peer} cannot be reached",
    "DEADLINE_EXCEEDED": "{peer} did not answer in time",
    "CANCELLED": "the call to {peer} was cancelled",
    "UNIMPLEMENTED": "{peer} does not know this call",
    "RESOURCE_EXHAUSTED": "the message to or from {peer} is over its limit",
}


def _fitting(fields: Sequence[FieldViolation]) -> Sequence[FieldViolation]:
    """The first fields, as many as trailing metadata holds: some clients take no more than 8 KiB of it in all."""
    sizes = accumulate(len(f.field.encode()) + len(f.message.encode()) + 8 for f in fields)
    return fields[: max(1, sum(size <= _FIELD_BYTES for size in sizes))]


def _named(fields: Sequence[FieldViolation]) -> str:
    """What a message says of the first fields."""
    return ": " + "; ".join(f"{f.field}: {f.message}" for f in fields[:_IN_MESSAGE]) if fields else ""


_FIELD_BYTES = 2048
_IN_MESSAGE = 3


def _pack(status: Status, detail: Any) -> None:
    status.details.append(
        AnyMessage(type_url=f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", value=detail.SerializeToString())
    )
