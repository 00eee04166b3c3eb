"""The API described: `/openapi.json` for programs, `/docs` for people. Both are made once, at start."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from importlib.resources import files

import orjson
from starlette.requests import Request
from starlette.responses import Response

from afdp.gateway.descriptors import Api
from afdp.gateway.openapi import openapi
from afdp.gateway.page import page

Serve = Callable[[Request], Awaitable[Response]]


def documentation(api: Api) -> Mapping[str, Serve]:
    """What is served under which path."""
    document = openapi(api)
    style = files("afdp.gateway").joinpath("page.css").read_text()
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    cached = {"cache-control": "public, max-age=300"}
    return {
        "/openapi.json": _constant(orjson.dumps(document), "application/json", cached),
        "/docs": _constant(
            page(document, style).encode(), "text/html; charset=utf-8", {**cached, "content-security-policy": policy}
        ),
    }


def _constant(content: bytes, media_type: str, headers: Mapping[str, str]) -> Serve:
    async def serve(request: Request) -> Response:
        return Response(content, headers={"content-type": media_type, **headers})

    return serve
