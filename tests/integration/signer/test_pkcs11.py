"""Keys in a token of SoftHSM2."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384

import pkcs11
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from afdp.errors import FailedPrecondition, InvalidArgument, Unavailable
from afdp.signer.keys import ED25519, P256, P384, KeySpec, Purpose, Signature
from afdp.signer.pkcs11 import pairs
from afdp.signer.pkcs11.keyring import Pkcs11Keyring
from afdp.signer.pkcs11.sessions import SessionPool, TokenAccess, TokenSession
from afdp.signer.verification import require_ecdsa
from tests.local_token import LocalToken
from tests.token_replica import rotated

EVIDENCE = KeySpec("afdp-hsm-key", Purpose.EVIDENCE, P256)
LARGE = KeySpec("acme-key", Purpose.EVIDENCE, P384, ("acme",))
LOG = KeySpec("afdp-hsm-log-key", Purpose.LOG, ED25519)
DIGEST = sha256(b"statement").digest()


@asynccontextmanager
async def open_keyring(token: LocalToken, *specs: KeySpec, sessions: int = 4) -> AsyncIterator[Pkcs11Keyring]:
    pool = SessionPool(TokenAccess(token.module, lambda: token.pin, token.label, sessions=sessions))
    yield Pkcs11Keyring(pool, specs)
    await pool.close()


@pytest_asyncio.fixture
async def keyring(token: LocalToken) -> AsyncIterator[Pkcs11Keyring]:
    async with open_keyring(token, EVIDENCE, LARGE, LOG) as opened:
        for spec in (EVIDENCE, LARGE, LOG):
            assert await opened.create(spec.name)
        yield opened


async def rotated_elsewhere(token: LocalToken, times: int = 1, name: str = EVIDENCE.name) -> dict[str, str]:
    """Key IDs and public keys that another replica made."""
    arguments = [token.module, token.label, token.pin, name, str(times)]
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.token_replica", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await other.communicate()
    assert other.returncode == 0
    return dict(line.split() for line in output.decode().splitlines())


async def current(keyring: Pkcs11Keyring, name: str = EVIDENCE.name) -> str:
    (signature,) = await keyring.sign(name, [DIGEST])
    assert isinstance(signature, Signature)
    return signature.key.key_id


async def test_p256_signs_a_digest_and_gives_der(keyring: Pkcs11Keyring) -> None:
    (signature,) = await keyring.sign(EVIDENCE.name, [DIGEST])

    assert isinstance(signature, Signature)
    assert signature.key.key_id == "afdp-hsm-key:1"
    key = load_der_public_key(signature.key.spki)
    assert isinstance(key, EllipticCurvePublicKey)
    key.verify(signature.value, DIGEST, ECDSA(Prehashed(SHA256())))


async def test_p384_signs_a_digest_and_gives_der(keyring: Pkcs11Keyring) -> None:
    digest = sha384(b"statement").digest()

    (signature,) = await keyring.sign(LARGE.name, [digest])

    assert isinstance(signature, Signature)
    key = load_der_public_key(signature.key.spki)
    assert isinstance(key, EllipticCurvePublicKey)
    assert key.key_size == 384
    key.verify(signature.value, digest, ECDSA(Prehashed(SHA384())))


async def test_ed25519_signs_a_message(keyring: Pkcs11Keyring) -> None:
    (signature,) = await keyring.sign(LOG.name, [b"a checkpoint"])

    assert isinstance(signature, Signature)
    key = load_der_public_key(signature.key.spki)
    assert isinstance(key, Ed25519PublicKey)
    key.verify(signature.value, b"a checkpoint")


async def test_a_batch_is_shared_out_and_each_signature_belongs_to_its_input(keyring: Pkcs11Keyring) -> None:
    digests = [sha256(bytes([number])).digest() for number in range(100)]

    answers = await keyring.sign(EVIDENCE.name, digests)

    for digest, answer in zip(digests, answers, strict=True):
        assert isinstance(answer, Signature)
        require_ecdsa(answer.key.spki, answer.value, digest)


async def test_a_digest_of_another_length_is_refused_alone(keyring: Pkcs11Keyring) -> None:
    good, bad, empty = await keyring.sign(EVIDENCE.name, [DIGEST, b"short", b""])

    assert isinstance(good, Signature)
    assert isinstance(bad, InvalidArgument)
    assert "32 bytes" in str(bad)
    assert isinstance(empty, InvalidArgument)


async def test_a_private_half_cannot_be_read_out_of_the_token(keyring: Pkcs11Keyring) -> None:
    def read(session: TokenSession) -> list[pkcs11.PKCS11Error]:
        refusals = []
        for private in session.raw.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
            flags = (Attribute.NEVER_EXTRACTABLE, Attribute.ALWAYS_SENSITIVE, Attribute.LOCAL, Attribute.PRIVATE)
            assert all(private[flag] for flag in flags)
            assert not private[Attribute.EXTRACTABLE]
            with pytest.raises(pkcs11.PKCS11Error) as refused:
                private[Attribute.VALUE]
            refusals.append(refused.value)
        return refusals

    refusals = await keyring._pool.run(read)

    assert [type(each) for each in refusals] == [pkcs11.AttributeSensitive] * 3


async def test_a_rotation_keeps_the_versions_before_and_signs_with_the_new_one(keyring: Pkcs11Keyring) -> None:
    first = await current(keyring)
    made = await keyring.rotate(EVIDENCE.name)

    versions = await keyring.versions(EVIDENCE.name)

    assert [version.key_id for version in versions] == [first, made.key_id] == ["afdp-hsm-key:1", "afdp-hsm-key:2"]
    assert [version.current for version in versions] == [False, True]
    assert versions[0].spki != versions[1].spki == made.spki
    assert await current(keyring) == made.key_id
    [older] = await keyring.sign(EVIDENCE.name, [DIGEST], versions[0])
    assert isinstance(older, Signature)
    assert older.key == versions[0]
    require_ecdsa(versions[0].spki, older.value, DIGEST)


async def test_versions_and_their_times_survive_a_restart(token: LocalToken, keyring: Pkcs11Keyring) -> None:
    await keyring.rotate(EVIDENCE.name)
    before = await keyring.versions(EVIDENCE.name)
    assert all(datetime.now(UTC) - version.valid_from < timedelta(minutes=1) for version in before)
    await keyring._pool.close()

    async with open_keyring(token, EVIDENCE, LARGE, LOG) as again:
        after = await again.versions(EVIDENCE.name)

    assert [(each.key_id, each.spki, each.valid_from) for each in after] == [
        (each.key_id, each.spki, each.valid_from) for each in before
    ]


async def test_a_key_is_made_once(token: LocalToken, keyring: Pkcs11Keyring) -> None:
    assert await keyring.create(EVIDENCE.name) is None
    assert len(await keyring.versions(EVIDENCE.name)) == 1


async def test_what_another_replica_rotated_is_seen_and_signs_once_it_has_settled(
    token: LocalToken, keyring: Pkcs11Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    [elsewhere] = await rotated_elsewhere(token)

    versions = await keyring.versions(EVIDENCE.name)
    assert [version.key_id for version in versions] == ["afdp-hsm-key:1", elsewhere]
    assert [version.current for version in versions] == [True, False]

    monkeypatch.setattr(pairs, "_SETTLED", timedelta(0))
    assert [version.current for version in await keyring.versions(EVIDENCE.name)] == [False, True]
    assert await current(keyring) == elsewhere


async def test_replicas_that_rotate_at_once_never_make_one_version_twice(
    token: LocalToken, keyring: Pkcs11Keyring
) -> None:
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(rotated_elsewhere(token, 8)) for _ in range(3)]
        ours = [await rotated(keyring, EVIDENCE.name) for _ in range(8)]

    made = {version.key_id: version.spki.hex() for version in ours}
    assert len(made) == 8
    for other in others:
        assert not made.keys() & other.result().keys()
        made |= other.result()
    versions = await keyring.versions(EVIDENCE.name)
    assert {version.key_id: version.spki.hex() for version in versions[1:]} == made
    numbers = [version.number for version in versions]  # one that all who made it withdrew is left out
    assert len(numbers) == 33
    assert numbers == sorted(set(numbers))
    assert [version.valid_from for version in versions] == sorted(version.valid_from for version in versions)


async def test_a_rotation_fails_no_signature(keyring: Pkcs11Keyring) -> None:
    used = set()
    rotated = asyncio.Event()

    async def sign_until_rotated() -> None:
        while not rotated.is_set():
            for answer in await keyring.sign(EVIDENCE.name, [DIGEST] * 16):
                assert isinstance(answer, Signature)
                require_ecdsa(answer.key.spki, answer.value, DIGEST)
                used.add(answer.key.key_id)

    async with asyncio.TaskGroup() as group:
        signing = [group.create_task(sign_until_rotated()) for _ in range(4)]
        for _ in range(3):
            await keyring.rotate(EVIDENCE.name)
        await keyring.sign(EVIDENCE.name, [DIGEST])
        rotated.set()

    assert all(task.done() for task in signing)
    assert "afdp-hsm-key:4" in used | {await current(keyring)}
    assert len(used) > 1


async def test_a_token_that_is_taken_away_and_given_back_signs_again_with_the_same_keys(
    token: LocalToken, keyring: Pkcs11Keyring
) -> None:
    before = await current(keyring)
    token.store.rename(token.folder / "drawer")
    with pytest.raises(Unavailable):
        await keyring.sign(EVIDENCE.name, [DIGEST])
    with pytest.raises(Unavailable):
        await keyring.check()
    (part,) = await keyring.status()
    assert (part.name, part.good) == ("hsm", False)
    assert part.remedy
    (token.folder / "drawer").rename(token.store)

    async with asyncio.timeout(10):
        while True:
            try:
                assert await current(keyring) == before
                break
            except Unavailable as error:
                await asyncio.sleep(min(error.retry_after or 0.1, 0.1))
    assert (await keyring.status())[0].good


async def test_another_token_in_its_place_does_not_pass_for_it(token: LocalToken, keyring: Pkcs11Keyring) -> None:
    await current(keyring)
    token.store.rename(token.folder / "drawer")
    token.store.mkdir()
    token.initialise(token.label)

    with pytest.raises(FailedPrecondition, match=r"no such key|no key"):
        await keyring.sign(EVIDENCE.name, [DIGEST])
    with pytest.raises(FailedPrecondition, match="create-keys"):
        await keyring.check()


async def test_a_key_that_was_destroyed_is_missed_and_the_others_sign_on(keyring: Pkcs11Keyring) -> None:
    await current(keyring)

    def destroy(session: TokenSession) -> None:
        for each in list(session.raw.get_objects({Attribute.LABEL: EVIDENCE.name})):
            each.destroy()

    await keyring._pool.run(destroy)

    with pytest.raises(FailedPrecondition, match="no such key"):
        await keyring.sign(EVIDENCE.name, [DIGEST])
    (signature,) = await keyring.sign(LOG.name, [b"a checkpoint"])
    assert isinstance(signature, Signature)


async def test_the_private_half_of_an_old_version_may_be_destroyed(keyring: Pkcs11Keyring) -> None:
    await keyring.rotate(EVIDENCE.name)

    def destroy(session: TokenSession) -> None:
        privates = {Attribute.LABEL: EVIDENCE.name, Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        for each in list(session.raw.get_objects(privates)):
            if each[Attribute.ID].startswith(b"1@"):
                each.destroy()

    await keyring._pool.run(destroy)

    assert len(await keyring.versions(EVIDENCE.name)) == 2
    assert await current(keyring) == "afdp-hsm-key:2"


def put(session: TokenSession, key_id: bytes, curve: str = "secp256r1", **private: bool) -> None:
    parameters = session.raw.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
    )
    parameters.generate_keypair(
        store=True,
        label=EVIDENCE.name,
        id=key_id,
        capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        private_template={Attribute[name]: value for name, value in private.items()},
    )


async def test_a_key_that_was_made_at_a_ceremony_is_taken_as_it_is(token: LocalToken) -> None:
    async with open_keyring(token, EVIDENCE) as keyring:
        await keyring._pool.run(lambda session: put(session, b"1@2026-11-24T04:09:28Z"))
        (version,) = await keyring.versions(EVIDENCE.name)

        assert version.key_id == "afdp-hsm-key:1"
        assert version.valid_from == datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC)
        assert await current(keyring) == version.key_id


@pytest.mark.parametrize(
    ("key_id", "curve", "said"),
    [
        (b"\x01", "secp256r1", "VERSION@TIME: 01"),
        (b"1@2026-11-24T04:09:28Z", "secp384r1", "another kind than P-256"),
        (b"1@2026-11-24T04:09:28Z", "secp256k1", "another kind than P-256"),
    ],
)
async def test_a_key_that_is_none_of_ours_is_refused_and_named(
    token: LocalToken, key_id: bytes, curve: str, said: str
) -> None:
    async with open_keyring(token, EVIDENCE) as keyring:
        await keyring._pool.run(lambda session: put(session, key_id, curve))

        with pytest.raises(FailedPrecondition, match=said):
            await keyring.sign(EVIDENCE.name, [DIGEST])


async def test_one_version_that_stands_there_twice_is_refused(token: LocalToken) -> None:
    async with open_keyring(token, EVIDENCE) as keyring:
        for suffix in (b"#aa", b"#bb"):
            await keyring._pool.run(lambda session, end=suffix: put(session, b"1@2026-11-24T04:09:28Z" + end))

        with pytest.raises(FailedPrecondition, match="afdp-hsm-key:1 twice"):
            await keyring.sign(EVIDENCE.name, [DIGEST])


async def test_the_status_names_a_key_that_could_leave_the_token(keyring: Pkcs11Keyring) -> None:
    (good,) = await keyring.status()
    assert good.good
    assert "token afdp (SoftHSM" in good.detail
    assert "4 sessions; no key can leave it" in good.detail

    await keyring._pool.run(lambda session: put(session, b"2@2026-11-24T04:09:28Z", EXTRACTABLE=True))
    (loose,) = await keyring.status()

    assert not loose.good
    assert "afdp-hsm-key:2 can leave it" in loose.detail


@pytest.mark.parametrize(
    ("spec", "setting"),
    [(LOG, "AFDP_LOG_KEYS=files"), (KeySpec("t", Purpose.TRUST, ED25519), "AFDP_TRUST_KEYS=files")],
)
async def test_a_token_without_eddsa_says_what_to_set(token: LocalToken, spec: KeySpec, setting: str) -> None:
    token.configure(mechanisms="CKM_ECDSA,CKM_EC_KEY_PAIR_GEN")
    async with open_keyring(token, spec) as keyring:
        with pytest.raises(FailedPrecondition, match=rf"CKM_EDDSA for Ed25519.*{setting}"):
            await keyring.create(spec.name)
