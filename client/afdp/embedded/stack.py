"""The whole stack on loopback: five services as real processes, PostgreSQL from its wheel, OpenBao if it is wished.

    async with running_stack(StackOptions(Path(".afdp"))) as stack:
        print(stack.url)

The services are what production runs, with settings of their own; only the adapters differ. All data is in one folder,
and a second start on it finds everything again. A child that dies is restarted, whatever killed it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from afdp.embedded.certificates import (
    authority_context,
    client_settings,
    open_settings,
    prepare_certificates,
    tls_settings,
)
from afdp.embedded.openbao import OpenBao
from afdp.embedded.postgres import Postgres
from afdp.embedded.process import LOOPBACK, FolderLock, ServerProcess, claim_port, free_port
from afdp.embedded.redis import EmbeddedRedis
from afdp.errors import FailedPrecondition, NotaryError, Unavailable

logger = logging.getLogger(__name__)

SERVICES = ("signer", "metadata", "transparency", "notary", "gateway")
PORTS = {"gateway": 3030, "notary": 50051, "signer": 50052, "transparency": 50053, "metadata": 50054}
METRICS_PORTS = {"signer": 9091, "transparency": 9092, "metadata": 9093, "notary": 9094}
LOG_PORT, WITNESS_PORT = 8053, 8090

WITNESS_NAME = "witness.localhost"

_RESTART_AFTER = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds, by how often it died in a row
_LIVED = 2.0  # seconds after which a death is not one of a row
_PATIENCE = 3.0  # seconds for a service to end, so that all is over within five


@dataclass(frozen=True, slots=True)
class StackOptions:
    """How to run the stack."""

    data_dir: Path
    port_offset: int = 0
    _: KW_ONLY
    vault: bool = False
    witness: bool = False
    tls: bool = False
    redis: bool = False
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # further environment, by service


class Running(Protocol):
    """A server that was started."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    async def stop(self, *, patience: float = ...) -> object: ...


class Supervised:
    """A server that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[], Awaitable[Running]]) -> None:
        self.name = name
        self._start = start
        self._current: Running | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process's ID.

        Raises:
            Unavailable: it is not running just now.
        """
        if self._current is None:
            raise Unavailable(f"{self.name} is not running")
        return self._current.pid

    async def begin(self) -> Running:
        """Starts it, and watches over it until `end`."""
        self._current = await self._start()
        self._task = asyncio.create_task(self._watch(self._current), name=f"supervise {self.name}")
        return self._current

    async def end(self) -> None:
        """Stops it for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._current is not None:
            await self._current.stop(patience=_PATIENCE)

    async def _watch(self, running: Running) -> None:
        deaths, loop = 0, asyncio.get_running_loop()
        while True:
            born = loop.time()
            code = await running.wait()
            self._current = None
            deaths = 0 if loop.time() - born > _LIVED else deaths + 1
            logger.warning("%s ended with %s; it is started again", self.name, code)
            while self._current is None:
                await asyncio.sleep(_RESTART_AFTER[min(deaths, len(_RESTART_AFTER) - 1)])
                try:
                    self._current = running = await self._start()
                except NotaryError as error:
                    deaths += 1
                    logger.warning("%s does not start: %s", self.name, error)


class Stack:
    """The running stack. `url` is the gateway's."""

    def __init__(self, options: StackOptions) -> None:
        self._options = options
        self.data_dir = options.data_dir.resolve()
        self._servers: dict[str, Supervised] = {}
        self._lock: FolderLock | None = None
        self.certificates = self.data_dir / "tls"
        self._scheme = "https" if options.tls else "http"
        self.url = f"{self._scheme}://{LOOPBACK}:{self.port('gateway')}"
        self.database_url = ""  # known once PostgreSQL runs; holds its password

    def port(self, service: str) -> int:
        """The port of a service."""
        return PORTS[service] + self._options.port_offset

    def server(self, name: str) -> Supervised:
        """A server by its name: a service, `postgres`, `openbao` or `redis`."""
        return self._servers[name]

    @property
    def client_settings(self) -> dict[str, str]:
        """The environment of a client that calls as the administrator; empty over plain text, where all are alike."""
        return client_settings(self.certificates, "admin") if self._options.tls else {}

    def http_client(self, url: str) -> httpx.AsyncClient:
        """A client that believes the stack's own authority, where it has one."""
        verify = authority_context(self.certificates) if self._options.tls else True
        return httpx.AsyncClient(base_url=url, trust_env=False, verify=verify)

    @property
    def log_url(self) -> str:
        """The base URL of the transparency log's read path."""
        return f"{self._scheme}://{LOOPBACK}:{LOG_PORT + self._options.port_offset}"

    async def start(self) -> None:
        """Starts everything and waits until it can notarise.

        Raises:
            FailedPrecondition: the folder is in use, or a port is.
            Unavailable: it is not ready in time; the message names the logs.
        """
        self._prepare_folder()
        require_free_ports(self._options.port_offset)
        if self._options.witness:
            claim_port(WITNESS_PORT + self._options.port_offset, "the witness")
        if self._options.tls:
            await asyncio.to_thread(prepare_certificates, self.certificates)
        stores = [self._start_postgres()]
        if self._options.vault:
            stores.append(self._start_openbao())
        if self._options.redis:
            stores.append(self._start_redis())
        environments: dict[str, dict[str, str]] = {}
        for found in await asyncio.gather(*stores):
            for service, environment in found.items():
                environments.setdefault(service, {}).update(environment)
        if self._options.witness:
            environments["transparency"] = {**environments["transparency"], **self._make_witness()}
        for service in SERVICES:
            await self._start_service(service, environments.get(service, {}))
        await self._until_ready()
        if self._options.witness:  # it is told of the log's key, which is there now
            await self._start_witness()

    async def stop(self) -> None:
        """Stops everything, the services before what they stand on."""
        stores = ("postgres", "openbao", "redis")
        await asyncio.gather(*(server.end() for name, server in self._servers.items() if name not in stores))
        await asyncio.gather(*(self._servers[name].end() for name in stores if name in self._servers))
        if self._lock is not None:
            self._lock.release()

    def _prepare_folder(self) -> None:
        # PostgreSQL refuses root: its own account must be able to walk through, and through nothing else.
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self.data_dir.chmod(0o711)
        self._lock = FolderLock(self.data_dir)
        for folder in ("logs", *SERVICES):
            (self.data_dir / folder).mkdir(mode=0o700, exist_ok=True)

    async def _start_postgres(self) -> dict[str, dict[str, str]]:
        port = free_port()
        server = Supervised("postgres", lambda: Postgres.start(self.data_dir / "postgres", port))
        self._servers["postgres"] = server
        running = await server.begin()
        if not isinstance(running, Postgres):
            raise FailedPrecondition("PostgreSQL did not start")
        self.database_url = running.dsn
        small = {"AFDP_DATABASE_POOL_MIN": "2"}
        login = {"AFDP_DATABASE_URL": running.dsn_for("afdp_metadata")}
        await self._migrate({**login, "AFDP_DATABASE_OWNER_URL": running.dsn})
        return {"metadata": {**login, **small}, "transparency": {"AFDP_DATABASE_URL": running.dsn, **small}}

    async def _migrate(self, urls: Mapping[str, str]) -> None:
        """The records' schema and its roles are there: the service that works with them owns neither."""
        process = await ServerProcess.spawn(
            "metadata migrate",
            [sys.executable, "-m", "afdp.metadata", "migrate"],
            log=self.data_dir / "logs" / "migrate.log",
            environment={**_inherited(), **self.settings("metadata"), **urls},
            folder=self.data_dir / "metadata",
        )
        try:
            if await process.wait() != 0:
                raise Unavailable(f"the records' schema was not made: {process.last_words()}")
        finally:
            await process.stop()

    async def _start_openbao(self) -> dict[str, dict[str, str]]:
        port = free_port()
        server = Supervised("openbao", lambda: OpenBao.start(self.data_dir / "openbao", port))
        self._servers["openbao"] = server
        running = await server.begin()
        if not isinstance(running, OpenBao):
            raise FailedPrecondition("OpenBao did not start")
        return {"signer": running.signer_settings}

    async def _start_redis(self) -> dict[str, dict[str, str]]:
        server = Supervised("redis", lambda: EmbeddedRedis.start(self.data_dir / "redis"))
        self._servers["redis"] = server
        running = await server.begin()
        if not isinstance(running, EmbeddedRedis):
            raise FailedPrecondition("Redis did not start")
        there = {"AFDP_REDIS_URL": running.url}
        return {"notary": there, "metadata": {**there, "AFDP_CACHE_SECRET": secrets.token_hex(32)}}

    @property
    def witness_address(self) -> str:
        """Where the witness listens, if there is one."""
        return f"{LOOPBACK}:{WITNESS_PORT + self._options.port_offset}"

    def _make_witness(self) -> dict[str, str]:
        from afdp.witness.folder import make_folder, open_vkey

        folder = self.data_dir / "witness"
        if not folder.exists():
            make_folder(folder, WITNESS_NAME, self.witness_address, [], None)
        known = [{"url": f"http://{self.witness_address}", "vkey": str(open_vkey(folder))}]
        return {"AFDP_WITNESSES": json.dumps(known)}

    async def _start_witness(self) -> None:
        from afdp.witness.folder import write_logs

        folder = self.data_dir / "witness"
        async with self.http_client(self.log_url) as client:
            vkey = (await client.get("/vkey")).raise_for_status().text.strip()
        write_logs(folder, WITNESS_NAME, self.witness_address, vkey)

        async def start() -> ServerProcess:
            return await ServerProcess.spawn(
                "witness",
                [sys.executable, "-m", "afdp.cli", "witness", "run", folder],
                log=self.data_dir / "logs" / "witness.log",
                environment=_inherited(),
                folder=folder,
            )

        server = self._servers["witness"] = Supervised("witness", start)
        await server.begin()

    async def _start_service(self, service: str, environment: Mapping[str, str]) -> None:
        settings = {**self.settings(service), **environment, **self._options.settings.get(service, {})}

        async def start() -> ServerProcess:
            return await ServerProcess.spawn(
                service,
                [sys.executable, "-m", f"afdp.{service}"],
                log=self.data_dir / "logs" / f"{service}.log",
                environment={**_inherited(), **settings},
                folder=self.data_dir / service,
            )

        server = self._servers[service] = Supervised(service, start)
        await server.begin()

    def settings(self, service: str) -> dict[str, str]:
        """The environment of a service, but for what is known only once the stores run."""
        offset = self._options.port_offset
        peers = {
            f"AFDP_{peer.upper()}_ADDRESS": f"{LOOPBACK}:{self.port(peer)}"
            for peer in {
                "gateway": ("notary",),
                "notary": ("signer", "transparency", "metadata"),
                "transparency": ("signer",),
                "metadata": ("signer",),
            }.get(service, ())
        }
        own = {
            "gateway": {"AFDP_LOG_URL": self.log_url},
            "metadata": {"AFDP_ENCRYPTION": "on"},
            "transparency": {"AFDP_HTTP_PORT": str(LOG_PORT + offset), "AFDP_LOG_BASE_URL": f"{self.url}/log"},
        }.get(service, {})
        return {
            "AFDP_HOST": LOOPBACK,
            "AFDP_PORT": str(self.port(service)),
            "AFDP_METRICS_PORT": str(METRICS_PORTS[service] + offset if service in METRICS_PORTS else 0),
            "AFDP_DATA_DIR": str(self.data_dir / service),
            "AFDP_DRAIN_SECONDS": "2",
            **(tls_settings(self.certificates, service) if self._options.tls else open_settings(service)),
            **peers,
            **own,
        }

    async def _until_ready(self, seconds: float = 60.0) -> None:
        try:
            async with asyncio.timeout(seconds), self.http_client(self.url) as client:
                while True:
                    if await _is_ready(client):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable(f"the stack is not ready after {seconds:.0f} s: see {self.data_dir / 'logs'}") from None


def require_free_ports(offset: int) -> None:
    """Checks every port that a stack at this offset listens on.

    Raises:
        FailedPrecondition: one is taken; it is named.
    """
    metrics = {f"{name}'s metrics": port for name, port in METRICS_PORTS.items()}
    for name, port in {**PORTS, **metrics, "the log's tiles": LOG_PORT}.items():
        claim_port(port + offset, name)


def free_offset() -> int:
    """The first offset at which no port is taken; a stack may be running already.

    Raises:
        FailedPrecondition: there is none.
    """
    for offset in range(0, 5_000, 100):
        try:
            require_free_ports(offset)
        except FailedPrecondition:
            continue
        return offset
    raise FailedPrecondition("no free ports were found: is something listening everywhere?")


@asynccontextmanager
async def running_stack(options: StackOptions) -> AsyncIterator[Stack]:
    """A stack that is ready, and stopped on leaving."""
    stack = Stack(options)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready", params={"writes": "true"}, timeout=2.0)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _inherited() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ}
