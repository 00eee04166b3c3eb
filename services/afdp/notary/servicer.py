"""Messages in, messages out. Whatever is decided is decided in `service.py` and `validation.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from afdp.errors import InvalidArgument, NotaryError, Unavailable
from afdp.formats.hashedrekord import key_hint
from afdp.formats.spki import to_pem
from afdp.items import to_item
from afdp.messages import metadata as store
from afdp.messages import notary as pb
from afdp.messages import signer as keyring
from afdp.notary.access import acts
from afdp.notary.access.admitted import principal
from afdp.notary.access.gate import CREATE
from afdp.notary.access.limiter import Charges
from afdp.notary.audit_office import AuditOffice, Filters
from afdp.notary.entries import LOG_INDEX, EntryDesk, check_count
from afdp.notary.erasure_office import ErasureOffice, Told
from afdp.notary.evidence import checked, checked_item, to_message
from afdp.notary.exporting import Exports
from afdp.notary.health import PeerWatch
from afdp.notary.ids import NAMES, PREFIXES, SIMPLE_SIGNING
from afdp.notary.model import Order
from afdp.notary.retention_office import RetentionOffice, Wanted
from afdp.notary.searching import exported, summary_of, wanted_records
from afdp.notary.service import MAX_BATCH, Notarised, Notary, Page
from afdp.notary.status import ServiceStatus
from afdp.notary.streams import answer_each
from afdp.notary.trust import TrustOffice
from afdp.notary.validation import Validator
from afdp.notary.watching import Event, Watching
from afdp.rpc.codec import WireStruct
from afdp.version import VERSION


class NotaryServicer(pb.NotaryServiceBase):
    """afdp.notary.v1.NotaryService."""

    def __init__(
        self,
        notary: Notary,
        validator: Validator,
        entries: EntryDesk,
        trust: TrustOffice,
        peers: PeerWatch,
        status: ServiceStatus,
        watching: Watching,
        exports: Exports,
        stream_in_flight: int,
        charges: Charges,
        audit: AuditOffice,
        retention: RetentionOffice,
        erasure: ErasureOffice,
    ) -> None:
        self._erasure = erasure
        self._retention = retention
        self._audit = audit
        self._exports = exports
        self._notary = notary
        self._validator = validator
        self._entries = entries
        self._trust = trust
        self._peers = peers
        self._status = status
        self._watching = watching
        self._stream_in_flight = stream_in_flight
        self._charges = charges

    # --- notarising ---------------------------------------------------------------------------------------------------

    async def sign_evidence(self, request: pb.SignEvidenceRequest) -> pb.SignEvidenceResponse:
        return _signed(await self._notary.sign(_order(request)))

    async def sign_evidence_batch(self, request: pb.SignEvidenceBatchRequest) -> pb.SignEvidenceBatchResponse:
        evidence = [
            checked_item(message, f"evidence_packages[{index}]")
            for index, message in enumerate(request.evidence_packages)
        ]
        self._charge(min(len(evidence), MAX_BATCH))
        batch = await self._notary.sign_batch(
            evidence, principal.get(), request.wait_for, request.idempotency_key, dedupe=request.dedupe
        )
        results = [_item(result) for result in batch.results]
        any_good = any(result.receipt is not None for result in results)
        status = pb.WorkflowStatus.COMPLETED if any_good else pb.WorkflowStatus.FAILED
        return pb.SignEvidenceBatchResponse(batch_workflow_id=batch.batch_id, results=results, status=status)

    def sign_evidence_stream(
        self, requests: AsyncIterator[pb.SignEvidenceStreamRequest]
    ) -> AsyncIterator[pb.SignEvidenceStreamResponse]:
        return answer_each(requests, self._stream_answer, self._stream_in_flight)

    async def _stream_answer(self, request: pb.SignEvidenceStreamRequest) -> pb.SignEvidenceStreamResponse:
        try:
            if request.request is None:
                raise InvalidArgument.field("request", "is missing")
            await self._held()
            signed = await self._notary.sign(_order(request.request), wait=True)
        except NotaryError as error:
            return pb.SignEvidenceStreamResponse(sequence=request.sequence, error=to_item(error))
        return pb.SignEvidenceStreamResponse(sequence=request.sequence, response=_signed(signed))

    async def _held(self) -> None:
        try:
            await self._charges.hold(principal.get(), CREATE)
        except NotaryError as refused:
            if (act := acts.current.get()) is not None:
                act.refused(refused)
            raise

    def _charge(self, items: int) -> None:
        """Counts the items of a batch but the first, which the call itself is counted for."""
        self._charges.charge(principal.get(), CREATE, items - 1)

    async def validate_evidence(self, request: pb.ValidateEvidenceRequest) -> pb.ValidateEvidenceResponse:
        evidence = checked(request.evidence_package, "evidence_package")
        return await self._validator.validate(principal.get(), evidence, request.signature)

    async def add_log_entry(self, request: pb.AddLogEntryRequest) -> pb.AddLogEntryResponse:
        self._notary.hear_entries(principal.get(), [request.entry])
        return pb.AddLogEntryResponse(await self._entries.add(principal.get(), request.entry))

    async def add_log_entries(self, request: pb.AddLogEntriesRequest) -> pb.AddLogEntriesResponse:
        check_count(len(request.requests))  # before each is charged and put on record
        self._charge(len(request.requests))
        entries = [each.entry for each in request.requests]
        self._notary.hear_entries(principal.get(), entries)
        results = await self._entries.add_many(principal.get(), entries)
        return pb.AddLogEntriesResponse([_entry_result(each) for each in results])

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get_evidence(self, request: pb.GetEvidenceRequest) -> pb.GetEvidenceResponse:
        record, receipt, count = await self._notary.evidence(principal.get(), request.evidence_package_hash)
        package = to_message(record.draft.evidence) if record.draft is not None else None
        return pb.GetEvidenceResponse(evidence_package=package, receipt=receipt, receipt_count=count)

    async def search_evidence(self, request: pb.SearchEvidenceRequest) -> pb.SearchEvidenceResponse:
        page = Page.of(request.page_size, request.page_token)
        wanted = wanted_records(request, page)
        found = await self._notary.search(principal.get(), wanted)
        return pb.SearchEvidenceResponse([summary_of(each) for each in found.records], found.next_page_token)

    async def export_evidence(self, request: pb.ExportEvidenceRequest) -> AsyncIterator[pb.ExportEvidenceResponse]:
        found = self._exports.lines(principal.get(), wanted_records(request), request.format, request.after)
        async with aclosing(found) as lines:
            async for each in lines:
                yield exported(each, request.format)

    async def get_workflow_status(self, request: pb.GetWorkflowStatusRequest) -> pb.GetWorkflowStatusResponse:
        workflow, record = await self._notary.workflow(principal.get(), request.workflow_id)
        return pb.GetWorkflowStatusResponse(
            workflow_id=request.workflow_id,
            status=pb.WorkflowStatus(workflow.state),
            created_at=workflow.created_at,
            completed_at=workflow.completed_at,
            error_message=workflow.error,
            result=WireStruct.of(_result(workflow, record)),
        )

    async def get_notarization_receipt(
        self, request: pb.GetNotarizationReceiptRequest
    ) -> pb.GetNotarizationReceiptResponse:
        receipt = await self._notary.workflow_receipt(principal.get(), request.workflow_id)
        return pb.GetNotarizationReceiptResponse(receipt=receipt, found=receipt is not None)

    async def list_workflows(self, request: pb.ListWorkflowsRequest) -> pb.ListWorkflowsResponse:
        page = Page.of(request.page_size, request.page_token)
        if request.status_filter not in pb.WorkflowStatus.__members__.values():
            raise InvalidArgument.field("status_filter", "is not known")
        state = store.WorkflowState(request.status_filter)
        found = await self._notary.workflows(principal.get(), page, state, request.start_time, request.end_time)
        return pb.ListWorkflowsResponse(
            workflows=[_workflow(each) for each in found.workflows],
            next_page_token=found.next_page_token,
            total_count=min(found.total_count, 2**31 - 1),
        )

    async def get_receipt(self, request: pb.GetReceiptRequest) -> pb.GetReceiptResponse:
        return pb.GetReceiptResponse(receipt=await self._notary.receipt(principal.get(), request.receipt_id))

    async def watch_receipts(self, request: pb.WatchReceiptsRequest) -> AsyncIterator[pb.WatchReceiptsResponse]:
        async with aclosing(self._watching.watch(principal.get(), request.cursor)) as events:
            async for event in events:
                yield _watched(event)

    # --- keys and trust -----------------------------------------------------------------------------------------------

    async def list_keys(self, request: pb.ListKeysRequest) -> pb.ListKeysResponse:
        return pb.ListKeysResponse([_key(key) for key in await self._notary.keys(principal.get())])

    async def rotate_key(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        if request.purpose not in pb.KeyPurpose.__members__.values():
            raise InvalidArgument.field("purpose", "is not known")
        purpose = keyring.KeyPurpose(request.purpose)
        fresh = await self._notary.rotate_key(principal.get(), purpose, request.name)
        self._trust.ask()
        return pb.RotateKeyResponse(_key(fresh))

    async def revoke_key(self, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
        revoked = await self._notary.revoke_key(
            principal.get(), request.key_id, request.compromised_since, request.reason
        )
        return pb.RevokeKeyResponse(_key(revoked))

    async def list_affected_receipts(self, request: pb.ListAffectedReceiptsRequest) -> pb.ListAffectedReceiptsResponse:
        page = Page.of(request.page_size, request.page_token)
        wanted = store.SearchRecordsRequest(
            page_size=page.size, page_token=page.token, key_id=request.key_id, start_time=request.since
        )
        found = await self._notary.affected(principal.get(), wanted)
        return pb.ListAffectedReceiptsResponse([_affected(each) for each in found.records], found.next_page_token)

    async def export_affected_receipts(
        self, request: pb.ExportAffectedReceiptsRequest
    ) -> pb.ExportAffectedReceiptsResponse:
        asked = request.key_id, request.since, request.page_size, request.after
        return pb.ExportAffectedReceiptsResponse(await self._notary.export_affected(principal.get(), *asked))

    async def get_trust_root(self, request: pb.GetTrustRootRequest) -> pb.GetTrustRootResponse:
        files, pending = await self._trust.files()
        return pb.GetTrustRootResponse(_trust_files(files), _trust_files(pending))

    async def get_trust_file(self, request: pb.GetTrustFileRequest) -> pb.GetTrustFileResponse:
        return pb.GetTrustFileResponse(await self._trust.file(request.name))

    async def publish_trust(self, request: pb.PublishTrustRequest) -> pb.PublishTrustResponse:
        self._notary.require_operator(principal.get())
        files = {file.name: file.content.encode() for file in request.files}
        if len(files) != len(request.files):
            raise InvalidArgument.field("files", "must not have the same name twice")
        published = await self._trust.publish(files)
        return pb.PublishTrustResponse(published.root, published.targets, published.timestamp)

    async def create_timestamp(self, request: pb.CreateTimestampRequest) -> pb.CreateTimestampResponse:
        return pb.CreateTimestampResponse(await self._notary.timestamp(principal.get(), request.timestamp_request))

    # --- the audit trail ----------------------------------------------------------------------------------------------

    async def list_audit_events(self, request: pb.ListAuditEventsRequest) -> pb.ListAuditEventsResponse:
        page = Page.of(request.page_size, request.page_token)
        filters = Filters(request.start_time, request.end_time, request.actor, request.resource, request.result)
        return pb.ListAuditEventsResponse(*await self._audit.events(principal.get(), filters, page.size, page.token))

    async def export_audit_rows(self, request: pb.ExportAuditRowsRequest) -> pb.ExportAuditRowsResponse:
        part = request.after_sequence, request.page_size
        rows = await self._audit.rows(principal.get(), *part, all_tenants=request.all_tenants)
        return pb.ExportAuditRowsResponse(rows)

    async def export_audit_seals(self, request: pb.ExportAuditSealsRequest) -> pb.ExportAuditSealsResponse:
        return pb.ExportAuditSealsResponse(await self._audit.seals(request.after_number, request.page_size))

    # --- how long records are kept ------------------------------------------------------------------------------------

    async def place_hold(self, request: pb.PlaceHoldRequest) -> pb.PlaceHoldResponse:
        wanted = Wanted(
            request.case_number,
            request.reason,
            request.artifact_hash,
            request.actor_id,
            request.event_type,
            request.subject,
            request.start_time,
            request.end_time,
        )
        hold, records = await self._retention.place(principal.get(), wanted)
        return pb.PlaceHoldResponse(_hold(hold), records)

    async def release_hold(self, request: pb.ReleaseHoldRequest) -> pb.ReleaseHoldResponse:
        released = await self._retention.release(principal.get(), request.hold_id, request.reason)
        return pb.ReleaseHoldResponse(_hold(released))

    async def list_holds(self, request: pb.ListHoldsRequest) -> pb.ListHoldsResponse:
        page = Page.of(request.page_size, request.page_token)
        found, token = await self._retention.holds(
            principal.get(), released=request.include_released, size=page.size, token=page.token
        )
        return pb.ListHoldsResponse([_hold(each) for each in found], token)

    async def run_retention(self, request: pb.RunRetentionRequest) -> pb.RunRetentionResponse:
        if request.dry_run:
            due = await self._retention.due(principal.get())
            return pb.RunRetentionResponse(
                [pb.ExpiredRecords(each.month[:7], each.tenant, each.due, each.kept, each.held) for each in due]
            )
        return pb.RunRetentionResponse([_expired(each) for each in await self._retention.run(principal.get())])

    async def erase_subject(self, request: pb.EraseSubjectRequest) -> pb.EraseSubjectResponse:
        wanted = request.subject, request.erasure_id, request.reason
        return pb.EraseSubjectResponse(_erasure(await self._erasure.erase(principal.get(), *wanted)))

    async def get_erasure(self, request: pb.GetErasureRequest) -> pb.GetErasureResponse:
        return pb.GetErasureResponse(_erasure(await self._erasure.one(principal.get(), request.erasure_id)))

    async def list_erasures(self, request: pb.ListErasuresRequest) -> pb.ListErasuresResponse:
        page = Page.of(request.page_size, request.page_token)
        found, token = await self._erasure.page(principal.get(), page.size, page.token)
        return pb.ListErasuresResponse([_erasure(each) for each in found], token)

    # --- operating ----------------------------------------------------------------------------------------------------

    async def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        parts = await self._status.parts()
        return pb.GetStatusResponse(
            [pb.StatusPart(each.service, each.name, each.good, each.detail, each.remedy) for each in parts]
        )

    async def who_am_i(self, request: pb.WhoAmIRequest) -> pb.WhoAmIResponse:
        who = principal.get()
        held, policy_hash = self._notary.held(who)
        # What decides is told to those who see it in the audit trail anyway, and to nobody who looks for a way in.
        explained = any(each.permission == "audit.read" and each.allowed for each in held)
        return pb.WhoAmIResponse(
            tenant=who.tenant,
            issuer=who.submitter.issuer,
            subject=who.submitter.subject,
            method=who.submitter.method,
            roles=sorted(who.roles),
            scopes=sorted(who.scopes or ()),
            has_scopes=who.scopes is not None,
            permissions=[
                pb.PermissionHeld(each.permission, each.allowed, list(each.policies) if explained else [])
                for each in held
            ],
            policy_hash=policy_hash if explained else "",
            expires_at=who.attributes.expires_at,
        )

    async def health_check(self, request: pb.HealthRequest) -> pb.HealthResponse:
        peers = await self._peers.peers()
        away = [f"{peer.name} {peer.error}" for peer in peers if not peer.healthy]
        reads = all(peer.healthy for peer in peers if peer.name == "metadata")
        if away and (request.writes or not reads):
            raise Unavailable("; ".join(away), retry_after=1.0)
        return pb.HealthResponse(
            status="degraded" if away else "healthy",
            version=VERSION,
            uptime_seconds=int(self._peers.uptime),
            dependencies=[
                pb.DependencyStatus(peer.name, peer.healthy, round(peer.response_time * 1000), peer.error)
                for peer in peers
            ],
            parts=[
                pb.PartHealth(part.name, part.good, part.detail if part.public else "") for part in self._status.seen()
            ],
        )


def _trust_files(files: Mapping[str, str]) -> list[pb.TrustFile]:
    return [pb.TrustFile(name, content) for name, content in files.items()]


def _order(request: pb.SignEvidenceRequest) -> Order:
    return Order(
        evidence=checked(request.evidence_package, "evidence_package"),
        principal=principal.get(),
        idempotency_key=request.idempotency_key,
        dedupe=request.dedupe,
        wait_for=request.wait_for,
    )


def _signed(result: Notarised) -> pb.SignEvidenceResponse:
    workflow_id = SIMPLE_SIGNING + result.workflow.id
    status = pb.WorkflowStatus(result.workflow.state)
    return pb.SignEvidenceResponse(workflow_id=workflow_id, receipt=result.receipt, status=status)


def _watched(event: Event) -> pb.WatchReceiptsResponse:
    cursor, receipt_id, receipt = event
    if isinstance(receipt, NotaryError):
        return pb.WatchReceiptsResponse(cursor, receipt_id=receipt_id, error=to_item(receipt))
    return pb.WatchReceiptsResponse(cursor, receipt, receipt_id)


def _item(result: Notarised | NotaryError) -> pb.SignEvidenceResponse:
    if isinstance(result, NotaryError):
        return pb.SignEvidenceResponse(status=pb.WorkflowStatus.FAILED, error=to_item(result))
    return _signed(result)


def _entry_result(result: bytes | NotaryError) -> pb.AddLogEntryResult:
    if isinstance(result, NotaryError):
        index = int(result.metadata.get(LOG_INDEX, 0))
        return pb.AddLogEntryResult(error=to_item(result), log_index=index)
    return pb.AddLogEntryResult(response=pb.AddLogEntryResponse(result))


def _result(workflow: store.Workflow, record: store.Record | None) -> dict[str, object]:
    if record is None or record.draft is None:
        return {"items": workflow.item_count, "succeeded": workflow.succeeded, "failed": workflow.failed}
    found: dict[str, object] = {
        "receipt_id": record.draft.receipt_id,
        "evidence_package_hash": record.draft.evidence_hash.hex(),
    }
    if record.log is not None:
        found["log_index"] = record.log.log_index
    return found


def _workflow(workflow: store.Workflow) -> pb.WorkflowSummary:
    return pb.WorkflowSummary(
        workflow_id=PREFIXES[workflow.type] + workflow.id,
        workflow_type=NAMES[workflow.type],
        status=pb.WorkflowStatus(workflow.state),
        created_at=workflow.created_at,
        completed_at=workflow.completed_at,
        event_type=workflow.event_type,
        actor_id=workflow.actor_id,
    )


def _affected(record: store.RecordSummary) -> pb.AffectedReceipt:
    return pb.AffectedReceipt(record.receipt_id, record.evidence_hash.hex(), record.notarized_at, record.log_index)


def _hold(hold: store.Hold) -> pb.Hold:
    return pb.Hold(
        hold_id=hold.hold_id,
        case_number=hold.case_number,
        reason=hold.reason,
        artifact_hash=hold.artifact_hash.hex(),
        actor_id=hold.actor_id,
        event_type=hold.event_type,
        subject=hold.subject,
        start_time=hold.start_time,
        end_time=hold.end_time,
        placed_by=hold.placed_by,
        placed_at=hold.placed_at,
        released_by=hold.released_by,
        release_reason=hold.release_reason,
        released_at=hold.released_at,
    )


def _erasure(told: Told) -> pb.Erasure:
    erasure, deferral = told.erasure, told.erasure.deferral
    state = pb.ErasureState.REQUESTED if deferral is None else pb.ErasureState.DEFERRED
    return pb.Erasure(
        erasure_id=erasure.erasure_id,
        state=state if erasure.erased_at is None else pb.ErasureState.ERASED,
        reason=erasure.reason,
        requested_by=erasure.requested_by,
        requested_at=erasure.requested_at,
        deferral=None
        if deferral is None
        else pb.ErasureDeferral(
            classes=deferral.classes,
            until=deferral.until,
            for_ever=deferral.for_ever,
            held=bool(deferral.cases),
            cases=list(told.cases),
            unfinished=deferral.waiting,
        ),
        erased_at=erasure.erased_at,
        records=erasure.records,
        certificate=erasure.certificate,
    )


def _expired(expiry: store.Expiry) -> pb.ExpiredRecords:
    counts = expiry.records, expiry.kept, expiry.held
    return pb.ExpiredRecords(expiry.month[:7], expiry.tenant, *counts, expiry.certificate)


def _key(key: keyring.PublicKey) -> pb.Key:
    revoked = key.revoked
    return pb.Key(
        key_id=key.key_id,
        purpose=pb.KeyPurpose(key.purpose),
        algorithm=key.algorithm,
        hint=key_hint(key.spki),
        public_key_pem=to_pem(key.spki),
        valid_from=key.valid_from,
        valid_until=key.valid_until,
        tenants=key.tenants,
        revoked=pb.KeyRevocation(revoked.at, revoked.compromised_since, revoked.reason)
        if revoked is not None
        else None,
        current=key.current,
    )
