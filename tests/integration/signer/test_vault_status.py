"""What the signer says of Vault to `afdp doctor` and `/ready`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from afdp.signer.config import SignerSettings
from afdp.signer.keys import ED25519, P256, KeySpec, Purpose
from afdp.signer.part import Part
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import open_vault
from tests.vault_servers import ROOT, DevServer

SPECS = [KeySpec("afdp-notary-key", Purpose.EVIDENCE, P256), KeySpec("afdp-log-key", Purpose.LOG, ED25519)]


async def status(settings: dict[str, Any], folder: Path, *more: KeySpec) -> dict[str, Part]:
    """Its parts, by name."""
    async with open_vault(SignerSettings(**settings)) as vault:
        keyring = VaultKeyring(vault, KeyMemory(folder / "keys.json"), [*SPECS, *more])
        return {part.name: part for part in await keyring.status()}


def with_token(vault: DevServer, token: str) -> dict[str, Any]:
    """The settings for a token."""
    return vault.settings(vault_auth="token", vault_token=token)


async def test_all_is_well_with_the_signers_own_login(vault: DevServer, tmp_path: Path) -> None:
    parts = await status(vault.settings(), tmp_path)
    assert [part.name for part in parts.values() if part.good] == ["vault", "vault policy", "vault keys"]
    assert not (tmp_path / "keys.json").exists(), "who only looks writes nothing"
    assert parts["vault"].detail.startswith(f"{vault.addr}: logged in by approle; the token holds for another ")


async def test_a_root_token_is_told_from_one_that_is_good_enough(vault: DevServer, tmp_path: Path) -> None:
    parts = await status(with_token(vault, ROOT), tmp_path)
    assert not parts["vault"].good
    assert "root token" in parts["vault"].remedy
    assert not parts["vault policy"].good
    assert parts["vault policy"].detail == "the token may also use afdp-transit/keys/afdp-notary-key/rotate"


@pytest.mark.parametrize(
    ("policy", "good", "detail"),
    [
        ('path "afdp-transit/keys/*" { capabilities = ["read"] }', False, "update afdp-transit/sign/afdp-notary-key"),
        ('path "afdp-transit/sign/*" { capabilities = ["update"] }', False, "read afdp-transit/keys/afdp-notary-key"),
        (
            'path "afdp-transit/*" { capabilities = ["read", "update"] }',
            False,
            "may also use afdp-transit/keys/afdp-notary-key/rotate",
        ),
    ],
)
async def test_a_policy_that_allows_too_little_or_too_much_is_named(
    vault: DevServer, tmp_path: Path, policy: str, good: bool, detail: str
) -> None:
    own = "".join(
        f'path "{path}" {{ capabilities = ["read", "update"] }}\n'
        for path in ("auth/token/lookup-self", "sys/capabilities-self")
    )
    vault.client().sys.create_or_update_acl_policy("test-status", policy + "\n" + own)
    token = vault.client().auth.token.create(policies=["test-status"], no_default_policy=True, ttl="1h")
    part = (await status(with_token(vault, token["auth"]["client_token"]), tmp_path))["vault policy"]
    assert part.good is good
    assert detail in part.detail
    assert "deploy/vault/policies/signer.hcl" in part.remedy


async def test_a_token_that_cannot_be_renewed_is_to_be_replaced_in_time(vault: DevServer, tmp_path: Path) -> None:
    options = {"policies": ["afdp-signer"], "no_default_policy": True, "renewable": False, "ttl": "5m"}
    token = vault.client().auth.token.create(**options)["auth"]["client_token"]
    part = (await status(with_token(vault, token), tmp_path))["vault"]
    assert not part.good
    assert "VAULT_TOKEN: it cannot be renewed" in part.remedy


async def test_a_key_that_is_missing_or_another_is_named(vault: DevServer, tmp_path: Path) -> None:
    missing = KeySpec("afdp-tenant-nobody", Purpose.EVIDENCE, P256)
    part = (await status(vault.settings(), tmp_path, missing))["vault keys"]
    assert part.detail == "afdp-tenant-nobody: Vault has no such key or mount"

    vault.client().secrets.transit.create_key("afdp-tenant-other", key_type="ed25519", mount_point="afdp-transit")
    another = KeySpec("afdp-tenant-other", Purpose.EVIDENCE, P256)
    part = (await status(vault.settings(), tmp_path, another))["vault keys"]
    assert not part.good
    assert "is of type ed25519, not ecdsa-p256" in part.detail
