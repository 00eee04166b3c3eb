"""The service over real gRPC: every RPC once, what is refused by its name, and errors of single items."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import grpc
import pytest
import pytest_asyncio
import uuid_utils
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

from afdp.errors import InvalidArgument, NotFound
from afdp.messages.metadata import (
    CompleteRequest,
    Completion,
    CreateBatchRequest,
    Draft,
    FindEvidenceRequest,
    FinishBatchRequest,
    GetRecordRequest,
    GetWorkflowRequest,
    Idempotency,
    ListPendingRequest,
    ListWorkflowsRequest,
    MetadataServiceClient,
    PrepareRequest,
    Principal,
    RecordState,
    SearchRecordsRequest,
    SearchTerms,
    WorkflowState,
    WorkflowType,
)
from afdp.metadata.audit_trail import AuditTrail
from afdp.metadata.config import MetadataSettings
from afdp.metadata.erasing import Erasing
from afdp.metadata.postgres import open_store
from afdp.metadata.retention import Retention
from afdp.metadata.service import Metadata
from afdp.metadata.servicer import MetadataServicer
from afdp.metadata.sinks.watch import SinkWatch
from afdp.rpc import GrpcCaller, open_channel
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(
    module_database: str, settings_of: Callable[..., MetadataSettings]
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a served store."""
    settings = settings_of(module_database, port=0, drain_seconds=1)
    async with (
        open_store(settings) as store,
        running_server(
            MetadataServicer(
                Metadata(store),
                AuditTrail(store.audit),
                SinkWatch([], store.sinks),
                Retention(store.retention),
                Erasing(store.erasures, None),
            ),
            settings,
            Telemetry("metadata", TracerProvider()),
            store.check,
        ) as port,
        open_channel(f"127.0.0.1:{port}") as opened,
    ):
        yield opened


@pytest.fixture
def client(channel: grpc.aio.Channel) -> MetadataServiceClient:
    """A client of it."""
    return MetadataServiceClient(GrpcCaller(channel))


@pytest.fixture
def message(tenant: str) -> Callable[..., Draft]:
    """`message(…)`: a draft as the notary sends it."""

    def make(**more: Any) -> Draft:
        evidence = os.urandom(16).hex().encode()
        draft = Draft(
            receipt_id=str(uuid_utils.uuid7()),
            submitter=Principal(tenant=tenant, issuer="", subject="anonymous", method="none"),
            workflow_type=WorkflowType.SIMPLE_SIGNING,
            evidence=evidence,
            evidence_hash=sha256(evidence).digest(),
            terms=SearchTerms(
                event_type="ai.model.trained",
                actor_type="human",
                actor_id="Zoë",
                timestamp_utc=datetime(2026, 11, 24, 4, 9, 28, 123456, tzinfo=UTC),
                artifact_hashes=[os.urandom(32)],
            ),
            statement=b"{}",
            signature=os.urandom(70),
            key_id="afdp-notary-key:3",
            leaf_hash=os.urandom(32),
            notarized_at=datetime.now(UTC),
            timestamp=os.urandom(600),
        )
        for name, value in more.items():
            setattr(draft, name, value)
        return draft

    return make


async def test_a_record_goes_its_whole_way(
    client: MetadataServiceClient, tenant: str, message: Callable[..., Draft], checkpoint_of: Any
) -> None:
    draft = message()
    checkpoint = checkpoint_of()

    prepared = await client.prepare(PrepareRequest(drafts=[draft]), timeout=5)
    assert prepared.results[0].prepared is not None

    pending = await client.list_pending(ListPendingRequest(page_size=10), timeout=5)
    assert pending.records[0].state == RecordState.PENDING
    assert pending.records[0].draft == draft

    completed = await client.complete(
        CompleteRequest(
            origin=checkpoint.origin,
            tree_size=checkpoint.tree_size,
            checkpoint=checkpoint.note,
            completions=[Completion(receipt_id=draft.receipt_id, log_index=0, proof=bytes(64))],
        ),
        timeout=5,
    )
    log = completed.results[0].log
    assert completed.results[0].error is None
    assert log is not None
    assert (log.log_index, log.checkpoint) == (0, checkpoint.note)

    record = (await client.get_record(GetRecordRequest(tenant=tenant, receipt_id=draft.receipt_id), timeout=5)).record
    assert record is not None
    assert (record.draft, record.state, record.log) == (draft, RecordState.LOGGED, log)
    assert record.logged_at is not None

    found = await client.find_evidence(
        FindEvidenceRequest(tenant=tenant, evidence_hash=draft.evidence_hash, signature=draft.signature), timeout=5
    )
    assert (found.record, found.count) == (record, 1)

    searched = await client.search_records(SearchRecordsRequest(tenant=tenant, page_size=5, actor_id="Zoë"), timeout=5)
    (summary,) = searched.records
    assert (summary.receipt_id, summary.terms, summary.state) == (draft.receipt_id, draft.terms, RecordState.LOGGED)
    assert searched.next_page_token == ""

    asked = GetWorkflowRequest(tenant=tenant, type=WorkflowType.SIMPLE_SIGNING, id=draft.receipt_id)
    workflow = (await client.get_workflow(asked, timeout=5)).workflow
    assert workflow is not None
    assert (workflow.state, workflow.created_at) == (WorkflowState.COMPLETED, draft.notarized_at)


async def test_a_batch_goes_its_whole_way(client: MetadataServiceClient, tenant: str) -> None:
    batch = CreateBatchRequest(
        batch_id=str(uuid_utils.uuid7()),
        submitter=Principal(tenant=tenant, subject="anonymous", method="none"),
        idempotency=Idempotency(key="k", fingerprint=bytes(32)),
        item_count=3,
        created_at=datetime.now(UTC),
    )
    created = await client.create_batch(batch, timeout=5)
    assert (created.batch_id, created.existing) == (batch.batch_id, False)

    first_id, batch.batch_id = batch.batch_id, str(uuid_utils.uuid7())
    again = await client.create_batch(batch, timeout=5)
    assert (again.batch_id, again.existing) == (first_id, True)

    await client.finish_batch(FinishBatchRequest(batch_id=first_id, tenant=tenant, succeeded=2, failed=1), timeout=5)

    listed = await client.list_workflows(ListWorkflowsRequest(tenant=tenant, page_size=5), timeout=5)
    (workflow,) = listed.workflows
    assert (workflow.id, workflow.type, workflow.state) == (
        first_id,
        WorkflowType.BATCH_SIGNING,
        WorkflowState.COMPLETED,
    )
    assert (workflow.item_count, workflow.succeeded, workflow.failed, listed.total_count) == (3, 2, 1, 1)


async def test_items_of_one_request_fail_alone(client: MetadataServiceClient, message: Callable[..., Draft]) -> None:
    key = Idempotency(key="k", fingerprint=bytes(32))
    first, twin = message(idempotency=key), message(idempotency=key)
    other = message(idempotency=Idempotency(key="k", fingerprint=bytes([1]) * 32))
    bad = message(key_id="")

    results = (await client.prepare(PrepareRequest(drafts=[first, twin, other, bad]), timeout=5)).results

    assert results[0].prepared is not None
    assert results[1].existing is not None
    assert results[1].existing.draft is not None
    assert results[1].existing.draft.receipt_id == first.receipt_id
    assert results[2].error is not None
    assert results[2].error.code == "ALREADY_EXISTS"
    assert results[3].error is not None
    assert [error.field for error in results[3].error.errors] == ["drafts[3].key_id"]


async def test_what_is_wrong_is_refused_by_its_name(client: MetadataServiceClient) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.search_records(SearchRecordsRequest(tenant="t", page_size=5, page_token="garbage"), timeout=5)
    assert [violation.field for violation in refused.value.fields] == ["page_token"]

    with pytest.raises(InvalidArgument) as refused:
        await client.list_workflows(ListWorkflowsRequest(), timeout=5)
    assert {violation.field for violation in refused.value.fields} == {"tenant", "page_size"}

    with pytest.raises(NotFound):
        await client.get_record(GetRecordRequest(tenant="t", receipt_id=str(uuid_utils.uuid7())), timeout=5)


async def test_health_says_serving(channel: grpc.aio.Channel, client: MetadataServiceClient) -> None:
    await client.list_pending(ListPendingRequest(page_size=1), timeout=5)
    stub: Any = health_pb2_grpc.HealthStub(channel)

    answer = await stub.Check(health_pb2.HealthCheckRequest(service="afdp.metadata.v1.MetadataService"), timeout=5)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
