"""How the signer is let into a real OpenBao, stays in, and gets in again; and how it says that it is not let in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from afdp.embedded import vault_setup
from afdp.errors import FailedPrecondition, Unavailable
from afdp.signer.config import SignerSettings
from afdp.signer.keys import P256, KeySpec, Purpose, Signature
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault, open_vault
from tests.local_tls import TlsAuthority
from tests.token_review import Cluster, running_cluster
from tests.vault_servers import DevServer

MOUNT = "afdp-transit"
DIGEST = sha256(b"statement").digest()
EVIDENCE = KeySpec("afdp-notary-key", Purpose.EVIDENCE, P256)


@asynccontextmanager
async def signing(folder: Path, settings: dict[str, Any]) -> AsyncIterator[tuple[Callable[[], Any], Vault]]:
    """`sign()`, which fails the test where it gives no signature, and the Vault that it asks."""
    async with open_vault(SignerSettings(**settings)) as vault:
        keyring = VaultKeyring(vault, KeyMemory(folder / "vault-keys.json"), [EVIDENCE])

        async def sign() -> None:
            [signature] = await keyring.sign(EVIDENCE.name, [DIGEST])
            assert isinstance(signature, Signature)

        yield sign, vault


def token_settings(vault: DevServer, **more: object) -> dict[str, Any]:
    """The settings for a token instead of the AppRole."""
    login = {"vault_auth": "token", "vault_role_id_file": None, "vault_secret_id_file": None}
    return vault.settings(**{**login, **more})


def new_token(vault: DevServer, **options: object) -> str:
    """A token of the signer's policy."""
    asked = {"policies": ["afdp-signer"], "no_default_policy": True, "no_parent": True, "ttl": "1h", **options}
    token: str = vault.client().auth.token.create(**asked)["auth"]["client_token"]
    return token


def logins(outcome: str, method: str = "approle", identity: str = "signer") -> float:
    """How many there were until now."""
    labels = {"identity": identity, "method": method, "outcome": outcome}
    return REGISTRY.get_sample_value("afdp_signer_vault_logins_total", labels) or 0.0


def ttl() -> float | None:
    """The metric of how long the signer's token still holds, in seconds."""
    return REGISTRY.get_sample_value("afdp_signer_vault_token_ttl_seconds", {"identity": "signer"})


# Token


async def test_a_token_may_be_a_setting(vault: DevServer, tmp_path: Path) -> None:
    async with signing(tmp_path, token_settings(vault, vault_token=new_token(vault))) as (sign, _):
        await sign()
        assert 3500 < (ttl() or 0) <= 3600


async def test_a_token_that_was_replaced_in_its_file_is_taken_up_without_a_failed_call(
    vault: DevServer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(new_token(vault) + "\n")
    async with signing(tmp_path, token_settings(vault, vault_token_file=file)) as (sign, _):
        await sign()
        old = file.read_text().strip()
        file.write_text(new_token(vault))
        vault.client().auth.token.revoke(old)
        await sign()


async def test_a_token_that_was_revoked_is_named_with_its_setting_and_heals_when_its_file_is_replaced(
    vault: DevServer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(new_token(vault))
    async with signing(tmp_path, token_settings(vault, vault_token_file=file)) as (sign, _):
        await sign()
        vault.client().auth.token.revoke(file.read_text())
        for _ in range(2):
            with pytest.raises(Unavailable, match="over, revoked or without a policy; look at AFDP_VAULT_TOKEN_FILE"):
                await sign()
        file.write_text(new_token(vault))
        await sign()


async def test_a_token_without_the_permission_is_told_from_one_that_is_over(vault: DevServer, tmp_path: Path) -> None:
    own = 'path "auth/token/lookup-self" { capabilities = ["read"] }'
    vault.client().sys.create_or_update_acl_policy("test-nothing-else", own)
    token = new_token(vault, policies=["test-nothing-else"])
    async with signing(tmp_path, token_settings(vault, vault_token=token)) as (sign, _):
        with pytest.raises(Unavailable, match="its policy lacks a permission") as caught:
            await sign()
        assert caught.value.retry_after


async def test_a_periodic_token_is_renewed_as_long_as_the_signer_runs(vault: DevServer, tmp_path: Path) -> None:
    token = new_token(vault, period="2s", ttl=None)
    async with signing(tmp_path, token_settings(vault, vault_token=token)) as (sign, _):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # two and a half of its lives
            await sign()
            await asyncio.sleep(0.1)
    assert vault.client(token).auth.token.lookup_self(), "a token that was given to us is not ours to end"


# AppRole


async def test_an_approle_is_logged_in_and_its_token_ends_with_the_signer(vault: DevServer, tmp_path: Path) -> None:
    before = logins("good")
    async with signing(tmp_path, vault.settings()) as (sign, opened):
        await sign()
        assert opened.access.lease
        token = opened.access.lease.token
        assert vault.client(token).auth.token.lookup_self()["data"]["policies"] == ["afdp-signer"]
        assert logins("good") == before + 1
    with pytest.raises(Exception, match="permission denied"):
        vault.client(token).auth.token.lookup_self()


async def test_a_login_whose_token_ends_for_good_is_made_anew_in_time(vault: DevServer, tmp_path: Path) -> None:
    short = {"token_policies": ["afdp-signer"], "token_ttl": "2s", "token_max_ttl": "3s"}
    files = make_role(vault, "test-short", short, tmp_path)
    before = logins("good")
    async with signing(tmp_path, vault.settings(**files)) as (sign, opened):
        async with asyncio.timeout(20):
            while logins("good") < before + 3:
                await sign()
                await asyncio.sleep(0.05)
                assert opened.access.lease


async def test_a_token_that_is_revoked_under_load_costs_no_call(vault: DevServer, tmp_path: Path) -> None:
    files = make_role(vault, "test-revoked", {"token_policies": ["afdp-signer"]}, tmp_path)
    async with signing(tmp_path, vault.settings(**files)) as (sign, opened):
        await sign()
        before = logins("good")
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                await sign()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(load())
            for _ in range(3):
                assert opened.access.lease
                token = opened.access.lease.token
                await asyncio.to_thread(vault.client().auth.token.revoke, token)
                await until_replaced(opened, token)
            done.set()
        assert logins("good") == before + 3, "all who were refused shared one login"


async def test_a_secret_id_that_is_wrong_is_named_not_insisted_on_and_heals_when_replaced(
    vault: DevServer, tmp_path: Path
) -> None:
    files = make_role(vault, "test-wrong", {"token_policies": ["afdp-signer"]}, tmp_path)
    good = files["vault_secret_id_file"].read_text()
    files["vault_secret_id_file"].write_text("00000000-0000-0000-0000-000000000000")
    before = logins("refused")
    async with signing(tmp_path, vault.settings(**files)) as (sign, _):
        for _ in range(20):
            with pytest.raises(Unavailable, match="AFDP_VAULT_ROLE_ID_FILE and AFDP_VAULT_SECRET_ID_FILE") as caught:
                await sign()
            assert caught.value.retry_after
        assert logins("refused") <= before + 2, "who insists is locked out by Vault"

        files["vault_secret_id_file"].write_text(good)
        await sign()


async def test_a_credential_file_that_is_missing_is_named_at_the_start(vault: DevServer, tmp_path: Path) -> None:
    settings = vault.settings(vault_secret_id_file=tmp_path / "nothing")
    with pytest.raises(FailedPrecondition, match=r"AFDP_VAULT_SECRET_ID_FILE: .*/nothing cannot be read"):
        async with signing(tmp_path, settings):
            pass


@pytest.mark.parametrize(("own", "made"), [("auth/token/lookup-self", 1), ("sys/health", 5)])
async def test_a_permission_that_comes_later_is_used_without_a_restart(
    vault: DevServer, tmp_path: Path, own: str, made: int
) -> None:
    vault.client().sys.create_or_update_acl_policy("test-later", f'path "{own}" {{ capabilities = ["read"] }}')
    files = make_role(vault, "test-later", {"token_policies": ["test-later"]}, tmp_path)
    async with signing(tmp_path, vault.settings(**files)) as (sign, _):
        before = logins("good")
        for _ in range(20):
            with pytest.raises(Unavailable, match="its policy lacks a permission"):
                await sign()
        assert logins("good") <= before + made, "a login for each refused call would fill Vault with tokens"
        vault.client().sys.create_or_update_acl_policy("test-later", vault_setup.policy("afdp-signer"))
        await sign()


async def until_replaced(opened: Vault, token: str) -> None:
    """Waits until the signer has another token."""
    async with asyncio.timeout(10):
        while True:
            if opened.access.lease and opened.access.lease.token != token:
                return
            await asyncio.sleep(0.01)


def make_role(vault: DevServer, name: str, role: dict[str, object], folder: Path) -> dict[str, Path]:
    """An AppRole of a test's own, and the settings that name its files."""
    client = vault.client()
    client.write_data(f"auth/approle/role/{name}", data={"token_no_default_policy": True, **role})
    files = {"vault_role_id_file": folder / "role-id", "vault_secret_id_file": folder / "secret-id"}
    files["vault_role_id_file"].write_text(client.auth.approle.read_role_id(name)["data"]["role_id"])
    files["vault_secret_id_file"].write_text(client.auth.approle.generate_secret_id(name)["data"]["secret_id"])
    return files


# Kubernetes


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster's TokenReview API."""
    with running_cluster(TlsAuthority(tmp_path)) as running:
        yield running


async def test_a_service_account_logs_in_and_its_renewed_token_is_read_at_the_next_login(
    vault: DevServer, cluster: Cluster, tmp_path: Path
) -> None:
    jwt = tmp_path / "jwt"
    jwt.write_text(cluster.token("afdp-prod", "afdp-signer"))
    use_kubernetes(vault, cluster)
    async with signing(tmp_path, kubernetes_settings(vault, jwt)) as (sign, opened):
        await sign()
        assert set(cluster.reviewed) == {"afdp-prod:afdp-signer"}

        cluster.valid.clear()
        jwt.write_text(cluster.token("afdp-prod", "afdp-signer", 2))
        assert opened.access.lease
        vault.client().auth.token.revoke(opened.access.lease.token)
        await sign()
        fresh = await opened.call_as_admin(lambda client: client.auth.token.lookup_self()["data"]["policies"])
    assert fresh == ["afdp-key-admin"]


async def test_another_service_account_is_not_let_in(vault: DevServer, cluster: Cluster, tmp_path: Path) -> None:
    jwt = tmp_path / "jwt"
    jwt.write_text(cluster.token("afdp-prod", "somebody-else"))
    use_kubernetes(vault, cluster)
    async with signing(tmp_path, kubernetes_settings(vault, jwt)) as (sign, _):
        with pytest.raises(Unavailable, match="login by kubernetes: look at AFDP_VAULT_ROLE and AFDP_VAULT_JWT_FILE"):
            await sign()


def use_kubernetes(vault: DevServer, cluster: Cluster) -> None:
    """Provisions the method for this cluster."""
    config = {
        "kubernetes_host": cluster.url,
        "kubernetes_ca_cert": cluster.authority.file.read_text(),
        "token_reviewer_jwt": cluster.token("vault", "reviewer"),
    }
    vault_setup.provision(vault.client(), replace(vault.logins, auth="kubernetes", kubernetes=config))


def kubernetes_settings(vault: DevServer, jwt: Path) -> dict[str, Any]:
    """As k8s/base has them."""
    return vault.settings(
        vault_auth="kubernetes",
        vault_role="afdp-signer",
        vault_jwt_file=jwt,
        vault_admin_auth="kubernetes",
        vault_admin_role="afdp-key-admin",
        vault_admin_jwt_file=jwt,
    )


# Client certificate


async def test_a_client_certificate_logs_in_and_a_renewed_one_is_shown_at_the_next_login(
    vault: DevServer, tmp_path: Path
) -> None:
    authority = TlsAuthority(tmp_path)
    vault_setup.provision(vault.client(), replace(vault.logins, auth="cert", client_ca=authority.file.read_text()))
    settings = cert_settings(vault, authority, "afdp-signer")
    async with signing(tmp_path, settings) as (sign, opened):
        await sign()
        authority.issue("afdp-signer")  # into the same files
        assert opened.access.lease
        vault.client().auth.token.revoke(opened.access.lease.token)
        await sign()
        await opened.access.renew()  # Vault wants the certificate of the login
        await sign()


async def test_a_certificate_of_another_name_or_authority_is_not_let_in(vault: DevServer, tmp_path: Path) -> None:
    authority = TlsAuthority(tmp_path)
    vault_setup.provision(vault.client(), replace(vault.logins, auth="cert", client_ca=authority.file.read_text()))
    strangers = TlsAuthority(tmp_path, "Strangers")
    for issuer, name in ((authority, "afdp-gateway"), (strangers, "afdp-signer")):
        async with signing(tmp_path, cert_settings(vault, issuer, name)) as (sign, _):
            with pytest.raises(Unavailable, match="login by cert: look at AFDP_VAULT_ROLE and AFDP_VAULT_CERT_FILE"):
                await sign()


def cert_settings(vault: DevServer, authority: TlsAuthority, name: str) -> dict[str, Any]:
    """The settings for a certificate of this name."""
    file, key_file = authority.issue(name)
    return vault.settings(
        vault_auth="cert", vault_role="afdp-signer", vault_cert_file=file, vault_cert_key_file=key_file
    )


# TLS, namespaces, secrets


async def test_a_server_whose_authority_is_not_trusted_is_not_talked_to(vault: DevServer, tmp_path: Path) -> None:
    for ca_file in (None, TlsAuthority(tmp_path).file):
        async with signing(tmp_path, vault.settings(vault_ca_file=ca_file)) as (sign, _):
            with pytest.raises(Unavailable, match=r"certificate is not trusted.*AFDP_VAULT_CA_FILE"):
                await sign()


async def test_keys_may_be_in_a_namespace(vault: DevServer, tmp_path: Path) -> None:
    vault.client().write_data("sys/namespaces/acme", data={})
    inside = vault.client(namespace="acme")
    logins = vault_setup.Logins("approle", tmp_path / "signer")
    vault_setup.provision(inside, logins)
    inside.secrets.transit.rotate_key(EVIDENCE.name, mount_point=MOUNT)
    files = {"vault_role_id_file": tmp_path / "signer/role-id", "vault_secret_id_file": tmp_path / "signer/secret-id"}
    async with open_vault(SignerSettings(**vault.settings(vault_namespace="acme", **files))) as opened:
        keyring = VaultKeyring(opened, KeyMemory(tmp_path / "vault-keys.json"), [EVIDENCE])
        [signature] = await keyring.sign(EVIDENCE.name, [DIGEST])
    assert isinstance(signature, Signature)
    assert signature.key.key_id == "afdp-notary-key:2"


async def test_nothing_secret_is_logged_or_said(
    vault: DevServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    files = make_role(vault, "test-secrets", {"token_policies": ["afdp-signer"]}, tmp_path)
    secrets = [file.read_text() for file in files.values()]
    said = []
    async with signing(tmp_path, vault.settings(**files)) as (sign, opened):
        await sign()
        assert opened.access.lease
        secrets.append(opened.access.lease.token)
        keyring = VaultKeyring(opened, KeyMemory(tmp_path / "vault-keys.json"), [EVIDENCE])
        said += [repr(opened.access.lease), repr(await keyring.status())]
        files["vault_secret_id_file"].write_text("11111111-0000-0000-0000-000000000000")
        vault.client().auth.token.revoke(opened.access.lease.token)
        with pytest.raises(Unavailable) as caught:
            await sign()
        said += [str(caught.value), repr(caught.value)]
    said += [str(vars(record)) for record in caplog.records if record.name.startswith("afdp")]
    assert len(said) > 5
    assert not [text for text in said if any(secret in text for secret in secrets)]
