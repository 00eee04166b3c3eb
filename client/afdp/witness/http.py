"""The witness over HTTP: one call, and how it is doing. Answers are text, errors a sentence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from afdp.errors import DeadlineExceeded, NotaryError, PayloadTooLarge
from afdp.formats.note import VerifierKey
from afdp.formats.witness import ADD_CHECKPOINT, MAX_REQUEST_BYTES, SIZE_MEDIA_TYPE, format_cosignatures, format_size
from afdp.witness.service import Witness
from afdp.witness.values import OtherSize

logger = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"
_FRESH = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_requests = Counter("afdp_witness_requests", "Requests for a cosignature, by the status of the answer.", ["code"])

_Endpoint = Callable[[Request], Awaitable[Response]]


def application(witness: Witness, vkey: VerifierKey, check: Callable[[], Awaitable[None]], timeout: float) -> Starlette:
    """The ASGI application. `check` raises what is wrong; `timeout` is each request's deadline, in seconds."""

    async def add_checkpoint(request: Request) -> Response:
        signatures = await witness.add_checkpoint(await _body(request))
        return Response(format_cosignatures(signatures), media_type=_TEXT, headers=_FRESH)

    async def health(request: Request) -> Response:
        await check()
        return Response("ok\n", media_type=_TEXT, headers=_FRESH)

    async def own_key(request: Request) -> Response:
        return Response(f"{vkey}\n", media_type=_TEXT, headers=_FRESH)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST, headers=_FRESH)

    async def counted(request: Request) -> Response:
        response = await _answered(add_checkpoint, request, timeout)
        _requests.labels(response.status_code).inc()
        return response

    def read(path: str, endpoint: _Endpoint) -> Route:
        async def handle(request: Request) -> Response:
            return await _answered(endpoint, request, timeout)

        return Route(path, handle, methods=["GET", "HEAD"])

    unmatched: ExceptionHandler = _unmatched  # type: ignore[assignment]  # called with HTTPException only
    routes = [
        Route(f"/{ADD_CHECKPOINT}", counted, methods=["POST"]),
        read("/health", health),
        read("/vkey", own_key),
        read("/metrics", metrics),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: unmatched})
    app.router.redirect_slashes = False
    return app


async def _answered(endpoint: _Endpoint, request: Request, timeout: float) -> Response:
    try:
        async with asyncio.timeout(timeout):
            return await endpoint(request)
    except OtherSize as error:
        return Response(format_size(error.size), 409, {**_FRESH, "Content-Type": SIZE_MEDIA_TYPE})
    except NotaryError as error:
        return refusal(error)
    except TimeoutError:
        return refusal(DeadlineExceeded("the request's time ran out"))
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    except Exception:  # whatever it is, the caller gets a sentence and never its text
        logger.exception("a request failed unexpectedly")
        return Response("an internal fault; the witness's log has it\n", 500, _FRESH, _TEXT)


def refusal(error: NotaryError) -> Response:
    """The answer that says what is wrong."""
    headers = dict(_FRESH)
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return Response(f"{error.message}\n", error.http_status, headers, _TEXT)


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_REQUEST_BYTES:
            raise PayloadTooLarge(f"a request must not be larger than {MAX_REQUEST_BYTES} bytes")
    return bytes(data)


async def _unmatched(request: Request, error: HTTPException) -> Response:
    return Response(f"{error.detail}\n", error.status_code, {**(error.headers or {}), **_FRESH}, _TEXT)
