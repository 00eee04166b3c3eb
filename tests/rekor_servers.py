"""Rekor, both kinds, as others run it: Rekor 2 with its folder served, Rekor 1 with Trillian, PostgreSQL and Redis.

    async with running_rekor2(tool, folder) as rekor:
        ... rekor.url, rekor.origin, rekor.public_key

A Rekor 2 keeps its port and its folder when it is killed and started again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from afdp.embedded.postgres import Postgres
from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from tests.lasting_ports import lasting_port
from tests.redis_server import redis_program
from tests.rekor_front import RekorFront

READY = 60.0  # seconds: the machine may be busy
_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TZ": "UTC"}

Tool = Callable[[str], Path]
LogKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Rekor2:
    """A Rekor 2 on a folder. What a client talks to is `front`, which serves the folder and passes on what is written.

    Attributes:
        origin: its checkpoints' name.
        interval: of its checkpoints, in milliseconds.
    """

    program: Path
    folder: Path
    origin: str
    key: LogKey
    interval: int
    port: int = field(default_factory=lasting_port)
    front: RekorFront = field(init=False)
    _process: ServerProcess | None = None

    def __post_init__(self) -> None:
        self.storage.mkdir(parents=True, exist_ok=True)
        (self.folder / "key.pem").write_bytes(_private_pem(self.key))
        (self.folder / "key.pub").write_text(self.public_key)
        self.front = RekorFront(self.storage, f"http://{LOOPBACK}:{self.port}")

    @property
    def storage(self) -> Path:
        """Its folder of tiles."""
        return self.folder / "storage"

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.front.url

    @property
    def public_key(self) -> str:
        """Its key, SubjectPublicKeyInfo as PEM."""
        return _public_pem(self.key)

    @property
    def public_key_file(self) -> Path:
        """A file with its key."""
        return self.folder / "key.pub"

    async def start(self) -> None:
        """Starts it, or starts it again."""
        self._process = await ServerProcess.spawn(
            "Rekor 2",
            [
                *(self.program, "serve", f"--http-address={LOOPBACK}", f"--http-port={self.port}"),
                *(f"--grpc-address={LOOPBACK}", f"--grpc-port={free_port()}", f"--http-metrics-port={free_port()}"),
                *(f"--hostname={self.origin}", f"--storage-dir={self.storage}", "--persistent-antispam"),
                *(f"--signer-filepath={self.folder / 'key.pem'}", f"--checkpoint-interval={self.interval}ms"),
            ],
            log=self.folder / "rekor2.log",
            environment=_ENVIRONMENT,
        )
        await self._process.until(lambda: _answers(f"http://{LOOPBACK}:{self.port}/healthz"), deadline=READY)

    async def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """Ends it and its front."""
        self.front.close()
        if self._process is not None:
            await self._process.stop(patience=1.0)


@dataclass(frozen=True, slots=True)
class Rekor1:
    """A running Rekor 1.

    Attributes:
        name: what signs its checkpoints; their origin is this and the tree's number.
    """

    url: str
    name: str
    public_key: str
    public_key_file: Path
    tree: str


@asynccontextmanager
async def running_rekor2(
    tool: Tool, folder: Path, *, origin: str = "rekor.example", key: LogKey | None = None, interval: int = 200
) -> AsyncIterator[Rekor2]:
    """A Rekor 2 with a fresh log; its key is Ed25519 unless another is given."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    rekor = Rekor2(tool("rekor-server-v2"), folder, origin, key, interval)
    try:
        await rekor.start()
        yield rekor
    finally:
        await rekor.stop()


@asynccontextmanager
async def running_rekor1(tool: Tool, folder: Path, postgres: Postgres) -> AsyncIterator[Rekor1]:
    """A Rekor 1 with a fresh Trillian tree and an empty index."""
    programs = {
        each: tool(each) for each in ("rekor-server-v1", "trillian_log_server", "trillian_log_signer", "createtree")
    }
    redis, schema = redis_program(lambda: tool("redis-server")), (tool("rekor") / "trillian.sql").read_text()
    name, url = "rekor1.example", f"http://{LOOPBACK}:{free_port()}"
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "key.pem").write_bytes(_private_pem(key))
    (folder / "key.pub").write_text(_public_pem(key))
    dsn = await postgres.create_database("trillian")
    connection = await asyncpg.connect(dsn)
    await connection.execute(schema)
    await connection.close()
    async with AsyncExitStack() as stack:
        run = _Servers(folder, stack)
        redis_port, log_port = free_port(), free_port()
        await run.start("redis", [redis, "--port", str(redis_port), "--bind", LOOPBACK, "--save", ""], redis_port)
        storage = ["--storage_system=postgresql", f"--postgresql_uri={_plain(dsn)}", "--quota_system=noop"]
        endpoints = [f"--rpc_endpoint={LOOPBACK}:{log_port}", f"--http_endpoint={LOOPBACK}:{free_port()}"]
        await run.start("trillian-server", [programs["trillian_log_server"], *storage, *endpoints], log_port)
        signer_port = free_port()
        endpoints = [f"--rpc_endpoint={LOOPBACK}:{signer_port}", f"--http_endpoint={LOOPBACK}:{free_port()}"]
        pace = ["--force_master", "--batch_size=1000", "--sequencer_guard_window=0", "--sequencer_interval=100ms"]
        await run.start("trillian-signer", [programs["trillian_log_signer"], *storage, *endpoints, *pace], signer_port)
        tree = await _created_tree(programs["createtree"], log_port)
        port = int(url.rpartition(":")[2])
        await run.start(
            "rekor1",
            [
                *(programs["rekor-server-v1"], "serve", f"--host={LOOPBACK}", f"--rekor_server.address={LOOPBACK}"),
                *(f"--port={port}", f"--rekor_server.signer={folder / 'key.pem'}", f"--rekor_server.hostname={name}"),
                *(f"--trillian_log_server.address={LOOPBACK}", f"--trillian_log_server.port={log_port}"),
                *(f"--trillian_log_server.tlog_id={tree}", f"--redis_server.address={LOOPBACK}"),
                *(f"--redis_server.port={redis_port}", "--enable_retrieve_api=true", "--log_type=prod"),
            ],
            port,
        )
        yield Rekor1(url, name, _public_pem(key), folder / "key.pub", tree)


@dataclass(frozen=True, slots=True)
class _Servers:
    """Servers that stop in the opposite order."""

    folder: Path
    stack: AsyncExitStack

    async def start(self, name: str, command: Sequence[str | Path], port: int) -> None:
        server = await ServerProcess.spawn(
            name, command, log=self.folder / f"{name}.log", environment={**_ENVIRONMENT, "HOME": str(self.folder)}
        )
        self.stack.push_async_callback(server.stop, patience=1.0)
        await server.until(lambda: _listens(port), deadline=READY)


async def _created_tree(program: Path, port: int) -> str:
    making = await asyncio.create_subprocess_exec(
        program, f"--admin_server={LOOPBACK}:{port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await making.communicate()
    assert making.returncode == 0, errors.decode()
    return output.decode().strip()


def _plain(dsn: str) -> str:
    """Trillian's driver wants to be told that there is no TLS."""
    return f"{dsn}{'&' if '?' in dsn else '?'}sslmode=disable"


async def _listens(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()
        return True
    return False


async def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).is_success
    return False


def _private_pem(key: LogKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(key: LogKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
