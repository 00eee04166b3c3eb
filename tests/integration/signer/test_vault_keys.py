"""The signer's keys in a real OpenBao: what they sign, their versions, and what is wrong with a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import pytest

from afdp.errors import FailedPrecondition, InvalidArgument, Unavailable
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Checkpoint
from afdp.signer.config import SignerSettings
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Purpose, Signature
from afdp.signer.opening import open_catalogue, open_vault_if_used
from afdp.signer.revocations import Revocations
from afdp.signer.service import Signer, Stamped, Statement
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import open_vault
from afdp.signer.verification import require_ecdsa, require_ed25519
from afdp.signer.version_memory import VersionMemory
from tests.vault_servers import DevServer

MOUNT = "afdp-transit"
DIGEST = sha256(b"statement").digest()
STATEMENT = Statement("acme", b'{"_type":"https://in-toto.io/Statement/v1"}')
LOG = KeySpec("afdp-log-key", Purpose.LOG, ED25519)

Open = Callable[..., AbstractAsyncContextManager[VaultKeyring]]


def memories(folder: Path) -> tuple[Revocations, VersionMemory]:
    return Revocations(folder / "revocations.json"), VersionMemory(folder / "key-versions.json")


@pytest.fixture
def opened(vault: DevServer, tmp_path: Path) -> Open:
    """`opened(spec, …)`: a keyring of these keys, whose memory the test keeps from one to the next."""

    @asynccontextmanager
    async def keyring(*specs: KeySpec, **settings: object) -> AsyncIterator[VaultKeyring]:
        admin = vault.logins.key_admin
        assert admin
        login = {"vault_admin_role_id_file": admin / "role-id", "vault_admin_secret_id_file": admin / "secret-id"}
        told = {"vault_admin_auth": "approle", **login, **settings}
        async with open_vault(SignerSettings(**vault.settings(**told))) as opened:
            yield VaultKeyring(opened, KeyMemory(tmp_path / "vault-keys.json"), specs)

    return keyring


@pytest.fixture
def tenant_key(vault: DevServer, tmp_path: Path) -> KeySpec:
    """A P-256 key of this test alone, of a name that the signer's policy allows."""
    name = f"afdp-tenant-{tmp_path.name.removeprefix('test_').replace('_', '-')[-60:].strip('-')}"
    transit(vault).create_key(name, key_type="ecdsa-p256", mount_point=MOUNT)
    return KeySpec(name, Purpose.EVIDENCE, P256)


def transit(vault: DevServer) -> Any:
    """The transit engine, as root."""
    return vault.client().secrets.transit


async def test_a_batch_is_signed_and_each_signature_verifies(opened: Open, tenant_key: KeySpec) -> None:
    digests = [sha256(number.to_bytes(2)).digest() for number in range(300)]
    async with opened(tenant_key) as keyring:
        answers = await keyring.sign(tenant_key.name, digests)

    assert len(answers) == len(digests)
    for digest, answer in zip(digests, answers, strict=True):
        assert isinstance(answer, Signature)
        assert answer.key.key_id == f"{tenant_key.name}:1"
        require_ecdsa(answer.key.spki, answer.value, digest)


async def test_p384_and_ed25519_sign_what_they_are_for(opened: Open, vault: DevServer) -> None:
    transit(vault).create_key("afdp-tenant-p384", key_type="ecdsa-p384", mount_point=MOUNT)
    larger = KeySpec("afdp-tenant-p384", Purpose.EVIDENCE, P384)
    digest = sha384(b"statement").digest()
    async with opened(larger, LOG) as keyring:
        [evidence] = await keyring.sign(larger.name, [digest])
        [log] = await keyring.sign(LOG.name, [b"a checkpoint of any length"])

    assert isinstance(evidence, Signature)
    require_ecdsa(evidence.key.spki, evidence.value, digest)
    assert isinstance(log, Signature)
    assert len(require_ed25519(log.key.spki, log.value, b"a checkpoint of any length")) == 32


async def test_a_digest_of_another_length_fails_alone(opened: Open, tenant_key: KeySpec) -> None:
    async with opened(tenant_key) as keyring:
        good, bad, last = await keyring.sign(tenant_key.name, [DIGEST, b"short", DIGEST])

    assert isinstance(good, Signature)
    assert isinstance(last, Signature)
    assert isinstance(bad, InvalidArgument)
    assert "32 bytes" in str(bad)


async def test_statements_and_checkpoints_are_signed_by_their_own_keys(vault: DevServer, tmp_path: Path) -> None:
    settings = SignerSettings(**vault.settings(data_dir=tmp_path, timestamp_keys="vault", trust_keys="vault"))
    async with (
        open_vault_if_used(settings) as used,
        open_catalogue(settings, *memories(tmp_path), used) as keys,
    ):
        signer = Signer(keys, CheckpointGuard(tmp_path / "checkpoints", ["log.example"]), ["log.example"])
        await signer.check()
        [statement] = await signer.sign_statements([STATEMENT])
        checkpoint = await signer.sign_checkpoint(Checkpoint("log.example", 1, leaf_hash(b"a")), [], 0)
        purposes = {version.key_id: version.purpose for version in await signer.versions(None)}

    assert isinstance(statement, Stamped)
    assert statement.signature.key.key_id.startswith("afdp-notary-key:")  # others rotate it
    assert checkpoint.signature.key.key_id == "afdp-log-key:1"
    firsts = {key_id: purpose for key_id, purpose in purposes.items() if key_id.endswith(":1")}
    assert firsts == {
        "afdp-notary-key:1": Purpose.EVIDENCE,
        "afdp-log-key:1": Purpose.LOG,
        "afdp-timestamp-key:1": Purpose.TIMESTAMP,
        "afdp-trust-key:1": Purpose.TRUST,
    }


# Versions


async def test_a_version_is_valid_from_a_little_before_vault_made_it_since_clocks_differ(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    made = transit(vault).read_key(tenant_key.name, mount_point=MOUNT)["data"]["keys"]["1"]["creation_time"]

    async with opened(tenant_key) as keyring:
        [version] = await keyring.versions(tenant_key.name)

    ahead = datetime.fromisoformat(made) - version.valid_from
    assert timedelta(minutes=5) <= ahead < timedelta(minutes=5, seconds=1)


async def test_a_key_that_is_rotated_elsewhere_is_found_by_its_first_signature(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    async with opened(tenant_key) as keyring:
        [before] = await keyring.sign(tenant_key.name, [DIGEST])
        transit(vault).rotate_key(tenant_key.name, mount_point=MOUNT)
        [after] = await keyring.sign(tenant_key.name, [DIGEST])
        listed = await keyring.versions(tenant_key.name)

    assert isinstance(before, Signature)
    assert isinstance(after, Signature)
    require_ecdsa(after.key.spki, after.value, DIGEST)
    assert [(each.key_id, each.current) for each in listed] == [
        (before.key.key_id, False),
        (after.key.key_id, True),
    ]


async def test_the_key_admin_rotates_and_the_signer_signs_on(opened: Open, tenant_key: KeySpec) -> None:
    async with opened(tenant_key) as keyring:
        fresh = await keyring.rotate(tenant_key.name)
        [signature] = await keyring.sign(tenant_key.name, [DIGEST])
        first = (await keyring.versions(tenant_key.name))[0]
        [older] = await keyring.sign(tenant_key.name, [DIGEST], first)

    assert isinstance(older, Signature)
    assert older.key == first
    require_ecdsa(first.spki, older.value, DIGEST)
    assert isinstance(signature, Signature)
    assert signature.key == fresh
    assert fresh.key_id == f"{tenant_key.name}:2"


async def test_rotation_needs_the_key_admins_login(opened: Open, tenant_key: KeySpec) -> None:
    async with opened(tenant_key, vault_admin_auth=None) as keyring:
        with pytest.raises(FailedPrecondition, match="AFDP_VAULT_ADMIN_AUTH"):
            await keyring.rotate(tenant_key.name)


@pytest.mark.parametrize("trimmed", [False, True])
async def test_a_version_that_is_archived_or_trimmed_is_listed_for_ever_once_it_was_seen(
    opened: Open, vault: DevServer, tenant_key: KeySpec, trimmed: bool
) -> None:
    async with opened(tenant_key) as keyring:
        [first] = await keyring.versions(tenant_key.name)
        await keyring.rotate(tenant_key.name)
        archive(vault, tenant_key.name, 2, trimmed)
        await keyring.sign(tenant_key.name, [DIGEST])
        archived, _ = await keyring.versions(tenant_key.name)
        assert shown(archived) == shown(first)

    async with opened(tenant_key) as another:  # the signer was started again
        listed = await another.versions(tenant_key.name)
    assert [each.current for each in listed] == [False, True]
    assert shown(listed[0]) == shown(first)


async def test_a_version_archived_before_it_was_seen_is_named_with_what_to_do(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    transit(vault).rotate_key(tenant_key.name, mount_point=MOUNT)
    archive(vault, tenant_key.name, 2, trimmed=False)
    async with opened(tenant_key) as keyring:
        with pytest.raises(FailedPrecondition, match=f"{tenant_key.name}:1.* set min_decryption_version to 1"):
            await keyring.check()

        configure(vault, tenant_key.name, min_decryption_version=1)
        await keyring.check()
        configure(vault, tenant_key.name, min_decryption_version=2)
        assert len(await keyring.versions(tenant_key.name)) == 2


async def test_a_version_trimmed_before_it_was_seen_is_lost_and_the_rest_works(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    transit(vault).rotate_key(tenant_key.name, mount_point=MOUNT)
    archive(vault, tenant_key.name, 2, trimmed=True)
    async with opened(tenant_key) as keyring:
        [only] = await keyring.versions(tenant_key.name)
        [signature] = await keyring.sign(tenant_key.name, [DIGEST])

    assert only.key_id == f"{tenant_key.name}:2"
    assert isinstance(signature, Signature)


def archive(vault: DevServer, name: str, oldest: int, trimmed: bool) -> None:
    """Hides the versions before `oldest`, or ends them for good."""
    configure(vault, name, min_decryption_version=oldest, min_encryption_version=oldest)
    if trimmed:
        transit(vault).trim_key(name, oldest, mount_point=MOUNT)


def configure(vault: DevServer, name: str, **settings: object) -> None:
    """Changes a key's own settings."""
    vault.client().write_data(f"{MOUNT}/keys/{name}/config", data=settings)


def shown(version: KeyVersion) -> tuple[str, bytes, object]:
    """What a verifier needs of a version."""
    return version.key_id, version.spki, version.valid_from


# What can be wrong with a key


async def test_a_key_that_was_deleted_is_said_to_be_gone_and_works_again_when_it_is_back(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    configure(vault, tenant_key.name, allow_plaintext_backup=True, exportable=True)
    backup = transit(vault).backup_key(tenant_key.name, mount_point=MOUNT)["data"]["backup"]
    async with opened(tenant_key) as keyring:
        await keyring.check()
        delete(vault, tenant_key.name)
        with pytest.raises(FailedPrecondition, match="is the key there"):
            await keyring.sign(tenant_key.name, [DIGEST])
        with pytest.raises(FailedPrecondition, match="no such key"):
            await keyring.check()

        transit(vault).restore_key(backup, name=tenant_key.name, mount_point=MOUNT)
        await keyring.check()
        [signature] = await keyring.sign(tenant_key.name, [DIGEST])
    assert isinstance(signature, Signature)


async def test_another_key_under_the_same_name_signs_nothing(
    opened: Open, vault: DevServer, tenant_key: KeySpec
) -> None:
    async with opened(tenant_key) as keyring:
        [before] = await keyring.sign(tenant_key.name, [DIGEST])
    delete(vault, tenant_key.name)
    transit(vault).create_key(tenant_key.name, key_type="ecdsa-p256", mount_point=MOUNT)

    async with opened(tenant_key) as keyring:
        with pytest.raises(FailedPrecondition, match="is not the key that signed before"):
            await keyring.sign(tenant_key.name, [DIGEST])
        with pytest.raises(FailedPrecondition, match="is not the key that signed before"):
            await keyring.check()
    assert isinstance(before, Signature)


async def test_another_key_under_the_same_name_is_noticed_while_the_signer_runs(
    vault: DevServer, tenant_key: KeySpec, tmp_path: Path
) -> None:
    settings = SignerSettings(**vault.settings(data_dir=tmp_path, vault_evidence_key=tenant_key.name))
    async with (
        open_vault_if_used(settings) as used,
        open_catalogue(settings, *memories(tmp_path), used) as keys,
    ):
        signer = Signer(keys, CheckpointGuard(tmp_path / "checkpoints", []), [])
        await signer.sign_statements([STATEMENT])
        delete(vault, tenant_key.name)
        transit(vault).create_key(tenant_key.name, key_type="ecdsa-p256", mount_point=MOUNT)
        [answer] = await signer.sign_statements([STATEMENT])

    assert not isinstance(answer, Stamped)  # what the new key signed did not verify with the old one's public half
    assert "did not verify" in str(answer)


def delete(vault: DevServer, name: str) -> None:
    """Ends a key for good."""
    configure(vault, name, deletion_allowed=True)
    transit(vault).delete_key(name, mount_point=MOUNT)


@pytest.mark.parametrize(
    ("kind", "found"), [("ed25519", "ed25519"), ("ecdsa-p384", "ecdsa-p384"), ("aes256-gcm96", "aes256-gcm96")]
)
async def test_a_key_of_the_wrong_type_is_named_with_its_type(
    opened: Open, vault: DevServer, kind: str, found: str
) -> None:
    spec = KeySpec(f"afdp-tenant-wrong-{kind}", Purpose.EVIDENCE, P256)
    transit(vault).create_key(spec.name, key_type=kind, mount_point=MOUNT)
    async with opened(spec) as keyring:
        with pytest.raises(FailedPrecondition, match=f"{spec.name} is of type {found}, not ecdsa-p256"):
            await keyring.check()
        with pytest.raises(FailedPrecondition, match="type"):
            await keyring.sign(spec.name, [DIGEST])


async def test_a_mount_that_the_policy_does_not_name_is_forbidden(opened: Open, tenant_key: KeySpec) -> None:
    async with opened(tenant_key, vault_mount="elsewhere") as keyring:
        with pytest.raises(Unavailable, match="does not let the signer do this"):
            await keyring.check()
