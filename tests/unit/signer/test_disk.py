"""Small files that are either the old one or the new one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from afdp.signer.disk import write_durably


def test_a_disk_that_takes_a_part_at_a_time_gets_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr("afdp.signer.disk.os.write", lambda file, data: whole(file, bytes(data)[:7]))

    write_durably(tmp_path / "keyring.json", b"x" * 100)

    assert (tmp_path / "keyring.json").read_bytes() == b"x" * 100


def test_a_disk_that_is_full_after_a_part_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_durably(tmp_path / "keyring.json", b"old")
    whole, taken = os.write, list[int]()

    def almost_full(file: int, data: bytes) -> int:
        if taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(7)
        return whole(file, bytes(data)[:7])

    monkeypatch.setattr("afdp.signer.disk.os.write", almost_full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "keyring.json", b"x" * 100)

    assert (tmp_path / "keyring.json").read_bytes() == b"old"
