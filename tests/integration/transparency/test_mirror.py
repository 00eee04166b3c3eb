"""A mirror in a folder and in a bucket, read from a plain static server by tools that are not ours, and by ours."""

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY

from afdp.cli.__main__ import cli
from afdp.errors import Unavailable
from afdp.formats.note import Checkpoint, Note
from afdp.transparency.cadence import beside
from afdp.transparency.config import TransparencySettings
from afdp.transparency.mirror_folder import FolderSink
from afdp.transparency.mirror_s3 import S3Sink
from afdp.transparency.mirroring import MARK, Mirror, Sink
from afdp.transparency.parts import sink_of
from afdp.transparency.postgres_mirror import PostgresTurns
from afdp.transparency.service import TransparencyLog
from tests.versitygw import KEY_ID, SECRET, Versitygw, running_versitygw

ORIGIN = "notary.localhost"


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def static_server(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=os.fspath(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Watched:
    """A sink that says in which order it is written to, and fails when it is told to."""

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.written: list[str] = []
        self.fails_after: int | None = None

    async def read(self, path: str) -> bytes | None:
        return await self._inner.read(path)

    async def write(self, path: str, data: bytes) -> None:
        self._take(path)
        await self._inner.write(path, data)

    async def write_once(self, path: str, data: bytes) -> None:
        self._take(path)
        await self._inner.write_once(path, data)

    async def remove_under(self, path: str) -> None:
        await self._inner.remove_under(path)

    def _take(self, path: str) -> None:
        if self.fails_after is not None and len(self.written) >= self.fails_after:
            raise Unavailable("it is full")
        self.written.append(path)


@pytest.fixture
def fails(eventually) -> Callable[..., Awaitable[None]]:
    """`await fails(replica, sink)`: returns once an attempt to mirror has failed."""

    async def wait(replica, sink: Sink) -> None:
        before = told("failures_total")

        async def failed() -> bool:
            return told("failures_total") > before

        async with mirroring(replica, sink):
            await eventually(failed)

    return wait


@pytest.fixture
async def bucket(tool: Callable[[str], Path], tmp_path: Path) -> AsyncIterator[Versitygw]:
    async with running_versitygw(tool, tmp_path / "s3") as server:
        yield server


def bucket_sink(bucket: Versitygw, secret: str = SECRET) -> Sink:
    file = bucket.home / "secret"
    file.write_text(f"{secret}\n")
    settings = TransparencySettings(
        log_mirror="s3://log/public/",
        log_mirror_endpoint=bucket.url,
        log_mirror_region="us-east-1",
        log_mirror_key_id=KEY_ID,
        log_mirror_secret_file=file,
    )
    return sink_of(settings, "log")


def mirroring(replica, sink: Sink) -> AbstractContextManager[None]:
    return beside(Mirror(replica.log, PostgresTurns(replica.store), sink, ORIGIN, 0.02))


async def until_mirrored(sink: Sink, size: int) -> Checkpoint:
    async with asyncio.timeout(60):
        while True:
            if data := await sink.read("checkpoint"):
                found = Checkpoint.parse(Note.parse(data).text)
                if found.size >= size:
                    return found
            await asyncio.sleep(0.02)


async def filled(replica, start: int, end: int) -> None:
    for at in range(start, end, 4096):
        await replica.log.append([b"entry %d" % each for each in range(at, min(at + 4096, end))])


async def assert_whole(url: str, fsck: Path, replica, tmp_path: Path, size: int) -> None:
    """Tessera's fsck and ours recompute it, and it is the log's newest checkpoint."""
    key = tmp_path / "vkey"
    key.write_text(str(replica.log.identity().vkey))
    command = [str(fsck), f"--storage_url={url}/", f"--public_key={key}", "--ui=false", "--N=4"]
    theirs = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert "Successfully fsck'd" in theirs.stdout + theirs.stderr, theirs.stdout + theirs.stderr
    ours = await asyncio.to_thread(CliRunner().invoke, cli, ["log", "fsck", url, "--vkey", str(key)])
    assert ours.exit_code == 0, ours.output
    assert (await replica.log.checkpoint()).size == size


def told(name: str) -> float:
    return REGISTRY.get_sample_value(f"afdp_log_mirror_{name}", {"log": ORIGIN}) or 0.0


async def test_a_folder_follows_the_log_and_a_plain_web_server_serves_it(replica, tool, tmp_path: Path) -> None:
    folder, fsck = tmp_path / "mirror", tool("fsck")
    sink = FolderSink(folder)
    async with replica() as one, mirroring(one, sink):
        with static_server(tmp_path) as url:
            for start, end in ((0, 1), (1, 255), (255, 300), (300, 512), (512, 3000)):
                await filled(one, start, end)
                await until_mirrored(sink, end)
            await assert_whole(f"{url}/mirror", fsck, one, tmp_path, 3000)

    assert (folder / "vkey").read_text() == f"{one.log.identity().vkey}\n"
    # What became full has replaced what was partial, and nothing unfinished is left.
    assert not (folder / "tile/0/000.p").exists()
    assert not (folder / "tile/entries/001.p").exists()
    assert [each for each in folder.rglob(".*") if each.name != MARK] == []
    assert told("size") == 3000
    assert told("lag_entries") == 0


async def test_a_bucket_follows_the_log_with_the_headers_of_the_read_path(
    replica, tool, tmp_path: Path, bucket: Versitygw
) -> None:
    fsck, sink = tool("fsck"), bucket_sink(bucket)
    async with replica() as one, mirroring(one, sink):
        await filled(one, 0, 300)
        await until_mirrored(sink, 300)
        await filled(one, 300, 700)
        await until_mirrored(sink, 700)
        with static_server(bucket.folder) as url:
            await assert_whole(f"{url}/public/log", fsck, one, tmp_path, 700)

    assert not (bucket.folder / "public/log/tile/0/001.p").exists()
    assert await headers_of(sink, "tile/0/001") == (
        "application/octet-stream",
        "public, max-age=31536000, immutable, no-transform",
    )
    assert await headers_of(sink, "tile/entries/002.p/188") == (
        "application/octet-stream",
        "public, max-age=60, no-transform",
    )
    assert await headers_of(sink, "checkpoint") == ("text/plain; charset=utf-8", "public, no-cache, no-transform")


async def test_the_checkpoint_comes_last_and_what_was_interrupted_goes_on_where_it_was(
    replica, fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.transparency.mirroring._MARK_EVERY", 4)
    sink = Watched(FolderSink(tmp_path))
    async with replica() as one:
        await filled(one, 0, 256 * 20 + 7)
        sink.fails_after = 25
        await fails(one, sink)
        assert not (tmp_path / "checkpoint").exists()
        assert told("lag_entries") == 256 * 20 + 7
        first, sink.fails_after = set(sink.written), None
        sink.written.clear()
        async with mirroring(one, sink):
            await until_mirrored(sink, 256 * 20 + 7)
        assert sink.written[-1] == "checkpoint"

    again = {each for each in first & set(sink.written) if each.startswith("tile/")}
    assert len(again) < 10  # those since the last mark
    assert {each for each in first | set(sink.written) if each.startswith("tile/0/")} == {
        *(f"tile/0/{each:03}" for each in range(20)),
        "tile/0/020.p/7",
    }


async def test_of_two_replicas_one_at_a_time_mirrors_and_the_other_takes_over(replica, tmp_path: Path) -> None:
    sinks = [Watched(FolderSink(tmp_path)), Watched(FolderSink(tmp_path))]
    async with replica() as one, replica() as other:
        async with mirroring(one, sinks[0]):
            await filled(one, 0, 10)
            await until_mirrored(sinks[0], 10)
            async with mirroring(other, sinks[1]):
                await filled(other, 10, 20)
                await until_mirrored(sinks[0], 20)
                assert sinks[1].written == []
        async with mirroring(other, sinks[1]):
            await filled(one, 20, 30)
            await until_mirrored(sinks[1], 30)

    assert "checkpoint" in sinks[1].written


async def test_a_mirror_of_another_log_is_left_alone_and_what_is_damaged_in_ours_is_not_copied(
    replica, sql, fails, tmp_path: Path
) -> None:
    sink = FolderSink(tmp_path)
    async with replica() as one:
        await filled(one, 0, 5)
        foreign = Checkpoint("other.example", 3, bytes(32)).body() + "\n— other.example AAAAAAAAAAA=\n"
        (tmp_path / "checkpoint").write_text(foreign)
        await fails(one, sink)
        assert (tmp_path / "checkpoint").read_text() == foreign

        (tmp_path / "checkpoint").unlink()
        async with mirroring(one, sink):
            await until_mirrored(sink, 5)
        await filled(one, 5, 8)
        await sql.execute("UPDATE entry SET body = 'forged' WHERE leaf_index = 6")
        await fails(one, sink)

    assert (await until_mirrored(sink, 5)).size == 5


async def test_a_log_that_is_behind_its_mirror_does_not_overwrite_it(
    replica, sql, fails, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FolderSink(tmp_path)
    async with replica() as one:
        await filled(one, 0, 5)
        backup = await sql.fetchrow("SELECT size, root, note FROM checkpoint")
        await filled(one, 5, 8)
        async with mirroring(one, sink):
            await until_mirrored(sink, 8)
        await sql.execute("UPDATE checkpoint SET size = $1, root = $2, note = $3", *backup)
        restored = TransparencyLog(one.store, one.writer, "")
        await fails(replace(one, log=restored), sink)

    assert (await until_mirrored(sink, 8)).size == 8
    assert "the mirror's checkpoint has 8 entries, the log's 5" in str([each.__dict__ for each in caplog.records])


async def test_a_store_that_is_away_or_refuses_us_holds_nothing_up_and_is_caught_up_with(
    replica, bucket: Versitygw, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdp.transparency.mirroring.RETRY", 0.05)
    sink = bucket_sink(bucket)
    async with replica() as one:
        await filled(one, 0, 5)
        await fails(one, bucket_sink(bucket, secret="wrong"))
        assert await sink.read("checkpoint") is None
        async with mirroring(one, sink):
            await until_mirrored(sink, 5)
            await bucket.stop()
            await filled(one, 5, 10)
            assert (await one.log.checkpoint()).size == 10
            await bucket.start()
            await until_mirrored(sink, 10)


async def test_a_tile_in_the_mirror_that_is_not_the_logs_is_put_right(replica, bucket: Versitygw) -> None:
    sink = bucket_sink(bucket)
    await sink.write("tile/0/000", b"forged")
    async with replica() as one, mirroring(one, sink):
        await filled(one, 0, 300)
        await until_mirrored(sink, 300)

    assert len(await sink.read("tile/0/000") or b"") == 8192


async def headers_of(sink: Sink, path: str) -> tuple[str | None, str | None]:
    assert isinstance(sink, S3Sink)
    found = (await obstore.get_async(sink._store, path)).attributes
    return found.get("Content-Type"), found.get("Cache-Control")
