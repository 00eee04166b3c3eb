"""Headers that keep browsers from doing more with an answer than showing it, and who may ask from a page elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Of every answer that does not say otherwise."""

_ASKED = ("authorization", "content-type", "idempotency-key", "last-event-id", "traceparent", "x-request-id")
_TOLD = ("ratelimit", "ratelimit-policy", "retry-after", "www-authenticate", "x-request-id")


def strict_transport(seconds: int) -> tuple[bytes, bytes]:
    """The header that keeps browsers at TLS for so long (RFC 6797)."""
    return b"strict-transport-security", f"max-age={seconds}".encode()


def with_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, which pages of these origins may call; no page where there are none (CORS)."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=_ASKED,
        expose_headers=_TOLD,
        max_age=600,
    )
