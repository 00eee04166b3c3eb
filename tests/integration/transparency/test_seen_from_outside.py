"""A log that really runs, read over HTTP by those who do not believe it: our auditor and monitor, and readers that are
not ours."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from afdp.messages.signer import SignerServiceClient
from afdp.postgres import open_database, packaged
from afdp.rpc import GrpcCaller, open_channel
from afdp.transparency.http import serving_reads
from afdp.transparency.logs import open_log
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.signer import GrpcSigner
from afdp.transparency.values import NewLog
from tests.log_rules import rule

ENTRIES = [b"entry %d" % number for number in range(1_300)]


class Outside:
    """Who reads the log at `url`, in processes of their own."""

    def __init__(self, replica: Any, url: str, folder: Path) -> None:
        self.log, self.url, self.folder = replica.log, url, folder

    async def afdp(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """An `afdp log` command on this log, and its answer in JSON."""
        code, output = await self.run(sys.executable, "-m", "afdp.cli.__main__", "log", *arguments, "--json")
        return code, json.loads(output) if output.startswith("{") else {"said": output}

    async def run(self, *command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return process.returncode or 0, "\n".join(
            line for line in output.decode().splitlines() if not line.startswith("the log's own word")
        )


@pytest.fixture
async def outside(replica, settings, tmp_path: Path) -> AsyncIterator[Outside]:
    async with replica() as one, serving_reads(one.logs, settings()) as port:
        await one.log.append(ENTRIES)
        yield Outside(one, f"http://127.0.0.1:{port}", tmp_path)


async def test_our_auditor_and_readers_that_are_not_ours_agree_on_the_whole_log(
    outside: Outside, tool: Callable[[str], Path]
) -> None:
    vkey = str(outside.log.identity().vkey)
    (outside.folder / "vkey").write_text(vkey)

    ours = await outside.afdp("fsck", outside.url)
    go = await outside.run(os.fspath(tool("tlog-reader")), outside.url, vkey)
    options = (f"--storage_url={outside.url}/", "--public_key=vkey", "--ui=false", "--N=2")
    tessera = await outside.run(os.fspath(tool("fsck")), *options)

    assert (ours[0], ours[1]["size"], ours[1]["entries_read"]) == (0, 1_300, 1_300)
    assert go == (0, f"verified 1300 entries, root {ours[1]['root']}")
    assert "Successfully fsck'd" in tessera[1]  # it ends with 0 whatever it finds


@rule(5)
async def test_the_log_is_followed_as_it_grows_and_what_it_proves_holds_without_it(outside: Outside) -> None:
    (outside.folder / "vkey").write_text(str(outside.log.identity().vkey))
    state = ("--state", "state.json", "--once")
    first = await outside.afdp("follow", outside.url, *state)
    old, _ = await outside.log.append([b"one"])
    (outside.folder / "old").write_text(old.note)
    await outside.log.append([b"two"])
    second = await outside.afdp("follow", outside.url, *state)
    made = [
        await outside.afdp("prove", "inclusion", outside.url, "--index", "1300", "--checkpoint", "old", "-o", "p1"),
        await outside.afdp("prove", "consistency", outside.url, "--from", "old", "-o", "p2"),
        await outside.afdp("prove", "completeness", outside.url, "--bodies", "-o", "p3"),
    ]
    held = [await outside.afdp("verify-proof", proof, "--vkey", "vkey") for proof in ("p1", "p2", "p3")]

    assert (first[0], first[1]["size"]) == (0, 1_300)
    assert (second[0], second[1]["size"], second[1]["entries_read"]) == (0, 1_302, 2)
    assert [code for code, _ in made] == [0, 0, 0], made
    assert [(code, said["holds"]) for code, said in held] == [(0, True)] * 3
    assert held[2][1]["entries"] == 1_302


async def test_a_log_of_a_tenants_own_proves_that_these_are_all_its_entries(replica, settings, tmp_path: Path) -> None:
    known = settings()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(replica())
        port = await stack.enter_async_context(serving_reads(one.logs, known))
        opened = open_database(known, SCHEMA, SERVICE, packaged("afdp.transparency"), SESSION)
        database = await stack.enter_async_context(opened)
        channel = await stack.enter_async_context(open_channel(known.signer_address))
        signer = GrpcSigner(SignerServiceClient(GrpcCaller(channel)), 5.0)
        await open_log(PostgresCatalogue(database), signer, NewLog("acme.example.org", ("acme",)))
        await one.log.append([b"of others"])
        acme = await one.logs.of("acme.example.org")
        await acme.append([b"first"])
        old, _ = await acme.append([b"second"])
        await acme.append([b"third", b"fourth"])
        (tmp_path / "vkey").write_text(f"{one.log.identity().vkey}\n{acme.identity().vkey}\n")
        (tmp_path / "old").write_text(old.note)
        outside = Outside(one, f"http://127.0.0.1:{port}/logs/acme.example.org", tmp_path)

        key = ("--vkey", "vkey")
        made = await outside.afdp(
            "prove", "completeness", outside.url, *key, "--from", "old", "--bodies", "-o", "proof"
        )
        held = await outside.afdp("verify-proof", "proof", *key)

    lines = (tmp_path / "proof").read_text().splitlines()[1:]
    assert (made[0], held[0], held[1]["entries"]) == (0, 0, 2)
    assert [b64decode(line) for line in lines] == [b"third", b"fourth"]


FLIP = "set_byte({0}, 0, 255 - get_byte({0}, 0))"
DAMAGE = [
    (f"UPDATE entry SET body = {FLIP.format('body')} WHERE leaf_index = 700", "tile/entries/002", "entry 700"),
    (f"UPDATE node SET hash = {FLIP.format('hash')} WHERE node_index = 3", "tile/entries/003", "log is damaged"),
]


@pytest.mark.parametrize(("damage", "path", "said"), DAMAGE, ids=["entry", "node"])
async def test_a_bit_that_flips_in_the_database_is_never_served_and_who_reads_the_log_is_told(
    outside: Outside, sql: asyncpg.Connection, damage: str, path: str, said: str
) -> None:
    await sql.execute(damage)
    code, answer = await outside.afdp("fsck", outside.url)

    assert code == 3
    assert f"/{path} answers 500: " in answer["said"]
    assert said in answer["said"]


async def test_the_vkey_that_the_log_says_itself_is_the_one_that_signs(outside: Outside) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{outside.url}/vkey")).text.strip() == str(outside.log.identity().vkey)
