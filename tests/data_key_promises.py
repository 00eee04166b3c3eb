"""What data keys promise, whatever holds the subjects' keys.

    class TestInFiles(DataKeyPromises):
        @pytest.fixture
        async def data_keys(self) -> DataKeys: …

Scopes are named anew in each test, because a holder may outlive it.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotaryError, NotFound
from afdp.signer.datakeys import DataKey, DataKeys, Scope, WrappedKey


def new_scope(tenant: str = "bank") -> Scope:
    """A scope that no other test knows."""
    return Scope(tenant, f"person-{uuid4()}@example.org")


async def one_key(data_keys: DataKeys, scope: Scope) -> DataKey:
    """A data key of a scope."""
    return (await all_keys(data_keys, [scope]))[0]


async def all_keys(data_keys: DataKeys, scopes: Sequence[Scope]) -> list[DataKey]:
    """A data key of each scope."""
    answers = await data_keys.generate(scopes)
    return [answer for answer in answers if isinstance(answer, DataKey) or pytest.fail(str(answer))]


async def opened(data_keys: DataKeys, scope: Scope, wrapped: bytes) -> bytes | NotaryError:
    """What unwrapping gives: the plain key, or why there is none."""
    (answer,) = await data_keys.unwrap([WrappedKey(scope, wrapped)])
    return answer.plain if isinstance(answer, DataKey) else answer


class DataKeyPromises:
    """Tests of a holder, which a subclass gives by the fixture `data_keys`."""

    async def test_a_data_key_has_32_bytes_and_its_wrapped_form_opens_again(self, data_keys: DataKeys) -> None:
        scopes = [new_scope(), new_scope(), Scope("bank", "*")]

        keys = await all_keys(data_keys, [*scopes, scopes[0]])

        assert {len(key.plain) for key in keys} == {32}
        assert {len(key.wrapped) for key in keys} == {65}
        assert len({key.plain for key in keys}) == 4
        asked = [WrappedKey(scope, key.wrapped) for scope, key in zip([*scopes, scopes[0]], keys, strict=True)]
        assert await data_keys.unwrap(asked) == keys

    async def test_a_wrapped_key_opens_for_its_own_tenant_and_subject_only(self, data_keys: DataKeys) -> None:
        scope, other = new_scope(), new_scope()
        key = await one_key(data_keys, scope)
        await one_key(data_keys, other)
        elsewhere = Scope("agency", scope.subject)
        await one_key(data_keys, elsewhere)

        for wrong in (other, elsewhere):
            refused = await opened(data_keys, wrong, key.wrapped)
            assert isinstance(refused, InvalidArgument)
            assert refused.fields[0].field == "keys[0].wrapped"
            assert "another tenant or subject" in str(refused)
        assert isinstance(await opened(data_keys, new_scope(), key.wrapped), DataLoss)  # nobody has destroyed it

    async def test_a_wrapped_key_with_a_bit_flipped_is_refused(self, data_keys: DataKeys) -> None:
        scope = new_scope()
        key = await one_key(data_keys, scope)
        bits = [*range(40), *random.Random(7).sample(range(40, 65 * 8), 60)]

        for start in (0, 50):
            spoilt = [WrappedKey(scope, _flipped(key.wrapped, bit)) for bit in bits[start : start + 50]]
            for operation in (data_keys.unwrap, data_keys.rewrap):
                for answer in await operation(spoilt):
                    assert isinstance(answer, InvalidArgument | FailedPrecondition)
        assert await opened(data_keys, scope, key.wrapped) == key.plain

    async def test_what_is_no_wrapped_key_is_refused_alone(self, data_keys: DataKeys) -> None:
        scope = new_scope()
        key = await one_key(data_keys, scope)
        bad = [b"", b"\0", key.wrapped[:5], key.wrapped[:-1], key.wrapped + b"\0", bytes(65), b"\xff" * 5000]

        *refused, good = await data_keys.unwrap([WrappedKey(scope, each) for each in (*bad, key.wrapped)])

        assert [type(each) for each in refused if not isinstance(each, InvalidArgument | FailedPrecondition)] == []
        assert good == key

    async def test_a_scope_that_is_none_is_refused_alone_and_named(self, data_keys: DataKeys) -> None:
        scope = new_scope()

        good, *refused = await data_keys.generate([scope, Scope("", "x"), Scope("bank", ""), Scope("bank", "é" * 257)])

        assert isinstance(good, DataKey)
        fields = [each.fields[0].field for each in refused if isinstance(each, InvalidArgument)]
        assert fields == ["scopes[1].tenant", "scopes[2].subject", "scopes[3].subject"]
        first, second = await data_keys.unwrap([WrappedKey(Scope("", ""), b"x"), WrappedKey(scope, good.wrapped)])
        assert isinstance(first, InvalidArgument)
        assert [each.field for each in first.fields] == ["keys[0].scope.tenant", "keys[0].scope.subject"]
        assert second == good

    @pytest.mark.parametrize("count", [0, 257])
    async def test_too_few_and_too_many_are_refused(self, data_keys: DataKeys, count: int) -> None:
        with pytest.raises(InvalidArgument, match="1 to 256"):
            await data_keys.generate([new_scope()] * count)
        with pytest.raises(InvalidArgument, match="1 to 256"):
            await data_keys.unwrap([WrappedKey(new_scope(), b"x")] * count)

    async def test_a_full_batch_is_answered_in_order(self, data_keys: DataKeys) -> None:
        scopes = [new_scope() for _ in range(16)]
        asked = [random.Random(number).choice(scopes) for number in range(256)]

        keys = await all_keys(data_keys, asked)

        wrapped = [WrappedKey(scope, key.wrapped) for scope, key in zip(asked, keys, strict=True)]
        assert await data_keys.unwrap(wrapped) == keys
        assert len({key.plain for key in keys}) == 256

    async def test_after_a_rotation_old_keys_open_and_are_wrapped_anew(self, data_keys: DataKeys) -> None:
        scope = new_scope()
        old = await one_key(data_keys, scope)

        version = await data_keys.rotate(scope)
        fresh = await one_key(data_keys, scope)
        rewrapped, kept = await data_keys.rewrap([WrappedKey(scope, old.wrapped), WrappedKey(scope, fresh.wrapped)])

        assert version == 2
        assert isinstance(rewrapped, DataKey)
        assert (rewrapped.plain, len(rewrapped.wrapped)) == (b"", 65)
        assert rewrapped.wrapped != old.wrapped
        assert kept == DataKey(b"", fresh.wrapped)
        for wrapped in (old.wrapped, rewrapped.wrapped):
            assert await opened(data_keys, scope, wrapped) == old.plain
        assert await opened(data_keys, scope, fresh.wrapped) == fresh.plain
        assert await data_keys.rotate(scope) == 3

    async def test_a_subject_without_a_key_has_nothing_to_rotate_or_to_open(self, data_keys: DataKeys) -> None:
        key = await one_key(data_keys, new_scope())
        scope = new_scope()

        with pytest.raises(NotFound, match="has no key"):
            await data_keys.rotate(scope)
        for operation in (data_keys.unwrap, data_keys.rewrap):
            (answer,) = await operation([WrappedKey(scope, key.wrapped)])
            assert isinstance(answer, DataLoss)
        with pytest.raises(InvalidArgument, match=r"scope\.subject"):
            await data_keys.rotate(Scope("bank", ""))

    async def test_a_destroyed_key_opens_nothing_and_its_subject_is_barred(self, data_keys: DataKeys) -> None:
        scope, neighbour = new_scope(), new_scope()
        old = await one_key(data_keys, scope)
        await data_keys.rotate(scope)
        new = await one_key(data_keys, scope)
        beside = await one_key(data_keys, neighbour)

        when = await data_keys.destroy(scope)

        assert abs(datetime.now(UTC) - when) < timedelta(seconds=30)
        asked = [WrappedKey(scope, old.wrapped), WrappedKey(scope, new.wrapped)]
        for operation in (data_keys.unwrap, data_keys.rewrap):
            for answer in await operation(asked):
                assert isinstance(answer, NotFound)
                assert "was destroyed" in str(answer)
        barred, other = await data_keys.generate([scope, neighbour])
        assert isinstance(barred, NotFound)
        assert isinstance(other, DataKey)
        with pytest.raises(NotFound):
            await data_keys.rotate(scope)
        assert await opened(data_keys, neighbour, beside.wrapped) == beside.plain

    async def test_destroying_again_changes_nothing_and_gives_the_same_time(self, data_keys: DataKeys) -> None:
        scope = new_scope()
        await one_key(data_keys, scope)

        first = await data_keys.destroy(scope)
        await asyncio.sleep(1.1)  # times are kept in seconds

        assert await data_keys.destroy(scope) == first

    async def test_a_subject_that_never_had_a_key_can_be_barred(self, data_keys: DataKeys) -> None:
        scope = new_scope()

        await data_keys.destroy(scope)

        (answer,) = await data_keys.generate([scope])
        assert isinstance(answer, NotFound)

    async def test_two_callers_make_a_subjects_key_once(self, data_keys: DataKeys) -> None:
        scopes = [new_scope() for _ in range(8)]

        rounds = await asyncio.gather(*(all_keys(data_keys, scopes) for _ in range(6)))

        for keys in rounds:
            asked = [WrappedKey(scope, key.wrapped) for scope, key in zip(scopes, keys, strict=True)]
            assert await data_keys.unwrap(asked) == keys

    async def test_an_unwrap_beside_the_destruction_gives_the_key_or_says_why_not(self, data_keys: DataKeys) -> None:
        scope = new_scope()
        key = await one_key(data_keys, scope)
        began = asyncio.Event()
        ended: list[bytes | NotaryError] = []

        async def ask() -> None:
            while not (ended and isinstance(ended[-1], NotFound)):
                ended.append(await opened(data_keys, scope, key.wrapped))
                began.set()

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask())
            await began.wait()
            await data_keys.destroy(scope)
            assert isinstance(await opened(data_keys, scope, key.wrapped), NotFound)
        # For a moment Vault has neither the key nor what stands for a destroyed one.
        assert [each for each in ended if each != key.plain and not isinstance(each, NotFound | DataLoss)] == []

    async def test_a_key_made_beside_the_destruction_does_not_outlive_it(self, data_keys: DataKeys) -> None:
        scopes = [new_scope() for _ in range(8)]

        async def make(scope: Scope) -> list[DataKey | NotaryError]:
            return await data_keys.generate([scope] * 4)

        made, *_ = await asyncio.gather(
            asyncio.gather(*(make(scope) for scope in scopes)),
            *(data_keys.destroy(scope) for scope in scopes),
        )

        for scope, answers in zip(scopes, made, strict=True):
            for answer in answers:
                if isinstance(answer, DataKey):
                    answer = await opened(data_keys, scope, answer.wrapped)
                assert isinstance(answer, NotFound)


def _flipped(data: bytes, bit: int) -> bytes:
    spoilt = bytearray(data)
    spoilt[bit // 8] ^= 1 << (bit % 8)
    return bytes(spoilt)
