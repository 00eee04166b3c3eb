"""The trust root's TUF repository under `/trust/`: metadata at its root, the files that it speaks of under `targets/`.

All but the timestamp has its version or its hash in its name and never changes, so anybody may keep it; that there is
no next version yet is nothing to keep.
"""

from __future__ import annotations

from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from afdp.errors import NotFound
from afdp.gateway.clients import told_of_client
from afdp.gateway.descriptors import NOTARY, Api
from afdp.gateway.exchange import exchange_of
from afdp.gateway.problems import ProblemResponse
from afdp.gateway.upstream import Metadata, Upstream

ENDPOINT = "/trust/{path}"

_METHOD = f"/{NOTARY}/GetTrustFile"
_PACKAGE = NOTARY.rpartition(".")[0]
_TIMESTAMP = "timestamp.json"
_MEDIA_TYPES = {".json": "application/json", ".pem": "application/x-pem-file"}
_FOR_EVER, _NEVER, _ASK = "public, max-age=31536000, immutable", "no-store", "public, no-cache"


class TrustFiles:
    """GET and HEAD of the repository's files."""

    def __init__(self, api: Api, upstream: Upstream, timeout: float) -> None:
        self._request = api.message_class(f"{_PACKAGE}.GetTrustFileRequest")
        self._response = api.message_class(f"{_PACKAGE}.GetTrustFileResponse")
        self._upstream = upstream
        self._timeout = timeout

    def route(self) -> Route:
        """Where they are served."""
        return Route("/trust/{path:path}", self.serve, methods=["GET", "HEAD"])

    async def serve(self, request: Request) -> Response:
        """One file of the repository.

        Raises:
            Unavailable: the notary cannot be reached.
        """
        exchange = exchange_of(request.scope)
        exchange.endpoint = ENDPOINT
        path: str = request.path_params["path"]
        metadata: Metadata = [("x-request-id", exchange.request_id)]
        if exchange.traceparent:
            metadata.append(("traceparent", exchange.traceparent))
        metadata += told_of_client(request.scope)
        asked = self._request(name=path).SerializeToString()
        exchange.passed_on = True
        try:
            answer = await self._upstream.call(_METHOD, asked, self._timeout, metadata)
        except NotFound as error:
            problem = ProblemResponse(error, exchange.request_id)
            problem.headers["cache-control"] = _NEVER
            return problem
        return _file(path, self._response.FromString(answer).content, request.headers.get("if-none-match", ""))


def _file(path: str, content: bytes, known: str) -> Response:
    tag = f'"{sha256(content).hexdigest()}"'
    headers = {"etag": tag, "cache-control": _ASK if path == _TIMESTAMP else _FOR_EVER}
    if tag in known:
        return Response(status_code=304, headers=headers)
    kind = _MEDIA_TYPES.get(path[path.rfind(".") :], "text/plain; charset=utf-8")
    return Response(content, headers={"content-type": kind, **headers})
