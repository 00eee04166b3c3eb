"""The gRPC face of the metadata service: messages in, messages out. What is decided is decided in `service.py`."""

from __future__ import annotations

from afdp.messages.metadata import (
    AnchorAuditSealRequest,
    AnchorAuditSealResponse,
    CertifyErasureRequest,
    CertifyErasureResponse,
    CertifyExpiryRequest,
    CertifyExpiryResponse,
    ClaimStampsRequest,
    ClaimStampsResponse,
    CompleteQueuedRequest,
    CompleteQueuedResponse,
    CompleteRequest,
    CompleteResponse,
    CreateBatchRequest,
    CreateBatchResponse,
    DeferQueuedRequest,
    DeferQueuedResponse,
    EraseRequest,
    EraseResponse,
    ExpireMonthRequest,
    ExpireMonthResponse,
    FindAnswerRequest,
    FindAnswerResponse,
    FindEvidenceRequest,
    FindEvidenceResponse,
    FinishBatchRequest,
    FinishBatchResponse,
    GetAuditSinksRequest,
    GetAuditSinksResponse,
    GetErasureRequest,
    GetErasureResponse,
    GetNewsRequest,
    GetNewsResponse,
    GetQueuesRequest,
    GetQueuesResponse,
    GetRecordRequest,
    GetRecordResponse,
    GetRecordsRequest,
    GetRecordsResponse,
    GetStampBacklogRequest,
    GetStampBacklogResponse,
    GetTrustFileRequest,
    GetTrustFileResponse,
    GetTrustFilesRequest,
    GetTrustFilesResponse,
    GetWorkflowRequest,
    GetWorkflowResponse,
    KeepStampRequest,
    KeepStampResponse,
    LeaseQueuedRequest,
    LeaseQueuedResponse,
    ListAuditRowsRequest,
    ListAuditRowsResponse,
    ListChangesRequest,
    ListChangesResponse,
    ListErasuresRequest,
    ListErasuresResponse,
    ListExpiriesRequest,
    ListExpiriesResponse,
    ListHoldsRequest,
    ListHoldsResponse,
    ListKeptRequest,
    ListKeptResponse,
    ListPendingRequest,
    ListPendingResponse,
    ListPlacesRequest,
    ListPlacesResponse,
    ListSignedRecordsRequest,
    ListSignedRecordsResponse,
    ListStraysRequest,
    ListStraysResponse,
    ListWorkflowsRequest,
    ListWorkflowsResponse,
    MetadataServiceBase,
    NoteWitnessedRequest,
    NoteWitnessedResponse,
    PlaceHoldRequest,
    PlaceHoldResponse,
    PlanExpiryRequest,
    PlanExpiryResponse,
    PostponeStampsRequest,
    PostponeStampsResponse,
    PrepareRequest,
    PrepareResponse,
    PutRetentionClassesRequest,
    PutRetentionClassesResponse,
    PutTrustFilesRequest,
    PutTrustFilesResponse,
    ReadAuditSealsRequest,
    ReadAuditSealsResponse,
    ReadAuditTrailRequest,
    ReadAuditTrailResponse,
    ReadRecordsRequest,
    ReadRecordsResponse,
    RecordAuditRowsRequest,
    RecordAuditRowsResponse,
    RecordChange,
    ReleaseHoldRequest,
    ReleaseHoldResponse,
    RenewErasureRequest,
    RenewErasureResponse,
    ReopenRecordRequest,
    ReopenRecordResponse,
    RequestErasureRequest,
    RequestErasureResponse,
    SealAuditTrailRequest,
    SealAuditTrailResponse,
    SearchRecordsRequest,
    SearchRecordsResponse,
)
from afdp.metadata import (
    answers,
    audit_messages,
    change_requests,
    erasure_messages,
    requests,
    retention_messages,
    search_requests,
)
from afdp.metadata.audit_trail import AuditTrail
from afdp.metadata.erasing import Erasing
from afdp.metadata.retention import Retention
from afdp.metadata.service import Metadata
from afdp.metadata.sinks.watch import SinkWatch
from afdp.metadata.values import Usage


class MetadataServicer(MetadataServiceBase):
    """Serves `afdp.metadata.v1.MetadataService`."""

    def __init__(
        self, metadata: Metadata, trail: AuditTrail, sinks: SinkWatch, retention: Retention, erasing: Erasing
    ) -> None:
        self._metadata = metadata
        self._trail = trail
        self._sinks = sinks
        self._retention = retention
        self._erasing = erasing

    async def prepare(self, request: PrepareRequest) -> PrepareResponse:
        usage: dict[str, Usage] | None = {} if request.count_usage else None
        rows = audit_messages.read_rows("audit_rows", request.audit_rows)
        outcomes = await self._metadata.prepare(requests.read_prepare(request), usage, rows)
        results = [answers.to_prepare_result(outcome) for outcome in outcomes]
        return PrepareResponse(results, answers.to_usage(usage or {}))

    async def complete(self, request: CompleteRequest) -> CompleteResponse:
        checkpoint, completions = requests.read_complete(request)
        rows = audit_messages.read_rows("audit_rows", request.audit_rows)
        positions = await self._metadata.complete(checkpoint, completions, rows)
        return CompleteResponse(results=[answers.to_complete_result(position) for position in positions])

    async def list_pending(self, request: ListPendingRequest) -> ListPendingResponse:
        records = await self._metadata.list_pending(*requests.read_list_pending(request))
        return ListPendingResponse(records=[answers.to_record(record) for record in records])

    async def list_kept(self, request: ListKeptRequest) -> ListKeptResponse:
        records = await self._metadata.kept(*requests.read_list_kept(request))
        return ListKeptResponse(records=[answers.to_kept(record) for record in records])

    async def list_places(self, request: ListPlacesRequest) -> ListPlacesResponse:
        return answers.to_places(await self._metadata.places(*requests.read_list_places(request)))

    async def list_strays(self, request: ListStraysRequest) -> ListStraysResponse:
        return answers.to_strays(*await self._metadata.strays(*requests.read_list_strays(request)))

    async def reopen_record(self, request: ReopenRecordRequest) -> ReopenRecordResponse:
        return ReopenRecordResponse(await self._metadata.reopen(*requests.read_reopen_record(request)))

    async def lease_queued(self, request: LeaseQueuedRequest) -> LeaseQueuedResponse:
        queued = await self._metadata.lease_queued(*requests.read_lease_queued(request))
        return LeaseQueuedResponse(records=[answers.to_queued(each) for each in queued])

    async def complete_queued(self, request: CompleteQueuedRequest) -> CompleteQueuedResponse:
        positions = await self._metadata.complete_queued(*requests.read_complete_queued(request))
        return CompleteQueuedResponse(results=[answers.to_complete_result(position) for position in positions])

    async def defer_queued(self, request: DeferQueuedRequest) -> DeferQueuedResponse:
        await self._metadata.defer_queued(*requests.read_defer_queued(request))
        return DeferQueuedResponse()

    async def get_queues(self, request: GetQueuesRequest) -> GetQueuesResponse:
        return GetQueuesResponse(queues=[answers.to_queue(each) for each in await self._metadata.queues()])

    async def get_record(self, request: GetRecordRequest) -> GetRecordResponse:
        record = await self._metadata.get_record(*requests.read_get_record(request))
        return GetRecordResponse(record=answers.to_record(record))

    async def get_records(self, request: GetRecordsRequest) -> GetRecordsResponse:
        records = await self._metadata.get_records(*change_requests.read_get_records(request))
        return GetRecordsResponse(records=[answers.to_record(record) for record in records])

    async def list_changes(self, request: ListChangesRequest) -> ListChangesResponse:
        page = await self._metadata.changes(*change_requests.read_list_changes(request))
        told = [RecordChange(str(change.receipt_id), change.cursor) for change in page.changes]
        return ListChangesResponse(told, page.end, page.more)

    async def get_news(self, request: GetNewsRequest) -> GetNewsResponse:
        news = await self._metadata.news(change_requests.read_get_news(request))
        return GetNewsResponse(list(news.tenants), news.head)

    async def note_witnessed(self, request: NoteWitnessedRequest) -> NoteWitnessedResponse:
        return NoteWitnessedResponse(await self._metadata.note_witnessed(*change_requests.read_note_witnessed(request)))

    async def find_evidence(self, request: FindEvidenceRequest) -> FindEvidenceResponse:
        record, count = await self._metadata.find_evidence(*requests.read_find_evidence(request))
        return FindEvidenceResponse(record=answers.to_record(record), count=count)

    async def find_answer(self, request: FindAnswerRequest) -> FindAnswerResponse:
        record = await self._metadata.find_answer(requests.read_find_answer(request))
        return FindAnswerResponse(record=answers.to_record(record) if record is not None else None)

    async def search_records(self, request: SearchRecordsRequest) -> SearchRecordsResponse:
        page = await self._metadata.search(*search_requests.read_search(request))
        return SearchRecordsResponse(
            records=[answers.to_summary(summary) for summary in page.records], next_page_token=page.next_page_token
        )

    async def read_records(self, request: ReadRecordsRequest) -> ReadRecordsResponse:
        return answers.to_whole(await self._metadata.read(*search_requests.read_whole(request)))

    async def list_signed_records(self, request: ListSignedRecordsRequest) -> ListSignedRecordsResponse:
        return answers.to_columns(await self._metadata.signed(*search_requests.read_list_signed(request)))

    async def claim_stamps(self, request: ClaimStampsRequest) -> ClaimStampsResponse:
        claimed = await self._metadata.claim_stamps(*requests.read_claim_stamps(request))
        return ClaimStampsResponse([answers.to_unstamped(each) for each in claimed])

    async def keep_stamp(self, request: KeepStampRequest) -> KeepStampResponse:
        await self._metadata.keep_stamp(*requests.read_keep_stamp(request))
        return KeepStampResponse()

    async def postpone_stamps(self, request: PostponeStampsRequest) -> PostponeStampsResponse:
        await self._metadata.postpone_stamps(*requests.read_postpone_stamps(request))
        return PostponeStampsResponse()

    async def get_stamp_backlog(self, request: GetStampBacklogRequest) -> GetStampBacklogResponse:
        backlog = await self._metadata.stamp_backlog()
        return GetStampBacklogResponse(backlog.waiting, backlog.oldest)

    async def create_batch(self, request: CreateBatchRequest) -> CreateBatchResponse:
        batch_id, existing = await self._metadata.create_batch(requests.read_create_batch(request))
        return CreateBatchResponse(batch_id=str(batch_id), existing=existing)

    async def finish_batch(self, request: FinishBatchRequest) -> FinishBatchResponse:
        await self._metadata.finish_batch(*requests.read_finish_batch(request))
        return FinishBatchResponse()

    async def get_workflow(self, request: GetWorkflowRequest) -> GetWorkflowResponse:
        workflow = await self._metadata.get_workflow(*requests.read_get_workflow(request))
        return GetWorkflowResponse(workflow=answers.to_workflow(workflow))

    async def list_workflows(self, request: ListWorkflowsRequest) -> ListWorkflowsResponse:
        page = await self._metadata.list_workflows(*requests.read_list_workflows(request))
        return ListWorkflowsResponse(
            workflows=[answers.to_workflow(workflow) for workflow in page.workflows],
            next_page_token=page.next_page_token,
            total_count=page.total,
        )

    async def get_trust_files(self, request: GetTrustFilesRequest) -> GetTrustFilesResponse:
        found = await self._metadata.get_trust_files(requests.read_get_trust_files(request))
        return GetTrustFilesResponse(found.revision, [answers.to_trust_file(file) for file in found.files])

    async def get_trust_file(self, request: GetTrustFileRequest) -> GetTrustFileResponse:
        return GetTrustFileResponse(await self._metadata.get_trust_file(requests.read_get_trust_file(request)))

    async def put_trust_files(self, request: PutTrustFilesRequest) -> PutTrustFilesResponse:
        return PutTrustFilesResponse(await self._metadata.put_trust_files(requests.read_put_trust_files(request)))

    async def record_audit_rows(self, request: RecordAuditRowsRequest) -> RecordAuditRowsResponse:
        await self._trail.record(audit_messages.read_rows("rows", request.rows, least=1))
        return RecordAuditRowsResponse()

    async def list_audit_rows(self, request: ListAuditRowsRequest) -> ListAuditRowsResponse:
        asked = audit_messages.read_list(request)
        rows, unfinished = await self._trail.of_tenant(*asked, inclusive=request.inclusive)
        return ListAuditRowsResponse([audit_messages.to_row(row) for row in rows], unfinished)

    async def read_audit_trail(self, request: ReadAuditTrailRequest) -> ReadAuditTrailResponse:
        part = audit_messages.read_part("after_sequence", request.after_sequence, request.page_size)
        if request.filing:
            filed = await self._trail.read_filed(*part)
            return ReadAuditTrailResponse([audit_messages.to_row(row, misfiled) for row, misfiled in filed])
        rows = await self._trail.read(*part, sealed=request.sealed, tenant=request.tenant)
        return ReadAuditTrailResponse([audit_messages.to_row(row) for row in rows])

    async def read_audit_seals(self, request: ReadAuditSealsRequest) -> ReadAuditSealsResponse:
        seals = await self._trail.seals(*audit_messages.read_seals(request))
        return ReadAuditSealsResponse([audit_messages.to_seal(seal) for seal in seals])

    async def seal_audit_trail(self, request: SealAuditTrailRequest) -> SealAuditTrailResponse:
        return audit_messages.to_state(await self._trail.seal(*audit_messages.read_seal(request)))

    async def anchor_audit_seal(self, request: AnchorAuditSealRequest) -> AnchorAuditSealResponse:
        await self._trail.anchor(*audit_messages.read_anchor(request))
        return AnchorAuditSealResponse()

    async def get_audit_sinks(self, request: GetAuditSinksRequest) -> GetAuditSinksResponse:
        return GetAuditSinksResponse([answers.to_sink(each) for each in await self._sinks.states()])

    # --- how long records are kept ------------------------------------------------------------------------------------

    async def place_hold(self, request: PlaceHoldRequest) -> PlaceHoldResponse:
        hold, records = await self._retention.place_hold(retention_messages.read_place(request))
        return PlaceHoldResponse(retention_messages.to_hold(hold), records)

    async def release_hold(self, request: ReleaseHoldRequest) -> ReleaseHoldResponse:
        hold = await self._retention.release_hold(retention_messages.read_release(request))
        return ReleaseHoldResponse(retention_messages.to_hold(hold))

    async def list_holds(self, request: ListHoldsRequest) -> ListHoldsResponse:
        holds = await self._retention.holds(*retention_messages.read_list(request))
        return ListHoldsResponse([retention_messages.to_hold(each) for each in holds])

    async def put_retention_classes(self, request: PutRetentionClassesRequest) -> PutRetentionClassesResponse:
        longer = await self._retention.put_classes(retention_messages.read_classes(request))
        return PutRetentionClassesResponse(longer)

    async def plan_expiry(self, request: PlanExpiryRequest) -> PlanExpiryResponse:
        return PlanExpiryResponse([retention_messages.to_due(each) for each in await self._retention.due()])

    async def expire_month(self, request: ExpireMonthRequest) -> ExpireMonthResponse:
        expiries = await self._retention.expire_month(*retention_messages.read_month(request))
        return ExpireMonthResponse([retention_messages.to_expiry(each) for each in expiries])

    async def list_expiries(self, request: ListExpiriesRequest) -> ListExpiriesResponse:
        if request.all:
            expiries = await self._retention.all_expired(retention_messages.read_all_expiries(request))
        else:
            expiries = await self._retention.expiries(*retention_messages.read_expiries(request))
        return ListExpiriesResponse([retention_messages.to_expiry(each) for each in expiries])

    async def certify_expiry(self, request: CertifyExpiryRequest) -> CertifyExpiryResponse:
        await self._retention.certify(*retention_messages.read_certify(request))
        return CertifyExpiryResponse()

    async def request_erasure(self, request: RequestErasureRequest) -> RequestErasureResponse:
        erasure = await self._erasing.request(erasure_messages.read_request(request))
        return RequestErasureResponse(erasure_messages.to_erasure(erasure))

    async def erase(self, request: EraseRequest) -> EraseResponse:
        erasure = await self._erasing.erase(*erasure_messages.read_erase(request))
        return EraseResponse(erasure_messages.to_erasure(erasure))

    async def list_erasures(self, request: ListErasuresRequest) -> ListErasuresResponse:
        erasures = await self._erasing.page(*erasure_messages.read_list(request))
        return ListErasuresResponse([erasure_messages.to_erasure(each) for each in erasures])

    async def get_erasure(self, request: GetErasureRequest) -> GetErasureResponse:
        erasure = await self._erasing.get(erasure_messages.read_scope(request))
        return GetErasureResponse(erasure_messages.to_erasure(erasure))

    async def certify_erasure(self, request: CertifyErasureRequest) -> CertifyErasureResponse:
        await self._erasing.certify(*erasure_messages.read_certify(request))
        return CertifyErasureResponse()

    async def renew_erasure(self, request: RenewErasureRequest) -> RenewErasureResponse:
        erasure = await self._erasing.renew(*erasure_messages.read_renew(request))
        return RenewErasureResponse(erasure_messages.to_erasure(erasure))
