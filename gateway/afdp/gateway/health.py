"""Two questions: does the gateway live, and can the service do its work?"""

from __future__ import annotations

from time import monotonic
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from afdp.errors import Unavailable
from afdp.version import VERSION

_started = monotonic()
_RETRY_AFTER = 5.0  # seconds; a dependency that is away rarely returns sooner


async def health(request: Request) -> JSONResponse:
    """The gateway's own life, whatever is behind it."""
    return JSONResponse({"status": "healthy", "version": VERSION, "uptime_seconds": int(monotonic() - _started)})


def judge_readiness(request: Any, answer: dict[str, Any]) -> Unavailable | None:
    """What `/ready` answers instead of 200, given a HealthRequest and the answer to it as JSON.

    Reading impaired is not ready; writing impaired is not ready for a caller that asks with `writes`.
    """
    status = answer["status"]
    if status == "healthy" or (status == "degraded" and not request.writes):
        return None
    away = [f"{one['name']}: {one['error'] or 'not healthy'}" for one in answer["dependencies"] if not one["healthy"]]
    return Unavailable("; ".join([f"the service is {status}", *away]), retry_after=_RETRY_AFTER)
