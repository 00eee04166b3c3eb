"""Errors as callers of REST see them: problem documents (RFC 9457) from the one error tree."""

from __future__ import annotations

import re
from math import ceil
from typing import Any

import orjson
from starlette.responses import Response

from afdp.errors import DeadlineExceeded, Erased, NotaryError, Unauthenticated, Unimplemented

TYPE_PREFIX = "https://afdp.dev/problems/"
MEDIA_TYPE = "application/problem+json"
_ERASED = {"erased_at": None, "certificate": ""}


class MethodNotAllowed(Unimplemented):
    """The path is known, not under this verb."""

    http_status = 405


class RequestTimeout(DeadlineExceeded):
    """The caller took too long to send its request; nothing was done."""

    http_status = 408


def problem(error: NotaryError, request_id: str, **members: object) -> dict[str, Any]:
    """The document: RFC 9457's members, then `code`, `request_id`, `errors` and further ones."""
    words = _words(type(error))
    return {
        "type": TYPE_PREFIX + "-".join(words),
        "title": " ".join(words).capitalize(),
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "request_id": request_id,
        "errors": [{"field": fault.field, "message": fault.message} for fault in error.fields],
        **(_ERASED | error.metadata if isinstance(error, Erased) else {}),
        **members,
    }


class ProblemResponse(Response):
    """A problem document as an answer, with the headers that belong to its kind."""

    media_type = MEDIA_TYPE

    def __init__(self, error: NotaryError, request_id: str, **members: object) -> None:
        super().__init__(
            orjson.dumps(problem(error, request_id, **members)), error.http_status, headers=headers_of(error)
        )


def headers_of(error: NotaryError) -> dict[str, str]:
    """The headers that belong to an error's kind."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, ceil(error.retry_after)))  # RFC 9110, section 10.2.3: whole seconds
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed) and "allow" in error.metadata:
        headers["allow"] = error.metadata["allow"]
    if isinstance(error, RequestTimeout):
        headers["connection"] = "close"  # the rest of the request may still come
    return headers


def _words(kind: type[NotaryError]) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z][a-z]+", kind.__name__)]
