"""A whole stack for the run: five real processes, started once."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio

from afdp.embedded.stack import PORTS, Stack, StackOptions, require_free_ports, running_stack
from afdp.errors import FailedPrecondition
from afdp.formats.trust import TrustRoot, read_trust_files
from afdp.messages.notary import NotaryServiceClient
from afdp.rpc import GrpcCaller, open_channel
from tests.conftest import open_folder
from tests.e2e.answers import get

ROOT = Path(__file__).resolve().parents[2]


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language in a document of the repository."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def free_offset() -> int:
    """An offset whose ports are free, and not of those that the system gives to whoever opens a connection."""
    for _ in range(100):
        offset = secrets.choice(_OFFSETS)
        with suppress(FailedPrecondition):
            require_free_ports(offset)
            return offset
    raise FailedPrecondition("no offset has free ports")


_OFFSETS = range(61_000 - min(PORTS["notary"], PORTS["signer"]), 65_536 - PORTS["metadata"])


NO_KEY_RECORDS = {"AFDP_NOTARISE_KEYS": "false", "AFDP_AUDIT_ANCHORS": "false"}
"""The notary's settings where a test counts all records or all entries."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """Keys in files, each of which has its record."""
    with open_folder() as folder:
        quiet = {  # the log grows by what tests do, and nothing else
            "notary": {"AFDP_AUDIT_ANCHORS": "false"},
            "metadata": {"AFDP_SEARCHABLE_METADATA": "search.run,search.step"},
        }
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=quiet)) as running:
            async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
                await key_records(client, of_all=True)
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def rest(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the notary."""
    async with open_channel(f"127.0.0.1:{stack.port('notary')}") as opened:
        yield opened


@pytest.fixture
def notary(channel: grpc.aio.Channel) -> NotaryServiceClient:
    """The notary over gRPC."""
    return NotaryServiceClient(GrpcCaller(channel))


@pytest.fixture
async def trust(rest: httpx.AsyncClient) -> TrustRoot:
    """The trust root that the stack serves."""
    return await fetch_trust(rest)


async def key_records(rest: httpx.AsyncClient, *, of_all: bool = False) -> list[dict[str, Any]]:
    """The records of key versions that began, newest first; where it is asked for, once all are there and logged."""
    async with asyncio.timeout(20):
        while True:
            found = await get(rest, "/api/v1/evidence", event_type="afdp.key.version.created", page_size=1000)
            records: list[dict[str, Any]] = found["evidence"]
            logged = sum(each["state"] == "logged" for each in records)
            if not of_all or logged >= len((await get(rest, "/api/v1/keys"))["keys"]):
                return records
            await asyncio.sleep(0.05)


async def fetch_trust(rest: httpx.AsyncClient) -> TrustRoot:
    """The trust root that a stack serves."""
    files = (await rest.get("/api/v1/trust-root")).raise_for_status().json()["files"]
    return read_trust_files({file["name"]: file["content"].encode() for file in files})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nothing_is_written(stack: Stack) -> AsyncIterator[None]:
    """Records, workflows, keys and the log are what they were, after all of it."""

    async def state() -> tuple[object, ...]:
        async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest:
            workflows = await get(rest, "/api/v1/workflows", page_size=1)
            log = (await rest.get("/log/checkpoint")).text.splitlines()[:3]
            return workflows["total_count"], workflows["workflows"], log, await get(rest, "/api/v1/keys")

    before = await state()
    yield
    assert await state() == before


@pytest.fixture
def newcomer(stack: Stack, tmp_path: Path) -> Callable[[str], str]:
    """Runs a shell script as a newcomer in a folder with the LICENSE, and gives what it printed."""
    shutil.copy(ROOT / "LICENSE", tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AFDP_URL": stack.url,
        "HOME": str(tmp_path),
    }

    def run(script: str) -> str:
        for service, port in PORTS.items():
            script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{stack.port(service)}")
        script = script.replace('export PATH="$PWD/.venv/bin:$PATH"\n', "")
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
