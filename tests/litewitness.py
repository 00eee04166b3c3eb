"""A witness that we did not write: litewitness, with its key in an ssh-agent."""

from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from afdp.embedded.process import ServerProcess, free_port
from afdp.formats.encoding import b64
from afdp.formats.merkle import EMPTY_ROOT
from afdp.formats.note import SignatureType, VerifierKey

# Its own tables; the command that fills them is not to be had.
_SCHEMA = """
CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));
"""


@dataclass(frozen=True, slots=True)
class Litewitness:
    """A running one."""

    url: str
    vkey: VerifierKey


@asynccontextmanager
async def running_litewitness(
    tool: Callable[[str], Path], folder: Path, logs: Iterable[VerifierKey], name: str = "lite.example"
) -> AsyncIterator[Litewitness]:
    """One that witnesses these logs, from the empty tree on."""
    programs = {each: tool(each) for each in ("litewitness", "ssh-agent", "ssh-add")}
    key = Ed25519PrivateKey.generate()
    database = sqlite3.connect(folder / "litewitness.db")
    database.executescript(_SCHEMA)
    for log in logs:
        database.execute("INSERT INTO log VALUES (?, 0, ?)", (log.name, b64(EMPTY_ROOT)))
        database.execute("INSERT INTO key VALUES (?, ?)", (log.name, str(log)))
    database.commit()
    database.close()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    socket, port = folder / "agent", free_port()
    agent = await ServerProcess.spawn(
        "ssh-agent", [programs["ssh-agent"], "-D", "-a", socket], log=folder / "agent.log", environment=environment
    )
    server = None
    try:
        await agent.until(lambda: asyncio.sleep(0, socket.exists()), deadline=10)
        await _add(programs["ssh-add"], key, folder, {**environment, "SSH_AUTH_SOCK": str(socket)})
        server = await ServerProcess.spawn(
            "litewitness",
            [
                *(programs["litewitness"], "-db", folder / "litewitness.db", "-name", name, "-ssh-agent", socket),
                *("-key", _fingerprint(key), "-listen", f"127.0.0.1:{port}"),
            ],
            log=folder / "litewitness.log",
            environment=environment,
        )
        url = f"http://127.0.0.1:{port}"
        await server.until(lambda: _answers(url), deadline=10)
        vkey = VerifierKey(name, key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
        yield Litewitness(url, vkey)
    finally:
        if server:
            await server.stop()
        await agent.stop()


async def _add(program: Path, key: Ed25519PrivateKey, folder: Path, environment: dict[str, str]) -> None:
    file = folder / "key"
    file.touch(0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    adding = await asyncio.create_subprocess_exec(program, "-q", file, env=environment)
    assert await adding.wait() == 0


def _fingerprint(key: Ed25519PrivateKey) -> str:
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    digest = sha256(base64.b64decode(line.split()[1])).digest()
    return f"SHA256:{b64(digest).rstrip('=')}"


async def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(url)
            return True
    return False
