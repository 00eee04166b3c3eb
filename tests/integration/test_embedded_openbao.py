"""The embedded OpenBao as `afdp dev --vault` uses it: what it keeps, and what its credentials may do."""

from __future__ import annotations

import base64
import hashlib
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import hvac
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from afdp.embedded.openbao import KEYS, MOUNT, OpenBao, running_openbao
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


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "sys/policies/acl/root"),
        ("GET", "sys/policies/acl/afdp-signer"),
        ("POST", "sys/policies/acl/afdp-signer"),
        ("POST", f"{MOUNT}/keys/another-key"),
        ("POST", f"{MOUNT}/keys/afdp-log-key/rotate"),
        ("POST", f"{MOUNT}/keys/afdp-log-key/config"),
        ("GET", f"{MOUNT}/export/signing-key/afdp-log-key"),
        ("GET", f"{MOUNT}/backup/afdp-log-key"),
        ("DELETE", f"{MOUNT}/keys/afdp-log-key"),
        ("POST", "auth/token/create"),
        ("PUT", "sys/seal"),
        ("GET", "sys/mounts"),
    ],
)
async def test_the_signers_token_may_sign_and_no_more(openbao: OpenBao, method: str, path: str) -> None:
    with pytest.raises(hvac.exceptions.Forbidden):
        as_signer(openbao).adapter.request(method, f"/v1/{path}")


async def test_credentials_are_readable_by_their_owner_alone_and_never_logged(openbao: OpenBao) -> None:
    secrets = [openbao.token_file, openbao.data_dir / "unseal-key", openbao.data_dir / "operator.json"]
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


async def test_a_token_that_was_lost_or_revoked_is_replaced_at_the_next_start(data_folder: Path) -> None:
    async with running_openbao(data_folder) as first:
        async with first.operator() as client:
            await client.post("auth/token/revoke", json={"token": first.token_file.read_text()})
        with pytest.raises(hvac.exceptions.Forbidden):
            public_keys(first)

    async with running_openbao(data_folder) as second:
        assert set(public_keys(second)) == set(KEYS)


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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_signer(server: OpenBao) -> hvac.Client:
    return hvac.Client(url=server.addr, token=server.token_file.read_text())


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
