"""The log killed while it writes entries that callers sign themselves: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.note import Checkpoint, Note
from afdp.formats.tiles import decode_bundle, tiles_at
from tests.conftest import open_folder
from tests.e2e.answers import sign
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.proxy import Proxy, running_proxy
from tests.local_entries import ENTRIES, fresh_request

CLIENTS = 8
EACH = 3


@dataclass
class Writing:
    """A stack, the ways to and from its log, and each entry that was acknowledged, by its index."""

    stack: Stack
    proxies: dict[str, Proxy]
    acknowledged: dict[int, bytes] = field(default_factory=dict)

    async def write(self, rest: httpx.AsyncClient) -> None:
        """A fresh entry, sent until the log has it."""
        request = fresh_request()
        while True:
            try:
                answer = await rest.post(ENTRIES, json=request)
            except httpx.TransportError:
                continue
            if answer.status_code == 201:
                self.acknowledged[int(answer.json()["logIndex"])] = b64decode(answer.json()["canonicalizedBody"])
                return
            if answer.status_code == 409:  # by an attempt whose answer was lost
                self.acknowledged[int(answer.headers["x-log-index"])] = b""
                return
            assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(0.1)

    async def entries(self, rest: httpx.AsyncClient) -> list[bytes]:
        """All of the log, as a reader of Rekor v2 gets it."""
        checkpoint = (await rest.get("/api/v2/checkpoint")).raise_for_status().text
        size = Checkpoint.parse(Note.parse(checkpoint).text).size
        found: list[bytes] = []
        for ref in tiles_at(size, None):
            bundle = (await rest.get(f"/api/v2/{ref.path()}")).raise_for_status().content
            found += decode_bundle(bundle, ref.width)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def writing() -> AsyncIterator[Writing]:
    offset = free_offset()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        ports = {name: Stack(StackOptions(Path(), offset)).port(name) for name in ("transparency", "signer")}
        proxies = {
            name: await stack.enter_async_context(running_proxy(f"{LOOPBACK}:{port}")) for name, port in ports.items()
        }
        settings: dict[str, Any] = {
            "notary": {
                "AFDP_TRANSPARENCY_ADDRESS": f"{LOOPBACK}:{proxies['transparency'].port}",
                "AFDP_STAGE_TIMEOUT_SECONDS": "3",
                **NO_KEY_RECORDS,
            },
            "transparency": {"AFDP_SIGNER_ADDRESS": f"{LOOPBACK}:{proxies['signer'].port}"},
        }
        running = await stack.enter_async_context(
            running_stack(StackOptions(folder / "data", offset, settings=settings))
        )
        yield Writing(running, proxies)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("call", "proxy"), [("Append", "transparency"), ("SignCheckpoint", "signer")])
async def test_what_was_acknowledged_is_in_the_log_once(writing: Writing, call: str, proxy: str, moment: str) -> None:
    log = writing.stack.server("transparency")
    writing.proxies[proxy].arm(call, moment, lambda: os.kill(log.pid, signal.SIGKILL))

    async with asyncio.timeout(60), httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:

        async def write_some() -> None:
            for _ in range(EACH):
                await writing.write(rest)

        before = len(writing.acknowledged)
        await asyncio.gather(*(write_some() for _ in range(CLIENTS)))
        entries = await writing.entries(rest)

    assert writing.proxies[proxy].fired.is_set()
    assert len(writing.acknowledged) == before + CLIENTS * EACH
    assert len(set(entries)) == len(entries)
    for index, entry in writing.acknowledged.items():
        assert entries[index] == (entry or entries[index])


async def test_a_log_with_entries_of_strangers_is_whole_to_readers_that_are_not_ours_and_to_ours(
    writing: Writing, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=writing.stack.url, trust_env=False, timeout=15) as rest:
        await writing.write(rest)
        await sign(rest)
        (tmp_path / "vkey").write_text((await rest.get("/log/vkey")).raise_for_status().text.strip())

    url = f"{writing.stack.url}/api/v2/"
    theirs = (tool("fsck"), f"--storage_url={url}", f"--public_key={tmp_path / 'vkey'}", "--ui=false", "--N=2")
    ours = (tool("afdp"), "log", "fsck", url, "--vkey", tmp_path / "vkey")
    for command in (theirs, ours):
        done = await asyncio.to_thread(
            subprocess.run, list(map(os.fspath, command)), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if command is theirs:  # which exits with 0 whatever it finds
            assert "Successfully fsck'd" in done.stdout + done.stderr, done.stdout + done.stderr
