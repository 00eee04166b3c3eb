"""A server that speaks S3 and that we did not write: versitygw, whose buckets are folders and objects are files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from afdp.embedded.process import ServerProcess
from tests.lasting_ports import lasting_port

KEY_ID, SECRET = "afdp-mirror", "a secret of this test"


@dataclass(slots=True)
class Versitygw:
    """A running one; it can be stopped and started again.

    Attributes:
        folder: of the one bucket, `log`.
    """

    program: Path
    folder: Path
    home: Path
    port: int
    process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it, on its port."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "ROOT_ACCESS_KEY": KEY_ID,
            "ROOT_SECRET_KEY": SECRET,
            "VGW_META_SIDECAR": str(self.home / "sidecar"),
        }
        command = [self.program, "--quiet", "--port", f"127.0.0.1:{self.port}", "posix", self.folder.parent]
        self.process = await ServerProcess.spawn(
            "versitygw", command, log=self.home / "versitygw.log", environment=environment
        )
        await self.process.until(self._answers, deadline=20)

    async def stop(self) -> None:
        """Stops it, if it runs."""
        if self.process:
            await self.process.stop()
            self.process = None

    async def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(self.url)
                return True
        return False


@asynccontextmanager
async def running_versitygw(tool: Callable[[str], Path], home: Path) -> AsyncIterator[Versitygw]:
    """One with an empty bucket, for the length of a block."""
    folder = home / "buckets" / "log"
    folder.mkdir(parents=True)
    (home / "sidecar").mkdir()
    server = Versitygw(tool("versitygw"), folder, home, lasting_port())
    await server.start()
    try:
        yield server
    finally:
        await asyncio.shield(server.stop())
