"""Rotation of what records are sealed under, while records are made and read; keys in files and in a real OpenBao."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from afdp.errors import Unavailable
from afdp.metadata.config import MetadataSettings
from afdp.metadata.opening import sealed
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.rewrapping import Progress, Rewrapping
from afdp.metadata.values import Draft, Prepared
from afdp.signer.config import SignerSettings
from afdp.signer.opening import open_data_keys, open_vault_if_used
from tests.local_data_keys import LocalHolder
from tests.vault_servers import dev_server

Make = Callable[..., Draft]

SUBJECTS = 12


@asynccontextmanager
async def in_files(folder: Path) -> AsyncIterator[LocalHolder]:
    async with open_data_keys(SignerSettings(data_dir=folder)) as data_keys:
        yield LocalHolder(data_keys)


@asynccontextmanager
async def in_openbao(folder: Path) -> AsyncIterator[LocalHolder]:
    async with dev_server(folder) as vault:
        logins = vault.logins.key_admin
        assert logins
        files = {"role_id_file": "role-id", "secret_id_file": "secret-id"}
        admin = {f"vault_admin_{setting}": logins / file for setting, file in files.items()}
        settings = SignerSettings(**vault.settings(vault_admin_auth="approle", **admin))
        async with open_vault_if_used(settings) as opened, open_data_keys(settings, opened) as data_keys:
            yield LocalHolder(data_keys)


@pytest_asyncio.fixture(params=[in_files, in_openbao], ids=["files", "openbao"], loop_scope="session")
async def keys(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalHolder]:
    async with request.param(tmp_path) as holder:
        yield holder


class _CutShort(Exception):
    pass


async def test_keys_rotate_under_load_and_a_run_that_was_cut_short_goes_on(
    keys: LocalHolder, database: str, settings_of: Callable[..., MetadataSettings], make_draft: Make
) -> None:
    settings = settings_of(database, encryption="on")
    made: list[Draft] = []
    failures: list[object] = []
    enough, stop, numbers = asyncio.Event(), asyncio.Event(), count()

    async def load(store: PostgresStore) -> None:
        """A new process now and then, so that keys are opened again and again."""
        while not stop.is_set():
            records = sealed(settings, store, keys)
            drafts = [make_draft(actor_id=f"subject {next(numbers) % SUBJECTS}") for _ in range(4)]
            failures.extend(each for each in await records.prepare(drafts) if each != Prepared())
            made.extend(drafts)
            first = await records.get_record(drafts[0].submitter.tenant, made[0].receipt_id)
            if first is None or first.draft.evidence != made[0].evidence:
                failures.append(first)
            if len(made) >= 2 * SUBJECTS:
                enough.set()

    async with open_store(settings) as store, asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(load(store)) for _ in range(2)]
        await enough.wait()
        progress, pages = Progress(), count(1)

        async def pause(_: Progress) -> None:
            if next(pages) == 5:
                raise _CutShort

        with pytest.raises(_CutShort):
            await Rewrapping(keys, store.shelf, page=3).run(progress, pause, rotate=True)
        assert progress.rotated == SUBJECTS + 1  # the tenant's own
        assert not await _all_rewrapped(database)

        await Rewrapping(keys, store.shelf, page=3).run(progress, _on, rotate=True)

        assert progress.refused == []
        assert progress.rotated == SUBJECTS + 1
        assert progress.rewrapped >= SUBJECTS + 1
        stop.set()
        await asyncio.gather(*loads)
        again = Progress()
        await Rewrapping(keys, store.shelf).run(again, _on, rotate=False)
        assert again.refused == []
        assert await _all_rewrapped(database)
        last = Progress()
        await Rewrapping(keys, store.shelf).run(last, _on, rotate=False)
        assert (last.rewrapped, last.current) == (0, again.rewrapped + again.current)

        assert failures == []
        fresh = sealed(settings, store, keys)
        found = await fresh.get_records(made[0].submitter.tenant, [draft.receipt_id for draft in made])
        assert {each.draft.receipt_id: each.draft.evidence for each in found} == {
            draft.receipt_id: draft.evidence for draft in made
        }
        assert await fresh.strays("data_key", [], 1000) == ([], [])
        assert await fresh.strays("index_key", [], 1000) == ([], [])


async def test_a_key_that_does_not_open_is_named_and_the_others_go_on(
    holder: LocalHolder, database: str, settings_of: Callable[..., MetadataSettings], make_draft: Make
) -> None:
    settings = settings_of(database, encryption="on")
    async with open_store(settings) as store:
        await sealed(settings, store, holder).prepare([make_draft(actor_id=f"subject {n}") for n in range(3)])
        connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
        damaged = await connection.fetchval(
            "UPDATE data_key SET wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)"
            " WHERE id = (SELECT min(id::text)::uuid FROM data_key) RETURNING id"
        )
        await connection.close()
        progress = Progress()
        await Rewrapping(holder, store.shelf).run(progress, _on, rotate=True)
        assert (progress.rotated, progress.rewrapped) == (4, 3)
        [named] = progress.refused
        assert str(damaged) in named
        found, _ = await sealed(settings, store, holder).strays("data_key", [], 10)
        assert [each.subject for each in found] == [str(damaged)]


async def test_a_run_that_finds_the_signer_away_says_so_and_has_changed_nothing(
    holder: LocalHolder,
    database: str,
    settings_of: Callable[..., MetadataSettings],
    make_draft: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(database, encryption="on")
    async with open_store(settings) as store:
        await sealed(settings, store, holder).prepare([make_draft()])
        monkeypatch.setattr(holder, "away", True)
        progress = Progress()
        with pytest.raises(Unavailable):
            await Rewrapping(holder, store.shelf).run(progress, _on, rotate=False)
        assert progress == Progress()


async def _on(_: Progress) -> None:
    """Goes on."""


async def _all_rewrapped(database: str) -> bool:
    """Whether every key is under the second version of its key, or a later one: bytes 2 to 5 of the wrapped form."""
    connection = await asyncpg.connect(database, server_settings={"search_path": "afdp_metadata"})
    try:
        return bool(
            await connection.fetchval(
                "SELECT bool_and(substr(wrapped, 2, 4) >= '\\x00000002') FROM"
                " (SELECT wrapped FROM data_key UNION ALL SELECT wrapped FROM index_key) AS k"
            )
        )
    finally:
        await connection.close()
