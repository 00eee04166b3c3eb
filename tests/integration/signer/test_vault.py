"""The signer's keys in a real OpenBao."""

import asyncio
from hashlib import sha256
from pathlib import Path

import hvac
import pytest

from afdp.embedded.openbao import OpenBao
from afdp.errors import FailedPrecondition, InvalidArgument, Unavailable
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Checkpoint
from afdp.signer.guard import CheckpointGuard
from afdp.signer.revocations import Revocations
from afdp.signer.service import Purpose, Signature, Signer
from afdp.signer.vault import VaultAccess, VaultKeyring
from afdp.signer.verification import require_ecdsa

DIGEST = sha256(b"statement").digest()
STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


def access(bao: OpenBao, **changes: object) -> VaultAccess:
    settings: dict[str, object] = {"addr": bao.addr, "token": bao.token_file.read_text, "timeout": 5.0, **changes}
    return VaultAccess(**settings)  # type: ignore[arg-type]


async def test_a_batch_is_signed_in_one_call_and_each_signature_verifies(openbao: OpenBao) -> None:
    keyring = VaultKeyring(access(openbao))
    digests = [sha256(bytes([number])).digest() for number in range(32)]

    answers = await keyring.sign_digests(digests)

    assert len(answers) == 32
    for digest, answer in zip(digests, answers, strict=True):
        assert isinstance(answer, Signature)
        assert answer.key.key_id.startswith("afdp-notary-key:")
        require_ecdsa(answer.key.spki, answer.value, digest)


async def test_a_digest_of_another_length_fails_alone(openbao: OpenBao) -> None:
    good, bad = await VaultKeyring(access(openbao)).sign_digests([DIGEST, b"short"])

    assert isinstance(good, Signature)
    assert isinstance(bad, InvalidArgument)
    assert "32 bytes" in str(bad)


async def test_statements_and_checkpoints_are_signed_by_their_own_keys(openbao: OpenBao, tmp_path: Path) -> None:
    guard = CheckpointGuard(tmp_path / "checkpoints", ["log.example"])
    revocations = Revocations(tmp_path / "revocations.json")
    signer = Signer(VaultKeyring(access(openbao)), guard, revocations, ["log.example"])

    (statement,) = await signer.sign_statements([STATEMENT])
    checkpoint = await signer.sign_checkpoint(Checkpoint("log.example", 1, leaf_hash(b"a")), [], 0)

    assert isinstance(statement, Signature)
    assert statement.key.purpose is Purpose.EVIDENCE
    assert checkpoint.signature.key.purpose is Purpose.LOG
    await signer.check()


async def test_a_key_rotated_between_two_batches_is_found(openbao: OpenBao) -> None:
    keyring = VaultKeyring(access(openbao))
    (before,) = await keyring.sign_digests([DIGEST])
    async with openbao.operator() as operator:
        (await operator.post("afdp-transit/keys/afdp-notary-key/rotate")).raise_for_status()

    (after,) = await keyring.sign_digests([DIGEST])

    assert isinstance(before, Signature)
    assert isinstance(after, Signature)
    assert int(after.key.key_id.split(":")[1]) == int(before.key.key_id.split(":")[1]) + 1
    listed = [key.key_id for key in await keyring.versions() if key.purpose is Purpose.EVIDENCE]
    assert listed[-1] == after.key.key_id
    assert before.key.key_id in listed


async def test_rotation_needs_a_token_of_its_own(openbao: OpenBao, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="ADMIN_TOKEN"):
        await VaultKeyring(access(openbao)).rotate()
    async with openbao.operator() as operator:
        admin = operator.headers["X-Vault-Token"]
        keyring = VaultKeyring(access(openbao, admin_token=lambda: admin))
        fresh = await keyring.rotate()
        (signature,) = await keyring.sign_digests([DIGEST])
    assert isinstance(signature, Signature)
    assert signature.key.key_id == fresh.key_id


async def test_a_token_that_was_replaced_is_read_again(openbao: OpenBao) -> None:
    tokens = iter(["not-a-token", openbao.token_file.read_text()])
    keyring = VaultKeyring(access(openbao, token=lambda: next(tokens)))

    (signature,) = await keyring.sign_digests([DIGEST])

    assert isinstance(signature, Signature)


async def test_a_token_that_is_refused_is_a_clear_error(openbao: OpenBao) -> None:
    with pytest.raises(Unavailable, match="does not let the signer in"):
        await VaultKeyring(access(openbao, token=lambda: "not-a-token")).sign_digests([DIGEST])


async def test_a_sealed_vault_is_unavailable_and_comes_back(openbao: OpenBao) -> None:
    keyring = VaultKeyring(access(openbao))
    async with openbao.operator() as operator:
        (await operator.put("sys/seal")).raise_for_status()
    try:
        with pytest.raises(Unavailable, match="sealed") as sealed:
            await keyring.sign_digests([DIGEST])
        assert sealed.value.retry_after
        with pytest.raises(Unavailable):
            await keyring.check()
    finally:
        await openbao.unseal()
    async with asyncio.timeout(10):
        while True:
            try:
                (signature,) = await keyring.sign_digests([DIGEST])
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert isinstance(signature, Signature)


async def test_a_vault_that_is_not_there_is_unavailable_at_once(openbao: OpenBao, unused_tcp_port: int) -> None:
    keyring = VaultKeyring(access(openbao, addr=f"http://127.0.0.1:{unused_tcp_port}"))
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await keyring.sign_digests([DIGEST])


async def test_a_vault_that_does_not_answer_is_unavailable_in_time(openbao: OpenBao) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keyring = VaultKeyring(access(openbao, addr=f"http://127.0.0.1:{port}", timeout=0.3))
    try:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="in time"):
                await keyring.sign_digests([DIGEST])
    finally:
        server.close()


async def test_a_key_of_the_wrong_type_is_named(openbao: OpenBao) -> None:
    keyring = VaultKeyring(access(openbao, evidence_key="afdp-log-key"))
    with pytest.raises(FailedPrecondition, match="ed25519, not ecdsa-p256"):
        await keyring.versions()


def test_the_signing_token_may_not_rotate_or_make_keys(openbao: OpenBao) -> None:
    client = hvac.Client(url=openbao.addr, token=openbao.token_file.read_text())
    with pytest.raises(hvac.exceptions.Forbidden):
        client.secrets.transit.rotate_key("afdp-notary-key", mount_point="afdp-transit")
    with pytest.raises(hvac.exceptions.Forbidden):
        client.secrets.transit.create_key("another", mount_point="afdp-transit")
