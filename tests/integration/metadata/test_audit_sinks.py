"""Sinks against what they are meant for: syslog-ng, a collector by HTTP, and whoever reads a file."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
import pytest_asyncio

from afdp.audit.event import RecordedEvent
from afdp.audit.ocsf import to_ocsf
from afdp.metadata.sinks.file import FileSink
from afdp.metadata.sinks.http import MOST_PATIENCE, HttpSink
from afdp.metadata.sinks.settings import FileSettings, HttpSettings, SyslogSettings
from afdp.metadata.sinks.sink import OwnThread, SinkError
from afdp.metadata.sinks.syslog import SyslogSink
from tests.collector import Collector, running_collector
from tests.local_tls import TlsAuthority
from tests.syslog_server import SyslogServer, running_syslog


def event(number: int, **more: Any) -> RecordedEvent:
    facts: dict[str, Any] = {
        "time": datetime(2026, 11, 24, 21, 30, 0, 250_000, tzinfo=UTC),
        "step": "authorization",
        "result": "deny",
        "rpc": "GetEvidence",
        "permission": "evidence.read",
        "reason": 'outside of "hours" [a=b|c\\d] – ünïcode\nand more',
        "subject": "ci@acme",
        "tenant": "acme",
        "sequence": number,
        "uid": f"uid-{number}",
    }
    return RecordedEvent(**{**facts, **more})


def events(count: int) -> list[RecordedEvent]:
    return [event(number) for number in range(1, count + 1)]


# --- syslog -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TlsAuthority:
    return TlsAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client(authority: TlsAuthority) -> dict[str, Path]:
    cert, key = authority.issue("metadata")
    return {"ca": authority.file, "cert": cert, "key": key}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def receiver(
    tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, authority: TlsAuthority
) -> AsyncIterator[SyslogServer]:
    folder = tmp_path_factory.mktemp("syslog") / "server"
    async with running_syslog(tool("syslog-ng"), folder, authority) as server:
        yield server


def syslog_sink(address: str, **more: Any) -> SyslogSink:
    return SyslogSink(SyslogSettings(name="soc", kind="syslog", address=address, **more))


def of_process(messages: list[dict[str, Any]], hostname: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["HOST"] == hostname]


async def test_events_reach_a_receiver_of_syslog_whole_and_in_order(
    receiver: SyslogServer, client: dict[str, Path]
) -> None:
    before = len(receiver.messages())
    sink = syslog_sink(receiver.address, hostname="in-order", enterprise=4242, **client)

    await sink.deliver(events(700))

    found = (await receiver.received(before + 700))[before:]
    assert [message["_SDATA"]["afdp@4242"]["sequence"] for message in found] == [str(n) for n in range(1, 701)]
    last = found[-1]
    assert orjson.loads(last["MESSAGE"]) == to_ocsf(event(700))
    assert (last["PROGRAM"], last["MSGID"], last["HOST"], last["PRI"]) == (
        "afdp-notary",
        "authorization",
        "in-order",
        str(13 * 8 + 4),
    )
    assert last["_SDATA"]["afdp@4242"] | {"sequence": ""} == {
        "uid": "uid-700",
        "sequence": "",
        "tenant": "acme",
        "rpc": "GetEvidence",
        "result": "deny",
    }


async def test_what_structured_data_has_to_escape_arrives_as_it_was(
    receiver: SyslogServer, client: dict[str, Path]
) -> None:
    before = len(receiver.messages())
    hostile = 'a"b]c\\d[e=f'

    await syslog_sink(receiver.address, format="cef", **client).deliver([event(1, tenant=hostile)])

    found = (await receiver.received(before + 1))[-1]
    assert found["_SDATA"]["afdp@32473"]["tenant"] == hostile
    assert found["MESSAGE"].startswith("CEF:0|AFDP|Notary Service|")
    assert r"reason=outside of \"hours\"".replace('\\"', '"') in found["MESSAGE"]
    assert r"[a\=b|c\\d] – ünïcode\nand more" in found["MESSAGE"]


async def test_a_receiver_that_wants_a_certificate_gets_nothing_from_who_shows_none(
    receiver: SyslogServer, authority: TlsAuthority
) -> None:
    before = len(receiver.messages())

    with pytest.raises(SinkError):
        await syslog_sink(receiver.address, ca=authority.file).deliver(events(1))

    assert len(receiver.messages()) == before


async def test_a_receiver_of_another_name_or_another_authority_is_not_believed(
    receiver: SyslogServer, client: dict[str, Path], tmp_path: Path
) -> None:
    before = len(receiver.messages())
    stranger = TlsAuthority(tmp_path, "Stranger")

    with pytest.raises(SinkError, match=r"its certificate is not believed: .*siem\.example"):
        await syslog_sink(receiver.address, server_name="siem.example", **client).deliver(events(1))
    with pytest.raises(SinkError, match="its certificate is not believed"):
        await syslog_sink(receiver.address, **{**client, "ca": stranger.file}).deliver(events(1))

    assert len(receiver.messages()) == before


async def test_a_probe_of_a_receiver_sends_it_no_message(receiver: SyslogServer, client: dict[str, Path]) -> None:
    before = len(receiver.messages())

    said = await syslog_sink(receiver.address, **client).probe()

    assert said == f"{receiver.address} takes our certificate, over TLSv1.3"
    assert len(receiver.messages()) == before


async def test_a_frozen_receiver_has_nothing_until_it_says_so(receiver: SyslogServer, client: dict[str, Path]) -> None:
    sink = syslog_sink(receiver.address, timeout_seconds=0.3, **client)
    receiver.freeze()
    try:
        with pytest.raises(SinkError, match=r"does not answer in time|did not take them"):
            await sink.deliver(events(1))
    finally:
        receiver.thaw()


async def test_where_nobody_listens_that_is_said(client: dict[str, Path]) -> None:
    with pytest.raises(SinkError, match="Connection refused"):
        await syslog_sink("127.0.0.1:1", **client).deliver(events(1))


async def test_a_key_that_is_not_its_certificates_is_said_and_shown_nowhere(
    client: dict[str, Path], tmp_path: Path
) -> None:
    _, other = TlsAuthority(tmp_path).issue("other")

    with pytest.raises(SinkError, match="are no certificate and its key"):
        await syslog_sink("127.0.0.1:1", **{**client, "key": other}).deliver(events(1))


class Liar:
    """A TLS server that reads what comes, and ends as it is told to."""

    def __init__(self, authority: TlsAuthority, ends: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if ends == "old":
            self._context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(*authority.issue("liar"))
        self._ends = ends
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        plain, _ = self._listening.accept()
        try:
            connection = self._context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
        except OSError:
            plain.close()
            return
        try:
            while self._ends == "chatter":
                connection.sendall(b"x" * 16_384)
            while connection.recv(65_536):
                pass
        except OSError:
            pass
        # The end of a TCP connection, and nothing of TLS; that of `SSLSocket.close` is the same.
        connection.close()

    def close(self) -> None:
        self._listening.close()
        self._thread.join(timeout=30)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("silently", "without TLS's close_notify|reset"),
        ("old", "TLS: |close_notify|reset"),
        ("chatter", "says more than|close_notify|Broken|reset"),
    ],
)
async def test_a_receiver_that_does_not_end_as_tls_does_is_believed_nothing(
    authority: TlsAuthority, ends: str, reason: str
) -> None:
    liar = Liar(authority, ends)
    try:
        with pytest.raises(SinkError, match=reason):
            await syslog_sink(liar.address, ca=authority.file).deliver(events(3))
    finally:
        liar.close()


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


def http_sink(url: str, **more: Any) -> HttpSink:
    return HttpSink(HttpSettings(name="lake", kind="http", url=url, **more))


def secret_file(folder: Path, text: str = "s3cret\n") -> Path:
    file = folder / "token"
    file.write_text(text)
    file.chmod(0o600)
    return file


async def test_events_reach_a_collector_a_line_each_with_the_token(collector: Collector, tmp_path: Path) -> None:
    sink = http_sink(collector.url, token_file=secret_file(tmp_path))

    await sink.deliver(events(3))

    [post] = collector.taken
    assert post.headers["authorization"] == "Bearer s3cret"
    assert post.headers["content-type"] == "application/x-ndjson"
    assert post.events == [to_ocsf(each) for each in events(3)]


async def test_events_reach_a_collector_as_an_array_and_a_token_of_another_scheme(
    collector: Collector, tmp_path: Path
) -> None:
    sink = http_sink(collector.url, body="array", token_file=secret_file(tmp_path), token_scheme="Splunk")

    await sink.deliver(events(2))

    [post] = collector.taken
    assert post.headers["authorization"] == "Splunk s3cret"
    assert orjson.loads(post.body) == [to_ocsf(each) for each in events(2)]


async def test_a_token_that_has_changed_is_taken_with_the_next_batch(collector: Collector, tmp_path: Path) -> None:
    file = secret_file(tmp_path)
    sink = http_sink(collector.url, token_file=file)
    await sink.deliver(events(1))

    file.write_text("another")
    await sink.deliver(events(1))

    assert collector.taken[-1].headers["authorization"] == "Bearer another"


async def test_a_token_that_everybody_may_read_is_not_sent(collector: Collector, tmp_path: Path) -> None:
    file = secret_file(tmp_path)
    file.chmod(0o644)

    with pytest.raises(SinkError, match="can be read by everybody"):
        await http_sink(collector.url, token_file=file).deliver(events(1))

    assert not collector.taken


async def test_what_is_too_much_for_one_request_is_sent_in_parts_in_order(collector: Collector) -> None:
    one = len(orjson.dumps(to_ocsf(event(1))))
    collector.most = 3 * one

    await http_sink(collector.url).deliver(events(10))

    assert collector.uids == [f"uid-{number}" for number in range(1, 11)]
    assert len(collector.taken) >= 4


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [
        (500, {}, None),
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "999999999999"}, MOST_PATIENCE),
        (503, {"Retry-After": "soon"}, None),
        (302, {"Location": "/elsewhere"}, None),
        (401, {}, None),
        (413, {}, None),
    ],
)
async def test_a_collector_that_does_not_take_them_says_how_long_to_wait(
    collector: Collector, status: int, headers: dict[str, str], retry_after: float | None
) -> None:
    collector.answers.append((status, headers))

    with pytest.raises(SinkError, match=f"answers with status {status}") as raised:
        await http_sink(collector.url).deliver(events(1))

    assert raised.value.retry_after == retry_after
    assert len(collector.refused) == 1
    assert not collector.taken


async def test_a_date_until_which_to_wait_is_understood(collector: Collector) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1800)
    collector.answers.append((503, {"Retry-After": until.strftime("%a, %d %b %Y %H:%M:%S GMT")}))

    with pytest.raises(SinkError) as raised:
        await http_sink(collector.url).deliver(events(1))

    assert raised.value.retry_after is not None
    assert 900 < raised.value.retry_after <= 1800


async def test_a_collector_that_does_not_answer_is_waited_for_no_longer_than_the_settings_say(
    collector: Collector,
) -> None:
    collector.going.clear()

    with pytest.raises(SinkError, match="does not answer"):
        await http_sink(collector.url, timeout_seconds=0.2).deliver(events(1))


async def test_of_an_endless_answer_only_a_little_is_read(collector: Collector) -> None:
    collector.padding = 50_000_000

    await http_sink(collector.url).deliver(events(1))

    assert len(collector.taken) == 1


async def test_a_collector_over_tls_is_looked_at_and_shown_our_certificate(
    authority: TlsAuthority, client: dict[str, Path], tmp_path: Path
) -> None:
    with running_collector(authority, clients=True) as secure:
        await http_sink(secure.url, **client).deliver(events(1))
        with pytest.raises(SinkError):
            await http_sink(secure.url, ca=authority.file).deliver(events(1))
        with pytest.raises(SinkError, match="its certificate is not believed"):
            await http_sink(secure.url, **{**client, "ca": TlsAuthority(tmp_path, "Other").file}).deliver(events(1))

        assert len(secure.taken) == 1


async def test_a_probe_of_a_collector_posts_nothing(collector: Collector) -> None:
    assert "answers, with status 405" in await http_sink(collector.url).probe()
    assert not collector.taken


async def test_no_message_about_a_collector_shows_what_follows_its_host(tmp_path: Path) -> None:
    with pytest.raises(SinkError) as raised:
        await http_sink("http://127.0.0.1:1/services?token=hidden").deliver(events(1))

    assert "hidden" not in raised.value.reason
    assert raised.value.reason.startswith("http://127.0.0.1:1: ")


# --- a file -----------------------------------------------------------------------------------------------------------


def file_sink(path: Path, **more: Any) -> FileSink:
    return FileSink(FileSettings(name="disk", kind="file", path=path, **more))


def told(*files: Path) -> list[str]:
    return [orjson.loads(line)["metadata"]["uid"] for file in files for line in file.read_bytes().splitlines()]


async def test_events_are_appended_to_a_file_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "audit.ocsf"
    sink = file_sink(file)

    await sink.deliver(events(2))
    await sink.deliver([event(3)])

    assert told(file) == ["uid-1", "uid-2", "uid-3"]
    assert file.stat().st_mode & 0o777 == 0o640


async def test_a_file_that_is_full_is_rotated_and_keeps_its_name(tmp_path: Path) -> None:
    file = tmp_path / "audit.ocsf"
    sink = file_sink(file, rotate_bytes=64 * 1024, keep=2)
    batch = 64 * 1024 // len(orjson.dumps(to_ocsf(event(1)))) + 2

    numbers = iter(range(1, 100_000))
    for _ in range(4):
        await sink.deliver([event(next(numbers)) for _ in range(batch)])

    older = [tmp_path / "audit.ocsf.2", tmp_path / "audit.ocsf.1"]
    assert sorted(os.listdir(tmp_path)) == ["audit.ocsf", "audit.ocsf.1", "audit.ocsf.2"]
    assert told(*older, file) == [f"uid-{number}" for number in range(batch + 1, 4 * batch + 1)]


async def test_a_line_that_a_crash_has_cut_off_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "audit.ocsf"
    sink = file_sink(file)
    await sink.deliver([event(1)])
    with file.open("ab") as opened:
        opened.write(b'{"metadata": {"uid": "uid-2", "ver')

    await sink.deliver([event(2)])

    lines = file.read_bytes().splitlines()
    assert len(lines) == 3
    assert [orjson.loads(lines[at])["metadata"]["uid"] for at in (0, 2)] == ["uid-1", "uid-2"]


async def test_what_is_no_file_of_ours_is_not_written_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")

    for name in ("link", "pipe", "missing/file", "."):
        with pytest.raises(SinkError):
            await file_sink(tmp_path / name).deliver([event(1)])
        with pytest.raises(SinkError):
            await file_sink(tmp_path / name).probe()

    assert target.read_text() == ""


async def test_what_hangs_is_tried_again_by_nobody_until_it_goes_on(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = OwnThread("hanging")

    with pytest.raises(SinkError, match=r"within 0\.1 seconds"):
        await thread.run(pipe.read_bytes, 0.1)
    with pytest.raises(SinkError, match="an earlier attempt still hangs"):
        await thread.run(list, 60)

    pipe.write_bytes(b"x")
    async with asyncio.timeout(60):
        while True:
            try:
                assert await thread.run(list, 60) == []
                break
            except SinkError:
                await asyncio.sleep(0.01)
