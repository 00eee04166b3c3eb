"""What the notary promises: every decision of the public API.

Knows evidence, receipts and who may see them. Knows no gRPC and no SQL; its peers are the generated clients.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

import uuid_utils

from afdp.errors import (
    AlreadyExists,
    Erased,
    InvalidArgument,
    NotaryError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from afdp.formats.evidence import MAX_NAME_BYTES
from afdp.messages import metadata as store
from afdp.messages import signer as keyring
from afdp.messages.notary import NotarizationReceipt, ReceiptState
from afdp.notary.access.given import Given, Listed, asked_for, receipts_given
from afdp.notary.access.key_rights import KeyRights
from afdp.notary.allowances import Allowances
from afdp.notary.export import csv_of, receipts_of
from afdp.notary.ids import BATCH_SIGNING, parse_hash, parse_workflow_id, require_uuid
from afdp.notary.keys import KeyDirectory
from afdp.notary.model import CheckedEvidence, Held, Order, Outcome, Principal, RefusedEvidence
from afdp.notary.pipeline import Pipeline
from afdp.notary.receipts import ReceiptOffice, require_readable

MAX_BATCH = 1000
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_QUERY_BYTES = 8192  # of a time-stamp query: a digest, a nonce and room for extensions
MAX_PAGE = 1000
MAX_EXPORT = 10_000
DEFAULT_PAGE = 50
MAX_KEY = 255  # characters of an idempotency key; those of a batch leave room for `/i`

_PRINTABLE = re.compile(r"[\x20-\x7e]+")
READ, KEYS = "evidence.read", "keys.admin"

_READ_TIMEOUT = 10.0  # seconds
_READS_AT_ONCE = 32
_PAGES_FOR_ONE = 10  # that are read where much of them is hidden


@dataclass(frozen=True, slots=True)
class Notarised:
    """A receipt and its workflow."""

    workflow: store.Workflow
    receipt: NotarizationReceipt


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch and what became of its items, in order."""

    batch_id: str
    results: list[Notarised | NotaryError]


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list."""

    size: int
    token: str

    @classmethod
    def of(cls, size: int, token: str) -> Page:
        """The page that a request asks for.

        Raises:
            InvalidArgument: its size is out of range.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidArgument.field("page_size", f"must be 0 to {MAX_PAGE}")
        return cls(size or DEFAULT_PAGE, token)


class ExternalLogs(Protocol):
    """The logs of others that records go to (`external_queue.py`)."""

    @property
    def main(self) -> str:
        """The one that makes a record LOGGED; empty: one of ours does."""

    def require_open(self, *, to_main: bool) -> None:
        """Refuses new evidence where the settings say so. Raises Unavailable, ResourceExhausted.

        `to_main`: whether it goes to `main`; that of a tenant with a log of its own does not.
        """


class Access(Protocol):
    """Who may notarise, and see, which evidence (`access/gate.py`)."""

    def require_create(self, principal: Principal, evidence: CheckedEvidence) -> None:
        """Refuses evidence that its submitter may not notarise. Raises PermissionDenied, Unavailable."""

    def may_read(self, principal: Principal, evidence_hash: bytes, evidence: bytes, receipt_id: str = "") -> bool:
        """Whether a principal may see evidence, given in its canonical form. Raises Unavailable."""

    @property
    def asks_for_labels(self) -> bool:
        """Whether `may_list` has to be given the evidence."""

    def may_list(self, principal: Principal, many: Sequence[Listed]) -> list[bool]:
        """Which of many a list may name. Puts on record what it has to leave out. Raises Unavailable."""

    def gave(self, principal: Principal, permission: str, given: Given) -> None:
        """Hears what an answer gives of many things. Raises Unavailable."""

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """Each permission, and the hash of the policies that were asked; empty where none are."""

    def require_unexpired(self, principal: Principal, permission: str) -> None:
        """Refuses a caller whose credential has ended since the call began. Raises Unauthenticated, Unavailable."""

    def about(self, principal: Principal, permission: str, kind: str, named: str | bytes, refused: str = "") -> None:
        """Hears what a call is about, by name or bytes, and why it is refused, where it is. Raises Unavailable."""


class Notary:
    """The public service."""

    def __init__(
        self,
        pipeline: Pipeline,
        office: ReceiptOffice,
        keys: KeyDirectory,
        metadata: store.MetadataServiceClient,
        signer: keyring.SignerServiceClient,
        external: ExternalLogs,
        witness_wait: float,
        access: Access,
        key_rights: KeyRights,
        allowances: Allowances,
    ) -> None:
        self._allowances = allowances
        self._access = access
        self._key_rights = key_rights
        self._external = external
        self._witness_wait = witness_wait  # seconds
        self._pipeline = pipeline
        self._office = office
        self._keys = keys
        self._metadata = metadata
        self._signer = signer

    # --- notarising ---------------------------------------------------------------------------------------------------

    async def sign(self, order: Order, *, wait: bool = False) -> Notarised:
        """Notarises one evidence package. With `wait`, a full queue holds the caller back instead of refusing.

        Raises:
            InvalidArgument: the order asks for what there is not.
            PermissionDenied: its principal may not notarise this evidence.
            AlreadyExists: other evidence stands under this idempotency key.
            ResourceExhausted: the queue is full, or what its tenant may notarise a day is used up.
            Unavailable, DeadlineExceeded: a retry with the same idempotency key finds out what became of it.
        """
        try:
            return await self._sign(order, wait=wait)
        except NotaryError as error:
            if order.act is not None:
                order.act.refused(error, order.evidence.hash)
            raise

    async def _sign(self, order: Order, *, wait: bool) -> Notarised:
        if order.idempotency_key:
            check_idempotency_key(order.idempotency_key)
        self._access.require_create(order.principal, order.evidence)
        order = replace(order, wait_for=order.wait_for or self._default_wait)
        await self._check_wait_for(order.wait_for)
        to_main = bool(self._external.main) and not await self._keys.logs.has_own(order.principal.tenant)
        with ExitStack() as taken:
            try:
                self._external.require_open(to_main=to_main)
                taken.enter_context(self._allowances.taking(order.principal.tenant, len(order.evidence.canonical)))
            except (ResourceExhausted, Unavailable) as refused:
                outcome = await self._answered_before(order, refused, wait=wait)
            else:
                outcome = await self._pipeline.notarise(order, wait=wait)
        return await self._notarised(outcome, order.wait_for)

    async def _answered_before(self, order: Order, refused: NotaryError, *, wait: bool) -> Outcome:
        """The record that answers an order already, where nothing new is taken: a retry finds out what became of it."""
        if not order.idempotency_key and not order.dedupe:
            raise refused
        evidence, key = order.evidence, order.idempotency_key
        request = store.FindAnswerRequest(
            _submitter(order.principal),
            store.Idempotency(key, evidence.hash) if key else None,
            evidence.canonical,
            order.dedupe,
        )
        record = (await self._metadata.find_answer(request, timeout=_READ_TIMEOUT)).record
        if record is None:
            raise refused
        if record.state != store.RecordState.LOGGED and order.wait_for != ReceiptState.SIGNED:
            return await self._pipeline.notarise(order, wait=wait)  # it finds the same record, and waits for its log
        receipt_id = record.draft.receipt_id if record.draft is not None else ""
        if order.act is not None:
            await order.act.answered(receipt_id)
        return Outcome(record, fresh=False)

    async def sign_batch(
        self,
        evidence: Sequence[CheckedEvidence | RefusedEvidence],
        principal: Principal,
        wait_for: ReceiptState,
        idempotency_key: str,
        *,
        dedupe: bool = False,
    ) -> Batch:
        """Notarises many packages; each fails alone. Item `i` has the idempotency key `key/i`."""
        _check_batch(evidence, idempotency_key)
        self._allowances.require_batch(principal.tenant, len(evidence))
        wait_for = wait_for or self._default_wait
        await self._check_wait_for(wait_for)
        hashes = b"".join(each.hash for each in evidence)
        request = store.CreateBatchRequest(
            batch_id=str(uuid_utils.uuid7()),
            submitter=_submitter(principal),
            idempotency=store.Idempotency(idempotency_key, sha256(hashes).digest()) if idempotency_key else None,
            item_count=len(evidence),
            created_at=datetime.now(UTC),
            item_hashes=hashes if idempotency_key else b"",
        )
        batch_id = (await self._metadata.create_batch(request, timeout=_READ_TIMEOUT)).batch_id
        orders = [
            each.error
            if isinstance(each, RefusedEvidence)
            else Order(
                each, principal, f"{idempotency_key}/{index}" if idempotency_key else "", dedupe, wait_for, batch_id
            )
            for index, each in enumerate(evidence)
        ]
        results = await asyncio.gather(*(self._item(order, index) for index, order in enumerate(orders)))
        failed = sum(isinstance(result, NotaryError) for result in results)
        ended = store.FinishBatchRequest(batch_id, principal.tenant, len(results) - failed, failed)
        await self._metadata.finish_batch(ended, timeout=_READ_TIMEOUT)
        return Batch(BATCH_SIGNING + batch_id, list(results))

    async def _item(self, order: Order | NotaryError, index: int) -> Notarised | NotaryError:
        if isinstance(order, NotaryError):
            return order
        try:
            return await self.sign(order, wait=True)
        except AlreadyExists as error:
            named = [replace(each, field=_in_batch(each.field, index)) for each in error.fields]
            return AlreadyExists(error.message, fields=named)
        except NotaryError as error:
            return error

    # --- reading ------------------------------------------------------------------------------------------------------

    async def receipt(self, principal: Principal, receipt_id: str) -> NotarizationReceipt:
        """A receipt by its ID, as it stands now."""
        return await self._office.later_receipt(await self._record(principal, require_uuid("receipt_id", receipt_id)))

    async def workflow(self, principal: Principal, workflow_id: str) -> tuple[store.Workflow, store.Record | None]:
        """Where a workflow stands, with its record if it is one of a single receipt."""
        kind, identifier = parse_workflow_id(workflow_id)
        request = store.GetWorkflowRequest(principal.tenant, kind, identifier)
        none = "there is no such workflow"  # said in the same words of one that is not to be seen
        try:
            found = (await self._metadata.get_workflow(request, timeout=_READ_TIMEOUT)).workflow
        except NotFound:
            found = None
        if found is None or kind != store.WorkflowType.SIMPLE_SIGNING:
            self._access.about(principal, READ, "workflow", workflow_id, "" if found else "it is not there")
        if found is None:
            raise NotFound(none)
        if kind != store.WorkflowType.SIMPLE_SIGNING:
            return found, None
        try:
            return found, await self._record(principal, identifier)
        except Erased:
            raise
        except NotFound:
            raise NotFound(none) from None

    async def workflow_receipt(self, principal: Principal, workflow_id: str) -> NotarizationReceipt | None:
        """The receipt that a workflow made; None where it makes none, such as a batch, or there is no such workflow."""
        kind, identifier = parse_workflow_id(workflow_id)
        if kind != store.WorkflowType.SIMPLE_SIGNING:
            return None
        try:
            return await self._office.later_receipt(await self._record(principal, identifier))
        except Erased:
            raise
        except NotFound:
            return None

    async def workflows(
        self,
        principal: Principal,
        page: Page,
        state: store.WorkflowState,
        start: datetime | None,
        end: datetime | None,
    ) -> store.ListWorkflowsResponse:
        """Workflows, newest first."""
        check_window(start, end)
        request = store.ListWorkflowsRequest(principal.tenant, page.size, page.token, state, start, end)
        found = await self._metadata.list_workflows(request, timeout=_READ_TIMEOUT)
        single = store.WorkflowType.SIMPLE_SIGNING  # of a batch there is nothing to see but counts
        hidden = await self._hidden(
            principal, {each.id: each.event_type for each in found.workflows if each.type == single}
        )
        if hidden:
            found.workflows = [each for each in found.workflows if each.id not in hidden]
        given = receipts_given([each.id for each in found.workflows if each.type == single])
        self._access.gave(principal, READ, replace(given, asked={"workflows": len(found.workflows)}))
        return found

    async def evidence(self, principal: Principal, hash_hex: str) -> tuple[store.Record, NotarizationReceipt, int]:
        """The newest record of an evidence hash, its receipt, and how many there are."""
        wanted = parse_hash("evidence_package_hash", hash_hex)
        record, count = await self._find(principal, wanted, b"")
        return record, await self._office.later_receipt(record), count

    async def record_of(self, principal: Principal, evidence_hash: bytes, signature: bytes) -> store.Record:
        """The record of this evidence with this signature.

        Raises:
            NotFound: the tenant has none.
        """
        record, _ = await self._find(principal, evidence_hash, signature)
        return record

    async def search(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        """Records by what is known of them, in order, of the caller's tenant whatever the request says.

        What the caller may not see is left out, and its place filled with what follows: where very much is left out, a
        page can have less than its size, and others after it.
        """
        asked = asked_for(request)
        size, seen = request.page_size, list[store.RecordSummary]()
        for _ in range(_PAGES_FOR_ONE):
            found = await self._search(principal, request)
            hidden = await self._hidden(principal, {each.receipt_id: _event_type(each) for each in found.records})
            seen += [each for each in found.records if each.receipt_id not in hidden]
            if not hidden or len(seen) >= size or not found.next_page_token:
                break
            request = replace(request, page_size=size - len(seen), page_token=found.next_page_token)
        self._access.gave(principal, READ, receipts_given([each.receipt_id for each in seen], asked))
        return store.SearchRecordsResponse(seen, found.next_page_token)

    async def _search(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        check_window(request.start_time, request.end_time)
        request.tenant = principal.tenant
        return await self._metadata.search_records(request, timeout=_READ_TIMEOUT)

    async def affected(self, principal: Principal, request: store.SearchRecordsRequest) -> store.SearchRecordsResponse:
        """Records of one key version, newest first: all of them, whatever their evidence.

        Raises:
            NotFound: there is no such version: none affected would be a dangerous answer to a mistyped ID.
        """
        await self._require_seen(principal, request.key_id)
        asked = asked_for(request)
        found = await self._search(principal, request)
        self._access.gave(principal, KEYS, receipts_given([each.receipt_id for each in found.records], asked))
        return found

    async def export_affected(
        self, principal: Principal, key_id: str, since: datetime | None, page_size: int, after: str
    ) -> bytes:
        """Receipts of one key version as CSV (RFC 4180), newest first, from right after one of them.

        Raises:
            NotFound: there is no such version.
            InvalidArgument: the page size is out of range, or there is no receipt to go on after.
        """
        if not 0 <= page_size <= MAX_EXPORT:
            raise InvalidArgument.field("page_size", f"must be 0 to {MAX_EXPORT}")
        if after:
            require_uuid("after", after)
        await self._require_seen(principal, key_id)
        request = store.ListSignedRecordsRequest(principal.tenant, key_id, since, page_size or MAX_EXPORT, after)
        found = await self._metadata.list_signed_records(request, timeout=_READ_TIMEOUT)
        lines = await asyncio.to_thread(csv_of, found)  # some milliseconds, in which batches go on
        given = await asyncio.to_thread(lambda: receipts_given(receipts_of(found), {"key_id": key_id}))
        self._access.gave(principal, KEYS, given)
        return lines

    async def office_receipt(self, record: store.Record) -> NotarizationReceipt:
        """The receipt of a record."""
        return await self._office.later_receipt(record)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def require_operator(self, principal: Principal) -> None:
        """Refuses what concerns every tenant to those who do not look after all of them. Raises PermissionDenied."""
        with self._on_record(principal, "deployment", "trust-root"):
            self._key_rights.require_operator(principal)

    async def keys(self, principal: Principal) -> list[keyring.PublicKey]:
        """Every key version that ever signed and that concerns the caller's tenant."""
        return self._key_rights.seen(principal, await self._keys.versions())

    async def rotate_key(self, principal: Principal, purpose: keyring.KeyPurpose, name: str) -> keyring.PublicKey:
        """A new version of a key, which signs from now on; of the default one of its purpose where no name is given.

        Raises:
            NotFound: there is no such key.
            PermissionDenied: it is not the caller's to change.
        """
        if len(name.encode()) > MAX_NAME_BYTES or "\0" in name:
            raise InvalidArgument.field("name", f"must be at most {MAX_NAME_BYTES} bytes, without U+0000")
        versions = await self._keys.versions()
        with self._on_record(principal, "key", name):
            self._key_rights.require_key(principal, versions, name)
        answer = await self._signer.rotate_key(keyring.RotateKeyRequest(purpose, name), timeout=_READ_TIMEOUT)
        self._keys.forget()
        return answer.key if answer.key is not None else keyring.PublicKey()

    async def revoke_key(
        self, principal: Principal, key_id: str, compromised_since: datetime | None, reason: str
    ) -> keyring.PublicKey:
        """Records that a key version is not to be trusted any more.

        Raises:
            NotFound: there is no such version.
            PermissionDenied: it is not the caller's to change.
        """
        version = await self._keys.version(_required_key_id(key_id))
        with self._on_record(principal, "key", key_id):
            self._key_rights.require_version(principal, version)
        request = keyring.RevokeKeyRequest(_required_key_id(key_id), compromised_since, reason)
        answer = await self._signer.revoke_key(request, timeout=_READ_TIMEOUT)
        self._keys.forget()
        return answer.key if answer.key is not None else keyring.PublicKey()

    @contextmanager
    def _on_record(self, principal: Principal, kind: str, name: str) -> Iterator[None]:
        """Puts on record which key a call is about, and whether that was refused, which it stays."""
        try:
            yield
        except (NotFound, PermissionDenied) as refused:
            self._access.about(principal, "keys.admin", kind, name, refused.message)
            raise
        self._access.about(principal, "keys.admin", kind, name)

    async def _require_seen(self, principal: Principal, key_id: str) -> None:
        found = await self._keys.version(_required_key_id(key_id))
        with self._on_record(principal, "key", key_id):
            if found is None or not self._key_rights.seen(principal, [found]):
                raise NotFound("there is no such key version")

    def held(self, principal: Principal) -> tuple[list[Held], str]:
        """What a caller may do, and the hash of the policies that say so."""
        return self._access.held(principal)

    def hear_entries(self, principal: Principal, bodies: Iterable[bytes]) -> None:
        """Puts on record which entries of strangers a caller brings for the log."""
        for body in bodies:
            self._access.about(principal, "evidence.create", "entry", body)

    # --- time ---------------------------------------------------------------------------------------------------------

    async def timestamp(self, principal: Principal, query: bytes) -> bytes:
        """The answer of the time-stamping authority to a query, both DER (RFC 3161).

        Raises:
            InvalidArgument: there is no query, or it is larger than one can be.
            Unavailable: the authority's key or its clock is away.
        """
        if not 1 <= len(query) <= MAX_QUERY_BYTES:
            raise InvalidArgument.field("timestamp_request", f"must be 1 to {MAX_QUERY_BYTES} bytes")
        self._access.about(principal, "evidence.create", "timestamp", query)
        return (await self._signer.timestamp(keyring.TimestampRequest(query), timeout=_READ_TIMEOUT)).response

    # --- parts --------------------------------------------------------------------------------------------------------

    @property
    def _default_wait(self) -> ReceiptState:
        """A log of others takes seconds: nobody waits for it who has not said so."""
        return ReceiptState.SIGNED if self._external.main else ReceiptState.LOGGED

    async def _check_wait_for(self, state: ReceiptState) -> None:
        if state in (ReceiptState.SIGNED, ReceiptState.LOGGED):
            return
        if self._external.main:
            raise InvalidArgument.field("wait_for", "must be signed or logged: the log is run by others")
        if state != ReceiptState.WITNESSED or not (await self._keys.log()).quorum:
            raise InvalidArgument.field("wait_for", "must be signed or logged: no witnesses are configured")

    async def _notarised(self, outcome: Outcome, wait_for: ReceiptState) -> Notarised:
        record = outcome.record
        draft = record.draft if record.draft is not None else store.Draft()
        logged = record.state == store.RecordState.LOGGED
        workflow = store.Workflow(
            type=store.WorkflowType.SIMPLE_SIGNING,
            id=draft.receipt_id,
            state=store.WorkflowState.COMPLETED if logged else store.WorkflowState.RUNNING,
        )
        wait = self._witness_wait if wait_for == ReceiptState.WITNESSED else None
        return Notarised(workflow, await self._office.receipt(record, fresh=outcome.fresh, witnessed=wait))

    async def _record(self, principal: Principal, receipt_id: str) -> store.Record:
        found = await self._stored(principal, receipt_id)
        if found is None:
            self._access.about(principal, READ, "receipt", receipt_id, "it is not there")
        if found is None or not self._may_read(principal, found):
            raise NotFound(
                "there is no such receipt" + (await self._expired(principal, receipt_id) if not found else "")
            )
        require_readable(found)
        return found

    async def _expired(self, principal: Principal, receipt_id: str) -> str:
        """What is said of records that went, of the tenant and the month of a receipt ID that is not there."""
        request = store.ListExpiriesRequest(principal.tenant, receipt_id)
        expiries = (await self._metadata.list_expiries(request, timeout=_READ_TIMEOUT)).expiries
        certificates = [each.certificate or "one that is being made" for each in expiries]
        if not certificates:
            return ""
        return f": records of its month have expired, certificate {', '.join(certificates[-3:])}"

    async def _stored(self, principal: Principal, receipt_id: str) -> store.Record | None:
        request = store.GetRecordRequest(principal.tenant, receipt_id)
        try:
            return (await self._metadata.get_record(request, timeout=_READ_TIMEOUT)).record
        except NotFound:
            return None

    def _may_read(self, principal: Principal, record: store.Record) -> bool:
        draft = record.draft if record.draft is not None else store.Draft()
        return self._access.may_read(principal, draft.evidence_hash, draft.evidence, draft.receipt_id)

    async def _hidden(self, principal: Principal, event_types: Mapping[str, str]) -> set[str]:
        """Which receipts a list has to leave out, of those with these IDs and event types."""
        room = asyncio.Semaphore(_READS_AT_ONCE)

        async def evidence_of(receipt_id: str) -> bytes:
            async with room:
                found = await self._stored(principal, receipt_id)
            return found.draft.evidence if found is not None and found.draft is not None else b""

        many = [Listed(receipt_id, event_type) for receipt_id, event_type in event_types.items()]
        if self._access.asks_for_labels:
            evidence = await asyncio.gather(*map(evidence_of, event_types))
            many = [replace(each, evidence=its) for each, its in zip(many, evidence, strict=True)]
        seen = self._access.may_list(principal, many)
        return {each.receipt_id for each, may in zip(many, seen, strict=True) if not may}

    async def _find(self, principal: Principal, evidence_hash: bytes, signature: bytes) -> tuple[store.Record, int]:
        request = store.FindEvidenceRequest(principal.tenant, evidence_hash, signature)
        try:
            found = await self._metadata.find_evidence(request, timeout=_READ_TIMEOUT)
        except NotFound:
            found = store.FindEvidenceResponse()
            self._access.about(principal, READ, "evidence", evidence_hash.hex(), "it is not there")
        if found.record is None or not self._may_read(principal, found.record):
            raise NotFound("there is no such evidence")
        require_readable(found.record)
        return found.record, found.count


def _in_batch(field: str, index: int) -> str:
    return f"evidence_packages[{index}]{field.removeprefix('evidence_package')}"


def check_idempotency_key(key: str, most: int = MAX_KEY) -> None:
    """Refuses a key that is not 1 to `most` printable ASCII characters."""
    if not (_PRINTABLE.fullmatch(key) and len(key) <= most):
        raise InvalidArgument.field("idempotency_key", f"must be 1 to {most} printable ASCII characters")


def check_window(start: datetime | None, end: datetime | None) -> None:
    """Refuses a span that ends before it begins."""
    if start is not None and end is not None and end < start:
        raise InvalidArgument.field("end_time", "must not be before start_time")


def _required_key_id(key_id: str) -> str:
    if not 1 <= len(key_id.encode()) <= MAX_NAME_BYTES or "\0" in key_id:
        raise InvalidArgument.field("key_id", f"must be name:version, 1 to {MAX_NAME_BYTES} bytes")
    return key_id


def _check_batch(evidence: Sequence[CheckedEvidence | RefusedEvidence], idempotency_key: str) -> None:
    if not 1 <= len(evidence) <= MAX_BATCH:
        raise InvalidArgument.field("evidence_packages", f"must be 1 to {MAX_BATCH} packages")
    size = sum(len(each.canonical) for each in evidence if isinstance(each, CheckedEvidence))
    if size > MAX_BATCH_BYTES:
        raise InvalidArgument.field("evidence_packages", f"has {size} bytes, at most {MAX_BATCH_BYTES} are allowed")
    if idempotency_key:
        check_idempotency_key(idempotency_key, MAX_KEY - len(f"/{MAX_BATCH - 1}"))


def _event_type(record: store.RecordSummary) -> str:
    return record.terms.event_type if record.terms is not None else ""


def _submitter(principal: Principal) -> store.Principal:
    submitter = principal.submitter
    return store.Principal(principal.tenant, submitter.issuer, submitter.subject, submitter.method)
