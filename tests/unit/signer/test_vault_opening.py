"""Which settings Vault needs, and what is said where one is missing."""

from pathlib import Path
from typing import Any

import pytest

from afdp.config import shown
from afdp.errors import FailedPrecondition
from afdp.signer.config import SignerSettings
from afdp.signer.vault.opening import open_vault

HTTPS = {"vault_addr": "https://127.0.0.1:1"}


async def opened(settings: dict[str, Any]) -> None:
    async with open_vault(SignerSettings(keys="vault", **settings)):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "AFDP_VAULT_AUTH=token needs AFDP_VAULT_TOKEN_FILE"),
        ({"vault_auth": "approle"}, "AFDP_VAULT_AUTH=approle needs AFDP_VAULT_ROLE_ID_FILE"),
        ({"vault_auth": "approle", "vault_role_id": "x"}, "AFDP_VAULT_AUTH=approle needs AFDP_VAULT_SECRET_ID_FILE"),
        ({"vault_auth": "kubernetes"}, "AFDP_VAULT_AUTH=kubernetes needs AFDP_VAULT_ROLE"),
        ({"vault_auth": "cert", **HTTPS}, "AFDP_VAULT_AUTH=cert needs AFDP_VAULT_CERT_FILE"),
        (
            {"vault_auth": "cert", "vault_cert_file": "c", **HTTPS},
            "AFDP_VAULT_AUTH=cert needs AFDP_VAULT_CERT_KEY_FILE",
        ),
        (
            {"vault_auth": "cert", "vault_cert_file": "c", "vault_cert_key_file": "k"},
            "VAULT_ADDR must begin with https: where AFDP_VAULT_CERT_FILE is set",
        ),
        (
            {"vault_token": "t", "vault_admin_auth": "approle"},
            "AFDP_VAULT_ADMIN_AUTH=approle needs AFDP_VAULT_ADMIN_ROLE_ID_FILE",
        ),
        (
            {"vault_token": "t", "vault_admin_auth": "kubernetes"},
            "AFDP_VAULT_ADMIN_AUTH=kubernetes needs AFDP_VAULT_ADMIN_ROLE",
        ),
        ({"vault_token": "t", "vault_admin_auth": "token"}, "AFDP_VAULT_ADMIN_AUTH=token needs AFDP_VAULT_ADMIN_TOKEN"),
        ({"vault_token_file": "/nowhere/token"}, "AFDP_VAULT_TOKEN_FILE: /nowhere/token cannot be read"),
        ({"vault_token": "t", "vault_ca_file": "/nowhere/ca", **HTTPS}, "AFDP_VAULT_CA_FILE: /nowhere/ca"),
        ({"vault_token": "t", "vault_addr": "ftp://vault"}, "AFDP_VAULT_ADDR must be the URL"),
        ({"vault_token": "t", "vault_addr": "vault"}, "AFDP_VAULT_ADDR must be the URL"),
    ],
)
async def test_a_setting_that_is_missing_or_wrong_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await opened(settings)
    assert said in str(caught.value)


async def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(FailedPrecondition, match=r"AFDP_VAULT_TOKEN_FILE: .*/token is empty"):
        await opened({"vault_token_file": tmp_path / "token"})


async def test_a_signer_starts_while_vault_is_away(unused_tcp_port: int) -> None:
    await opened({"vault_token": "t", "vault_addr": f"http://127.0.0.1:{unused_tcp_port}"})


def test_the_names_that_vaults_own_tools_read_are_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "VAULT_ADDR": "https://vault:8200",
        "VAULT_NAMESPACE": "acme",
        "VAULT_CACERT": "/ca.pem",
        "VAULT_TOKEN": "t",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = shown(SignerSettings())
    assert settings["vault_addr"] == "https://vault:8200"
    assert settings["vault_namespace"] == "acme"
    assert settings["vault_ca_file"] == "/ca.pem"
    assert settings["vault_token"] == "**********"
