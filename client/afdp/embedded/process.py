"""Child processes: started apart from the terminal, watched until they are ready, stopped by their own id."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afdp.errors import FailedPrecondition, Unavailable

LOOPBACK = "127.0.0.1"

_CHILD = Path(__file__).with_name("child.py")
_POLL = 0.01
_KILL_AFTER = 5.0
_LOG_LIMIT = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's account that a server runs under."""

    uid: int
    gid: int

    @classmethod
    def named_by(cls, uid: int) -> Account | None:
        """The account of this uid, or None where the system's account database has no such entry."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return None
        return cls(entry.pw_uid, entry.pw_gid)

    def may_traverse(self, folder: Path) -> bool:
        """Whether the mode bits let this account through `folder` and every folder above it."""
        resolved = folder.resolve()
        return all(self._may_enter(os.stat(step)) for step in (resolved, *resolved.parents))

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


class ServerProcess:
    """One running child: in its own session, so that a terminal's Ctrl-C reaches only the parent, and tied to it.

    When the thread that started it ends, by whatever cause, the kernel sends it the stop signal (Linux).
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._stop_signal = stop_signal

    @classmethod
    async def spawn(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> ServerProcess:
        """Start `command` (an absolute path and its arguments) with exactly this environment.

        Args:
            log: takes standard output and standard error; it is appended to, and starts anew past 10 MiB.
            folder: the working directory, by default the log's.
            account: whom to become, which only root can.
            stop_signal: what asks this server to stop in good order.
        """
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        trampoline = [
            sys.executable,
            "-I",
            "-S",
            str(_CHILD),
            str(os.getpid()),
            str(int(stop_signal)),
            str(uid),
            str(gid),
        ]
        output = _open_log(log)
        try:
            process = await asyncio.create_subprocess_exec(
                *trampoline,
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder or log.parent,
                env=dict(environment),
                start_new_session=True,
            )
        finally:
            os.close(output)
        return cls(name, process, log, stop_signal)

    @property
    def pid(self) -> int:
        """The process's id; the server's own, as the child becomes the server."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """The exit code, once the process has ended."""
        return await self._process.wait()

    async def until(self, ready: Callable[[], Awaitable[bool]], *, deadline: float) -> None:
        """Ask `ready` again and again until it is true.

        Raises:
            Unavailable: the process ended first, or `deadline` (seconds) has passed; its last line of log says why.
        """
        try:
            async with asyncio.timeout(deadline):
                while not await ready():
                    if self.exit_code is not None:
                        raise Unavailable(
                            f"{self.name} ended with code {self.exit_code} at its start: {self.last_words()}"
                        )
                    await asyncio.sleep(_POLL)
        except TimeoutError as error:
            raise Unavailable(f"{self.name} is not ready after {deadline:g} s: {self.last_words()}") from error

    async def stop(self, *, patience: float = 10.0, harder: signal.Signals = signal.SIGKILL) -> int:
        """Ask it to stop, then with `harder` after `patience` seconds, then kill it. Its exit code."""
        for sign, seconds in ((self._stop_signal, patience), (harder, _KILL_AFTER)):
            self._send(sign)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self.wait()
        self._send(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._send(signal.SIGKILL)

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, on one line, with where to find the rest."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            tail = log.read().decode(errors="replace").splitlines()[-lines:]
        return f"{' / '.join(line.strip() for line in tail) or 'it said nothing'} (log: {self.log})"

    def _send(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sign)


async def until_gone(pid: int, *, patience: float) -> None:
    """Return when a process that need not be our child has ended (pidfd_open(2), Linux).

    Raises:
        TimeoutError: it still runs after `patience` seconds.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, gone.set)
    try:
        async with asyncio.timeout(patience):
            await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


class FolderLock:
    """A data folder is used by one process at a time; the lock goes with its holder, however that ends (flock(2))."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            FailedPrecondition: another process has it.
        """
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise FailedPrecondition(
                f"the data folder {folder} is in use by another process: stop that one first"
            ) from error

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def claim_folder(data_dir: Path) -> tuple[Path, FolderLock]:
    """The absolute path of a server's data folder, made if need be, and the lock on it."""
    folder = data_dir.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder, FolderLock(folder)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def claim_port(port: int, owner: str) -> int:
    """`port` if it can be listened on, or a free one for 0.

    Raises:
        FailedPrecondition: somebody listens there already.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise FailedPrecondition(f"port {port} for {owner} is not free on {LOOPBACK}: {error.strerror}") from error
    return port


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read, whole or not at all, and durably."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _open_log(path: Path) -> int:
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
