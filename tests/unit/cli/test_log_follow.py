from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from afdp.cli.__main__ import cli
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import entry_body
from afdp.formats.note import Checkpoint, Note, NoteSignature
from tests.local_log import LocalLog
from tests.log_rules import rule
from tests.log_server import LogServer, log_server, send

Afdp = Callable[..., Result]

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def afdp() -> Afdp:
    return lambda *arguments: CliRunner().invoke(cli, [*arguments], prog_name="afdp")


@pytest.fixture
def log() -> LocalLog:
    log = LocalLog()
    log.append(b"entry %d" % number for number in range(700))
    return log


@pytest.fixture
def server(log: LocalLog, tmp_path: Path) -> Iterator[LogServer]:
    with log_server(log.write(tmp_path / "log")) as served:
        yield served


@pytest.fixture
def follow(afdp: Afdp, server: LogServer, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Looks once; gives the exit status and what it says."""

    def look(*options: str) -> tuple[int, dict[str, Any]]:
        state = ("--state", str(tmp_path / "state.json"))
        result = afdp("log", "follow", server.url, *state, "--once", "--json", *options)
        return result.exit_code, said_in(result.stdout) if result.stdout else {"error": result.stderr}

    return look


def said_in(output: str) -> dict[str, Any]:
    """The line of a look, with the matches of the lines before it."""
    *found, said = map(json.loads, output.splitlines())
    matches = [match for each in found for match in each["matches"]]
    assert said.get("entries_found", len(matches)) == len(matches)
    return {**said, "matches": matches}


def grown(log: LocalLog, server: LogServer, *entries: bytes) -> None:
    log.append(entries)
    log.write(server.folder)


def signed(log: LocalLog, checkpoint: Checkpoint) -> bytes:
    text = checkpoint.body()
    return Note(text, (NoteSignature.by(log.log.vkey, log.key.sign(text.encode())),)).to_bytes()


def test_a_log_is_believed_at_the_first_look_and_read_from_there_on(follow, server, log) -> None:
    first = follow()
    grown(log, server, b"one", b"two")
    second = follow()
    third = follow()

    assert (first[0], first[1]["size"], first[1]["entries_read"]) == (0, 700, 0)
    assert (second[0], second[1]["size_before"], second[1]["size"], second[1]["entries_read"]) == (0, 700, 702, 2)
    assert (third[0], third[1]["entries_read"]) == (0, 0)


def test_from_start_every_entry_is_read(follow) -> None:
    assert follow("--from-start")[1]["entries_read"] == 700


# --- what is found ----------------------------------------------------------------------------------------------------


def by_key(private: ec.EllipticCurvePrivateKey, text: bytes) -> bytes:
    digest = sha256(text).digest()
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return entry_body(digest, private.sign(text, ec.ECDSA(SHA256())), spki)


def certificate(email: str, issuer: str) -> x509.Certificate:
    name = x509.Name([])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(
                ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), b"\x0c" + bytes([len(issuer)]) + issuer.encode()
            ),
            critical=False,
        )
        .sign(KEY, SHA256())
    )


def kinds() -> dict[str, dict[str, Any]]:
    """An entry of each kind with a certificate of mia@example.org in it."""
    found = certificate("mia@example.org", "https://login.example")
    pem, der = b64(found.public_bytes(Encoding.PEM)), b64(found.public_bytes(Encoding.DER))
    return {
        "hashedrekord 0.0.1": {"signature": {"publicKey": {"content": pem}}},
        "hashedrekord 0.0.2": {"hashedRekordV002": {"signature": {"verifier": {"x509Certificate": {"rawBytes": der}}}}},
        "dsse 0.0.1": {"signatures": [{"verifier": pem}]},
        "dsse 0.0.2": {"dsseV002": {"signatures": [{"verifier": {"x509Certificate": {"rawBytes": der}}}]}},
        "intoto 0.0.2": {"content": {"envelope": {"signatures": [{"publicKey": pem}]}}},
    }


def entry_of(kind: str, spec: dict[str, Any]) -> bytes:
    name, version = kind.split()
    return json.dumps({"apiVersion": version, "kind": name, "spec": spec}).encode()


def test_an_entry_by_a_watched_key_is_found_once_and_the_log_is_good_all_the_same(follow, server, log) -> None:
    fingerprint = sha256(SPKI).hexdigest()
    follow("--key", fingerprint)
    other = ec.generate_private_key(ec.SECP256R1())
    grown(log, server, by_key(other, b"a"), by_key(KEY, b"b"))

    status, said = follow("--key", fingerprint)

    assert status == 0
    assert [(each["index"], each["key_sha256"]) for each in said["matches"]] == [(701, fingerprint)]
    assert follow("--key", fingerprint)[1]["matches"] == []


def test_a_key_is_named_by_a_file_a_hint_or_a_fingerprint_and_may_end_with_1(follow, server, log, tmp_path) -> None:
    (tmp_path / "key.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    follow()
    for name in (str(tmp_path / "key.pem"), b64(sha256(SPKI).digest()), f"sha256:{sha256(SPKI).hexdigest()}"):
        grown(log, server, by_key(KEY, name.encode()))

        status, said = follow("--key", name, "--exit-on-match")

        assert (status, len(said["matches"]), said["good"]) == (1, 1, True)


def test_what_was_found_before_a_log_went_away_is_told_and_ends_it(follow, server, log) -> None:
    follow()
    grown(log, server, by_key(KEY, b"a"), *(b"%d" % number for number in range(20_000)))
    key = ("--key", sha256(SPKI).hexdigest(), "--exit-on-match")
    server.answers["tile/entries/075"] = lambda handler: send(handler, 500, b"")

    status, said = follow(*key)
    del server.answers["tile/entries/075"]
    later = follow(*key)

    assert (status, said["reached"], [each["index"] for each in said["matches"]]) == (1, False, [700])
    assert (later[0], later[1]["matches"], later[1]["size"]) == (0, [], 20_701)


@pytest.mark.parametrize("kind", kinds())
def test_an_identity_is_found_in_entries_of_every_kind(follow, server, log, kind: str) -> None:
    follow()
    grown(log, server, entry_of(kind, kinds()[kind]))

    said = follow("--identity", "@example\\.org$", "--issuer", "login")[1]

    (match,) = said["matches"]
    assert (match["index"], match["subjects"], match["issuer"]) == (700, ["mia@example.org"], "https://login.example")


def test_an_identity_of_another_issuer_and_another_address_are_not_meant(follow, server, log) -> None:
    follow()
    grown(log, server, entry_of("hashedrekord 0.0.1", kinds()["hashedrekord 0.0.1"]))

    said = follow("--identity-email", "ia@example.org", "--key", "ab" * 32)[1]

    assert (said["matches"], said["entries_read"], said["entries_unreadable"]) == ([], 1, 0)


def test_entries_that_cannot_be_read_are_counted(follow, server, log) -> None:
    follow()
    grown(log, server, b"what", b'{"kind":"helm","apiVersion":"0.0.1","spec":{}}', entry_of("dsse 0.0.1", {}))

    assert follow("--key", "ab" * 32)[1]["entries_unreadable"] == 3


# --- logs that are not good -------------------------------------------------------------------------------------------


def forked(log: LocalLog, server: LogServer) -> None:
    fork = LocalLog(key=log.key)
    fork.append([b"other", *log.entries[1:], b"more"])
    fork.write(server.folder)


def forked_at_its_size(log: LocalLog, server: LogServer) -> None:
    fork = LocalLog(key=log.key)
    fork.append([*log.entries[:-1], b"other"])
    fork.write(server.folder)


def rolled_back(log: LocalLog, server: LogServer) -> None:
    older = LocalLog(key=log.key)
    older.append(log.entries[:500])
    older.write(server.folder)


def shrunk_to_nothing(log: LocalLog, server: LogServer) -> None:
    LocalLog(key=log.key).write(server.folder)


def wrongly_signed(log: LocalLog, server: LogServer) -> None:
    (server.folder / "checkpoint").write_bytes(signed(LocalLog(), Checkpoint("notary.localhost", 701, bytes(32))))


def of_another_origin(log: LocalLog, server: LogServer) -> None:
    other = LocalLog(origin="other.localhost", key=log.key)
    other.append([*log.entries, b"more"])
    (server.folder / "checkpoint").write_bytes(other.checkpoint().to_bytes())


def without_a_tree(log: LocalLog, server: LogServer) -> None:
    (server.folder / "checkpoint").write_bytes(signed(log, Checkpoint("notary.localhost", 700 + 2**40, bytes(32))))


BAD = [
    (forked, "does not go on from the one of 700 entries"),
    (forked_at_its_size, "it has forked"),
    (rolled_back, "it was rolled back"),
    (shrunk_to_nothing, "it was rolled back"),
    (wrongly_signed, "is not signed by a known key"),
    (of_another_origin, "is not signed by a known key"),
    (without_a_tree, "is missing"),
]


@rule(5)
@pytest.mark.parametrize(("bad", "said"), BAD, ids=lambda each: getattr(each, "__name__", ""))
def test_a_log_that_is_not_good_is_refused_with_both_notes_saved(
    follow, server: LogServer, log: LocalLog, tmp_path: Path, bad: Callable[[LocalLog, LogServer], None], said: str
) -> None:
    key = tmp_path / "key"
    key.write_text(str(log.log.vkey))
    follow("--vkey", str(key))
    kept, seen = (tmp_path / "state.json").read_bytes(), log.checkpoint().to_bytes()
    bad(log, server)

    for _ in range(2):
        status, answer = follow("--vkey", str(key))

        assert (status, answer["good"]) == (1, False)
        assert said in answer["fault"]["reason"]
    assert len(list((tmp_path / "state.json.evidence").iterdir())) == 1
    evidence = Path(answer["evidence"])
    assert (evidence / "seen.checkpoint").read_bytes() == seen
    assert (evidence / "served.checkpoint").read_bytes() == (server.folder / "checkpoint").read_bytes()
    assert (tmp_path / "state.json").read_bytes() == kept


def test_a_log_that_changes_the_key_it_says_is_still_checked_with_the_first_one(follow, server, log, tmp_path) -> None:
    follow()
    other = LocalLog()
    other.append([*log.entries, b"more"])
    other.write(server.folder)

    status, answer = follow()

    assert (status, answer["good"]) == (1, False)
    assert "not signed by a known key" in answer["fault"]["reason"]
    assert (Path(answer["evidence"]) / "served.checkpoint").read_bytes() == other.checkpoint().to_bytes()


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65_536))


HOSTILE = [
    ("checkpoint", endless, 1, "larger than any such file"),
    ("tile/0/002.p/189", endless, 1, "larger than any such file"),
    ("tile/0/002.p/189", lambda handler: send(handler, 200, bytes(32)), 1, "has 32 bytes"),
    ("tile/entries/002.p/189", lambda handler: send(handler, 200, b"\xff\xff"), 1, "not an entry bundle"),
    ("tile/entries/002.p/189", lambda handler: send(handler, 302, b"", Location="/"), 3, "to another place"),
]


@pytest.mark.parametrize(("path", "answer", "status", "said"), HOSTILE)
def test_a_log_that_lies_is_named_and_told_of(follow, server, log, tmp_path, path, answer, status, said) -> None:
    follow()
    grown(log, server, b"more")
    server.answers[path] = answer

    code, told = follow("--textfile", str(tmp_path / "prom"))

    assert code == status
    assert said in json.dumps(told)
    assert f'afdp_monitor_{"good" if status == 1 else "reached"}{{origin="notary.localhost"}} 0' in (
        (tmp_path / "prom").read_text()
    )


def test_an_entry_that_is_not_the_one_in_the_tree_is_named_and_read_again_later(follow, server, log) -> None:
    follow()
    grown(log, server, b"one", b"two")
    bundle = server.folder / "tile/entries/002.p/190"
    good = bundle.read_bytes()
    bundle.write_bytes(good[:-1] + b"O")

    status, said = follow()
    bundle.write_bytes(good)
    again = follow()

    assert (status, said["fault"]["path"], said["fault"]["entry"]) == (1, "tile/entries/002.p/190", 701)
    assert said["fault"]["offset"] == len(good) - 5
    assert (again[0], again[1]["entries_read"]) == (0, 2)


def test_a_log_that_is_away_exits_3_and_one_that_is_back_is_gone_on_with(follow, server, log) -> None:
    follow()
    server.answers["checkpoint"] = lambda handler: send(handler, 403, b"")
    away = follow()
    del server.answers["checkpoint"]

    assert away[0] == 3
    assert follow()[0] == 0


def test_of_several_keys_of_one_log_that_are_trusted_the_one_that_signs_is_taken(follow, log, tmp_path) -> None:
    keys = tmp_path / "log.vkey"
    keys.write_text("".join(f"{each.log.vkey}\n" for each in (LocalLog(), log, LocalLog("other.example"))))

    status, said = follow("--vkey", str(keys))

    assert (status, said["size"]) == (0, 700), said


def test_a_server_that_sends_its_answer_byte_by_byte_gets_no_longer_than_one_that_sends_nothing(follow, server) -> None:
    patient = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(600):
            if patient.wait(0.05):
                return
            handler.wfile.write(b"a")

    server.answers["checkpoint"] = drip
    began = time.monotonic()
    status, said = follow("--timeout", "0.2")
    patient.set()

    assert status == 3
    assert "took longer than 0.2 s for one file" in str(said)
    assert time.monotonic() - began < 30


# --- who is told ------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with log_server(tmp_path) as served:
        yield Receiver(served)


class Receiver:
    """Takes alerts; `refusing` answers 500 so often before."""

    def __init__(self, server: LogServer) -> None:
        self.url = f"{server.url}/alerts"
        self.taken: list[dict[str, Any]] = []
        self.refusing = 0
        server.answers["alerts"] = self.take

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self.refusing:
            self.refusing -= 1
            send(handler, 500, b"")
            return
        self.taken.append(body)
        send(handler, 204, b"")


def test_a_webhook_is_told_what_is_found_and_what_is_wrong(follow, server, log, receiver: Receiver) -> None:
    fingerprint = sha256(SPKI).hexdigest()
    options = ("--key", fingerprint, "--webhook", receiver.url)
    follow(*options)
    grown(log, server, by_key(KEY, b"a"))
    receiver.refusing = 1
    follow(*options)
    forked(log, server)
    follow(*options)

    match, fault = receiver.taken
    assert (match["alert"], match["log"], match["matches"][0]["index"]) == ("match", "notary.localhost", 700)
    assert fault["alert"] == "fault"
    assert fault["seen"].startswith("notary.localhost\n701\n")
    assert fault["served"].startswith("notary.localhost\n702\n")
    assert "forked" in fault["fault"]["reason"]


def test_what_the_webhook_did_not_take_is_found_again(follow, server, log, receiver: Receiver) -> None:
    fingerprint = sha256(SPKI).hexdigest()
    follow()
    grown(log, server, by_key(KEY, b"a"))
    nobody = follow("--key", fingerprint, "--webhook", f"{receiver.url}/of-nobody")
    told = follow("--key", fingerprint, "--webhook", receiver.url)

    assert nobody[0] == 3
    assert told[0] == 0
    assert [each["index"] for each in receiver.taken[0]["matches"]] == [700]


def test_prometheus_is_told_by_a_file(follow, server, log, tmp_path) -> None:
    file = tmp_path / "log.prom"
    options = ("--textfile", str(file), "--key", sha256(SPKI).hexdigest())
    follow(*options)
    grown(log, server, by_key(KEY, b"a"), b"b")
    follow(*options)
    good = file.read_text()
    rolled_back(log, server)
    follow(*options)

    assert 'afdp_monitor_size{origin="notary.localhost"} 702\n' in good
    assert 'afdp_monitor_read{origin="notary.localhost"} 702\n' in good
    assert f'afdp_monitor_matches_total{{origin="notary.localhost",watched="key {sha256(SPKI).hexdigest()}"}} 1' in good
    assert 'afdp_monitor_good{origin="notary.localhost"} 1\n' in good
    assert 'afdp_monitor_good{origin="notary.localhost"} 0\n' in file.read_text()
    assert 'afdp_monitor_size{origin="notary.localhost"} 702\n' in file.read_text()


# --- as a process -----------------------------------------------------------------------------------------------------


def test_it_looks_again_and_again_until_it_is_told_to_stop(server, log, tmp_path) -> None:
    process = following(server, tmp_path, "--interval", "0.05")
    try:
        assert json.loads(line_of(process))["size"] == 700
        grown(log, server, b"more")
        while (said := json.loads(line_of(process)))["size"] != 701:
            pass
        assert said["good"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_killed_while_it_reads_it_goes_on_and_misses_nothing(server, log, tmp_path) -> None:
    blocked, go_on = threading.Event(), threading.Event()
    grown(log, server, by_key(KEY, b"a"), *(b"%d" % number for number in range(40_000)))
    key = ("--key", sha256(SPKI).hexdigest())
    path = "tile/entries/150"
    whole = (server.folder / path).read_bytes()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        blocked.set()
        go_on.wait(30)
        send(handler, 200, whole)

    server.answers[path] = wait
    process = following(server, tmp_path, "--from-start", "--once", *key)
    assert blocked.wait(30)
    process.kill()
    before = process.communicate(timeout=30)[0]
    go_on.set()
    del server.answers[path]

    again = following(server, tmp_path, "--from-start", "--once", *key)
    lines = [json.loads(line) for line in (before + again.communicate(timeout=60)[0]).splitlines()]

    assert again.returncode == 0
    assert (lines[-1]["size"], lines[-1]["good"]) == (40_701, True)
    assert lines[-1]["entries_read"] in (40_701 - 2 * 16_384, 40_701 - 16_384, 40_701)
    assert {match["index"] for line in lines[:-1] for match in line["matches"]} == {700}
    assert json.loads((tmp_path / "state.json").read_text())["read"] == 40_701


def following(server: LogServer, folder: Path, *options: str) -> subprocess.Popen[str]:
    state = ("--state", os.fspath(folder / "state.json"), "--json")
    command = [sys.executable, "-m", "afdp.cli.__main__", "log", "follow", server.url, *state, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
