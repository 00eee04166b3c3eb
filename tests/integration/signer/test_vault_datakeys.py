"""Data keys under subjects' keys in a real OpenBao, by the policies and logins of production."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hvac.exceptions
import pytest
import pytest_asyncio

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from afdp.formats.encoding import b64
from afdp.signer.config import SignerSettings
from afdp.signer.datakeys import DataKey, DataKeys, Scope, WrappedKey
from afdp.signer.opening import open_data_keys, open_vault_if_used
from afdp.signer.vault.subjects import NAMES_KEY, PREFIX
from tests.data_key_promises import DataKeyPromises, all_keys, new_scope, one_key, opened
from tests.vault_servers import DevServer

T = "afdp-transit"


@asynccontextmanager
async def kept_by(vault: DevServer, *, admin: bool = True, **more: object) -> AsyncIterator[DataKeys]:
    """What a new process finds in Vault."""
    assert vault.logins.key_admin
    files = {"role_id_file": "role-id", "secret_id_file": "secret-id"}
    logins = {f"vault_admin_{setting}": vault.logins.key_admin / file for setting, file in files.items()}
    settings = SignerSettings(**vault.settings(**({"vault_admin_auth": "approle", **logins} if admin else {}), **more))
    async with open_vault_if_used(settings) as opened_vault, open_data_keys(settings, opened_vault) as data_keys:
        yield data_keys


@pytest_asyncio.fixture
async def data_keys(vault: DevServer) -> AsyncIterator[DataKeys]:
    """The data keys of the run's server."""
    async with kept_by(vault) as data_keys:
        yield data_keys


class TestInVault(DataKeyPromises):
    """The promises, kept by Vault."""


def names_of(vault: DevServer) -> list[str]:
    """The subjects' keys in Vault."""
    listed: list[str] = vault.client().secrets.transit.list_keys(mount_point=T)["data"]["keys"]
    return [name for name in listed if name.startswith(PREFIX)]


async def made_by(vault: DevServer, data_keys: DataKeys, scope: Scope) -> tuple[str, DataKey]:
    """The name of the key that a scope gets, with a data key under it."""
    before = set(names_of(vault))
    key = await one_key(data_keys, scope)
    (name,) = set(names_of(vault)) - before
    return name, key


async def test_a_name_in_vault_tells_nothing_and_is_the_same_for_every_signer(
    vault: DevServer, data_keys: DataKeys
) -> None:
    scope = new_scope()
    name, key = await made_by(vault, data_keys, scope)

    async with kept_by(vault) as another:
        assert await opened(another, scope, key.wrapped) == key.plain

    assert len(name) == len(PREFIX) + 64
    assert scope.subject not in name
    assert scope.to_bytes().hex() not in name


async def test_no_plain_key_and_no_subject_are_logged(
    vault: DevServer, data_keys: DataKeys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    scope = new_scope()
    key = await one_key(data_keys, scope)
    await opened(data_keys, new_scope(), key.wrapped)
    await data_keys.destroy(scope)

    assert scope.subject not in caplog.text
    assert key.plain.hex() not in caplog.text


async def test_a_destroyed_key_is_gone_from_vault_and_nobody_can_bring_it_back(
    vault: DevServer, data_keys: DataKeys
) -> None:
    scope = new_scope()
    name, key = await made_by(vault, data_keys, scope)

    await data_keys.destroy(scope)

    root = vault.client()
    left = root.secrets.transit.read_key(name, mount_point=T)["data"]
    assert (left["type"], left["latest_version"], left["supports_encryption"]) == ("ed25519", 1, False)
    ciphertext = f"vault:v1:{b64(key.wrapped[5:])}"
    with pytest.raises(hvac.exceptions.InvalidRequest):
        root.secrets.transit.decrypt_data(name, ciphertext=ciphertext, mount_point=T)
    signer = vault.log_in(vault.logins.signer)
    with pytest.raises(hvac.exceptions.InvalidRequest):
        signer.secrets.transit.encrypt_data(name, plaintext="AAAA", mount_point=T)


async def test_a_destruction_cut_short_is_finished_when_it_is_asked_for_again(
    vault: DevServer, data_keys: DataKeys
) -> None:
    for steps in (1, 2):
        scope = new_scope()
        name, key = await made_by(vault, data_keys, scope)
        admin = vault.log_in(vault.logins.key_admin).secrets.transit
        admin.update_key_configuration(name, deletion_allowed=True, mount_point=T)
        if steps == 2:
            admin.delete_key(name, mount_point=T)
            assert isinstance(await opened(data_keys, scope, key.wrapped), DataLoss)
        else:
            assert await opened(data_keys, scope, key.wrapped) == key.plain

        await data_keys.destroy(scope)

        assert isinstance(await opened(data_keys, scope, key.wrapped), NotFound)
        assert isinstance((await data_keys.generate([scope]))[0], NotFound)


async def test_a_key_made_anew_after_half_a_destruction_opens_nothing_of_before(
    vault: DevServer, data_keys: DataKeys
) -> None:
    scope = new_scope()
    name, key = await made_by(vault, data_keys, scope)
    admin = vault.log_in(vault.logins.key_admin).secrets.transit
    admin.update_key_configuration(name, deletion_allowed=True, mount_point=T)
    admin.delete_key(name, mount_point=T)

    fresh = await one_key(data_keys, scope)

    assert await opened(data_keys, scope, fresh.wrapped) == fresh.plain
    assert isinstance(await opened(data_keys, scope, key.wrapped), InvalidArgument)


async def test_without_a_key_admin_keys_are_made_and_opened_but_not_rotated_or_destroyed(vault: DevServer) -> None:
    scope = new_scope()
    async with kept_by(vault, admin=False) as data_keys:
        key = await one_key(data_keys, scope)
        for change in (data_keys.rotate(scope), data_keys.destroy(scope)):
            with pytest.raises(FailedPrecondition, match="AFDP_VAULT_ADMIN_AUTH"):
                await change
        assert await opened(data_keys, scope, key.wrapped) == key.plain


async def test_a_vault_without_the_key_of_names_is_told(vault: DevServer, own_vault: DevServer) -> None:
    root = own_vault.client().secrets.transit
    root.update_key_configuration(NAMES_KEY, deletion_allowed=True, mount_point=T)
    root.delete_key(NAMES_KEY, mount_point=T)

    async with kept_by(own_vault) as data_keys:
        with pytest.raises(FailedPrecondition, match=r"setup\.py"):
            await data_keys.generate([new_scope()])
        (part,) = await data_keys.status()
    assert not part.good
    async with kept_by(vault) as data_keys:
        (part,) = await data_keys.status()
    assert part.good


async def test_a_rotated_key_of_names_gives_the_same_names(vault: DevServer, data_keys: DataKeys) -> None:
    scope = new_scope()
    key = await one_key(data_keys, scope)
    vault.client().secrets.transit.rotate_key(NAMES_KEY, mount_point=T)

    async with kept_by(vault) as another:
        assert await opened(another, scope, key.wrapped) == key.plain


async def test_a_key_of_another_type_fails_its_subject_alone(vault: DevServer, data_keys: DataKeys) -> None:
    scope, other = new_scope(), new_scope()
    name, key = await made_by(vault, data_keys, scope)
    root = vault.client().secrets.transit
    root.update_key_configuration(name, deletion_allowed=True, mount_point=T)
    root.delete_key(name, mount_point=T)
    root.create_key(name, key_type="chacha20-poly1305", mount_point=T)

    bad, good = await data_keys.unwrap(
        [WrappedKey(scope, key.wrapped), WrappedKey(other, (await one_key(data_keys, other)).wrapped)]
    )

    assert isinstance(bad, FailedPrecondition)
    assert "chacha20-poly1305" in str(bad)
    assert isinstance(good, DataKey)


async def test_a_vault_that_is_gone_is_unavailable(own_vault: DevServer) -> None:
    scopes = [new_scope() for _ in range(20)]
    async with kept_by(own_vault) as data_keys:
        keys = await all_keys(data_keys, scopes)

        own_vault.process.kill()
        await own_vault.process.wait()

        asked = [WrappedKey(scope, key.wrapped) for scope, key in zip(scopes, keys, strict=True)]
        for call in (data_keys.unwrap(asked), data_keys.generate(scopes), data_keys.destroy(scopes[0])):
            with pytest.raises(Unavailable):
                await call
