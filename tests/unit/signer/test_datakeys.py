"""Data keys under subjects' keys in real files."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import lists, sampled_from, tuples

from afdp.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from afdp.messages import signer as pb
from afdp.signer.datakeys import DataKey, DataKeys, Scope, WrappedKey
from afdp.signer.kek import FileKek
from afdp.signer.subjectfiles import open_subject_files
from tests.data_key_promises import DataKeyPromises, all_keys, new_scope, one_key, opened
from tests.local_keys import file_data_keys

ALICE = Scope("bank", "alice@example.org")


class TestInFiles(DataKeyPromises):
    """The promises, kept by files."""

    @pytest.fixture
    async def data_keys(self, tmp_path: Path) -> AsyncIterator[DataKeys]:
        async with file_data_keys(tmp_path) as data_keys:
            yield data_keys


@contextmanager
def reopened(folder: Path) -> Iterator[DataKeys]:
    """What a new process finds in the folder."""
    kek = FileKek(folder / "data-keys" / "kek.json", folder / "passphrase")
    with open_subject_files(folder / "data-keys", kek) as files:
        yield DataKeys(files)


def files_with(folder: Path, data: bytes) -> list[Path]:
    """The files below a folder that hold some bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and data in path.read_bytes()]


def named_after(folder: Path, data: bytes) -> list[Path]:
    """The files below a folder whose names show some bytes."""
    return [path for path in folder.rglob("*") if data.hex() in path.name or data in path.name.encode()]


def key_file(folder: Path) -> Path:
    """The only scope's file."""
    (path,) = (each for each in (folder / "data-keys" / "keys").rglob("*") if each.is_file())
    return path


def sealed_versions(path: Path) -> list[bytes]:
    """The sealed versions, as they stand in a scope's file."""
    return [each.encode() for each in path.read_text().split('"') if len(each) > 60]


async def test_keys_outlive_the_process(tmp_path: Path) -> None:
    with reopened(tmp_path) as before:
        key = await one_key(before, ALICE)
        await before.destroy(Scope("bank", "bob@example.org"))

    with reopened(tmp_path) as after:
        assert await opened(after, ALICE, key.wrapped) == key.plain
        (barred,) = await after.generate([Scope("bank", "bob@example.org")])
    assert isinstance(barred, NotFound)


async def test_scopes_that_look_alike_have_keys_of_their_own(tmp_path: Path) -> None:
    scopes = [Scope("a", "bc"), Scope("ab", "c"), Scope("abc", "*"), Scope("a", "b\0c"), Scope("a\0b", "c")]
    scopes += [Scope("../..", "x"), Scope("a", "../x"), Scope("é", "e\u0301"), Scope("e\u0301", "é")]
    with reopened(tmp_path) as data_keys:
        keys = await all_keys(data_keys, scopes)
        for scope in scopes:
            plains = [await opened(data_keys, scope, key.wrapped) for key in keys]
            assert [plain for plain in plains if isinstance(plain, bytes)] == [keys[scopes.index(scope)].plain]
    assert len([path for path in (tmp_path / "data-keys" / "keys").rglob("*") if path.is_file()]) == len(scopes)


async def test_nothing_on_disk_tells_a_subject_or_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        await data_keys.rotate(ALICE)
        await data_keys.destroy(ALICE)

    for secret in (key.plain, ALICE.subject.encode(), ALICE.tenant.encode()):
        assert files_with(tmp_path, secret) == []
        assert named_after(tmp_path, secret) == []
    assert "a subject's key is destroyed" in caplog.text
    assert ALICE.subject not in caplog.text


async def test_no_repr_shows_a_plain_key_or_a_subject(tmp_path: Path) -> None:
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
    message = pb.GenerateDataKeysResponse([pb.DataKeyResult(key=pb.DataKey(key.plain, key.wrapped))])

    for shown in (repr(key), str(key), repr([key]), repr(message), str(message)):
        assert repr(key.plain)[2:-1] not in shown
        assert key.plain.hex() not in shown
    assert ALICE.subject not in repr(WrappedKey(ALICE, key.wrapped))


@pytest.mark.parametrize("change", ["rotate", "destroy"])
async def test_what_is_replaced_is_overwritten(tmp_path: Path, change: str) -> None:
    with reopened(tmp_path) as data_keys:
        await one_key(data_keys, ALICE)
        sealed = sealed_versions(key_file(tmp_path))
        with key_file(tmp_path).open("rb") as before:  # the medium's view: the same file, whatever its name
            await (data_keys.rotate(ALICE) if change == "rotate" else data_keys.destroy(ALICE))
            left = before.read()

    assert len(sealed) == 1
    assert sealed[0] not in left
    assert len(left) > len(sealed[0])
    assert list((tmp_path / "data-keys" / "leaving").iterdir()) == []
    if change == "destroy":
        assert files_with(tmp_path, sealed[0]) == []


def crashed(folder: Path, change: str) -> list[Path]:
    """A copy of the folder for each step at which a process died that made the change, and one where it did not."""
    command = [sys.executable, "-m", "tests.dying_signer", str(folder), change]
    subprocess.run(command, check=True, timeout=120)
    return sorted(folder.parent.glob(f"{folder.name}-{change}-*"), key=lambda path: int(path.name.split("-")[-1]))


async def test_a_process_that_dies_in_any_step_of_a_first_key_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "signer"
    neighbour = new_scope()
    with reopened(folder) as data_keys:
        before = await one_key(data_keys, neighbour)

    copies = crashed(folder, "generate")

    assert len(copies) > 5
    for copy in copies:
        with reopened(copy) as data_keys:
            key = await one_key(data_keys, ALICE)
            assert await opened(data_keys, ALICE, key.wrapped) == key.plain
            assert await opened(data_keys, neighbour, before.wrapped) == before.plain
        assert list((copy / "data-keys" / "leaving").iterdir()) == []


async def test_a_process_that_dies_in_any_step_of_a_rotation_loses_no_version(tmp_path: Path) -> None:
    folder = tmp_path / "signer"
    with reopened(folder) as data_keys:
        key = await one_key(data_keys, ALICE)

    copies = crashed(folder, "rotate")

    assert len(copies) > 10
    versions = []
    for copy in copies:
        with reopened(copy) as data_keys:
            assert await opened(data_keys, ALICE, key.wrapped) == key.plain
            versions.append(await data_keys.rotate(ALICE))
            fresh = await one_key(data_keys, ALICE)
            assert await opened(data_keys, ALICE, fresh.wrapped) == fresh.plain
        assert list((copy / "data-keys" / "leaving").iterdir()) == []
    assert versions == sorted(versions)
    assert (versions[0], versions[-1]) == (2, 3)


async def test_a_process_that_dies_in_any_step_of_a_destruction_has_destroyed_it_or_not_begun(tmp_path: Path) -> None:
    folder = tmp_path / "signer"
    with reopened(folder) as data_keys:
        key = await one_key(data_keys, ALICE)
    (sealed,) = sealed_versions(key_file(folder))

    copies = crashed(folder, "destroy")

    assert len(copies) > 10
    found = []
    for copy in copies:
        with reopened(copy) as data_keys:
            answer = await opened(data_keys, ALICE, key.wrapped)
            found.append(answer == key.plain)
            assert answer == key.plain or isinstance(answer, NotFound)
            assert bool(files_with(copy, sealed)) == found[-1]  # gone from the disk as soon as it is destroyed
            await data_keys.destroy(ALICE)
            assert isinstance(await opened(data_keys, ALICE, key.wrapped), NotFound)
        assert files_with(copy, sealed) == []
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (True, False)


async def test_two_signers_never_share_a_folder(tmp_path: Path) -> None:
    with (
        reopened(tmp_path),
        pytest.raises(FailedPrecondition, match="in use by another signer"),
        reopened(tmp_path),
    ):
        pass


@pytest.mark.parametrize("lost", ["names", "kek.json"])
async def test_a_lost_file_is_not_taken_for_a_new_installation(tmp_path: Path, lost: str) -> None:
    async with file_data_keys(tmp_path) as data_keys:
        await one_key(data_keys, ALICE)
    (tmp_path / "data-keys" / lost).unlink()

    with pytest.raises(FailedPrecondition, match="restore"):
        async with file_data_keys(tmp_path):
            pass


async def test_another_passphrase_opens_nothing(tmp_path: Path) -> None:
    async with file_data_keys(tmp_path) as data_keys:
        await one_key(data_keys, ALICE)
    (tmp_path / "passphrase").write_text("another")

    with pytest.raises(FailedPrecondition, match="passphrase is another"):
        async with file_data_keys(tmp_path):
            pass


async def test_a_damaged_file_fails_its_subject_alone_and_can_still_be_destroyed(tmp_path: Path) -> None:
    other = new_scope()
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        path = key_file(tmp_path)
        beside = await one_key(data_keys, other)
        for spoilt in (b"", b"{}", b'{"versions": []}', b'{"versions": [1]}', path.read_bytes().replace(b":", b";")):
            path.write_bytes(spoilt)
            first, second = await data_keys.unwrap([WrappedKey(ALICE, key.wrapped), WrappedKey(other, beside.wrapped)])
            assert isinstance(first, DataLoss)
            assert second == beside
        (made,) = await data_keys.generate([ALICE])
        assert isinstance(made, DataLoss)

        await data_keys.destroy(ALICE)

        assert isinstance(await opened(data_keys, ALICE, key.wrapped), NotFound)


async def test_files_of_two_subjects_cannot_be_exchanged(tmp_path: Path) -> None:
    bob = Scope("bank", "bob@example.org")
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        path = key_file(tmp_path)
        await one_key(data_keys, bob)
        (other,) = (each for each in (tmp_path / "data-keys" / "keys").rglob("*") if each.is_file() and each != path)
        shutil.copy(path, other)

        assert isinstance(await opened(data_keys, bob, key.wrapped), DataLoss)


async def test_a_version_altered_on_disk_is_refused(tmp_path: Path) -> None:
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        path = key_file(tmp_path)
        text = path.read_text()
        place = text.index('["') + 30
        path.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])

        assert isinstance(await opened(data_keys, ALICE, key.wrapped), DataLoss)


async def test_a_disk_that_refuses_is_unavailable_and_the_key_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", refuse)
            for change in (data_keys.rotate(ALICE), data_keys.destroy(ALICE), data_keys.generate([new_scope()])):
                with pytest.raises(Unavailable, match="cannot read or write"):
                    await change
        assert await opened(data_keys, ALICE, key.wrapped) == key.plain

        assert await data_keys.rotate(ALICE) == 2
        await data_keys.destroy(ALICE)

        assert isinstance(await opened(data_keys, ALICE, key.wrapped), NotFound)


async def test_what_another_holder_wrapped_is_told_apart(tmp_path: Path) -> None:
    with reopened(tmp_path) as data_keys:
        key = await one_key(data_keys, ALICE)
        refused = await opened(data_keys, ALICE, bytes([77]) + key.wrapped[1:])

    assert isinstance(refused, FailedPrecondition)
    assert "AFDP_DATA_KEYS" in str(refused)


SCOPES = [Scope("bank", "*"), Scope("bank", "alice"), Scope("bank", "bob"), Scope("agency", "alice")]
STEPS = ["generate", "generate", "rotate", "rewrap", "destroy", "restart"]


@given(steps=lists(tuples(sampled_from(STEPS), sampled_from(SCOPES)), max_size=20))
@settings(max_examples=40, deadline=None)
async def test_any_sequence_of_calls_leaves_open_what_was_not_destroyed(
    steps: list[tuple[str, Scope]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("signer")
    kek = quick_kek(folder)
    kept: dict[Scope, list[DataKey]] = {scope: [] for scope in SCOPES}
    gone: dict[Scope, list[DataKey]] = {scope: [] for scope in SCOPES}
    barred: set[Scope] = set()
    with ExitStack() as process:
        data_keys = DataKeys(process.enter_context(open_subject_files(folder, kek)))
        for step, scope in steps:
            if step == "restart":
                process.close()
                data_keys = DataKeys(process.enter_context(open_subject_files(folder, kek)))
            elif step == "destroy":
                await data_keys.destroy(scope)
                barred.add(scope)
                gone[scope] += kept[scope]
                kept[scope] = []
            elif scope in barred or (step != "generate" and not kept[scope]):
                await assert_refused(data_keys, step, scope)
            elif step == "generate":
                kept[scope].append(await one_key(data_keys, scope))
            elif step == "rotate":
                await data_keys.rotate(scope)
            else:
                kept[scope] = await rewrapped(data_keys, scope, kept[scope])
        for scope in SCOPES:
            for key in kept[scope]:
                assert await opened(data_keys, scope, key.wrapped) == key.plain
            for key in gone[scope]:
                assert isinstance(await opened(data_keys, scope, key.wrapped), NotFound)


def quick_kek(folder: Path) -> FileKek:
    """A KEK that was opened already."""
    kek = FileKek(folder / "kek.json", folder / "passphrase")
    kek.make()
    return kek


async def assert_refused(data_keys: DataKeys, step: str, scope: Scope) -> None:
    """Nothing is done for a subject that has no key, or none any more."""
    if step == "rotate":
        with pytest.raises(NotFound):
            await data_keys.rotate(scope)
    elif step == "generate":
        assert isinstance((await data_keys.generate([scope]))[0], NotFound)


async def rewrapped(data_keys: DataKeys, scope: Scope, keys: list[DataKey]) -> list[DataKey]:
    """The same keys as they are wrapped now."""
    answers = await data_keys.rewrap([WrappedKey(scope, key.wrapped) for key in keys])
    return [
        DataKey(key.plain, answer.wrapped)
        for key, answer in zip(keys, answers, strict=True)
        if isinstance(answer, DataKey) or pytest.fail(str(answer))
    ]
