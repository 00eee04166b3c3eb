"""The log's read path under `/log/`: tiles and checkpoints passed through as they are, nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from afdp.errors import DeadlineExceeded, NotFound, Unavailable
from afdp.gateway.exchange import exchange_of

logger = logging.getLogger(__name__)

ENDPOINT = "/log/{path}"

# c2sp.org/tlog-tiles: checkpoint, tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>]; vkey is the log's verifier key.
_PATH = re.compile(r"checkpoint|vkey|tile/(?:entries|[0-9]{1,2})/(?:x[0-9]{3}/){0,6}[0-9]{3}(?:\.p/[1-9][0-9]{0,2})?")
_ASKED = ("if-none-match", "if-modified-since", "range", "accept-encoding")
_ANSWERED = (
    "content-type",
    "content-length",
    "content-encoding",
    "content-range",
    "accept-ranges",
    "cache-control",
    "etag",
    "last-modified",
    "vary",
)
_TIMEOUT = httpx.Timeout(10.0, connect=1.0, pool=1.0)
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16)


class LogProxy:
    """GET and HEAD of the log's files."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    def route(self) -> Route:
        """Where it is served."""
        return Route("/log/{path:path}", self.serve, methods=["GET", "HEAD"])

    async def serve(self, request: Request) -> Response:
        """One file of the log.

        Raises:
            NotFound: no file of a log has such a path.
            Unavailable: the log cannot be reached.
            DeadlineExceeded: the log did not answer in time.
        """
        exchange = exchange_of(request.scope)
        exchange.endpoint = ENDPOINT
        path: str = request.path_params["path"]
        if not _PATH.fullmatch(path):
            raise NotFound("the log has no such file; it serves checkpoint, vkey, tile/L/N and tile/entries/N")
        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        headers.setdefault("accept-encoding", "identity")
        headers["x-request-id"] = exchange.request_id
        asked = self._client.build_request(request.method, path, headers=headers)
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.TimeoutException:
            raise DeadlineExceeded("the log did not answer in time") from None
        except httpx.TransportError:
            raise Unavailable("the log cannot be reached", retry_after=1.0) from None
        if answer.status_code >= 500:
            await answer.aclose()
            raise Unavailable("the log cannot answer now", retry_after=1.0)
        passed = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, passed, background=BackgroundTask(answer.aclose)
        )


@asynccontextmanager
async def open_log_proxy(url: str) -> AsyncIterator[LogProxy]:
    """A proxy of the log that is served under a base URL, for as long as the context is open."""
    base = url if url.endswith("/") else url + "/"
    async with httpx.AsyncClient(base_url=base, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False) as client:
        yield LogProxy(client)
