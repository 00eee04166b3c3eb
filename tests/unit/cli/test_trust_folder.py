"""The folder of a trust root: written as one, so that nobody reads a mix of two."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from afdp.cli import trust_folder
from afdp.cli.options import Unreadable
from afdp.cli.trust_folder import STATE, locked, read_folder, write_folder
from afdp.errors import InvalidArgument
from afdp.formats.trust import TrustRoot, trust_files
from afdp.verify.folder import load_trust
from tests.local_notary import LocalNotary

ONE, OTHER = (LocalNotary(key_id=f"key-{name}:1") for name in ("one", "other"))


def files_of(notary: LocalNotary, **more: bytes) -> dict[str, bytes]:
    plain = {name: text.encode() for name, text in trust_files(notary.trust).items()}
    return plain | {f"{STATE}/{name}.json": data for name, data in more.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "trust"
    write_folder(found, files_of(ONE, snapshot=b"1"))
    return found


def test_a_reader_never_sees_a_mix_while_the_folder_is_written_again_and_again(folder: Path) -> None:
    stop, seen = threading.Event(), list[TrustRoot]()

    def write() -> None:
        while not stop.is_set():
            for notary in (OTHER, ONE):
                write_folder(folder, files_of(notary))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len({each.keys for each in seen}) < 2 or len(seen) < 50:
            seen.append(load_trust(folder))
    finally:
        stop.set()
        writer.join()

    both = (ONE.trust, OTHER.trust)
    assert all(each in both for each in seen)
    assert {both.index(each) for each in seen} == {0, 1}


def test_what_was_seen_of_a_repository_stays_unless_it_is_to_be_forgotten(folder: Path) -> None:
    write_folder(folder, files_of(OTHER))
    assert read_folder(folder) == OTHER.trust
    assert (folder / STATE / "snapshot.json").read_bytes() == b"1"

    write_folder(folder, files_of(ONE), forget=True)
    assert not (folder / STATE).exists()


def test_a_write_that_fails_changes_nothing_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name == "keys.json":
            raise Unreadable(f"{path}: No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(trust_folder, "write_whole", full)
    with pytest.raises(Unreadable, match="No space left"):
        write_folder(folder, files_of(OTHER))

    assert load_trust(folder) == ONE.trust
    assert os.listdir(folder.parent) == ["trust"]


def test_a_folder_that_has_other_things_in_it_keeps_them_and_stays_the_same_folder(folder: Path) -> None:
    (folder / "policy.yaml").write_text("require_log: true")
    before = folder.stat().st_ino

    write_folder(folder, files_of(OTHER))

    assert load_trust(folder) == OTHER.trust
    assert (folder / "policy.yaml").read_text() == "require_log: true"
    assert folder.stat().st_ino == before


def test_who_stands_in_the_folder_still_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    write_folder(Path(), files_of(OTHER))

    assert load_trust(Path()) == OTHER.trust


def test_where_folders_cannot_be_exchanged_the_files_are_written_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(16, "Device or resource busy")  # a mount point

    monkeypatch.setattr(trust_folder, "_exchange", cannot)
    write_folder(folder, files_of(OTHER))

    assert load_trust(folder) == OTHER.trust
    assert os.listdir(folder.parent) == ["trust"]


def test_a_link_to_a_folder_stays_a_link_and_modes_stay_as_they_were(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o750)
    link = tmp_path / "link"
    link.symlink_to(folder)

    write_folder(link, files_of(OTHER))

    assert link.is_symlink()
    assert load_trust(folder) == OTHER.trust
    assert folder.stat().st_mode & 0o777 == 0o750


def test_two_who_change_it_take_turns_also_when_the_first_puts_another_folder_there(folder: Path) -> None:
    order, entered = list[str](), threading.Event()

    def second() -> None:
        entered.set()
        with locked(folder):
            order.append("second")
            write_folder(folder, files_of(ONE))

    with locked(folder):
        waiting = threading.Thread(target=second)
        waiting.start()
        entered.wait()
        write_folder(folder, files_of(OTHER))
        order.append("first")
    waiting.join()

    assert order == ["first", "second"]
    assert load_trust(folder) == ONE.trust


def test_what_is_no_file_is_missing_and_holds_nobody_up(folder: Path) -> None:
    (folder / "keys.json").unlink()
    os.mkfifo(folder / "keys.json")

    with pytest.raises(InvalidArgument) as refused:
        load_trust(folder)
    assert [each.field for each in refused.value.fields] == ["keys.json"]


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    nested = tmp_path / "a" / "b"
    with locked(nested):
        write_folder(nested, files_of(ONE))

    assert load_trust(nested) == ONE.trust
