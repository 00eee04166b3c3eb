"""`deploy/vault/setup.py` as an operator runs it, against a real OpenBao."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hvac.exceptions
import pytest

from afdp.embedded import vault_setup
from tests.local_tls import TlsAuthority
from tests.vault_servers import ROOT, DevServer

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "deploy/vault/setup.py"


def run(server: DevServer, *arguments: object, token: str = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs the script, with the token in its environment."""
    return run_at(server.addr, *arguments, token=token)


def run_at(address: str, *arguments: object, token: str) -> subprocess.CompletedProcess[str]:
    """As `run`, wherever Vault is said to be."""
    environment = {"VAULT_ADDR": address, "PATH": "/usr/bin:/bin", **({"VAULT_TOKEN": token} if token else {})}
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def state_of(server: DevServer) -> dict[str, Any]:
    """What the script is to have made in Vault."""
    client = server.client()
    transit = client.secrets.transit
    return {
        "keys": {name: transit.read_key(name, mount_point="afdp-transit")["data"] for name in vault_setup.KEYS},
        "policies": {
            name: client.sys.read_acl_policy(name)["data"]["policy"] for name in ("afdp-signer", "afdp-key-admin")
        },
        "methods": sorted(client.sys.list_auth_methods()["data"]),
    }


@pytest.mark.parametrize("auth", ["approle", "token", "kubernetes", "cert"])
def test_a_second_run_changes_nothing(own_vault: DevServer, tmp_path: Path, auth: str) -> None:
    folders = ["--signer", tmp_path / "signer", "--key-admin", tmp_path / "admin"]
    authority = TlsAuthority(tmp_path).file
    more = {
        "approle": folders,
        "token": folders,
        "kubernetes": ["--kubernetes-host", "https://127.0.0.1:6443", "--kubernetes-ca", authority],
        "cert": ["--client-ca", authority],
    }[auth]
    first = run(own_vault, "--auth", auth, *more)
    assert first.returncode == 0, first.stderr
    made, written = state_of(own_vault), contents(tmp_path)

    second = run(own_vault, "--auth", auth, *more)

    assert second.returncode == 0, second.stderr
    assert state_of(own_vault) == made
    assert contents(tmp_path) == written
    assert first.stdout + first.stderr + second.stdout + second.stderr == ""
    assert {name: key["type"] for name, key in made["keys"].items()} == dict(vault_setup.KEYS)
    if auth != "token":
        assert f"{auth}/" in made["methods"]


@pytest.mark.parametrize(
    ("auth", "path", "bound"),
    [
        ("approle", "auth/approle/role/{}", {}),
        (
            "kubernetes",
            "auth/kubernetes/role/{}",
            {
                "bound_service_account_names": ["signer"],
                "bound_service_account_namespaces": ["prod"],
                "audience": "vault",
            },
        ),
        ("cert", "auth/cert/certs/{}", {}),
    ],
)
def test_a_login_gives_an_hours_token_of_one_policy(
    own_vault: DevServer, tmp_path: Path, auth: str, path: str, bound: dict[str, object]
) -> None:
    client_ca = TlsAuthority(tmp_path).file.read_text()
    logins = vault_setup.Logins(auth, tmp_path, service_account="prod/signer", client_ca=client_ca)
    vault_setup.provision(own_vault.client(), logins)
    for name in ("afdp-signer", "afdp-key-admin"):
        role = own_vault.client().read(path.format(name))["data"]
        expected = {"token_policies": [name], "token_ttl": 3600, "token_max_ttl": 86400, **bound}
        assert {field: role[field] for field in expected} == expected
        assert role["token_no_default_policy"] is True
        if auth == "cert":
            assert role["allowed_common_names"] == [name]


@pytest.mark.parametrize(
    "address", ["http://vault.example:8200", "HTTP://vault.example:8200", "http://127.0.0.1.example"]
)
def test_the_token_goes_to_no_other_machine_in_the_clear(address: str) -> None:
    refused = run_at(address, "--auth", "kubernetes", token="a token")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "setup: VAULT_ADDR is plain text to another machine: use https\n"


def test_the_token_is_told_to_nobody_whom_vault_names() -> None:
    asked: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["X-Vault-Token"])
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever).start()
        refused = run_at(f"http://127.0.0.1:{server.server_port}", "--auth", "kubernetes", token="a token")
        server.shutdown()

    assert asked == ["a token"]
    assert (refused.returncode, "sends us to another address (HTTP 307)" in refused.stderr) == (1, True)


def test_credentials_are_for_their_owner_alone(own_vault: DevServer, tmp_path: Path) -> None:
    assert run(own_vault, "--signer", tmp_path / "signer", "--key-admin", tmp_path / "admin").returncode == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"role-id", "secret-id"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert {file.parent.stat().st_mode & 0o777 for file in files} == {0o700}


@pytest.mark.parametrize(("auth", "secret"), [("approle", "secret-id"), ("token", "token")])
def test_renewed_credentials_let_in_and_the_old_ones_do_not(
    own_vault: DevServer, tmp_path: Path, auth: str, secret: str
) -> None:
    arguments = ("--auth", auth, "--signer", tmp_path)
    assert run(own_vault, *arguments).returncode == 0
    old = (tmp_path / secret).read_text()
    assert run(own_vault, *arguments, "--renew").returncode == 0
    new = (tmp_path / secret).read_text()

    assert let_in(own_vault, auth, tmp_path, new)
    assert not let_in(own_vault, auth, tmp_path, old)


def let_in(server: DevServer, auth: str, folder: Path, secret: str) -> bool:
    """Whether Vault takes it."""
    try:
        if auth == "token":
            return bool(server.client(secret).auth.token.lookup_self())
        return bool(server.client("").auth.approle.login((folder / "role-id").read_text(), secret))
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
        return False


def test_a_policy_that_was_changed_by_hand_is_put_right(own_vault: DevServer, tmp_path: Path) -> None:
    own_vault.client().sys.create_or_update_acl_policy("afdp-signer", 'path "*" { capabilities = ["sudo"] }')
    assert run(own_vault, "--signer", tmp_path).returncode == 0
    text = own_vault.client().sys.read_acl_policy("afdp-signer")["data"]["policy"]
    assert text == (REPOSITORY / "deploy/vault/policies/signer.hcl").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--auth", "approle"], "needs --signer or --key-admin"),
        (["--auth", "cert"], "needs --client-ca"),
        (["--auth", "password"], "invalid choice"),
    ],
)
def test_what_is_missing_on_the_command_line_is_named(own_vault: DevServer, arguments: list[str], said: str) -> None:
    answer = run(own_vault, *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr


def test_a_token_that_may_not_set_up_is_refused_in_one_line(own_vault: DevServer, tmp_path: Path) -> None:
    answer = run(own_vault, "--signer", tmp_path, token="not-a-token")
    assert answer.returncode == 1
    assert answer.stderr.startswith("setup: ")
    assert answer.stderr.count("\n") == 1
    assert "not-a-token" not in answer.stderr


def test_without_a_token_or_a_state_folder_it_says_what_it_needs(own_vault: DevServer, tmp_path: Path) -> None:
    answer = run(own_vault, "--signer", tmp_path, token="")
    assert answer.returncode == 1
    assert "VAULT_TOKEN" in answer.stderr


# A server that the first release set up


FIRST_OPERATOR = """\
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/afdp-transit" { capabilities = ["create", "read", "update"] }
path "sys/policies/acl/afdp-signer" { capabilities = ["create", "read", "update"] }
path "afdp-transit/keys/*" { capabilities = ["create", "read", "update", "list"] }
path "auth/token/roles/afdp-signer" { capabilities = ["create", "read", "update"] }
path "auth/token/create/afdp-signer" { capabilities = ["create", "update"] }
path "auth/token/renew" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"""


def test_an_operator_of_the_first_release_makes_what_is_new(own_vault: DevServer, tmp_path: Path) -> None:
    root = own_vault.client()
    for name in ("afdp-timestamp-key", "afdp-trust-key"):
        root.secrets.transit.update_key_configuration(name, deletion_allowed=True, mount_point="afdp-transit")
        root.secrets.transit.delete_key(name, mount_point="afdp-transit")
    root.sys.delete_acl_policy("afdp-key-admin")
    root.write_data("auth/token/roles/afdp-signer", data={"allowed_policies": ["afdp-signer"], "orphan": True})
    operator = vault_setup.new_operator(root)
    root.sys.create_or_update_acl_policy("afdp-operator", FIRST_OPERATOR)
    (tmp_path / "operator.json").write_text(json.dumps(operator))

    arguments = ("--state", tmp_path, "--signer", tmp_path / "signer", "--key-admin", tmp_path / "admin")
    for _ in range(2):
        answer = run(own_vault, *arguments, token="")
        assert answer.returncode == 0, answer.stderr

    assert {name: key["type"] for name, key in state_of(own_vault)["keys"].items()} == dict(vault_setup.KEYS)
    assert state_of(own_vault)["policies"]["afdp-signer"] == vault_setup.policy("afdp-signer")
    signer, admin = own_vault.log_in(tmp_path / "signer"), own_vault.log_in(tmp_path / "admin")
    assert signer.auth.token.lookup_self()["data"]["policies"] == ["afdp-signer"]
    assert admin.auth.token.lookup_self()["data"]["policies"] == ["afdp-key-admin"]
    with pytest.raises(hvac.exceptions.Forbidden):
        signer.sys.create_or_update_acl_policy("afdp-operator", "")
