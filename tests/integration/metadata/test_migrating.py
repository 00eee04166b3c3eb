"""The command `migrate`: as the owner it makes the schema and the service's login role, which owns nothing."""

from __future__ import annotations

import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from afdp.embedded.postgres import running_postgres
from afdp.errors import FailedPrecondition
from afdp.metadata.postgres import migrate_database, open_store
from afdp.metadata.postgres.checking import tenants
from afdp.metadata.postgres.migrating import scram_verifier
from afdp.metadata.values import Draft, Prepared

SettingsOf = Callable[..., Any]
Make = Callable[..., Draft]


@pytest_asyncio.fixture(loop_scope="session")
async def login_url(database: str) -> AsyncIterator[str]:
    """The URL of a role that there is not yet."""
    login, parts = f"login-{uuid.uuid4().hex}", urlsplit(database)
    yield urlunsplit(parts._replace(netloc=f"{login}:its%20password@{parts.hostname}:{parts.port}"))
    owner = await asyncpg.connect(database)
    await owner.execute(f'DROP ROLE IF EXISTS "{login}"')
    await owner.close()


async def test_the_owner_makes_the_login_role_and_again_changes_nothing(
    database: str, login_url: str, settings_of: SettingsOf, make_draft: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(login_url, database_owner_url=database)
    for _ in range(2):
        assert await migrate_database(settings) == 0
        assert "its password" not in capsys.readouterr().out

    async with open_store(settings_of(login_url)) as store:
        draft = make_draft()
        assert await store.prepare([draft]) == [Prepared()]
        assert await store.get_record(draft.submitter.tenant, draft.receipt_id)
    login = await asyncpg.connect(login_url)
    try:
        owned = await login.fetchval("SELECT count(*) FROM pg_class WHERE relowner = session_user::regrole")
        assert owned == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute("SELECT FROM afdp_metadata.record")
    finally:
        await login.close()


async def test_a_service_whose_role_may_not_migrate_says_who_must_and_works_once_it_was_done(
    database: str, login_url: str, settings_of: SettingsOf, make_draft: Make
) -> None:
    owner = await asyncpg.connect(database)
    user = urlsplit(login_url).username
    await owner.execute(f"CREATE ROLE \"{user}\" LOGIN NOINHERIT PASSWORD 'its password'")
    await owner.close()
    async with open_store(settings_of(login_url)) as store:
        with pytest.raises(FailedPrecondition, match="as its owner"):
            await store.prepare([make_draft()])
        assert await migrate_database(settings_of(login_url, database_owner_url=database)) == 0
        await store.until_reachable()
        assert await store.prepare([make_draft()]) == [Prepared()]


async def test_the_check_says_whether_row_security_holds_for_the_login_role(
    database: str, login_url: str, settings_of: SettingsOf
) -> None:
    assert await migrate_database(settings_of(login_url, database_owner_url=database)) == 0
    login = urlsplit(login_url).username
    [good] = await tenants(settings_of(login_url))
    [owner] = await tenants(settings_of(database))
    assert (good.good, good.remedy) == (True, "")
    assert "owns nothing" in good.detail
    assert owner.good
    assert "AFDP_DATABASE_OWNER_URL" in owner.remedy

    connection = await asyncpg.connect(database)
    await connection.execute(f'REVOKE afdp_metadata_reader FROM "{login}"')
    await connection.close()
    [left_out] = await tenants(settings_of(login_url))
    assert not left_out.good
    assert "afdp_metadata_reader" in left_out.detail


async def test_the_owner_s_own_role_is_not_taken_for_the_service_s(
    database: str, settings_of: SettingsOf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await migrate_database(settings_of(database, database_owner_url=database)) == 1
    assert "must name a role of its own" in capsys.readouterr().err


def test_postgresql_is_told_no_password_but_what_it_keeps_of_one() -> None:
    # The password and the salt of RFC 7677, section 3.
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert scram_verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


async def test_an_owner_that_is_no_superuser_needs_no_more_than_to_make_roles(
    data_folder: Path, settings_of: SettingsOf, make_draft: Make
) -> None:
    """As in a database that others run: with a login of its own for the service, and with one role for everything."""
    async with running_postgres(data_folder) as server:
        admin = await asyncpg.connect(server.dsn)
        await admin.execute("CREATE ROLE weak LOGIN PASSWORD 'p'; CREATE ROLE owner LOGIN CREATEROLE PASSWORD 'p'")
        for name in ("weak", "owner"):
            await admin.execute(f"CREATE DATABASE of_{name} OWNER {name}")
        await admin.close()
        place = f"127.0.0.1:{server.port}"
        owner = f"postgresql://owner:p@{place}/of_owner"
        login = f"postgresql://service:p@{place}/of_owner"

        assert await migrate_database(settings_of(f"postgresql://weak:p@{place}/of_weak")) == 1
        assert await migrate_database(settings_of(login, database_owner_url=owner)) == 0
        for url in (login, owner):
            async with open_store(settings_of(url)) as store:
                draft = make_draft()
                assert await store.prepare([draft]) == [Prepared()]
                assert await store.get_record(draft.submitter.tenant, draft.receipt_id)
        connection = await asyncpg.connect(owner)
        try:
            await connection.execute("SET ROLE NONE; REVOKE afdp_metadata_writer FROM owner")
            assert (
                await connection.fetchval("SELECT count(*) FROM afdp_metadata.record") == 0
            )  # though they are its own
        finally:
            await connection.close()
