"""What every test can ask for: a real PostgreSQL, a real OpenBao, tools we did not write.

Servers start once per run, at the first test that asks, and stop with it. Where CI=true, a skipped test fails the run:
there everything is installed, so a skip would only hide something.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.embedded.openbao import OpenBao, running_openbao
from afdp.embedded.postgres import Postgres, running_postgres
from tests.keycloak_server import Keycloak, running_keycloak
from tests.ldap_server import running_directory
from tests.local_token import LocalToken
from tests.rekor_servers import Rekor1, Rekor2, running_rekor1, running_rekor2

IN_CI = os.environ.get("CI") == "true"
_PACKAGES = {
    "softhsm2-util": "softhsm2",
    "ssh-agent": "openssh-client",
    "ssh-add": "openssh-client",
    "promtool": "prometheus",
    "slapd": "slapd",
    "syslog-ng": "syslog-ng-core",
    "postgres": "postgresql-15",
    "redis-server": "redis-server",
}  # what Debian names the package of a tool that we do not build
_DEBIANS_POSTGRESQL = "/usr/lib/postgresql/15/bin"  # not on its path; other than that of the wheel it speaks TLS


def tools_folder() -> Path:
    """Where `make tools` puts what it builds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("AFDP_TOOLS") or cache / "afdp-notary" / "tools")


def find_tool(name: str) -> Path | None:
    """A program from the tools' folder, beside this Python, or on the path, in that order."""
    for folder in (tools_folder() / "bin", Path(sys.executable).parent):
        if os.access(folder / name, os.X_OK):
            return folder / name
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_DEBIANS_POSTGRESQL}")
    return Path(found) if found else None


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """An operator's command says how its process logs: here that ends with the test which runs it."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """`tool("cosign")` is the program's path; the test is skipped where it is absent, and fails there in CI."""

    def locate(name: str) -> Path:
        if found := find_tool(name):
            return found
        reason = f"{name} is not here: `make tools` builds it where its toolchain is installed"
        if name in _PACKAGES:
            reason = f"{name} is not here: it comes with the package {_PACKAGES[name]}"
        if IN_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    return locate


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """An empty folder for a server's data, which an unprivileged server can reach when the tests run as root.

    `tmp_path` lies below a folder that its owner alone may enter.
    """
    with open_folder() as folder:
        yield folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    """One PostgreSQL for the run; for tables of its own a test takes `database`."""
    with open_folder() as folder:
        async with running_postgres(folder / "postgres") as server:
            yield server


@pytest_asyncio.fixture(loop_scope="session")
async def database(postgres: Postgres) -> str:
    """The URL of an empty database that no other test sees."""
    return await postgres.create_database(f"test_{uuid.uuid4().hex}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_database(postgres: Postgres) -> str:
    """The URL of a database that the tests of one module share."""
    return await postgres.create_database(f"module_{uuid.uuid4().hex}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openbao() -> AsyncIterator[OpenBao]:
    """One OpenBao for the run, with our transit keys and logins for the signer and the key admin."""
    with open_folder() as folder:
        async with running_openbao(folder / "openbao") as server:
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rekor2(tool: Callable[[str], Path]) -> AsyncIterator[Rekor2]:
    """One Rekor 2 for the run, with its folder served; a test that harms it starts one of its own."""
    with open_folder() as folder:
        async with running_rekor2(tool, folder) as server:
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rekor1(tool: Callable[[str], Path], postgres: Postgres) -> AsyncIterator[Rekor1]:
    """One Rekor 1 for the run, with Trillian on the run's PostgreSQL, and Redis as its index."""
    with open_folder() as folder:
        async with running_rekor1(tool, folder, postgres) as server:
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def keycloak(tool: Callable[[str], Path]) -> AsyncIterator[Keycloak]:
    """A Keycloak whose people come from a directory. It takes half a minute to start."""
    program, _, slapd = tool("keycloak"), tool("java"), tool("slapd")
    with (
        open_folder() as folder,
        running_keycloak(program, folder) as process,
        running_directory(slapd, folder / "ldap") as ldap_url,
    ):
        await process.ready()
        running = Keycloak(process.url)
        await running.import_realm(ldap_url)
        yield running


@pytest.fixture
def token(tool: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalToken:
    """A fresh token of a SoftHSM2, which this process and those it starts find by their environment."""
    made = LocalToken.make(tmp_path / "softhsm", tool("softhsm2-util"))
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that a server under another account may walk through."""
    with tempfile.TemporaryDirectory(prefix="afdp-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def pytest_configure() -> None:
    """What a test starts can be interrupted, also where the run itself cannot: in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may skip."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and session.exitstatus == pytest.ExitCode.OK and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why a run without failures is red."""
    skipped = len(terminalreporter.stats.get("skipped", []))
    if IN_CI and skipped:
        terminalreporter.write_line(f"CI=true: {skipped} skipped, and nothing may skip here", red=True)
