"""The embedded OpenBao as `afdp dev --vault` uses it: what it keeps, and what its credentials may do."""

from __future__ import annotations

import base64
import hashlib
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import hvac
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from afdp.embedded.openbao import OpenBao, running_openbao
from afdp.embedded.vault_setup import KEYS, MOUNT
from afdp.errors import DataLoss


async def test_keys_survive_a_restart_and_a_kill(data_folder: Path) -> None:
    async with running_openbao(data_folder) as first:
        before = public_keys(first)
    second = await OpenBao.start(data_folder)
    assert public_keys(second) == before
    second.kill()
    assert await second.wait() == -signal.SIGKILL

    async with running_openbao(data_folder) as third:
        assert public_keys(third) == before


async def test_a_batch_of_digests_comes_back_as_der_signatures_of_the_evidence_key(openbao: OpenBao) -> None:
    digests = [hashlib.sha256(text).digest() for text in (b"one", b"two", b"three")]

    answer = as_signer(openbao).secrets.transit.sign_data(
        "afdp-notary-key",
        batch_input=[{"input": base64.b64encode(digest).decode()} for digest in digests],
        hash_algorithm="sha2-256",
        prehashed=True,
        marshaling_algorithm="asn1",
        mount_point=MOUNT,
    )

    key = serialization.load_pem_public_key(public_keys(openbao)["afdp-notary-key"].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for digest, result in zip(digests, answer["data"]["batch_results"], strict=True):
        signature = base64.b64decode(result["signature"].rsplit(":", 1)[1])
        key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))


async def test_credentials_are_readable_by_their_owner_alone_and_never_logged(openbao: OpenBao) -> None:
    secrets = [
        *(folder / name for _, folder in openbao.logins.folders() for name in ("role-id", "secret-id")),
        openbao.data_dir / "unseal-key",
        openbao.data_dir / "operator.json",
    ]
    log = (openbao.data_dir / "openbao.log").read_text()

    assert [mode(file) for file in secrets] == [0o600] * len(secrets)
    assert not [file for file in secrets if file.read_text() in log]


async def test_no_root_token_is_left(openbao: OpenBao) -> None:
    async with openbao.operator() as client:
        itself = await client.get("sys/policies/acl/root")
    assert itself.status_code == 403
    for file in openbao.data_dir.glob("*"):
        assert file.is_dir() or "root_token" not in file.read_text()


async def test_it_listens_on_loopback_only(openbao: OpenBao, listening_addresses: Callable[[int], set[str]]) -> None:
    assert listening_addresses(openbao.pid) == {"127.0.0.1"}


async def test_a_login_that_was_lost_or_destroyed_is_replaced_at_the_next_start(data_folder: Path) -> None:
    async with running_openbao(data_folder) as first:
        (data_folder / "key-admin" / "secret-id").unlink()
        secret_id = {"secret_id": (data_folder / "signer" / "secret-id").read_text()}
        async with first.operator() as client:
            assert (await client.post("auth/approle/role/afdp-signer/secret-id/destroy", json=secret_id)).is_success
        with pytest.raises(hvac.exceptions.InvalidRequest):
            public_keys(first)

    async with running_openbao(data_folder) as second:
        assert set(public_keys(second)) == set(KEYS)
        assert log_in(second, data_folder / "key-admin").auth.token.lookup_self()["data"]["policies"] == [
            "afdp-key-admin"
        ]


async def test_a_sealed_server_opens_again_and_keeps_a_rotated_key(data_folder: Path) -> None:
    async with running_openbao(data_folder) as server:
        async with server.operator() as client:
            assert (await client.post(f"{MOUNT}/keys/afdp-notary-key/rotate")).is_success
            assert (await client.put("sys/seal")).is_success
        with pytest.raises(hvac.exceptions.VaultDown):
            public_keys(server)

        await server.unseal()

        assert latest_version(server, "afdp-notary-key") == 2


async def test_a_first_start_that_was_cut_short_begins_anew(data_folder: Path) -> None:
    async with running_openbao(data_folder):
        pass
    (data_folder / "unseal-key").unlink()
    with pytest.raises(DataLoss, match="unseal-key"):
        await OpenBao.start(data_folder)
    (data_folder / "first-start-unfinished").touch()

    async with running_openbao(data_folder) as again:
        assert set(public_keys(again)) == set(KEYS)


async def test_a_folder_of_the_first_release_still_starts_and_gets_what_is_new(data_folder: Path) -> None:
    async with running_openbao(data_folder) as server:
        before = public_keys(server)["afdp-notary-key"]
        await make_as_the_first_release_did(server)
        old = hvac.Client(url=server.addr, token=(data_folder / "signer-token").read_text())
        assert old.auth.token.lookup_self()

    async with running_openbao(data_folder) as again:
        assert set(public_keys(again)) == set(KEYS)
        assert public_keys(again)["afdp-notary-key"] == before
        assert not (data_folder / "signer-token").exists()
        old.url = again.addr
        with pytest.raises(hvac.exceptions.Forbidden):
            old.auth.token.lookup_self()


FIRST_OPERATOR = f"""\
path "sys/mounts/{MOUNT}" {{ capabilities = ["create", "read", "update"] }}
path "sys/policies/acl/afdp-*" {{ capabilities = ["create", "read", "update"] }}
path "sys/seal" {{ capabilities = ["update", "sudo"] }}
path "{MOUNT}/*" {{ capabilities = ["create", "read", "update", "list"] }}
path "auth/token/roles/afdp-signer" {{ capabilities = ["create", "read", "update"] }}
path "auth/token/create/afdp-signer" {{ capabilities = ["create", "update"] }}
path "auth/token/revoke" {{ capabilities = ["update"] }}
path "auth/token/revoke-self" {{ capabilities = ["update"] }}
"""


async def make_as_the_first_release_did(server: OpenBao) -> None:
    """Takes away what that release did not make, leaves the operator its policy of then, and writes a token."""
    async with server.operator() as client:
        role = {"allowed_policies": ["afdp-signer"], "orphan": True, "token_period": "768h"}
        made = [
            await client.post(f"{MOUNT}/keys/{key}/config", json={"deletion_allowed": True})
            for key in ("afdp-timestamp-key", "afdp-trust-key")
        ]
        new = (
            f"{MOUNT}/keys/afdp-timestamp-key",
            f"{MOUNT}/keys/afdp-trust-key",
            "sys/policies/acl/afdp-key-admin",
            "auth/approle/role/afdp-signer",
            "auth/approle/role/afdp-key-admin",
        )
        deleting = FIRST_OPERATOR + "".join(f'path "{path}" {{ capabilities = ["delete"] }}\n' for path in new)
        made += [
            await client.post("auth/token/roles/afdp-signer", json=role),
            await client.put("sys/policies/acl/afdp-operator", json={"policy": deleting}),
            *[await client.delete(path) for path in new],
        ]
        token = await client.post("auth/token/create/afdp-signer", json={"policies": ["afdp-signer"]})
        made += [token, await client.put("sys/policies/acl/afdp-operator", json={"policy": FIRST_OPERATOR})]
        assert [answer.status_code for answer in made if answer.is_error] == []
        (server.data_dir / "signer-token").write_text(token.json()["auth"]["client_token"])
    for _, folder in server.logins.folders():
        shutil.rmtree(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_signer(server: OpenBao) -> hvac.Client:
    return log_in(server, server.data_dir / "signer")


def log_in(server: OpenBao, folder: Path) -> hvac.Client:
    client = hvac.Client(url=server.addr, token="")
    client.auth.approle.login((folder / "role-id").read_text(), (folder / "secret-id").read_text())
    return client


def latest_version(server: OpenBao, key: str) -> int:
    answer = as_signer(server).secrets.transit.read_key(key, mount_point=MOUNT)
    return int(answer["data"]["latest_version"])


def public_keys(server: OpenBao) -> dict[str, str]:
    """The public half of each key's latest version, as Vault writes it."""
    client = as_signer(server)
    answers = {key: client.secrets.transit.read_key(key, mount_point=MOUNT) for key in KEYS}
    return {
        key: answer["data"]["keys"][str(answer["data"]["latest_version"])]["public_key"]
        for key, answer in answers.items()
    }
