"""What each of the two policies allows on a real OpenBao, and that it is all they allow."""

from __future__ import annotations

import base64
from typing import Any

import hvac.exceptions
import pytest

from afdp.embedded.vault_setup import KEYS
from tests.vault_servers import DevServer

T = "afdp-transit"
PLAIN = base64.b64encode(b"a data key of thirty-two bytes!!").decode()

Call = tuple[str, str, dict[str, object]]


def ids(call: object) -> str:
    """A call's method and path."""
    return " ".join(call[:2]) if isinstance(call, tuple) else str(call)


@pytest.fixture
def signer(vault: DevServer) -> Any:
    """hvac's client, logged in as the signer."""
    return vault.log_in(vault.logins.signer)


@pytest.fixture
def admin(vault: DevServer) -> Any:
    """hvac's client, logged in as the key admin."""
    return vault.log_in(vault.logins.key_admin)


@pytest.fixture(scope="module", autouse=True)
def something_to_reach_for(vault: DevServer) -> None:
    """Keys and secrets of others, a data key, and a tenant's evidence key."""
    root = vault.client()
    root.secrets.transit.create_key("others-key", mount_point=T)
    root.secrets.transit.create_key("afdp-tenant-acme", key_type="ecdsa-p256", mount_point=T)
    root.secrets.transit.create_key("afdp-log-of-acme", key_type="ed25519", mount_point=T)
    root.secrets.transit.create_key("afdp-data-known", mount_point=T)
    root.write_data("secret/data/others", data={"data": {"password": "theirs"}})


def ask(client: Any, call: Call) -> Any:
    """Makes one call."""
    method, path, body = call
    return client.adapter.request(method, f"/v1/{path}", json=body or None)


# The signer


@pytest.mark.parametrize("name", [*KEYS, "afdp-tenant-acme", "afdp-log-of-acme"])
def test_the_signer_signs_with_its_keys_and_reads_their_public_halves(signer: Any, name: str) -> None:
    made = signer.secrets.transit.sign_data(name, batch_input=[{"input": PLAIN}], mount_point=T)
    assert made["data"]["batch_results"][0]["signature"].startswith("vault:v")
    shown = signer.secrets.transit.read_key(name, mount_point=T)["data"]["keys"]
    assert all(version["public_key"] for version in shown.values())


def test_the_signer_wraps_and_unwraps_data_keys_and_makes_a_subjects_key_by_that(signer: Any) -> None:
    transit = signer.secrets.transit
    wrapped = transit.encrypt_data("afdp-data-subject", plaintext=PLAIN, mount_point=T)["data"]["ciphertext"]
    again = transit.rewrap_data("afdp-data-subject", wrapped, mount_point=T)["data"]["ciphertext"]
    assert transit.decrypt_data("afdp-data-subject", again, mount_point=T)["data"]["plaintext"] == PLAIN


def test_the_signer_keeps_its_token_alive_and_sees_what_it_may_do(signer: Any) -> None:
    assert signer.auth.token.renew_self()["auth"]["lease_duration"] > 0
    assert signer.auth.token.lookup_self()["data"]["policies"] == ["afdp-signer"]
    assert signer.sys.get_capabilities([f"{T}/sign/afdp-log-key"])["data"][f"{T}/sign/afdp-log-key"] == ["update"]
    signer.auth.token.revoke_self()
    with pytest.raises(hvac.exceptions.Forbidden):
        signer.auth.token.lookup_self()


NOT_THE_SIGNERS: list[Call] = [
    # Making, changing and ending keys
    ("POST", f"{T}/keys/another-key", {"type": "ecdsa-p256"}),
    ("POST", f"{T}/keys/afdp-tenant-new", {"type": "ecdsa-p256"}),
    ("POST", f"{T}/keys/afdp-data-new", {}),
    *[("POST", f"{T}/keys/{name}/rotate", {}) for name in (*KEYS, "afdp-tenant-acme", "afdp-data-known")],
    *[("POST", f"{T}/keys/{name}/config", {"deletion_allowed": True}) for name in (*KEYS, "afdp-data-known")],
    *[("POST", f"{T}/keys/{name}/trim", {"min_available_version": 1}) for name in (*KEYS, "afdp-data-known")],
    *[("DELETE", f"{T}/keys/{name}", {}) for name in (*KEYS, "afdp-tenant-acme", "afdp-data-known")],
    ("POST", f"{T}/keys/afdp-notary-key/import_version", {}),
    # Taking keys out
    *[("GET", f"{T}/export/signing-key/{name}", {}) for name in KEYS],
    ("GET", f"{T}/export/encryption-key/afdp-data-known", {}),
    *[("GET", f"{T}/backup/{name}", {}) for name in (*KEYS, "afdp-data-known")],
    ("POST", f"{T}/restore", {"backup": "x"}),
    ("POST", f"{T}/datakey/plaintext/afdp-data-known", {}),
    # Keys that are not its own, and its own for something else
    ("POST", f"{T}/sign/others-key", {"input": PLAIN}),
    ("POST", f"{T}/encrypt/others-key", {"plaintext": PLAIN}),
    ("POST", f"{T}/decrypt/others-key", {"ciphertext": "vault:v1:x"}),
    ("POST", f"{T}/hmac/afdp-data-known", {"input": PLAIN}),
    ("POST", f"{T}/sign/afdp-data-known", {"input": PLAIN}),
    ("GET", f"{T}/keys/others-key", {}),
    ("LIST", f"{T}/keys", {}),
    ("GET", f"{T}/config/keys", {}),
    # Other mounts
    ("GET", "secret/data/others", {}),
    ("LIST", "secret/metadata", {}),
    ("GET", "cubbyhole/anything", {}),
    # Logins of others, and more for itself
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create-orphan", {}),
    ("LIST", "auth/token/accessors", {}),
    ("POST", "auth/approle/role/afdp-signer/secret-id", {}),
    ("GET", "auth/approle/role/afdp-key-admin/role-id", {}),
    ("POST", "auth/approle/role/afdp-signer", {"token_policies": ["root"]}),
    # The system
    ("GET", "sys/policies/acl/afdp-signer", {}),
    ("POST", "sys/policies/acl/afdp-signer", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
    ("GET", "sys/mounts", {}),
    ("POST", "sys/mounts/mine", {"type": "transit"}),
    ("DELETE", f"sys/mounts/{T}", {}),
    ("GET", "sys/auth", {}),
    ("GET", "sys/audit", {}),
    ("PUT", "sys/seal", {}),
    ("POST", "sys/rotate", {}),
    ("GET", "sys/config/cors", {}),
    ("POST", "sys/capabilities", {"paths": ["x"], "token": "x"}),
    ("LIST", "sys/leases/lookup", {}),
    ("PUT", "sys/leases/revoke", {"lease_id": "x"}),
    ("POST", "sys/wrapping/wrap", {"a": "b"}),
]


@pytest.mark.parametrize("call", NOT_THE_SIGNERS, ids=ids)
def test_the_signer_is_refused_everything_else(signer: Any, call: Call) -> None:
    with pytest.raises(hvac.exceptions.Forbidden):
        ask(signer, call)


# The key admin


@pytest.mark.parametrize("name", ["afdp-notary-key", "afdp-timestamp-key", "afdp-trust-key", "afdp-tenant-acme"])
def test_the_key_admin_makes_new_versions(admin: Any, name: str) -> None:
    before = admin.secrets.transit.read_key(name, mount_point=T)["data"]["latest_version"]
    admin.secrets.transit.rotate_key(name, mount_point=T)
    assert admin.secrets.transit.read_key(name, mount_point=T)["data"]["latest_version"] == before + 1


def test_the_key_admin_ends_a_subjects_key_for_good(admin: Any, signer: Any) -> None:
    wrapped = signer.secrets.transit.encrypt_data("afdp-data-erased", plaintext=PLAIN, mount_point=T)["data"]
    admin.secrets.transit.rotate_key("afdp-data-erased", mount_point=T)
    admin.secrets.transit.update_key_configuration("afdp-data-erased", deletion_allowed=True, mount_point=T)
    admin.secrets.transit.delete_key("afdp-data-erased", mount_point=T)
    with pytest.raises(hvac.exceptions.InvalidRequest):
        signer.secrets.transit.decrypt_data("afdp-data-erased", wrapped["ciphertext"], mount_point=T)


NOT_THE_ADMINS: list[Call] = [
    # Using keys
    *[("POST", f"{T}/sign/{name}", {"input": PLAIN}) for name in (*KEYS, "afdp-tenant-acme")],
    ("POST", f"{T}/encrypt/afdp-data-known", {"plaintext": PLAIN}),
    ("POST", f"{T}/decrypt/afdp-data-known", {"ciphertext": "vault:v1:x"}),
    # The log's key has one version; evidence keys verify for ever
    *[("POST", f"{T}/keys/{name}/rotate", {}) for name in ("afdp-log-key", "afdp-log-of-acme")],
    *[("POST", f"{T}/keys/{name}/config", {"deletion_allowed": True}) for name in (*KEYS, "afdp-tenant-acme")],
    *[("POST", f"{T}/keys/{name}/trim", {"min_available_version": 1}) for name in (*KEYS, "afdp-tenant-acme")],
    *[("DELETE", f"{T}/keys/{name}", {}) for name in (*KEYS, "afdp-tenant-acme")],
    ("POST", f"{T}/keys/another-key", {}),
    # Taking keys out
    *[("GET", f"{T}/export/signing-key/{name}", {}) for name in KEYS],
    ("GET", f"{T}/export/encryption-key/afdp-data-known", {}),
    ("GET", f"{T}/backup/afdp-data-known", {}),
    # The rest of Vault
    ("GET", "secret/data/others", {}),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/approle/role/afdp-key-admin/secret-id", {}),
    ("POST", "sys/policies/acl/afdp-key-admin", {"policy": ""}),
    ("GET", "sys/mounts", {}),
    ("PUT", "sys/seal", {}),
]


@pytest.mark.parametrize("call", NOT_THE_ADMINS, ids=ids)
def test_the_key_admin_is_refused_everything_else(admin: Any, call: Call) -> None:
    with pytest.raises(hvac.exceptions.Forbidden):
        ask(admin, call)
