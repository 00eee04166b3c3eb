"""A light OpenID provider, not ours: real discovery, keys and tokens, for tests that want them at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_PROGRAM = Path(__file__).with_name("oidc_provider.mjs")
_LIBRARY = "node_modules/oauth2-mock-server/dist/index.mjs"
_PATIENCE = 30.0


@dataclass
class OidcProvider:
    """The running provider."""

    issuer: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.issuer.rpartition(":")[2])

    async def token(self, **claims: Any) -> str:
        """A token of its, with these claims beside its own."""
        form = {
            "grant_type": "client_credentials",
            "scope": "afdp.notary.read afdp.notary.write",
            "aud": "afdp-notary",
            "claims": json.dumps({"sub": "7b0c", "tenant": "acme", "roles": ["ai_engineer"], **claims}),
        }
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE) as client:
            answer = await client.post(f"{self.issuer}/token", data=form)
        return str(answer.raise_for_status().json()["access_token"])

    async def rotate(self) -> None:
        """Signs with a new key, and publishes it beside those before."""
        await self._do("rotate")

    async def withdraw(self) -> None:
        """Publishes no key but the newest any more."""
        await self._do("withdraw")

    def settings(self, **changes: Any) -> Mapping[str, Any]:
        """Its entry in a file of identity settings."""
        settings = {
            "issuer": self.issuer,
            "audiences": "afdp-notary",
            "roles": {"claims": "roles"},
            "tenant": {"claim": "tenant"},
        }
        return {**settings, **changes}

    async def _do(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        assert await _line(self.process) == "done"


@asynccontextmanager
async def running_oidc_provider(tool: Callable[[str], Path], port: int = 0) -> AsyncIterator[OidcProvider]:
    """The provider, while the context is open."""
    library = tool("oauth2-mock-server") / _LIBRARY
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(tool("node"), _PROGRAM, library, str(port), stdin=pipe, stdout=pipe)
    try:
        yield OidcProvider(await _line(process), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(_PATIENCE):
        return (await process.stdout.readline()).decode().strip()
