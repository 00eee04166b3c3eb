"""The store of `service.py` in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

from afdp.errors import NotaryError
from afdp.messages.metadata import WorkflowType
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import (
    batches,
    changes,
    housekeeping,
    mode,
    months,
    queues,
    reconciling,
    records,
    roles,
    stamps,
    strays,
    trust_files,
    whole,
    workflow_list,
)
from afdp.metadata.postgres.audit import PostgresAudit
from afdp.metadata.postgres.audit_sinks import PostgresLedger
from afdp.metadata.postgres.complete import complete
from afdp.metadata.postgres.erasures import PostgresErasures
from afdp.metadata.postgres.kept_answers import find_answer
from afdp.metadata.postgres.migrating import MIGRATIONS, SCHEMA, SERVICE
from afdp.metadata.postgres.mode import Mode
from afdp.metadata.postgres.prepare import prepare
from afdp.metadata.postgres.retention import PostgresRetention
from afdp.metadata.postgres.seals import PostgresShelf
from afdp.metadata.postgres.search import search, signed
from afdp.metadata.record_cache import RecordCache
from afdp.metadata.terms import Terms
from afdp.metadata.values import (
    Asked,
    Batch,
    Changes,
    Checkpoint,
    Completion,
    Draft,
    Kept,
    LogPosition,
    News,
    Outcome,
    Place,
    Position,
    Publication,
    Queued,
    QueuedCompletion,
    QueueLength,
    Record,
    Search,
    SignedRecord,
    StampBacklog,
    Stray,
    Summary,
    TrustFiles,
    UnstampedSignature,
    Usage,
    WholePage,
    Workflow,
    WorkflowQuery,
)
from afdp.postgres import Database, open_database

_PAGE_BYTES = 2 * 1024 * 1024  # of whole records


class PostgresStore:
    """Records in PostgreSQL; the promises are those of `afdp.metadata.service.Store`.

    Nothing here is kept in memory, so any number of processes may share one database. What a tenant asks is read by a
    role that row security confines to this tenant; the pipeline, whose batches are of many, has another one.
    """

    def __init__(
        self,
        database: Database,
        tenants: Database,
        retention: timedelta,
        max_answer_bytes: int,
        terms: Terms,
        encryption: Mode,
        cache: RecordCache | None = None,
    ) -> None:
        self._cache = cache
        self._mode = encryption
        self._mode_is_known = False
        self._terms = terms
        self.shelf = PostgresShelf(database)
        self.erasures = PostgresErasures(database)
        self._database = database
        self._tenants = tenants
        self._retention = retention
        self._max_answer_bytes = max_answer_bytes
        self.audit = PostgresAudit(database, tenants, max_answer_bytes)
        self.sinks = PostgresLedger(database, self.audit)
        self.retention = PostgresRetention(database, tenants)

    async def check(self) -> None:
        """Raise a NotaryError if PostgreSQL cannot be used at present."""
        await self._database.check()
        await self._tenants.check()
        await self._require_mode()

    async def until_reachable(self) -> None:
        """Returns once PostgreSQL can be used."""
        await self._database.until_reachable()
        await self._tenants.until_reachable()

    async def prepare(
        self, drafts: Sequence[Draft], usage: dict[str, Usage] | None = None, rows: Sequence[NewRow] = ()
    ) -> list[Outcome]:
        """Drafts become PENDING records."""
        await self._require_mode()
        return await self._database.run(
            lambda connection: prepare(connection, drafts, self._retention, self._terms, usage, rows)
        )

    async def _require_mode(self) -> None:
        if not self._mode_is_known:
            self._mode_is_known = await self._database.run(lambda connection: mode.require(connection, self._mode))

    async def complete(
        self, checkpoint: Checkpoint, completions: Sequence[Completion], rows: Sequence[NewRow] = ()
    ) -> list[LogPosition | NotaryError]:
        """PENDING records become LOGGED ones."""
        return await self._database.run(lambda connection: complete(connection, checkpoint, completions, rows))

    async def list_pending(self, limit: int, after: UUID | None, before: datetime | None) -> list[Record]:
        """PENDING records by ascending receipt ID.

        Raises:
            ResourceExhausted: they are too large together for one message.
        """
        most = self._max_answer_bytes
        return await self._database.run(lambda connection: records.pending(connection, limit, after, before, most))

    async def kept(self, limit: int, after: UUID | None) -> list[Kept]:
        """Records of all tenants, whole or not, by ascending receipt ID."""
        most = self._max_answer_bytes // 4  # what is read beside the statements is less than three times as much
        return await self._database.run(lambda connection: reconciling.kept(connection, limit, after, most))

    async def places(self, origin: str, start: int, end: int) -> list[Place]:
        """Which records say that they are in this part of a log."""
        return await self._database.run(lambda connection: reconciling.places(connection, origin, start, end))

    async def strays(self, table: str, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """Rows beside the records that contradict them."""
        return await self._database.run(lambda connection: strays.strays(connection, table, after, limit))

    async def reopen(self, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
        """A record that has lost its place is PENDING again."""
        target = receipt_id, log_origin, external_log
        return await self._database.run(lambda connection: reconciling.reopen(connection, *target))

    async def lease_queued(self, log: str, limit: int, lease: timedelta) -> list[Queued]:
        """Queued records that are due, taken out for a while."""
        most = self._max_answer_bytes // 2
        return await self._database.run(lambda connection: queues.lease(connection, log, limit, lease, most))

    async def complete_queued(
        self, log: str, completions: Sequence[QueuedCompletion]
    ) -> list[LogPosition | NotaryError]:
        """Queued records are in the log."""
        return await self._database.run(lambda connection: queues.complete(connection, log, completions))

    async def defer_queued(self, log: str, waits: Mapping[UUID, timedelta]) -> None:
        """Queued records wait for longer."""
        await self._database.run(lambda connection: queues.defer(connection, log, waits))

    async def queues(self) -> list[QueueLength]:
        """The queues that are not empty."""
        return await self._database.run(queues.lengths)

    async def get_record(self, tenant: str, receipt_id: UUID) -> Record | None:
        """One record of a tenant; a copy, where there is one."""
        if self._cache is None:
            return await self._tenants.run_for(tenant, lambda c: records.of_tenant(c, tenant, receipt_id))
        if (copy := await self._cache.find(tenant, receipt_id)) is not None:
            return copy
        found = await self._tenants.run_for(tenant, lambda c: records.lasting_of_tenant(c, tenant, receipt_id))
        record, lasts = found or (None, False)
        if record is not None and lasts:
            self._cache.keep(tenant, record)
        return record

    async def get_records(self, tenant: str, receipt_ids: Sequence[UUID]) -> list[Record]:
        """Some records of a tenant."""
        return await self._tenants.run_for(
            tenant, lambda connection: records.some_of_tenant(connection, tenant, receipt_ids)
        )

    async def changes(self, tenant: str, cursor: str, limit: int) -> Changes:
        """The changes of a tenant's records after a cursor."""
        return await self._tenants.run_for(tenant, lambda connection: changes.page(connection, tenant, cursor, limit))

    async def news(self, cursor: str) -> News:
        """Which tenants have changes after a cursor."""
        return await self._database.run(lambda connection: changes.news(connection, cursor))

    async def note_witnessed(self, origin: str, tree_size: int) -> int:
        """A tree is cosigned; gives the size of the largest."""
        return await self._database.run(lambda connection: changes.witnessed(connection, origin, tree_size))

    async def find_evidence(self, tenant: str, evidence_hash: bytes, signature: bytes) -> tuple[Record, int] | None:
        """The newest record of the evidence, and how many there are."""
        return await self._tenants.run_for(
            tenant, lambda connection: records.by_evidence(connection, tenant, evidence_hash, signature)
        )

    async def find_answer(self, asked: Asked) -> Record | NotaryError | None:
        """What answers a request already."""
        return await self._database.run(lambda connection: find_answer(connection, asked, self._retention))

    async def search(self, query: Search, after: Position | None, limit: int) -> list[Summary]:
        """Records that match, in order."""
        self._terms.require_searchable(query)
        terms = self._terms.asked(query)
        return await self._tenants.run_for(
            query.tenant, lambda connection: search(connection, query, terms, after, limit)
        )

    async def read(self, query: Search, after: Position | None, limit: int) -> WholePage:
        """The same, whole; fewer where they are large."""
        self._terms.require_searchable(query)
        terms, most = self._terms.asked(query), min(_PAGE_BYTES, self._max_answer_bytes // 2)
        return await self._tenants.run_for(
            query.tenant, lambda connection: whole.read(connection, query, terms, after, limit, most)
        )

    async def signed(self, query: Search, after: Position | None, limit: int) -> list[SignedRecord]:
        """As `search`, with no more told than which records they are."""
        return await self._tenants.run_for(query.tenant, lambda connection: signed(connection, query, after, limit))

    async def notarized_at(self, tenant: str, receipt_id: UUID) -> datetime | None:
        """When a record of a tenant was notarised."""
        return await self._tenants.run_for(
            tenant, lambda connection: records.notarized_at(connection, tenant, receipt_id)
        )

    async def claim_stamps(self, limit: int, lease: timedelta) -> list[UnstampedSignature]:
        """Signatures that wait for a stamp, for this caller alone until the lease is over."""
        return await self._database.run(lambda connection: stamps.claim(connection, limit, lease))

    async def keep_stamp(self, receipt_id: UUID, timestamp: bytes) -> None:
        """A stamp is added to its record."""
        await self._database.run(lambda connection: stamps.keep(connection, receipt_id, timestamp))

    async def postpone_stamps(self, receipt_ids: Sequence[UUID], wait: timedelta) -> None:
        """Signatures are given back for later."""
        await self._database.run(lambda connection: stamps.postpone(connection, receipt_ids, wait))

    async def stamp_backlog(self) -> StampBacklog:
        """How many signatures wait for a stamp, and since when."""
        return await self._database.run(stamps.backlog)

    async def create_batch(self, batch: Batch) -> tuple[UUID, bool]:
        """The batch of this idempotency key, and whether another request made it before."""
        return await self._database.run(lambda connection: batches.create(connection, batch, self._retention))

    async def finish_batch(self, tenant: str, batch_id: UUID, succeeded: int, failed: int) -> None:
        """A batch ends with its counts."""
        await self._database.run(lambda connection: batches.finish(connection, tenant, batch_id, succeeded, failed))

    async def get_workflow(self, tenant: str, kind: WorkflowType, workflow_id: UUID) -> Workflow | None:
        """One workflow of a tenant."""
        return await self._tenants.run_for(
            tenant, lambda connection: workflow_list.get(connection, tenant, kind, workflow_id)
        )

    async def list_workflows(self, query: WorkflowQuery, after: Position | None, limit: int) -> list[Workflow]:
        """Workflows that match, newest first."""
        return await self._tenants.run_for(
            query.tenant, lambda connection: workflow_list.page(connection, query, after, limit)
        )

    async def count_workflows(self, query: WorkflowQuery) -> int:
        """How many workflows match."""
        return await self._tenants.run_for(query.tenant, lambda connection: workflow_list.count(connection, query))

    async def page_key(self) -> bytes:
        """What page tokens are sealed under."""
        key: bytes = await self._database.run(lambda connection: connection.fetchval("SELECT key FROM page_key"))
        return key

    async def get_trust_files(self, known: int) -> TrustFiles:
        """The newest publication of the trust root."""
        return await self._database.run(lambda connection: trust_files.current(connection, known))

    async def get_trust_file(self, name: str) -> bytes | None:
        """One file of the trust root."""
        return await self._database.run(lambda connection: trust_files.one(connection, name))

    async def put_trust_files(self, publication: Publication) -> int:
        """A publication of the trust root is written."""
        return await self._database.run(lambda connection: trust_files.publish(connection, publication))


@asynccontextmanager
async def open_store(settings: MetadataSettings, cache: RecordCache | None = None) -> AsyncIterator[PostgresStore]:
    """The store, after the first attempt to reach PostgreSQL: while it is away every call says so.

    Once it can be reached its schema is brought to this release. Beside run the counting of pending records, the
    forgetting of old idempotency keys and changes, and the making of the months that come.
    """
    retention = timedelta(days=settings.idempotency_retention_days)
    pipeline, readers = roles.shared_out(settings)
    async with (
        open_database(pipeline, SCHEMA, SERVICE, MIGRATIONS, roles.WRITER) as database,
        open_database(readers, SCHEMA, SERVICE, session=roles.READER) as tenants,
        asyncio.TaskGroup() as tasks,
    ):
        beside = [
            tasks.create_task(housekeeping.count_waiting(database, settings.pending_refresh_seconds)),
            tasks.create_task(housekeeping.forget_old_keys(database, retention)),
            tasks.create_task(months.keep_ahead(database)),
            tasks.create_task(
                housekeeping.forget_old_changes(database, timedelta(hours=settings.change_retention_hours))
            ),
        ]
        try:
            yield PostgresStore(
                database,
                tenants,
                retention,
                settings.max_message_bytes,
                Terms(settings.searchable_metadata),
                settings.encryption,
                cache,
            )
        finally:
            for task in beside:
                task.cancel()
