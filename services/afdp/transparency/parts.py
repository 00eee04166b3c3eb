"""One log, put together: its store, its writer, and what else works for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from afdp.messages.signer import SignerServiceClient
from afdp.postgres import Database
from afdp.transparency.audit import Auditor, require_no_fault
from afdp.transparency.cadence import beside
from afdp.transparency.config import TransparencySettings
from afdp.transparency.logs import Logs, open_log
from afdp.transparency.mirror_folder import FolderSink
from afdp.transparency.mirroring import Mirror, Sink
from afdp.transparency.postgres import FIRST, PostgresStore
from afdp.transparency.postgres_audit import PostgresAuditBook
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.postgres_mirror import PostgresTurns
from afdp.transparency.room import RoomKeeper
from afdp.transparency.service import TransparencyLog
from afdp.transparency.signer import GrpcSigner, GrpcStampingAuthority
from afdp.transparency.stamping import CheckpointStamper
from afdp.transparency.values import LogIdentity
from afdp.transparency.witnessing import Witness, Witnessing
from afdp.transparency.writer import LogWriter, running


class LogParts:
    """One log and what works for it; nothing of it is shared with another log but connections."""

    def __init__(
        self,
        settings: TransparencySettings,
        store: PostgresStore,
        client: SignerServiceClient,
        witnesses: Sequence[Witness],
        origin: str,
        base_url: str,
    ) -> None:
        self._witnessing = Witnessing(store, witnesses, settings.witnessing, origin) if witnesses else None
        signer = GrpcSigner(client, settings.signer_timeout_seconds)
        self._writer = LogWriter(store, signer, origin, settings.limits, self._require_soundness)
        self._book = PostgresAuditBook(store)
        self._auditor: Auditor | None = None
        if interval := settings.log_audit_interval_seconds:
            keys = [each.vkey for each in witnesses]
            self._auditor = Auditor(store, self._book, signer, keys, interval, settings.log_audit_bundles)
            self._auditor.attend(self._writer)
        self.log = TransparencyLog(store, self._writer, base_url, self._witnessing)
        self._rooms = RoomKeeper(store)
        self._mirror: Mirror | None = None
        if settings.log_mirror:
            prefix = "" if store.log_id == FIRST else f"logs/{origin}"
            interval = settings.log_mirror_interval_seconds
            self._mirror = Mirror(self.log, PostgresTurns(store), sink_of(settings, prefix), origin, interval)
        self._stamper: CheckpointStamper | None = None
        if interval := settings.stamp_checkpoints_seconds:
            authority = GrpcStampingAuthority(client, settings.stamp_timeout_seconds)
            self._stamper = CheckpointStamper(self.log, store, authority, origin, interval)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Its writer and what else works for it, for the length of a block.

        Raises:
            WrongLog: the log of the settings is not the one that is stored.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(self._writer))
            if self._witnessing:
                self._witnessing.attend(self._writer)
            await stack.enter_async_context(beside(self._witnessing))
            await stack.enter_async_context(beside(self._stamper))
            await stack.enter_async_context(beside(self._auditor))
            await stack.enter_async_context(beside(self._rooms))
            await stack.enter_async_context(beside(self._mirror))
            yield

    async def _require_soundness(self, identity: LogIdentity) -> None:
        """What else must hold before the first append."""
        await require_no_fault(self._book)
        if self._witnessing:
            await self._witnessing.require_continuity(identity)


def sink_of(settings: TransparencySettings, prefix: str) -> Sink:
    """Where a log's files go: below the mirror's place as below the read path."""
    if settings.log_mirror.startswith("/"):
        return FolderSink(Path(settings.log_mirror) / prefix)
    from afdp.transparency.mirror_s3 import Bucket, S3Sink  # its library is an extra

    name, _, path = settings.log_mirror.removeprefix("s3://").partition("/")
    return S3Sink(
        Bucket(
            name,
            "/".join(each for each in (path, prefix) if each),
            settings.log_mirror_endpoint,
            settings.log_mirror_region,
            settings.log_mirror_key_id,
            settings.mirror_secret(),
            settings.log_mirror_ca_file.read_bytes() if settings.log_mirror_ca_file else b"",
        )
    )


@asynccontextmanager
async def open_logs(
    settings: TransparencySettings, database: Database, client: SignerServiceClient, witnesses: Sequence[Witness]
) -> AsyncIterator[Logs]:
    """Every log of the deployment at work, for the length of a block.

    Raises:
        WrongLog: the log of the settings is not the one that is stored.
    """

    def assembled(number: int, origin: str, base_url: str) -> LogParts:
        return LogParts(settings, PostgresStore(database, number), client, witnesses, origin, base_url)

    async def declare() -> None:
        signer = GrpcSigner(client, settings.signer_timeout_seconds)
        for each in settings.logs:
            await open_log(catalogue, signer, each.new)

    first = assembled(FIRST, settings.log_origin, settings.base_url)
    catalogue = PostgresCatalogue(database)
    logs = Logs(
        settings.log_origin,
        first.log,
        catalogue,
        lambda known: assembled(known.number, known.origin, logs.base_url(known)),
        declare if settings.logs else None,
    )
    async with first.at_work(), logs.at_work():
        yield logs
