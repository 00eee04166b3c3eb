"""A store on a real PostgreSQL, and drafts to put into it. Tests share a database and keep apart by tenant."""

from __future__ import annotations

import os
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from typing import cast

import pytest
import pytest_asyncio
import uuid_utils

from afdp.messages.metadata import WorkflowType
from afdp.metadata.config import MetadataSettings
from afdp.metadata.opening import sealed
from afdp.metadata.postgres import PostgresStore, open_store
from afdp.metadata.sealed_retention import SealedRetention
from afdp.metadata.sealed_store import SealedStore
from afdp.metadata.service import Metadata
from afdp.metadata.values import Checkpoint, Completion, Draft, Idempotency, Principal, SearchTerms
from tests.local_data_keys import LocalHolder, local_holder

MakeDraft = Callable[..., Draft]


def new_id() -> uuid.UUID:
    return uuid.UUID(bytes=uuid_utils.uuid7().bytes)


def settings_for(url: str, **more: object) -> MetadataSettings:
    fixed: dict[str, object] = {"database_url": url, "database_pool_min": 1, "database_pool_max": 8, "metrics_port": 0}
    return MetadataSettings.model_validate(fixed | more)


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., MetadataSettings]:
    """`settings_of(url, name=value)`: the settings of a service on that database."""
    return settings_for


@pytest.fixture(scope="module")
def kept_as(request: pytest.FixtureRequest) -> str:
    """How records of the stores below are kept: `plain`, or `sealed` where a module asks for it by parameter."""
    return str(getattr(request, "param", "plain"))


@asynccontextmanager
async def _opened(url: str, kept_as: str, holder: LocalHolder) -> AsyncIterator[PostgresStore]:
    settings = settings_for(url, encryption="off" if kept_as == "plain" else "on")
    async with open_store(settings) as store:
        if kept_as == "plain":
            yield store
            return
        kept = sealed(settings, store, holder)
        vars(kept).update(check=store.check, audit=store.audit, retention=SealedRetention(store.retention, kept.keys))
        yield cast("PostgresStore", kept)  # with the parts that tests use


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store(module_database: str, kept_as: str, holder: LocalHolder) -> AsyncIterator[PostgresStore]:
    """A store that the tests of one module share."""
    async with _opened(module_database, kept_as, holder) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def own_store(database: str, kept_as: str, holder: LocalHolder) -> AsyncIterator[PostgresStore]:
    """A store that no other test sees."""
    async with _opened(database, kept_as, holder) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(store: PostgresStore) -> Metadata:
    """The service on the shared store."""
    return Metadata(store)


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test knows."""
    return f"tenant-{uuid.uuid4().hex}"


@pytest.fixture
def make_draft(tenant: str) -> MakeDraft:
    """`make_draft(key=…, evidence=…, …)`: a draft of this tenant, unlike any other where nothing is said."""

    def make(
        *,
        evidence: bytes | None = None,
        key: str | None = None,
        fingerprint: bytes | None = None,
        subject: str = "ci@example.com",
        tenant: str = tenant,
        receipt_id: uuid.UUID | None = None,
        event_type: str = "ai.model.deployment.completed",
        actor_id: str = "release-bot",
        artifacts: tuple[bytes, ...] = (),
        key_id: str = "afdp-notary-key:1",
        notarized_at: datetime | None = None,
        workflow_type: WorkflowType = WorkflowType.SIMPLE_SIGNING,
        batch_id: uuid.UUID | None = None,
        dedupe: bool = False,
        timestamp: bytes = b"",
    ) -> Draft:
        body = os.urandom(24).hex().encode() if evidence is None else evidence
        return Draft(
            receipt_id=receipt_id or new_id(),
            submitter=Principal(tenant, "https://id.example.com", subject, "oidc"),
            idempotency=None if key is None else Idempotency(key, fingerprint or sha256(body).digest()),
            workflow_type=workflow_type,
            batch_id=batch_id,
            evidence=body,
            evidence_hash=sha256(body).digest(),
            terms=SearchTerms(event_type, "service", actor_id, datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC), artifacts),
            statement=b'{"salt":"' + os.urandom(16).hex().encode() + b'"}',
            signature=os.urandom(71),
            key_id=key_id,
            leaf_hash=os.urandom(32),
            notarized_at=notarized_at or datetime.now(UTC),
            timestamp=timestamp,
            dedupe=dedupe,
        )

    return make


_sizes = count(1_000, 1_000)


@pytest.fixture
def checkpoint_of() -> Callable[..., Checkpoint]:
    """`checkpoint_of(size, root)`: the note of a tree, larger than any before where no size is given."""

    def make(size: int | None = None, root: bytes = bytes(32), origin: str = "notary.localhost") -> Checkpoint:
        tree_size = next(_sizes) if size is None else size
        signature = b64encode(os.urandom(68)).decode()
        note = f"{origin}\n{tree_size}\n{b64encode(root).decode()}\n\n— {origin} {signature}\n"
        return Checkpoint(origin, tree_size, note)

    return make


@pytest.fixture
def log_drafts(checkpoint_of: Callable[..., Checkpoint]) -> Callable[..., object]:
    """`await log_drafts(store, drafts)`: prepares and completes them; gives the checkpoint."""

    async def log(store: PostgresStore, drafts: list[Draft]) -> Checkpoint:
        checkpoint = checkpoint_of()
        await store.prepare(drafts)
        start = checkpoint.tree_size - len(drafts)
        completions = [Completion(draft.receipt_id, start + n, os.urandom(64)) for n, draft in enumerate(drafts)]
        await store.complete(checkpoint, completions)
        return checkpoint

    return log


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def holder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalHolder]:
    """What holds the keys that records are sealed under."""
    async with local_holder(tmp_path_factory.mktemp("data-keys")) as opened:
        yield opened


@pytest.fixture(scope="session")
def open_sealed(holder: LocalHolder) -> Callable[..., AbstractAsyncContextManager[SealedStore]]:
    """`async with open_sealed(url, name=value)`: a store that seals, as another process would have it."""

    @asynccontextmanager
    async def opening(url: str, **more: object) -> AsyncIterator[SealedStore]:
        settings = settings_for(url, encryption="on", **more)
        async with open_store(settings) as opened:
            yield sealed(settings, opened, holder)

    return opening
