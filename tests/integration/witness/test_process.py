"""The witness as a process, over HTTP: what it answers, what it survives, and beside one that is not ours."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from afdp.cli.output import reasons
from afdp.embedded.process import ServerProcess
from afdp.errors import NotaryError
from afdp.formats.note import Note, VerifierKey, verify
from afdp.formats.witness import AddCheckpoint, parse_cosignatures
from afdp.witness.server import running_witness
from tests.http_attacks import BEHIND, LENGTHS, exchange, statuses
from tests.litewitness import running_litewitness
from tests.local_log import LocalLog
from tests.local_tls import TlsAuthority
from tests.local_witness import asking, consistency, make_witness

AFDP = Path(sys.executable).with_name("afdp")


@pytest.fixture
def log() -> LocalLog:
    log = LocalLog()
    log.append([b"a", b"b", b"c"])
    return log


@asynccontextmanager
async def process(folder: Path, *command: str | Path) -> AsyncIterator[tuple[ServerProcess, httpx.AsyncClient]]:
    """A witness as a process, by default `afdp witness run`, and a client of it."""
    output = folder / "output"
    output.unlink(missing_ok=True)
    command = command or (AFDP, "witness", "run", folder)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    server = await ServerProcess.spawn("witness", command, log=output, environment=environment, folder=Path.cwd())

    async def ready() -> bool:
        return "ready " in output.read_text()

    try:
        await server.until(ready, deadline=20)
        [url] = re.findall(r"ready (\S+)", output.read_text())
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=15) as client:
            yield server, client
    finally:
        await server.stop()


def afdp(*arguments: object) -> str:
    """What `afdp witness …` prints."""
    command = [AFDP, "witness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def ask(client: httpx.AsyncClient, request: AddCheckpoint | bytes) -> httpx.Response:
    body = request if isinstance(request, bytes) else request.to_bytes()
    return await client.post("/add-checkpoint", content=body)


async def test_a_witness_made_by_the_command_cosigns_over_http(tmp_path: Path, log: LocalLog) -> None:
    folder = tmp_path / "witness"
    vkey = VerifierKey.parse(
        afdp("init", folder, "--name", "w.example", "--listen", "127.0.0.1:0", "--log", log.log.vkey)
    )
    assert afdp("vkey", folder) == str(vkey)
    async with process(folder) as (_, client):
        answer = await ask(client, asking(log, 0))
        key, health, metrics = [await client.get(path) for path in ("/vkey", "/health", "/metrics")]

    assert answer.status_code == 200
    assert verify(Note(log.checkpoint().text, parse_cosignatures(answer.content)), [vkey])[0].time
    assert key.text == f"{vkey}\n"
    assert health.status_code == 200
    assert 'afdp_witness_size{origin="notary.localhost"} 3.0' in metrics.text
    assert (folder / "witness.key").stat().st_mode & 0o777 == 0o600


def test_a_witness_is_not_made_twice_and_says_what_is_wrong(tmp_path: Path, log: LocalLog) -> None:
    def init(*more: str) -> subprocess.CompletedProcess[str]:
        command = [AFDP, "witness", "init", tmp_path / "w", "--name", "witness.example", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("correct horse\n")
    assert init("--log", "nonsense").returncode == 2
    assert init("--listen", "everywhere").returncode == 2
    assert init("--passphrase-file", str(secret), "--log", str(log.log.vkey)).returncode == 0
    assert b"ENCRYPTED" in (tmp_path / "w" / "witness.key").read_bytes()
    again = init()
    assert again.returncode == 2
    assert "there already" in again.stderr
    secret.write_text("another\n")
    shown = subprocess.run([AFDP, "witness", "vkey", tmp_path / "w"], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert "passphrase" in shown.stderr


@pytest.mark.parametrize(("when", "remembered"), [("before", 0), ("after", 3)])
async def test_killed_between_its_steps_it_goes_on_from_what_it_has_remembered(
    tmp_path: Path, log: LocalLog, when: str, remembered: int
) -> None:
    make_witness(tmp_path, [log.log.vkey])
    async with process(tmp_path, sys.executable, "-m", "tests.dying_witness", tmp_path, when) as (server, client):
        with pytest.raises(httpx.TransportError):
            await ask(client, asking(log, 0))
        assert await server.wait() == -9

    async with process(tmp_path) as (_, client):
        stale = await ask(client, asking(log, 1))
        assert (stale.status_code, stale.headers["content-type"], stale.text) == (
            *(409, "text/x.tlog.size"),
            f"{remembered}\n",
        )
        log.append([b"d"])
        assert (await ask(client, asking(log, remembered))).status_code == 200


async def test_over_tls_it_speaks_1_3_and_takes_a_renewed_certificate_as_it_runs(tmp_path: Path, log: LocalLog) -> None:
    make_witness(tmp_path / "w", [log.log.vkey])
    authorities = TlsAuthority(tmp_path, "First"), TlsAuthority(tmp_path, "Second")
    cert, key = authorities[0].issue("witness")
    more = f"tls_cert: {cert}\ntls_key: {key}\n"
    (tmp_path / "w" / "witness.yaml").write_text((tmp_path / "w" / "witness.yaml").read_text() + more)

    async def vkey(url: str, authority: TlsAuthority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> int:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.maximum_version = version
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=60) as client:
            return (await ask(client, asking(log, 0))).status_code

    async with running_witness(tmp_path / "w") as url:
        assert url.startswith("https://")
        assert await vkey(url, authorities[0]) == 200
        with pytest.raises(httpx.TransportError):
            await vkey(url, authorities[0], ssl.TLSVersion.TLSv1_2)
        authorities[1].issue("witness")
        assert await vkey(url, authorities[1]) in (200, 409)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("listen: 0.0.0.0:0\n", "listen is 0.0.0.0, which other machines reach"),
        ("listen: 127.0.0.1:0\ntls_cert: /c.pem\n", "tls_key is missing"),
        ("listen: 127.0.0.1:0\ntls_cert: /c.pem\ntls_key: /k.pem\n", "tls_cert /c.pem with tls_key /k.pem cannot be"),
    ],
)
async def test_plain_text_off_loopback_and_files_that_do_not_serve_end_its_start(
    tmp_path: Path, log: LocalLog, more: str, why: str
) -> None:
    make_witness(tmp_path / "w", [log.log.vkey])
    file = tmp_path / "w" / "witness.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "listen" not in line) + more)

    with pytest.raises(NotaryError) as refused:
        async with running_witness(tmp_path / "w"):
            pass
    assert why in reasons(refused.value)


async def test_bodies_that_are_too_large_and_other_ways_in_are_refused(tmp_path: Path, log: LocalLog) -> None:
    make_witness(tmp_path, [log.log.vkey])
    async with process(tmp_path) as (_, client):
        assert (await ask(client, b"a" * 70_000)).status_code == 413
        assert (await client.get("/add-checkpoint")).status_code == 405
        assert (await client.post("/elsewhere")).status_code == 404
        assert (await ask(client, b"\0")).status_code == 400
        assert (await ask(client, asking(log, 0))).status_code == 200


async def test_a_client_that_never_says_what_it_wants_is_hung_up_on(
    tmp_path: Path, log: LocalLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.witness.server._HEAD_SECONDS", 0.2)
    monkeypatch.setattr("afdp.witness.server._REQUEST_SECONDS", 0.2)
    make_witness(tmp_path, [log.log.vkey])
    async with running_witness(tmp_path) as url:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /add-checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nold 0"
        for said, answered in ((b"POST /add-ch", b""), (head, b"HTTP/1.1 504")):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            async with asyncio.timeout(30):
                assert (await reader.read(12)) == answered
            writer.close()


async def test_a_body_whose_end_is_in_doubt_is_refused(tmp_path: Path, log: LocalLog) -> None:
    make_witness(tmp_path, [log.log.vkey])
    async with running_witness(tmp_path) as url:
        port = int(url.rpartition(":")[2])
        for name, attack in LENGTHS.items():
            answer = await exchange(port, attack.replace(b"/api/v1/evidence/sign", b"/add-checkpoint") + BEHIND)
            assert statuses(answer) == [400], name


async def test_it_answers_as_a_witness_that_is_not_ours(
    tmp_path: Path, log: LocalLog, tool: Callable[[str], Path]
) -> None:
    make_witness(tmp_path / "ours", [log.log.vkey])
    (tmp_path / "theirs").mkdir()
    requests = _requests(log)
    async with (
        running_litewitness(tool, tmp_path / "theirs", [log.log.vkey]) as theirs,
        running_witness(tmp_path / "ours") as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as our_client,
        httpx.AsyncClient(base_url=theirs.url, trust_env=False) as their_client,
    ):
        seen = []
        for name, request in requests:
            ours, other = await ask(our_client, request), await ask(their_client, request)
            seen.append(ours.status_code)
            assert (name, other.status_code) == (name, _THEIRS.get(name, ours.status_code))
            if ours.headers["content-type"] == "text/x.tlog.size":
                assert (ours.headers["content-type"], ours.content) == (
                    other.headers["content-type"],
                    other.content,
                )
            if ours.status_code == 200:
                note = Note.parse(request.partition(b"\n\n")[2])
                assert verify(Note(note.text, parse_cosignatures(other.content)), [theirs.vkey])

    assert set(seen) == {200, 400, 403, 404, 409, 422}


# Where theirs is not what the specification says.
_THEIRS = {"another root": 422}


def _requests(log: LocalLog) -> list[tuple[str, bytes]]:
    """A history of requests of every kind but one: a proof from the empty tree, which theirs lets pass."""
    thief, stranger = LocalLog(), LocalLog(origin="elsewhere.example")
    for each in (thief, stranger):
        each.append([b"a"])
    found = [
        ("nothing cosigned yet", asking(log, 2).to_bytes()),
        ("the first", asking(log, 0).to_bytes()),
        ("the same again", asking(log, 3).to_bytes()),
        ("a stale old size", asking(log, 1).to_bytes()),
        ("another root", asking(log, 3, log.checkpoint(root=bytes(32))).to_bytes()),
        ("another key", asking(thief, 0).to_bytes()),
        ("another log", asking(stranger, 0).to_bytes()),
        ("an old size beyond", AddCheckpoint(4, (), log.checkpoint()).to_bytes()),
        ("no request", b"hello"),
    ]
    log.append([b"d", b"e"])
    found += [
        ("a proof cut short", AddCheckpoint(3, consistency(log, 3)[:-1], log.checkpoint()).to_bytes()),
        ("the next", asking(log, 3).to_bytes()),
        ("back to before", asking(log, 3).to_bytes()),
    ]
    return found
