"""What is Rekor v2's and not ours: everything under `/api/v2/`, whose clients expect errors as its gateway makes them.

Source: sigstore/rekor-tiles, `internal/server/http.go`; google.rpc.Status in protobuf's JSON.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Scope

from afdp.errors import NotaryError
from afdp.gateway.body import JSON
from afdp.gateway.exchange import exchange_of
from afdp.gateway.problems import ProblemResponse, headers_of

PREFIX = "/api/v2/"

LOG_INDEX = "log_index"
"""Of the metadata of AlreadyExists: where the entry is."""


class StatusResponse(Response):
    """An error as a `google.rpc.Status`; the message names the fields too, since clients show nothing else."""

    media_type = JSON

    def __init__(self, error: NotaryError) -> None:
        headers = headers_of(error)
        if LOG_INDEX in error.metadata:
            headers["x-log-index"] = error.metadata[LOG_INDEX]
        super().__init__(orjson.dumps(_status(error)), error.http_status, headers=headers)


def error_response(scope: Scope, error: NotaryError, request_id: str) -> Response:
    """An error in the form of the API that was asked."""
    exchange = exchange_of(scope)
    if not exchange.passed_on and not exchange.refusal:
        exchange.refusal = _why(error)
    if scope["path"].startswith(PREFIX):
        return StatusResponse(error)
    return ProblemResponse(error, request_id)


def _why(error: NotaryError) -> str:
    """What is wrong, and not where: the place may be named as somebody chose to write it into his request."""
    return error.fields[0].message if error.fields else error.message


def _status(error: NotaryError) -> dict[str, Any]:
    violations = [{"field": fault.field, "description": fault.message} for fault in error.fields]
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]
    return {"code": error.number, "message": str(error), "details": details if violations else []}
