"""Secrets that a real OpenBao keeps: how services have them, follow them, and say what is wrong."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from afdp.config import SettingsError, load, shown
from afdp.errors import NotaryError
from afdp.notary.config import NotarySettings
from afdp.postgres.pool import open_database
from afdp.postgres.settings import DatabaseSettings
from afdp.signer.config import SignerSettings
from tests.conftest import open_folder
from tests.vault_servers import DevServer, dev_server

URL = "rediss://:hunter2@redis.example:6379/0"
POLICY = 'path "kv/data/afdp/*" { capabilities = ["read"] }'


class Settings(DatabaseSettings):
    port: int = 0
    metrics_port: int = 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vault() -> AsyncIterator[DevServer]:
    with open_folder() as folder:
        async with dev_server(folder, tls=True) as server:
            await asyncio.to_thread(_provision, server.client(), folder)
            yield server


def _provision(client: Any, folder: Path) -> None:
    client.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    client.sys.create_or_update_policy("afdp-secrets", POLICY)
    client.secrets.kv.v2.create_or_update_secret("afdp/redis", {"url": URL, "number": 7}, mount_point="kv")
    client.secrets.kv.v2.create_or_update_secret("other", {"url": URL}, mount_point="kv")
    client.auth.approle.create_or_update_approle("afdp-secrets", token_policies=["afdp-secrets"])
    role = client.auth.approle.read_role_id("afdp-secrets")["data"]["role_id"]
    secret = client.auth.approle.generate_secret_id("afdp-secrets")["data"]["secret_id"]
    for name, value in (("kv-role-id", role), ("kv-secret-id", secret)):
        (folder / name).write_text(value)


@pytest.fixture
def access(vault: DevServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a service that may log in."""
    assert vault.ca_file
    folder = vault.ca_file.parent
    monkeypatch.setenv("VAULT_ADDR", vault.addr)
    monkeypatch.setenv("AFDP_VAULT_CA_FILE", str(vault.ca_file))
    monkeypatch.setenv("AFDP_VAULT_AUTH", "approle")
    monkeypatch.setenv("AFDP_VAULT_ROLE_ID_FILE", str(folder / "kv-role-id"))
    monkeypatch.setenv("AFDP_VAULT_SECRET_ID_FILE", str(folder / "kv-secret-id"))
    return monkeypatch


async def loaded(schema: type[Any]) -> Any:
    return await asyncio.to_thread(load, schema)


async def test_a_secret_is_read_from_vault_and_masked(access: pytest.MonkeyPatch) -> None:
    access.setenv("AFDP_REDIS_URL", "vault:kv/afdp/redis#url")
    settings = await loaded(NotarySettings)

    assert settings.redis_url.get_secret_value() == URL
    assert "hunter2" not in str(shown(settings))


async def test_the_signers_secrets_may_be_there_too(access: pytest.MonkeyPatch) -> None:
    access.setenv("AFDP_PKCS11_PIN", "vault:kv/afdp/redis#url")
    settings = await loaded(SignerSettings)

    assert settings.pkcs11_pin.get_secret_value() == URL
    assert "hunter2" not in str(shown(settings))


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("vault:kv/afdp/redis#nothing", "Vault has no text in that field"),
        ("vault:kv/afdp/redis#number", "Vault has no text in that field"),
        ("vault:kv/afdp/nothing#url", "Vault has nothing there"),
        ("vault:kv/other#url", "Vault does not let this service read that"),
        ("vault:nowhere/afdp/redis#url", "Vault does not let this service read that"),
        ("vault:kv/afdp/redis", "is no reference to Vault"),
        ("vault:kv/../sys/seal#url", "is no reference to Vault"),
        ("vault:kv/afdp/redis?version=1#url", "is no reference to Vault"),
    ],
)
async def test_a_wrong_reference_names_the_setting_and_what_is_wrong(
    access: pytest.MonkeyPatch, reference: str, sentence: str
) -> None:
    access.setenv("AFDP_REDIS_URL", reference)
    with pytest.raises(SettingsError, match=f"^AFDP_REDIS_URL: {sentence}") as wrong:
        await loaded(NotarySettings)
    assert "hunter2" not in str(wrong.value)
    assert reference not in str(wrong.value)


async def test_a_vault_that_is_away_or_lets_nobody_in_is_said(access: pytest.MonkeyPatch, tmp_path: Path) -> None:
    access.setenv("AFDP_REDIS_URL", "vault:kv/afdp/redis#url")
    wrong = tmp_path / "secret-id"
    wrong.write_text("hunter2")
    access.setenv("AFDP_VAULT_SECRET_ID_FILE", str(wrong))
    with pytest.raises(SettingsError, match=r"^AFDP_REDIS_URL: Vault does not let this service in; see AFDP_VAULT"):
        await loaded(NotarySettings)
    access.delenv("AFDP_VAULT_SECRET_ID_FILE")
    with pytest.raises(SettingsError, match=r"AFDP_REDIS_URL: .*needs AFDP_VAULT_SECRET_ID_FILE"):
        await loaded(NotarySettings)
    access.setenv("AFDP_VAULT_SECRET_ID_FILE", str(wrong))
    access.setenv("VAULT_ADDR", "https://127.0.0.1:9")
    with pytest.raises(SettingsError, match="AFDP_REDIS_URL: Vault cannot be reached"):
        await loaded(NotarySettings)


async def test_a_password_that_is_changed_in_vault_is_taken_on_while_the_service_runs(
    access: pytest.MonkeyPatch, vault: DevServer, database: str
) -> None:
    parts, role = urlsplit(database), f"afdp_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(database)

    async def rotate(verb: str) -> None:
        password = secrets.token_hex(8)
        await admin.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{password}'")
        url = parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}").geturl()
        kv = vault.client().secrets.kv.v2
        await asyncio.to_thread(kv.create_or_update_secret, "afdp/database", {"url": url}, mount_point="kv")

    try:
        await rotate("CREATE")
        access.setenv("AFDP_DATABASE_URL", "vault:kv/afdp/database#url")
        access.setenv("AFDP_DATABASE_POOL_MIN", "1")
        async with open_database(await loaded(Settings), "public", "test") as running:

            async def who() -> str:
                return str(await running.run(lambda connection: connection.fetchval("SELECT current_user")))

            assert await who() == role
            await rotate("ALTER")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            async with asyncio.timeout(30):
                while True:
                    with suppress(NotaryError):
                        assert await who() == role
                        break
                    await asyncio.sleep(0.05)
    finally:
        await admin.execute(f"DROP ROLE IF EXISTS {role}")
        await admin.close()
