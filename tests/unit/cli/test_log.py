from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.formats.note import Checkpoint, Note, NoteSignature
from tests.local_log import LocalLog
from tests.log_server import Answer, LogServer, log_server, send

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


@pytest.fixture
def server(folder: Path) -> Iterator[LogServer]:
    with log_server(folder) as served:
        yield served


@pytest.fixture
def url(server: LogServer) -> str:
    return server.url


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


# --- logs that mean no good -------------------------------------------------------------------------------------------


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65_536))


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 302, b"", Location="http://127.0.0.1:1/")


def zipped(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, bytes(10), Content_Encoding="gzip")


def away(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 503, b"")


def trickling(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not threading.Event().wait(0.02):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def of_bytes(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, 200, data)


HOSTILE = [
    ("tile/0/003", endless, 1, "tile/0/003, byte 8192: is larger than any such file of a log can be (8192 bytes)"),
    ("checkpoint", endless, 1, "checkpoint, byte 1000000: is larger than any such file"),
    ("tile/entries/004", elsewhere, 3, "answers 302, to another place"),
    ("tile/entries/004", zipped, 3, "answers in an encoding that was not asked for"),
    ("tile/0/003", trickling, 3, "took longer than 0.3 s for one file"),
    ("tile/0/003", of_bytes(bytes(8160)), 1, "tile/0/003, byte 8160: has 8160 bytes; a tile of 256 hashes has 8192"),
    ("tile/0/019.p/136", of_bytes(bytes(135 * 32)), 1, "byte 4320: has 4320 bytes; a tile of 136 hashes has 4352"),
    ("tile/entries/004", of_bytes(b"\xff\xff" + bytes(1000)), 1, "tile/entries/004, byte 0: is not an entry bundle"),
    ("checkpoint", of_bytes(b"notary.localhost\n99999999999999999999\n"), 1, "checkpoint, byte 0: "),
]


@pytest.mark.parametrize(("path", "answer", "status", "said"), HOSTILE, ids=lambda each: getattr(each, "__name__", ""))
def test_a_log_that_lies_is_named_and_costs_little(
    afdp: Afdp, server: LogServer, path: str, answer: Answer, status: int, said: str
) -> None:
    server.answers[path] = answer

    result = afdp("log", "fsck", server.url, "--timeout", "0.3")

    assert result.exit_code == status
    assert said in result.stdout + result.stderr


def test_a_size_that_no_tree_of_files_stands_behind_is_found_at_its_first_file(
    afdp: Afdp, server: LogServer, log: LocalLog
) -> None:
    text = Checkpoint("notary.localhost", 2**62, bytes(32)).body()
    huge = Note(text, (NoteSignature.by(log.log.vkey, log.key.sign(text.encode())),))
    server.answers["checkpoint"] = of_bytes(huge.to_bytes())

    result = afdp("log", "fsck", server.url)

    assert result.exit_code == 1
    assert "tile/0/019: is missing" in result.stdout
    assert len(server.asked) < 200


def test_what_a_server_cannot_do_now_is_asked_for_again(afdp: Afdp, server: LogServer) -> None:
    def once(handler: BaseHTTPRequestHandler) -> None:
        del server.answers["tile/0/003"]
        away(handler)

    server.answers["tile/0/003"] = once

    assert afdp("log", "fsck", server.url).exit_code == 0
    assert server.asked.count("tile/0/003") == 2


# --- going on ---------------------------------------------------------------------------------------------------------


def test_with_a_state_only_what_is_new_is_read(afdp: Afdp, server: LogServer, log: LocalLog, tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    assert afdp("log", "fsck", server.url, "--state", state).exit_code == 0
    log.append([b"later"])
    log.write(server.folder)
    server.asked.clear()

    result = afdp("log", "fsck", server.url, "--state", state, "--json")

    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (answer["entries_before"], answer["entries_read"], answer["size"]) == (4_864, 137, 5_001)
    assert answer["entries_per_second"] > 0
    assert {each for each in server.asked if each.startswith("tile/entries")} == {"tile/entries/019.p/137"}


def test_a_log_that_forked_leaves_both_signed_notes_as_evidence(
    afdp: Afdp, folder: Path, log: LocalLog, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    assert afdp("log", "fsck", str(folder), "--state", str(state)).exit_code == 0
    kept, seen = state.read_bytes(), (folder / "checkpoint").read_bytes()
    fork = LocalLog(key=log.key)
    fork.append([b"another", *log.entries[1:], b"more"])
    fork.write(folder)

    result = afdp("log", "fsck", str(folder), "--state", str(state), "--json")

    assert result.exit_code == 1
    evidence = Path(json.loads(result.stdout)["evidence"])
    assert (evidence / "seen.checkpoint").read_bytes() == seen
    assert (evidence / "served.checkpoint").read_bytes() == fork.checkpoint().to_bytes()
    assert "another tree now" in (evidence / "fault.json").read_text()
    assert state.read_bytes() == kept


def test_a_state_that_is_damaged_or_of_another_log_is_refused(afdp: Afdp, folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert afdp("log", "fsck", str(folder), "--state", str(state)).exit_code == 0
    other = LocalLog()
    other.write(tmp_path / "other")

    key = str(tmp_path / "other" / "vkey")
    foreign = afdp("log", "fsck", str(tmp_path / "other"), "--state", str(state), "--vkey", key)
    state.write_text(state.read_text().replace('"whole": true', '"whole": false'))
    damaged = afdp("log", "fsck", str(folder), "--state", str(state))

    assert (foreign.exit_code, damaged.exit_code) == (2, 2)
    assert "each log needs a state of its own" in foreign.stderr
    assert "is damaged" in damaged.stderr


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of so many entries that it is read by processes, as files; to be copied."""
    log = LocalLog()
    log.append(b"%d" % number for number in range(140_000))
    return log.write(tmp_path_factory.mktemp("long"))


def test_processes_side_by_side_find_the_same_as_one(long_log: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(long_log, tmp_path / "log")
    flip(folder / "tile/entries/500", 9)

    def found(*options: str) -> object:
        command = [sys.executable, "-m", "afdp.cli.__main__", "log", "fsck", os.fspath(folder), "--json", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1, done.stderr
        return json.loads(done.stdout)["fault"]

    assert found("--jobs", "2") == found("--jobs", "1")


def test_interrupted_by_a_key_it_keeps_what_is_good_and_says_nothing_of_the_log(
    server: LogServer, tmp_path: Path, afdp: Afdp, long_log: Path
) -> None:
    shutil.copytree(long_log, server.folder, dirs_exist_ok=True)
    asked, go_on = threading.Event(), threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        go_on.wait(60)
        send(handler, 200, (server.folder / "tile/entries/400").read_bytes())  # nothing is amiss, and much is to come

    server.answers["tile/entries/400"] = wait
    command = [sys.executable, "-m", "afdp.cli.__main__", "log", "fsck", server.url, "--jobs", "2", "--state", "state"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert asked.wait(60)
    os.killpg(process.pid, signal.SIGINT)
    go_on.set()
    _, said = process.communicate(timeout=60)
    del server.answers["tile/entries/400"]

    again = afdp("log", "fsck", server.url, "--state", str(tmp_path / "state"), "--jobs", "1", "--json")

    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert again.exit_code == 0
    assert json.loads(again.stdout)["entries_before"] > 0
