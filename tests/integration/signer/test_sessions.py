"""Sessions on a token of SoftHSM2: many at once, and what happens when the token goes and comes back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pkcs11
import pytest
import pytest_asyncio
from pkcs11 import KeyType, MechanismFlag

from afdp.errors import FailedPrecondition, Unavailable
from afdp.signer.pkcs11.sessions import SessionPool, TokenAccess, TokenSession
from tests.local_token import LocalToken


def access(token: LocalToken, *, sessions: int = 4, timeout: float = 5.0, pin: str | None = None) -> TokenAccess:
    return TokenAccess(token.module, lambda: pin or token.pin, token.label, sessions=sessions, timeout=timeout)


@pytest_asyncio.fixture
async def pool(token: LocalToken) -> AsyncIterator[SessionPool]:
    opened = SessionPool(access(token))
    yield opened
    await opened.close()


def make_secret(session: TokenSession) -> None:
    session.raw.generate_key(
        KeyType.AES, 256, label="secret", store=True, capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    )


def encrypt(session: TokenSession) -> bytes:
    secret = session.raw.get_key(label="secret")
    return secret.encrypt(b"hello", mechanism_param=b"\0" * 16)


async def test_functions_run_at_once_each_on_a_session_of_its_own(pool: SessionPool) -> None:
    meeting = threading.Barrier(pool.size, timeout=5)

    def meet(session: TokenSession) -> int:
        meeting.wait()
        return session.raw.handle

    handles = await asyncio.gather(*(pool.run(meet) for _ in range(pool.size)))

    assert len(set(handles)) == pool.size


async def test_more_callers_than_sessions_take_turns(pool: SessionPool) -> None:
    await pool.run(make_secret)

    found = await asyncio.gather(*(pool.run(encrypt) for _ in range(200)))

    assert len(found) == 200
    assert len(set(found)) == 1


async def test_a_token_that_is_taken_away_is_unavailable_and_works_again_when_it_is_back(
    token: LocalToken, pool: SessionPool
) -> None:
    await pool.run(make_secret)
    before = await pool.run(encrypt)

    token.store.rename(token.folder / "drawer")
    with pytest.raises(Unavailable, match="token is"):
        await pool.run(encrypt)
    (token.folder / "drawer").rename(token.store)

    assert await until_it_works(pool) == before


async def test_a_token_that_is_away_at_the_start_is_found_when_it_comes(token: LocalToken) -> None:
    token.store.rename(token.folder / "drawer")
    pool = SessionPool(access(token))
    with pytest.raises(Unavailable):
        await pool.run(make_secret)
    (token.folder / "drawer").rename(token.store)

    assert await until_it_works(pool, make_secret) is None
    await pool.close()


async def test_while_a_token_is_away_the_answer_comes_at_once(token: LocalToken, pool: SessionPool) -> None:
    token.store.rename(token.folder / "drawer")
    with pytest.raises(Unavailable):
        await pool.run(encrypt)

    async with asyncio.timeout(0.1):
        with pytest.raises(Unavailable):
            await pool.run(encrypt)


async def test_sessions_that_were_closed_behind_our_back_are_opened_and_logged_in_again(pool: SessionPool) -> None:
    await pool.run(make_secret)
    before = await pool.run(encrypt)

    def close(session: TokenSession) -> None:
        session.raw.close()

    for _ in range(pool.size):
        await pool.run(close)

    assert await asyncio.gather(*(pool.run(encrypt) for _ in range(20))) == [before] * 20


async def test_a_user_who_was_logged_out_is_logged_in_again(pool: SessionPool) -> None:
    await pool.run(make_secret)
    before = await pool.run(encrypt)

    def log_out(session: TokenSession) -> None:
        if session.raw.user_type == pkcs11.UserType.USER:
            session.raw.close()  # logging out one session logs out all

    for _ in range(pool.size):
        await pool.run(log_out)

    assert await pool.run(encrypt) == before


async def test_what_must_not_happen_twice_is_not_done_again_on_a_new_session(pool: SessionPool) -> None:
    calls = []

    def lose(session: TokenSession) -> None:
        calls.append(session)
        raise pkcs11.exceptions.SessionHandleInvalid

    with pytest.raises(Unavailable):
        await pool.run(lose, again=False)
    assert len(calls) == 1
    with pytest.raises(Unavailable):
        await pool.run(lose)
    assert len(calls) == 3


async def test_a_call_that_hangs_is_given_up_and_its_session_is_used_again_when_it_returns(token: LocalToken) -> None:
    pool = SessionPool(access(token, sessions=1, timeout=0.5))
    go_on = threading.Event()

    with pytest.raises(Unavailable, match="in time"):
        await pool.run(lambda session: go_on.wait(10))
    with pytest.raises(Unavailable, match="in time"):
        await pool.run(make_secret)
    go_on.set()

    await pool.run(make_secret)
    await pool.close()


async def test_a_wrong_pin_is_tried_once_and_never_shown(token: LocalToken, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pins = ["no-such-pin"]
    pool = SessionPool(TokenAccess(token.module, lambda: pins[-1], token.label))

    for _ in range(20):  # SoftHSM2 counts none, but a real token locks after a few
        with pytest.raises(Unavailable, match="refused the PIN") as refused:
            await pool.run(make_secret)
        assert "no-such-pin" not in str(refused.value)
        await asyncio.sleep(0.06)
    pins.append(token.pin)

    assert await until_it_works(pool, make_secret) is None
    assert [record.fields["kind"] for record in caplog.records if "refused" in record.message] == ["PinIncorrect"]
    assert "no-such-pin" not in caplog.text
    assert token.pin not in caplog.text
    await pool.close()


async def test_two_tokens_of_one_label_are_told_apart_by_their_serial(token: LocalToken) -> None:
    token.initialise(token.label)
    pool = SessionPool(access(token))
    with pytest.raises(FailedPrecondition, match="AFDP_PKCS11_TOKEN_SERIAL"):
        await pool.run(make_secret)
    await pool.close()

    serial = token.serials()[0]
    pool = SessionPool(TokenAccess(token.module, lambda: token.pin, token.label, serial))
    assert await pool.run(lambda session: session.raw.token.serial.decode()) == serial
    await pool.close()


def test_what_is_no_module_is_refused_at_once(token: LocalToken, tmp_path: Path) -> None:
    (tmp_path / "module.so").write_text("not a module")

    for path in (tmp_path / "module.so", tmp_path / "none.so", Path("/lib/x86_64-linux-gnu/libc.so.6")):
        with pytest.raises(FailedPrecondition, match=r"AFDP_PKCS11_MODULE: .*\.so"):
            SessionPool(TokenAccess(path, lambda: token.pin, token.label))


async def until_it_works(pool: SessionPool, function: Callable[[TokenSession], bytes | None] = encrypt) -> bytes | None:
    async with asyncio.timeout(10):
        while True:
            try:
                return await pool.run(function)
            except Unavailable as error:
                await asyncio.sleep(min(error.retry_after, 0.1))
