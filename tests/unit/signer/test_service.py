"""What the signer refuses and remembers, with keys in real files."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from afdp.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotaryError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint, Note, NoteSignature, VerifierKey, verify
from afdp.signer.files import FileKeyring
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import GRACE, P384, KeySpec, KeyVersion, Purpose, Revocation, Signature
from afdp.signer.service import Signer, Stamped, Statement
from tests.local_keys import file_catalogue

ORIGIN = "log.example"
STATEMENT = Statement("default", b'{"_type":"https://in-toto.io/Statement/v1"}')


def leaves(*names: str) -> list[bytes]:
    return [leaf_hash(name.encode()) for name in names]


def open_signer(folder: Path) -> Signer:
    return Signer(file_catalogue(folder), CheckpointGuard(folder / "checkpoints", [ORIGIN]), [ORIGIN])


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return open_signer(tmp_path)


async def test_a_signature_is_over_the_dsse_encoding_of_the_statement(signer: Signer) -> None:
    (stamped,) = await signer.sign_statements([STATEMENT])

    assert isinstance(stamped, Stamped)
    signature = stamped.signature
    key = load_der_public_key(signature.key.spki)
    assert isinstance(key, EllipticCurvePublicKey)
    key.verify(signature.value, pae(IN_TOTO_PAYLOAD_TYPE, STATEMENT.payload), ECDSA(SHA256()))


async def test_a_statement_that_is_refused_fails_alone(signer: Signer) -> None:
    statements = [STATEMENT, Statement("default", b"\x00" * 32), Statement("default", b"")]
    good, bad, empty = await signer.sign_statements(statements)

    assert isinstance(good, Stamped)
    assert isinstance(bad, InvalidArgument)
    assert bad.fields[0].field == "statements[1].payload"
    assert isinstance(empty, InvalidArgument)


@pytest.mark.parametrize("count", [0, 1025])
async def test_too_few_and_too_many_statements_are_refused(signer: Signer, count: int) -> None:
    with pytest.raises(InvalidArgument, match="statements"):
        await signer.sign_statements([STATEMENT] * count)


async def test_a_checkpoint_signature_verifies_as_a_note(signer: Signer) -> None:
    grown = extend(Frontier.empty(), leaves("a", "b", "c")).new
    checkpoint = Checkpoint(ORIGIN, 3, grown.root())

    signed = await signer.sign_checkpoint(checkpoint, [], 0)

    key = VerifierKey(ORIGIN, signed.public_key)
    note = Note(checkpoint.body(), (NoteSignature.by(key, signed.signature.value),))
    assert [each.key for each in verify(note, [key])] == [key]


async def test_only_what_extends_the_last_checkpoint_is_signed(signer: Signer, tmp_path: Path) -> None:
    first = extend(Frontier.empty(), leaves("a", "b", "c"))
    second = extend(first.new, leaves("d", "e"))
    fork = extend(first.new, leaves("d", "x"))
    await signer.sign_checkpoint(Checkpoint(ORIGIN, 3, first.new.root()), [], 0)

    await signer.sign_checkpoint(Checkpoint(ORIGIN, 5, second.new.root()), second.consistency_proof(), 3)

    with pytest.raises(FailedPrecondition, match="size 5") as refused:
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 5, fork.new.root()), fork.consistency_proof(), 3)
    assert refused.value.metadata == {"last_size": "5"}
    with pytest.raises(FailedPrecondition, match="not consistent"):
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 5, fork.new.root()), [], 5)
    with pytest.raises(FailedPrecondition, match="not consistent"):
        await open_signer(tmp_path).sign_checkpoint(Checkpoint(ORIGIN, 9, bytes(32)), [bytes(32)] * 4, 5)


async def test_a_smaller_checkpoint_is_signed_only_where_it_leads_to_the_last_one(signer: Signer) -> None:
    first = extend(Frontier.empty(), leaves("a", "b", "c"))
    second = extend(first.new, leaves("d", "e"))
    await signer.sign_checkpoint(Checkpoint(ORIGIN, 5, second.new.root()), [], 0)

    late = await signer.sign_checkpoint(Checkpoint(ORIGIN, 3, first.new.root()), second.consistency_proof(), 5)

    assert late.signature.value
    assert signer.last_checkpoint(ORIGIN).size == 5
    with pytest.raises(FailedPrecondition):
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 3, bytes(32)), second.consistency_proof(), 5)


async def test_the_memory_of_checkpoints_outlives_the_process(signer: Signer, tmp_path: Path) -> None:
    root = extend(Frontier.empty(), leaves("a")).new.root()
    await signer.sign_checkpoint(Checkpoint(ORIGIN, 1, root), [], 0)

    assert open_signer(tmp_path).last_checkpoint(ORIGIN) == Checkpoint(ORIGIN, 1, root)


async def test_a_damaged_memory_is_not_taken_for_an_empty_one(signer: Signer, tmp_path: Path) -> None:
    root = extend(Frontier.empty(), leaves("a")).new.root()
    await signer.sign_checkpoint(Checkpoint(ORIGIN, 1, root), [], 0)
    (tmp_path / "checkpoints" / ORIGIN).write_text("")

    with pytest.raises(DataLoss, match="do not remove it"):
        open_signer(tmp_path)


async def test_checkpoints_of_other_origins_are_not_signed(signer: Signer) -> None:
    with pytest.raises(PermissionDenied):
        await signer.sign_checkpoint(Checkpoint("other.example", 1, bytes(32)), [], 0)
    with pytest.raises(PermissionDenied):
        signer.last_checkpoint("other.example")


async def test_a_rotated_key_signs_and_the_older_version_stays_listed(signer: Signer, tmp_path: Path) -> None:
    fresh = await signer.rotate(Purpose.EVIDENCE, "")
    (stamped,) = await signer.sign_statements([STATEMENT])

    assert isinstance(stamped, Stamped)
    assert (fresh.key_id, stamped.signature.key.key_id) == ("afdp-file-key:2", "afdp-file-key:2")
    again = await open_signer(tmp_path).versions(Purpose.EVIDENCE)
    assert [(key.key_id, key.current) for key in again] == [("afdp-file-key:1", False), ("afdp-file-key:2", True)]
    with pytest.raises(InvalidArgument, match="identity"):
        await signer.rotate(Purpose.LOG, "")


async def test_a_revoked_version_signs_no_more_until_the_key_is_rotated(signer: Signer, tmp_path: Path) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)

    revoked = await signer.revoke("afdp-file-key:1", since, "laptop stolen")

    assert revoked.revoked is not None
    assert (revoked.revoked.compromised_since, revoked.revoked.reason) == (since, "laptop stolen")
    (refused,) = await signer.sign_statements([STATEMENT])
    assert isinstance(refused, FailedPrecondition)
    again = await signer.revoke("afdp-file-key:1", None, "another reason")
    assert again.revoked == revoked.revoked
    assert (await open_signer(tmp_path).versions(Purpose.EVIDENCE))[0].revoked == revoked.revoked
    await signer.rotate(Purpose.EVIDENCE, "")
    (good,) = await signer.sign_statements([STATEMENT])
    assert isinstance(good, Stamped)


async def test_a_revocation_can_only_be_made_stricter(signer: Signer, tmp_path: Path) -> None:
    first = (await signer.revoke("afdp-file-key:1", None, "retired")).revoked
    june, march = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)

    compromised = (await signer.revoke("afdp-file-key:1", june, "found in a paste")).revoked
    later = (await signer.revoke("afdp-file-key:1", datetime(2026, 7, 1, tzinfo=UTC), "no")).revoked
    earlier = (await signer.revoke("afdp-file-key:1", march, "an older paste")).revoked

    assert first is not None
    assert compromised == Revocation(first.at, june, "found in a paste")
    assert later == compromised
    assert earlier == Revocation(first.at, march, "an older paste")
    assert (await open_signer(tmp_path).versions(Purpose.EVIDENCE))[0].revoked == earlier


async def test_a_revocation_needs_a_known_version_a_reason_and_a_past_time(signer: Signer) -> None:
    with pytest.raises(NotFound):
        await signer.revoke("afdp-file-key:7", None, "gone")
    with pytest.raises(InvalidArgument) as wrong:
        await signer.revoke("afdp-file-key:1", datetime.now(UTC) + timedelta(days=1), "")
    assert [violation.field for violation in wrong.value.fields] == ["reason", "compromised_since"]


class Lying(FileKeyring):
    """A keyring whose signatures are over something else."""

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        return await super().sign(name, [sha256(each).digest() for each in inputs])


async def test_a_signature_that_does_not_verify_never_leaves(tmp_path: Path) -> None:
    guard = CheckpointGuard(tmp_path / "checkpoints", [ORIGIN])
    signer = Signer(file_catalogue(tmp_path, keyring=Lying), guard, [ORIGIN])

    (answer,) = await signer.sign_statements([STATEMENT])

    assert isinstance(answer, Internal)
    with pytest.raises(Internal, match="not released"):
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 1, leaf_hash(b"a")), [], 0)


def test_keys_that_others_may_read_are_refused(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "keys" / "afdp-file-key.1.pem").chmod(0o644)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        open_signer(tmp_path)


def test_keys_on_disk_are_encrypted(signer: Signer, tmp_path: Path) -> None:
    pem = (tmp_path / "keys" / "afdp-file-key.1.pem").read_text()
    assert pem.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    (tmp_path / "passphrase").write_text("another")
    with pytest.raises(FailedPrecondition, match="passphrase"):
        open_signer(tmp_path)


@pytest.mark.parametrize("lost", ["keyring.json", "afdp-file-key.1.pem"])
def test_a_lost_file_is_not_taken_for_a_new_installation(signer: Signer, tmp_path: Path, lost: str) -> None:
    (tmp_path / "keys" / lost).unlink()
    with pytest.raises(FailedPrecondition, match=r"restore|cannot be read"):
        open_signer(tmp_path)


async def test_each_key_has_its_own_purpose(signer: Signer) -> None:
    found: list[KeyVersion] = await signer.versions(None)

    assert {key.purpose: key.algorithm for key in found} == {
        Purpose.EVIDENCE: "PKIX_ECDSA_P256_SHA_256",
        Purpose.LOG: "PKIX_ED25519",
        Purpose.TIMESTAMP: "PKIX_ECDSA_P256_SHA_256",
        Purpose.TRUST: "PKIX_ED25519",
    }


class Away(FileKeyring):
    """A keyring that cannot be reached."""

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        raise Unavailable("Vault cannot be reached", retry_after=2.0)


async def test_a_keyring_that_is_away_is_told_as_it_is(tmp_path: Path) -> None:
    guard = CheckpointGuard(tmp_path / "checkpoints", [ORIGIN])
    signer = Signer(file_catalogue(tmp_path, keyring=Away), guard, [ORIGIN])

    with pytest.raises(Unavailable, match="cannot be reached"):
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 1, leaf_hash(b"a")), [], 0)


async def test_no_signature_leaves_that_could_not_be_remembered(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").rename(tmp_path / "gone")

    with pytest.raises(Unavailable, match="memory of checkpoints"):
        await signer.sign_checkpoint(Checkpoint(ORIGIN, 1, leaf_hash(b"a")), [], 0)
    with pytest.raises(NotFound):
        signer.last_checkpoint(ORIGIN)


async def test_a_tenant_with_a_key_of_its_own_signs_with_it_and_the_others_do_not(tmp_path: Path) -> None:
    own = KeySpec("bank-key", Purpose.EVIDENCE, P384, ("bank",))
    guard = CheckpointGuard(tmp_path / "checkpoints", [ORIGIN])
    signer = Signer(file_catalogue(tmp_path, own), guard, [ORIGIN])

    first, second = await signer.sign_statements([STATEMENT, Statement("bank", STATEMENT.payload)])

    assert isinstance(first, Stamped)
    assert isinstance(second, Stamped)
    assert (first.signature.key.key_id, second.signature.key.key_id) == ("afdp-file-key:1", "bank-key:1")
    key = load_der_public_key(second.signature.key.spki)
    assert isinstance(key, EllipticCurvePublicKey)
    key.verify(second.signature.value, pae(IN_TOTO_PAYLOAD_TYPE, STATEMENT.payload), ECDSA(SHA384()))
    listed = await signer.versions(Purpose.EVIDENCE)
    assert {version.key_id: version.tenants for version in listed} == {
        "afdp-file-key:1": ("*",),
        "bank-key:1": ("bank",),
    }


async def test_an_older_version_is_valid_until_a_little_after_the_next_began(signer: Signer) -> None:
    fresh = await signer.rotate(Purpose.EVIDENCE, "")

    first, second = await signer.versions(Purpose.EVIDENCE)

    assert (first.valid_until, second.valid_until) == (fresh.valid_from + GRACE, None)
