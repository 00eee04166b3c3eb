"""The read path over a real socket: to the byte, and read by a tool that is not ours."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from afdp.formats.note import Note, VerifierKey, verify
from afdp.transparency.http import serving_reads
from tests.http_attacks import BEHIND, HEADS, exchange, statuses
from tests.log_rules import rule

IMMUTABLE = "public, max-age=31536000, immutable, no-transform"
SHORT = "public, max-age=60, no-transform"
FRESH = "public, no-cache, no-transform"


class Served:
    def __init__(self, replica, url: str, client: httpx.AsyncClient) -> None:
        self.log, self.url, self.client = replica.log, url, client

    async def get(self, path: str, **options) -> httpx.Response:
        return await self.client.get(self.url + path, **options)


@pytest.fixture
async def served(replica, settings) -> AsyncIterator[Served]:
    async with replica() as one, serving_reads(one.logs, settings()) as port, httpx.AsyncClient() as client:
        yield Served(one, f"http://127.0.0.1:{port}", client)


async def test_a_log_over_two_tile_levels_is_served_to_the_byte(served) -> None:
    entries = [b"%d " % number + os.urandom(number % 40) for number in range(600)]
    for start in range(0, 600, 200):
        checkpoint, _ = await served.log.append(entries[start : start + 200])
    leaves = [sha256(b"\0" + entry).digest() for entry in entries]

    def bundle(some: list[bytes]) -> bytes:
        return b"".join(len(each).to_bytes(2, "big") + each for each in some)

    def full_root(hashes: list[bytes]) -> bytes:
        while len(hashes) > 1:
            hashes = [sha256(b"\1" + hashes[at] + hashes[at + 1]).digest() for at in range(0, len(hashes), 2)]
        return hashes[0]

    roots = [full_root(leaves[:256]), full_root(leaves[256:512])]
    expected = {
        "/tile/0/000": (b"".join(leaves[:256]), IMMUTABLE),
        "/tile/0/001": (b"".join(leaves[256:512]), IMMUTABLE),
        "/tile/0/002.p/88": (b"".join(leaves[512:]), SHORT),
        "/tile/0/002.p/1": (leaves[512], SHORT),
        "/tile/0/000.p/200": (b"".join(leaves[:200]), SHORT),
        "/tile/1/000.p/2": (b"".join(roots), SHORT),
        "/tile/1/000.p/1": (roots[0], SHORT),
        "/tile/entries/000": (bundle(entries[:256]), IMMUTABLE),
        "/tile/entries/002.p/88": (bundle(entries[512:]), SHORT),
        "/tile/entries/001.p/3": (bundle(entries[256:259]), SHORT),
    }
    for path, (body, caching) in expected.items():
        answer = await served.get(path)
        assert (answer.status_code, answer.content) == (200, body), path
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == caching
    answer = await served.get("/checkpoint")
    assert answer.content == checkpoint.note.encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == FRESH
    vkey = (await served.get("/vkey")).text
    assert vkey.endswith("\n")
    assert verify(Note.parse(answer.content), [VerifierKey.parse(vkey.strip())])


ABSENT = [
    "/tile/0/001",  # partial only
    "/tile/0/001.p/45",  # wider than it ever was
    "/tile/0/002.p/1",
    "/tile/1/000",
    "/tile/1/000.p/2",
    "/tile/2/000.p/1",
    "/tile/entries/001",
    "/tile/entries/001.p/45",
    "/tile/0/x000/000",  # another spelling of 000
    "/tile/00/000",
    "/tile/0/0",
    "/tile/0/%30%30%30",
    "/tile/0/000.p/256",
    "/tile/0/001.p/0",
    "/tile/0/001.p/044",
    "/tile/0/-01",
    "/tile/64/000",
    "/tile/0/x999/x999/x999/x999/x999/999",
    "/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    "/tile/0/000/",
    "/tile//0/000",
    "/tile/0/../0/000",
    "/tile/entries",
    "/tile/",
    "/checkpoint/",
    "/checkpoint.txt",
    "/",
]


async def test_what_is_not_there_or_is_spelled_otherwise_is_not_found(served) -> None:
    await served.log.append([b"%d" % number for number in range(300)])

    for path in ABSENT:
        # Sent as written: httpx would put some of these into another form.
        status, headers, _ = await raw_request(served.url, f"GET {path} HTTP/1.1".encode())
        assert status == 404, path
        assert headers[b"cache-control"] == b"no-store"


async def test_requests_for_what_is_not_there_cost_the_database_next_to_nothing(replica, settings) -> None:
    asked: list[str] = []

    class Counting:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Callable[..., object]:
            def counted(*arguments: object) -> object:
                asked.append(name)
                return getattr(self._inner, name)(*arguments)

            return counted

    malformed = ("0/x999/1", "64/000", "0/000.p/999", "0/-01", "entries/xx", "0/x00/000", "")

    async with (
        replica(store=Counting) as one,
        serving_reads(one.logs, settings()) as port,
        httpx.AsyncClient() as client,
    ):
        await one.log.append([b"a"])
        url = f"http://127.0.0.1:{port}"
        asked.clear()
        for path in malformed:
            assert (await client.get(f"{url}/tile/{path}")).status_code == 404
        assert (await client.post(url + "/checkpoint")).status_code == 405
        assert asked == []

        flood = [client.get(f"{url}/tile/0/x001/{at:03}") for at in range(100)]
        assert {each.status_code for each in await asyncio.gather(*flood)} == {404}

    # One query at a time, and its answer is for all who had asked when it began.
    assert set(asked) == {"published"}
    assert len(asked) < 60


async def test_an_empty_log_has_no_checkpoint_and_no_tile(served) -> None:
    for path in ("/checkpoint", "/tile/0/000", "/tile/0/000.p/1", "/tile/entries/000.p/1"):
        assert (await served.get(path)).status_code == 404
    assert (await served.get("/vkey")).status_code == 200


async def test_only_get_and_head_are_answered(served) -> None:
    await served.log.append([b"a"])
    for path in ("/checkpoint", "/tile/0/000.p/1", "/vkey", "/health"):
        whole = await served.get(path)
        head = await served.client.head(served.url + path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            refused = await served.client.request(method, served.url + path, content=b"{}")
            assert refused.status_code == 405
            assert refused.headers["cache-control"] == "no-store"
            assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_bytes_are_the_same_whatever_encoding_or_range_is_asked_for(served) -> None:
    await served.log.append([b"a"])
    for path in ("/tile/entries/000.p/1", "/tile/0/000.p/1", "/checkpoint", "/vkey"):
        plain = await served.get(path, headers={"Accept-Encoding": "identity"})
        asked = await served.get(path, headers={"Accept-Encoding": "gzip, br", "Range": "bytes=1-1"})

        assert plain.content == asked.content
        assert asked.status_code == 200
        assert {**asked.headers, "date": ""} == {**plain.headers, "date": ""}
        assert asked.headers["accept-ranges"] == "none"
        assert "no-transform" in asked.headers["cache-control"]
        assert not {"content-encoding", "content-range", "vary"} & set(asked.headers)


async def test_who_has_a_file_already_is_told_so_and_who_has_an_older_one_gets_the_new_one(served) -> None:
    await served.log.append([b"%d" % number for number in range(256)])
    for path, caching in (("/tile/0/000", IMMUTABLE), ("/tile/1/000.p/1", SHORT), ("/checkpoint", FRESH)):
        first = await served.get(path)
        tag = first.headers["etag"]
        assert tag.startswith('"')
        for have in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await served.get(path, headers={"If-None-Match": have})
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["etag"], again.headers["cache-control"]) == (tag, caching)
        assert (await served.get(path, headers={"If-None-Match": '"other"'})).content == first.content
    old = (await served.get("/checkpoint")).headers["etag"]

    await served.log.append([b"more"])

    newer = await served.get("/checkpoint", headers={"If-None-Match": old})
    assert newer.status_code == 200
    assert newer.text.splitlines()[1] == "257"


async def test_a_page_in_a_browser_may_read_the_log_from_anywhere(served) -> None:
    await served.log.append([b"a"])
    for path in ("/checkpoint", "/tile/0/000.p/1", "/vkey", "/nothing"):
        answer = await served.get(path, headers={"Origin": "https://auditor.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


async def test_who_is_slow_to_ask_is_let_go_and_the_others_are_served(replica, settings) -> None:
    async with (
        replica() as one,
        serving_reads(one.logs, settings(http_header_timeout_seconds=0.2)) as port,
        httpx.AsyncClient() as client,
    ):
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"GET /vkey HTTP/1.1\r\nHost: log\r\nX-Slow: ")
        assert (await client.get(f"http://127.0.0.1:{port}/vkey")).status_code == 200

        async with asyncio.timeout(60):
            for reader, writer in slow:
                assert await reader.read() == b""
                writer.close()
        assert (await client.get(f"http://127.0.0.1:{port}/vkey")).status_code == 200


async def test_who_does_not_take_its_answer_is_let_go(replica, settings, eventually) -> None:
    bounds = {"http_header_timeout_seconds": 0.2, "http_max_connections": 1}
    async with replica() as one, serving_reads(one.logs, settings(**bounds)) as port, httpx.AsyncClient() as client:
        await one.log.append([os.urandom(65_535) for _ in range(200)])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(b"GET /tile/entries/000.p/200 HTTP/1.1\r\nHost: log\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")

        async def is_let_go() -> bool:
            answer = await client.get(f"http://127.0.0.1:{port}/vkey", headers={"Connection": "close"})
            return answer.status_code == 200

        await eventually(is_let_go)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(13_107_400)
        writer.close()

    assert b"content-length: 13107400" in head.lower()


async def test_a_head_that_is_too_large_and_a_connection_too_many_are_refused_clearly(replica, settings) -> None:
    async with replica() as one, serving_reads(one.logs, settings(http_max_connections=1)) as port:
        url = f"http://127.0.0.1:{port}"
        status, headers, _ = await raw_request(url, b"GET /vkey HTTP/1.1\r\nX-Large: " + b"x" * 20_000)
        assert (status, headers[b"cache-control"]) == (431, b"no-store")
        _, first = await asyncio.open_connection("127.0.0.1", port)
        status, headers, body = await raw_request(url, b"GET /vkey HTTP/1.1")
        first.close()

    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert body == b"too many connections are open; try again\n"


@rule(4)
async def test_an_entry_that_was_changed_at_rest_is_not_served(served, sql) -> None:
    await served.log.append([b"%d" % number for number in range(300)])
    await sql.execute("UPDATE entry SET body = 'forged' WHERE leaf_index = 260")
    await sql.execute(
        "UPDATE entry SET leaf_hash = set_byte(leaf_hash, 0, 255 - get_byte(leaf_hash, 0)) WHERE leaf_index = 1"
    )

    forged = await served.get("/tile/entries/001.p/44")
    flipped = await served.get("/tile/0/000")

    assert (forged.status_code, flipped.status_code) == (500, 500)
    assert "entry 260" in forged.text
    assert "tile/0/000" in flipped.text
    assert (await served.get("/tile/entries/001.p/4")).status_code == 200


@rule(4)
@pytest.mark.parametrize("table", ["entry", "node"])
async def test_a_partial_tile_with_a_flipped_bit_is_not_served(served, sql, table) -> None:
    await served.log.append([b"%d" % number for number in range(300)])
    column, level, where = ("leaf_hash", 0, "leaf_index = 299") if table == "entry" else ("hash", 1, "level = 1")
    await sql.execute(f"UPDATE {table} SET {column} = set_bit({column}, 9, 1 - get_bit({column}, 9)) WHERE {where}")

    for path in (f"/tile/{level}/00{1 - level}.p/{1 if level else 44}", "/tile/0/001.p/1", "/tile/entries/001.p/44"):
        answer = await served.get(path)
        assert answer.status_code == 500, path
        assert "does not hold" in answer.text
    assert (await served.get("/checkpoint")).status_code == 200


async def test_a_checkpoint_that_goes_back_is_not_served(served, sql) -> None:
    await served.log.append([b"a"])
    old = await sql.fetchrow("SELECT size, root, note FROM checkpoint")
    await served.log.append([b"b"])
    await sql.execute("UPDATE checkpoint SET size = $1, root = $2, note = $3", *old)

    answer = await served.get("/checkpoint")

    assert answer.status_code == 500
    assert "behind that of size 2" in answer.text


async def test_health_tells_reads_from_appends(served, signer) -> None:
    await served.log.append([b"a"])
    assert (await served.get("/health")).json() == {"reads": "ok", "appends": "ok"}
    await signer.stop()

    answer = await served.get("/health")

    assert answer.status_code == 200
    assert "signer" in answer.json()["appends"]


async def test_a_database_that_is_away_is_a_503_with_a_hint(replica, settings) -> None:
    away = {"database": "postgresql://afdp:x@127.0.0.1:1/afdp", "database_connect_timeout_seconds": 1.0}
    async with replica(**away) as one, serving_reads(one.logs, settings()) as port, httpx.AsyncClient() as client:
        for path in ("/checkpoint", "/tile/0/000", "/vkey", "/health"):
            answer = await client.get(f"http://127.0.0.1:{port}{path}")
            assert answer.status_code == 503, path
            assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000, 65_537])
async def test_a_reader_that_is_not_ours_recomputes_the_log(served, tool, tmp_path: Path, size) -> None:
    fsck = tool("fsck")
    for start in range(0, size, 4096):
        await served.log.append([b"entry %d" % number for number in range(start, min(start + 4096, size))])
    key = tmp_path / "vkey"
    key.write_bytes((await served.get("/vkey")).content.strip())

    command = [str(fsck), f"--storage_url={served.url}/", f"--public_key={key}", "--ui=false", "--N=4"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)

    assert "Successfully fsck'd" in done.stdout + done.stderr, done.stdout + done.stderr


async def raw_request(url: str, line: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(line + b"\r\nHost: log\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(60):
        data = await reader.read()
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return int(status.split()[1]), dict(each.lower().split(b": ", 1) for each in headers), body


async def test_what_could_be_read_in_two_ways_is_refused(served) -> None:
    port = int(served.url.rpartition(":")[2])
    for name, attack in HEADS.items():
        answer = await exchange(port, attack.replace(b"/health", b"/vkey") + BEHIND)
        assert statuses(answer) == [400], name
        assert b"x-content-type-options: nosniff" in answer.lower()
