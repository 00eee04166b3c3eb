"""Data keys under subjects' keys that a token of SoftHSM2 seals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive

from afdp.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from afdp.signer.datakeys import DataKeys, WrappedKey
from afdp.signer.pkcs11.kek import TokenKek
from afdp.signer.pkcs11.sessions import SessionPool, TokenAccess, TokenSession
from afdp.signer.subjectfiles import open_subject_files
from tests.data_key_promises import DataKeyPromises, new_scope, one_key, opened
from tests.local_token import LocalToken


@asynccontextmanager
async def sealed_by(
    token: LocalToken, folder: Path, *, create: bool = False
) -> AsyncIterator[tuple[DataKeys, SessionPool]]:
    """What a new process finds in the folder."""
    pool = SessionPool(TokenAccess(token.module, lambda: token.pin, token.label))
    try:
        kek = TokenKek(pool, "afdp-hsm-data-key")
        if create:
            assert await kek.create()
            assert not await kek.create()
        with open_subject_files(folder, kek) as files:
            yield DataKeys(files), pool
    finally:
        await pool.close()


class TestWithAToken(DataKeyPromises):
    """The promises, kept by files that a token seals."""

    @pytest.fixture
    async def data_keys(self, token: LocalToken, tmp_path: Path) -> AsyncIterator[DataKeys]:
        async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
            yield data_keys


async def test_keys_outlive_the_process(token: LocalToken, tmp_path: Path) -> None:
    scope, gone = new_scope(), new_scope()
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
        key = await one_key(data_keys, scope)
        await data_keys.destroy(gone)

    async with sealed_by(token, tmp_path / "data-keys") as (data_keys, _):
        assert await opened(data_keys, scope, key.wrapped) == key.plain
        assert isinstance((await data_keys.generate([gone]))[0], NotFound)


async def test_the_key_that_seals_never_leaves_the_token(token: LocalToken, tmp_path: Path) -> None:
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, pool):
        await one_key(data_keys, new_scope())

        def read(session: TokenSession) -> None:
            (secret,) = session.raw.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})
            assert secret[Attribute.EXTRACTABLE] is False
            assert secret[Attribute.NEVER_EXTRACTABLE] is True
            assert secret[Attribute.SENSITIVE] is True
            with pytest.raises(AttributeSensitive):
                print(secret[Attribute.VALUE])

        await pool.run(read)


async def test_a_token_that_is_away_is_unavailable_and_its_keys_come_back_with_it(
    token: LocalToken, tmp_path: Path
) -> None:
    scope = new_scope()
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
        key = await one_key(data_keys, scope)

    token.store.rename(token.folder / "drawer")
    async with sealed_by(token, tmp_path / "data-keys") as (data_keys, _):
        with pytest.raises(Unavailable, match="token is"):
            await data_keys.generate([scope])
        (part,) = await data_keys.status()
        assert not part.good
    (token.folder / "drawer").rename(token.store)

    async with sealed_by(token, tmp_path / "data-keys") as (data_keys, _):
        assert await opened(data_keys, scope, key.wrapped) == key.plain
        (part,) = await data_keys.status()
        assert part.good


async def test_another_token_opens_nothing_and_gets_no_new_key(token: LocalToken, tmp_path: Path) -> None:
    scope = new_scope()
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
        await one_key(data_keys, scope)
    token.initialise("another")

    other = LocalToken(token.folder, token.util, label="another")
    async with sealed_by(other, tmp_path / "data-keys") as (data_keys, pool):
        with pytest.raises(FailedPrecondition, match="has no key afdp-hsm-data-key"):
            await data_keys.generate([scope])
        assert await pool.run(lambda session: list(session.raw.get_objects())) == []


async def test_a_key_sealed_in_the_token_and_altered_on_disk_is_refused(token: LocalToken, tmp_path: Path) -> None:
    scope = new_scope()
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
        key = await one_key(data_keys, scope)
        spoil(tmp_path / "data-keys" / "keys")
        assert isinstance(await opened(data_keys, scope, key.wrapped), DataLoss)


def spoil(folder: Path) -> None:
    """Alters a character of the only sealed version."""
    (path,) = (each for each in folder.rglob("*") if each.is_file())
    text = path.read_text()
    place = text.index('["') + 30
    path.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])


async def test_a_token_taken_away_in_between_is_unavailable_and_works_again(token: LocalToken, tmp_path: Path) -> None:
    scope = new_scope()
    async with sealed_by(token, tmp_path / "data-keys", create=True) as (data_keys, _):
        key = await one_key(data_keys, scope)
        token.store.rename(token.folder / "drawer")
        with pytest.raises(Unavailable, match="token is"):
            await data_keys.unwrap([WrappedKey(scope, key.wrapped)])
        (token.folder / "drawer").rename(token.store)

        async with asyncio.timeout(20):
            while True:
                with suppress(Unavailable):
                    assert await opened(data_keys, scope, key.wrapped) == key.plain
                    break
                await asyncio.sleep(0.1)


async def test_a_token_without_the_secret_says_what_makes_it(token: LocalToken, tmp_path: Path) -> None:
    async with sealed_by(token, tmp_path / "data-keys") as (data_keys, _):
        with pytest.raises(FailedPrecondition, match="create-keys"):
            await data_keys.generate([new_scope()])
        assert [each.good for each in await data_keys.status()] == [False]
