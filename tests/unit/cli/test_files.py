"""Hashing large files: a progress bar where somebody watches, none where nobody does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from afdp.cli.files import write_whole
from afdp.cli.options import Unreadable

LARGE = 64 * 1024 * 1024
PROGRAM = """
import sys
from pathlib import Path
from afdp.cli.files import hash_files
print(hash_files([Path(sys.argv[1])]))
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large.bin"
    with file.open("wb") as sparse:
        sparse.truncate(LARGE)
    return file


def test_a_terminal_sees_how_far_the_hashing_is(large: Path) -> None:
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(large)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        text=True,
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65_536):
            seen += chunk
    except OSError:  # Linux: the other end was closed
        pass
    stdout, _ = run.communicate(timeout=30)
    os.close(ours)

    assert b"hashing" in seen
    assert b"MB" in seen
    assert sha256(bytes(LARGE)).hexdigest() in stdout


def test_what_is_piped_has_no_progress_bar(large: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(large)], capture_output=True, text=True, check=True)

    assert run.stderr == ""
    assert sha256(bytes(LARGE)).hexdigest() in run.stdout


def test_a_file_is_written_whole_and_with_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "receipt.json", b"{}")

    assert (tmp_path / "new" / "receipt.json").read_bytes() == b"{}"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["receipt.json"]
    assert (tmp_path / "new" / "receipt.json").stat().st_mode & 0o600 == 0o600


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")

    with pytest.raises(Unreadable, match="taken"):
        write_whole(tmp_path / "taken" / "receipt.json", b"{}")
