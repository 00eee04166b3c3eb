"""What the gateway finds before it serves."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from afdp.gateway.config import GatewaySettings
from afdp.selfcheck import Finding

_TIMEOUT = 3.0  # seconds


async def log(settings: GatewaySettings) -> Sequence[Finding]:
    """Whether the log's read path, which is served under `/log/`, answers."""
    url = str(settings.log_url).rstrip("/")
    remedy = "start the transparency service, or set AFDP_LOG_URL to where its read path is"
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            answer = await client.get(f"{url}/vkey")
    except httpx.HTTPError:
        return [Finding("log", False, f"nobody answers at {url}", remedy)]
    if answer.status_code != httpx.codes.OK:
        return [Finding("log", False, f"{url}/vkey answers {answer.status_code}", remedy)]
    return [Finding("log", True, f"answers at {url}: {answer.text.partition('+')[0]}")]


async def is_gateway(address: str) -> bool:
    """Whether a gateway listens at `host:port`."""
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            answer = await client.get(f"http://{address}/health")
            return answer.status_code == httpx.codes.OK and "uptime_seconds" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False
