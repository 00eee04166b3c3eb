"""The log's read path under `/log/`, and under `/api/v2/` where readers of Rekor v2 look for it: tiles and checkpoints
passed through as they are, and under `/log/logs` which logs there are.
"""

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

from afdp.errors import DataLoss, DeadlineExceeded, NotFound, PermissionDenied, Unavailable
from afdp.formats.note import NoteError, validate_origin
from afdp.formats.tiles import TileError, parse_tile_path
from afdp.gateway.config import GatewaySettings
from afdp.gateway.entry_log import EntryLog
from afdp.gateway.exchange import exchange_of
from afdp.gateway.rekor import PREFIX
from afdp.tls.files import TlsFiles
from afdp.tls.http import ClientContext

logger = logging.getLogger(__name__)


# A further log of the deployment, by its origin.
_FURTHER = re.compile(r"logs/([^/%]+)/")
# Neither ranges nor encodings are asked for: what a reader hashes is what the log hashed.
_ASKED = ("if-none-match",)
_ANSWERED = (
    "content-type",
    "content-length",
    "accept-ranges",
    "access-control-allow-origin",
    "cache-control",
    "cross-origin-resource-policy",
    "etag",
)
_FOLLOWS = "public, no-cache, no-transform"
_TIMEOUT = httpx.Timeout(10.0, connect=1.0, pool=1.0)
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16)


class LogProxy:
    """GET and HEAD of the log's files."""

    def __init__(self, client: httpx.AsyncClient, settings: GatewaySettings) -> None:
        self._client = client
        # Whatever its address: the service itself must be there, by the name in its certificate.
        names = [name for name in settings.tls_names["transparency"] if "://" not in name]
        self._extensions = {"sni_hostname": names[0]} if names else {}
        self._open = settings.log_reading == "open"
        self._entry_log = EntryLog(client, settings.entry_log)

    def routes(self) -> list[Route]:
        """Where it is served: under a path of ours, and where Rekor v2 has it."""
        templates = ("/log/{path:path}", f"{PREFIX}checkpoint", f"{PREFIX}tile/{{path:path}}")
        return [Route(template, self.serve, methods=["GET", "HEAD"]) for template in templates]

    async def serve(self, request: Request) -> Response:
        """One file of the log.

        Raises:
            PermissionDenied: it is not open to readers here.
            NotFound: no file of a log has such a path.
            Unavailable: the log cannot be reached.
            DataLoss: the log does not serve it, since it is damaged.
            DeadlineExceeded: the log did not answer in time.
        """
        exchange = exchange_of(request.scope)
        prefix = next(each for each in ("/log/", PREFIX) if request.scope["path"].startswith(each))
        exchange.endpoint = f"{prefix}{{path}}"
        if not self._open:
            raise PermissionDenied("the log is not open to readers here")
        path = _file_of(request, prefix)
        exchange.passed_on = True
        if prefix == PREFIX:
            path = await self._entry_log.prefix() + path
        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        headers["accept-encoding"] = "identity"
        headers["x-request-id"] = exchange.request_id
        asked = self._client.build_request(request.method, path, headers=headers, extensions=self._extensions)
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.TimeoutException:
            raise DeadlineExceeded("the log did not answer in time") from None
        except httpx.TransportError:
            raise Unavailable("the log cannot be reached", retry_after=1.0) from None
        if answer.status_code >= 500:
            await answer.aclose()
            if answer.status_code == 500:  # trying again would not help
                raise DataLoss("the log withholds this file: what is stored of it does not hold")
            raise Unavailable("the log cannot answer now", retry_after=1.0)
        passed = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        if prefix == PREFIX and "immutable" in passed.get("cache-control", ""):
            passed["cache-control"] = _FOLLOWS  # another log may be read here one day
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, passed, background=BackgroundTask(answer.aclose)
        )


def _file_of(request: Request, served_under: str) -> str:
    """The file that a path names, as it was sent: an escaped character would be a second spelling of it."""
    path: str = request.scope["raw_path"].decode("latin-1").removeprefix(served_under)
    further = _FURTHER.match(path)
    prefix = further[0] if further else ""
    file = path.removeprefix(prefix)
    try:
        if further:
            validate_origin(further[1])
        if path == "logs":
            return path
        return prefix + (file if file in ("checkpoint", "vkey") else parse_tile_path(file).path())
    except (TileError, NoteError):
        raise NotFound("the log has no such file; it serves checkpoint, vkey, tile/L/N and tile/entries/N") from None


@asynccontextmanager
async def open_log_proxy(settings: GatewaySettings, tls: TlsFiles | None = None) -> AsyncIterator[LogProxy]:
    """A proxy of the logs, for as long as the context is open."""
    url = str(settings.log_url)
    base = url if url.endswith("/") else url + "/"
    verify = True if tls is None else ClientContext.following(tls)
    async with httpx.AsyncClient(
        base_url=base, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False, verify=verify
    ) as client:
        yield LogProxy(client, settings)
