"""What the gateway finds before it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from afdp.gateway.config import GatewaySettings
from afdp.selfcheck import Finding
from afdp.tls.files import open_tls
from afdp.tls.http import ClientContext

_TIMEOUT = 3.0  # seconds


async def log(settings: GatewaySettings) -> Sequence[Finding]:
    """Whether the log's read path, which is served under `/log/`, answers."""
    url = str(settings.log_url).rstrip("/")
    remedy = "start the transparency service, or set AFDP_LOG_URL to where its read path is"
    try:
        async with _client(settings) as client:
            names = [name for name in settings.tls_names["transparency"] if "://" not in name]
            answer = await client.get(f"{url}/vkey", extensions={"sni_hostname": names[0]} if names else {})
    except httpx.HTTPError:
        return [Finding("log", False, f"nobody answers at {url}", remedy)]
    if answer.status_code != httpx.codes.OK:
        return [Finding("log", False, f"{url}/vkey answers {answer.status_code}", remedy)]
    return [Finding("log", True, f"answers at {url}: {answer.text.partition('+')[0]}")]


async def is_gateway(address: str, settings: GatewaySettings) -> bool:
    """Whether a gateway listens at `host:port`."""
    try:
        async with _client(settings) as client:
            scheme = "http" if settings.tls == "off" else "https"
            names = [name for name in settings.tls_names["gateway"] if "://" not in name]
            options = {"sni_hostname": names[0]} if names else {}
            answer = await client.get(f"{scheme}://{address}/health", extensions=options)
            return answer.status_code == httpx.codes.OK and "uptime_seconds" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


@asynccontextmanager
async def _client(settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_tls(settings) as tls:
        verify = True if tls is None else ClientContext.following(tls)
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=verify) as client:
            yield client
