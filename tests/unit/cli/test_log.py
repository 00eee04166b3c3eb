from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from tests.local_log import LocalLog

Afdp = Callable[..., Result]


@pytest.fixture
def afdp() -> Afdp:
    return lambda *arguments: CliRunner().invoke(cli, [*arguments], prog_name="afdp")


@pytest.fixture
def log() -> LocalLog:
    log = LocalLog()
    log.append(b"entry %d" % number for number in range(5_000))
    return log


@pytest.fixture
def folder(log: LocalLog, tmp_path: Path) -> Path:
    return log.write(tmp_path / "log")


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=os.fspath(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x01
    file.write_bytes(data)


def test_a_sound_folder_is_sound_and_says_whose_key_was_believed(afdp: Afdp, folder: Path) -> None:
    result = afdp("log", "fsck", str(folder))

    assert result.exit_code == 0
    assert f"from {folder}/vkey" in result.stdout
    assert "the log's own word" in result.stdout
    assert "notary.localhost, 5000 entries" in result.stdout
    assert result.stdout.splitlines()[-1] == "SOUND"


def test_a_sound_log_over_http_is_sound(afdp: Afdp, url: str) -> None:
    result = afdp("log", "fsck", url, "--json")

    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["sound"] is True
    assert (answer["size"], answer["entries_read"]) == (5_000, 5_000)
    assert answer["vkey_from"] == f"{url}/vkey"


def test_the_first_bad_byte_is_named_over_http_too(afdp: Afdp, url: str, folder: Path) -> None:
    flip(folder / "tile/0/007", 100)

    result = afdp("log", "fsck", f"{url}/")

    assert result.exit_code == 1
    assert "tile/0/007, byte 100: " in result.stdout
    assert result.stdout.splitlines()[-1] == "NOT SOUND"


def test_a_key_that_the_verifier_names_is_believed_and_no_other(
    afdp: Afdp, folder: Path, tmp_path: Path, log: LocalLog
) -> None:
    (tmp_path / "good").write_text(f"{log.log.vkey}\n")
    (tmp_path / "other").write_text(f"{LocalLog().log.vkey}\n")

    good = afdp("log", "fsck", str(folder), "--vkey", str(tmp_path / "good"))
    other = afdp("log", "fsck", str(folder), "--vkey", str(tmp_path / "other"))

    assert good.exit_code == 0
    assert "the log's own word" not in good.stdout
    assert other.exit_code == 1
    assert "checkpoint, byte 0: the note is not signed by a known key" in other.stdout


def test_a_log_that_does_not_answer_exits_3(afdp: Afdp) -> None:
    result = afdp("log", "fsck", "http://127.0.0.1:1")

    assert result.exit_code == 3
    assert "Connection refused" in result.stderr


def test_what_is_no_log_exits_2(afdp: Afdp, tmp_path: Path) -> None:
    assert afdp("log", "fsck", str(tmp_path / "missing")).exit_code == 2
    (tmp_path / "empty").mkdir()
    result = afdp("log", "fsck", str(tmp_path / "empty"))
    assert result.exit_code == 2
    assert "--vkey FILE" in result.stderr


def test_a_file_that_is_no_vkey_exits_2(afdp: Afdp, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("what")

    result = afdp("log", "fsck", str(folder), "--vkey", str(tmp_path / "key"))

    assert result.exit_code == 2
    assert "vkey" in result.stderr
