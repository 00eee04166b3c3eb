"""A real database, the real signer, and as many writers as a test wants."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from afdp.config import ServiceSettings
from afdp.formats.merkle import verify_inclusion
from afdp.formats.note import Note
from afdp.messages.signer import SignerServiceClient
from afdp.postgres import open_database, packaged
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.server import running_server
from afdp.signer.guard import CheckpointGuard
from afdp.signer.keys import ED25519, KeySpec, Purpose
from afdp.signer.service import Signer
from afdp.signer.servicer import SignerServicer
from afdp.signer.status import StatusReport
from afdp.signer.timestamps import Timestamps
from afdp.signer.trust import TrustSigner
from afdp.signer.trust_memory import TrustMemory
from afdp.telemetry import Telemetry
from afdp.transparency.audit import Auditor, require_no_fault
from afdp.transparency.cadence import beside
from afdp.transparency.config import TransparencySettings
from afdp.transparency.logs import Logs
from afdp.transparency.parts import LogParts
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore
from afdp.transparency.postgres_audit import PostgresAuditBook
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.service import CheckpointSigner, Store, TransparencyLog
from afdp.transparency.signer import GrpcSigner
from afdp.transparency.values import Inclusion, KnownLog, LogIdentity, SignedCheckpoint
from afdp.transparency.witnesses import open_witnesses
from afdp.transparency.witnessing import Witnessing
from afdp.transparency.writer import LogWriter, running
from tests.lasting_ports import lasting_port
from tests.local_keys import file_catalogue, file_data_keys

ORIGIN = "notary.localhost"
ORIGINS = (ORIGIN, "*.example.org")


class SignerPeer:
    """The signer with keys in files, served over gRPC on one port; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = lasting_port()
        self.address = f"127.0.0.1:{self.port}"
        self.folder = folder
        self._running = AsyncExitStack()

    async def start(self) -> None:
        guard = CheckpointGuard(self.folder / "checkpoints", ORIGINS)
        own = KeySpec("own-log-key", Purpose.LOG, ED25519, origins=("own-key.example.org",))
        keys = file_catalogue(self.folder, own)
        signer = Signer(keys, guard, ORIGINS)
        trust = TrustSigner(keys, TrustMemory(self.folder / "trust"))
        settings = ServiceSettings(port=self.port, metrics_port=0, drain_seconds=1.0)
        telemetry = Telemetry("signer", TracerProvider())
        data_keys = await self._running.enter_async_context(file_data_keys(self.folder))
        servicer = SignerServicer(signer, Timestamps(None), trust, data_keys, StatusReport({}))
        await self._running.enter_async_context(running_server(servicer, settings, telemetry))

    async def stop(self) -> None:
        await self._running.aclose()

    async def forget(self) -> None:
        """Starts anew without the memory of what was signed, with the same keys."""
        await self.stop()
        shutil.rmtree(self.folder / "checkpoints")
        await self.start()


@dataclass(frozen=True, slots=True)
class Replica:
    """One instance of the service without its servers."""

    logs: Logs
    log: TransparencyLog
    writer: LogWriter
    store: Store


OpenReplica = Callable[..., AbstractAsyncContextManager[Replica]]


@asynccontextmanager
async def open_replica(
    database: str,
    signer_address: str,
    store: Callable[[Store], Store] = lambda store: store,
    signer: Callable[[CheckpointSigner], CheckpointSigner] = lambda signer: signer,
    **settings: object,
) -> AsyncIterator[Replica]:
    """A writer at work on a database; `store` and `signer` may put something before its adapters."""
    known = settings_for(database, signer_address, **settings)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_database(known, SCHEMA, SERVICE, packaged("afdp.transparency"), SESSION)
        )
        channel = await stack.enter_async_context(open_channel(known.signer_address, spread=False))
        own_store = store(PostgresStore(pool))
        client = SignerServiceClient(GrpcCaller(channel))
        own_signer = signer(GrpcSigner(client, known.signer_timeout_seconds))
        witnesses = await stack.enter_async_context(open_witnesses(known.witnesses))
        witnessing = Witnessing(own_store, witnesses, known.witnessing, known.log_origin) if witnesses else None
        book = PostgresAuditBook(PostgresStore(pool))

        async def sound(identity: LogIdentity) -> None:
            await require_no_fault(book)
            if witnessing:
                await witnessing.require_continuity(identity)

        writer = LogWriter(own_store, own_signer, known.log_origin, known.limits, sound)
        await stack.enter_async_context(running(writer))
        if witnessing:
            witnessing.attend(writer)
        await stack.enter_async_context(beside(witnessing))
        if interval := known.log_audit_interval_seconds:
            keys = [each.vkey for each in witnesses]
            auditor = Auditor(own_store, book, own_signer, keys, interval, known.log_audit_bundles)
            auditor.attend(writer)
            await stack.enter_async_context(beside(auditor))
        log = TransparencyLog(own_store, writer, known.base_url, witnessing)

        def assembled(further: KnownLog) -> LogParts:
            further_store = PostgresStore(pool, further.number)
            return LogParts(known, further_store, client, witnesses, further.origin, logs.base_url(further))

        logs = Logs(known.log_origin, log, PostgresCatalogue(pool), assembled)
        await stack.enter_async_context(logs.at_work())
        yield Replica(logs, log, writer, own_store)


def settings_for(database: str, signer_address: str, **settings: object) -> TransparencySettings:
    values: dict[str, object] = {
        "port": 0,
        "metrics_port": 0,
        "http_port": 0,
        "log_audit_interval_seconds": 0,
        "database_url": SecretStr(database),
        "signer_address": signer_address,
        **settings,
    }
    return TransparencySettings.model_validate(values)


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """The root hash as RFC 9162, section 2.1.1 defines it, from leaf hashes, and from nothing of ours."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


@pytest.fixture
async def signer(data_folder: Path) -> AsyncIterator[SignerPeer]:
    """The real signer in this process, with keys and memory of its own."""
    peer = SignerPeer(data_folder)
    await peer.start()
    yield peer
    await peer.stop()


@pytest.fixture
def replica(database: str, signer: SignerPeer) -> OpenReplica:
    """`async with replica() as one:` is an instance of the service on this test's database and signer."""

    def opened(**overrides: object) -> AbstractAsyncContextManager[Replica]:
        return open_replica(**{"database": database, "signer_address": signer.address, **overrides})  # type: ignore[arg-type]

    return opened


@pytest.fixture
def settings(database: str, signer: SignerPeer) -> Callable[..., TransparencySettings]:
    """`settings(**overrides)`: those of a service on this test's database and signer."""

    def made(**overrides: object) -> TransparencySettings:
        return settings_for(database, signer.address, **overrides)

    return made


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to look at, and to damage, what is stored."""
    connection = await asyncpg.connect(database, server_settings={"search_path": SCHEMA})
    yield connection
    await connection.close()


@pytest.fixture
def root_of() -> Callable[[Sequence[bytes]], bytes]:
    """The naive root hash over leaf hashes."""
    return naive_root


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """`await eventually(condition)`: returns once the condition holds; fails after ten seconds."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def assert_logged() -> Callable[[LogIdentity, SignedCheckpoint | None, bytes, object], int]:
    """`assert_logged(identity, checkpoint, entry, answer)`: the answer proves the entry; gives its index."""

    def check(identity: LogIdentity, checkpoint: SignedCheckpoint | None, entry: bytes, answer: object) -> int:
        assert isinstance(answer, Inclusion), answer
        assert checkpoint is not None
        assert SignedCheckpoint.verified(Note.parse(checkpoint.note), identity) == checkpoint
        leaf = sha256(b"\x00" + entry).digest()
        assert answer.leaf_hash == leaf
        verify_inclusion(answer.leaf_index, checkpoint.size, leaf, answer.proof, checkpoint.root)
        return answer.leaf_index

    return check


@pytest.fixture
def stored_leaves(sql: asyncpg.Connection) -> Callable[[], Awaitable[list[bytes]]]:
    """`await stored_leaves()`: the leaf hashes in the database, computed from the entries, in their order."""

    async def read() -> list[bytes]:
        rows = await sql.fetch("SELECT leaf_index, body FROM entry ORDER BY leaf_index")
        assert [row["leaf_index"] for row in rows] == list(range(len(rows)))
        return [sha256(b"\x00" + row["body"]).digest() for row in rows]

    return read
