"""A store that keeps sealed what it is given, and gives it back opened.

It stands before the one that has the technology. Evidence, statement and what is personal are sealed under the data key
of the record's tenant and subject; in the place of hashes, actor and submitter stand blind indexes, and whoever looks
for one of them looks for its index. What is under a key that was destroyed comes back as erased.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar
from uuid import UUID

from afdp.errors import DataLoss, NotaryError, NotFound
from afdp.messages.metadata import WorkflowType
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.blind import IndexKey
from afdp.metadata.key_check import DATA_KEYS, INDEX_KEYS, KeyCheck
from afdp.metadata.record_keys import DataKey, Opener, RecordKeys, Scope, raised
from afdp.metadata.sealing import NONCE_BYTES, Column, Head, seal, unseal
from afdp.metadata.service import Store
from afdp.metadata.subjects import OWN, Subjects
from afdp.metadata.terms import Terms
from afdp.metadata.values import (
    ArtifactOf,
    Asked,
    Batch,
    Changes,
    Checkpoint,
    Completion,
    Draft,
    Erased,
    Idempotency,
    Kept,
    KeyTaken,
    LogPosition,
    News,
    Outcome,
    Place,
    Position,
    Principal,
    Publication,
    Queued,
    QueuedCompletion,
    QueueLength,
    Record,
    Seal,
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

logger = logging.getLogger(__name__)

_SEALED = 3  # columns of a record
_NOTHING = Head(b"", (), "", "", "")  # of an erased record

T = TypeVar("T", Queued, UnstampedSignature)
_Ciphers = Mapping[UUID, Opener]


class SealedStore:
    """The promises are those of `afdp.metadata.service.Store`.

    Beside them every method may raise Unavailable where the signer is away and a key is not in memory, and DataLoss
    where what is kept is not what was sealed.
    """

    def __init__(self, store: Store, keys: RecordKeys, checks: KeyCheck, subjects: Subjects, terms: Terms) -> None:
        self._checks = checks
        self._terms = terms
        self._store = store
        self.keys = keys
        self._subjects = subjects

    async def prepare(
        self, drafts: Sequence[Draft], usage: dict[str, Usage] | None = None, rows: Sequence[NewRow] = ()
    ) -> list[Outcome]:
        """Drafts become PENDING records, sealed; one whose key cannot be had fails alone."""
        sealed = await self._sealed(drafts)
        good = [draft for draft in sealed if isinstance(draft, Draft)]
        written = await self._store.prepare(good, usage, rows) if good or rows else []
        outcomes = iter(await self._opened_outcomes(written))
        return [next(outcomes) if isinstance(each, Draft) else each for each in sealed]

    async def find_answer(self, asked: Asked) -> Record | NotaryError | None:
        """What answers a request already, opened."""
        index = await self.keys.index_of(asked.submitter.tenant)
        blinded = replace(
            asked,
            submitter=_blind_submitter(asked.submitter, index),
            idempotency=_blind_key(asked.idempotency, index),
            evidence_hash=index.evidence(asked.evidence_hash),
        )
        found = await self._store.find_answer(blinded)
        if not isinstance(found, Record | KeyTaken):
            return found
        [opened] = await self._opened_outcomes([found])
        return opened if isinstance(opened, Record | NotaryError) else None

    async def complete(
        self, checkpoint: Checkpoint, completions: Sequence[Completion], rows: Sequence[NewRow] = ()
    ) -> list[LogPosition | NotaryError]:
        """PENDING records become LOGGED ones."""
        return await self._store.complete(checkpoint, completions, rows)

    async def list_pending(self, limit: int, after: UUID | None, before: datetime | None) -> list[Record]:
        """PENDING records; without those that nobody can open any more."""
        records = await self._store.list_pending(limit, after, before)
        ciphers = await self._ciphers([record.draft.seal for record in records])
        return [record for each in records if (record := _opened_or_none(each, ciphers)) is not None]

    async def kept(self, limit: int, after: UUID | None) -> list[Kept]:
        """Records of all tenants, whole or not, each held against its blind indexes."""
        found = await self._store.kept(limit, after)
        seals = [each.record.draft.seal for each in found if each.record is not None]
        ciphers = await self._ciphers(seals)
        indexes = await self.keys.indexes({each.tenant for each in seals if each is not None})
        return [_kept(each, ciphers, indexes) for each in found]

    async def places(self, origin: str, start: int, end: int) -> list[Place]:
        """Which records say that they are in this part of a log."""
        return await self._store.places(origin, start, end)

    async def strays(self, table: str, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """What is amiss with rows beside the records, and with the keys that open them."""
        if table == DATA_KEYS:
            return await self._checks.data_keys(after, limit)
        if table == INDEX_KEYS:
            return await self._checks.index_keys(after, limit)
        found, end = await self._store.strays(table, after, limit)
        return [each for each in found if each.unless is None or not await self._has_artifact(each.unless)], end

    async def reopen(self, receipt_id: UUID, log_origin: str, external_log: str) -> bool:
        """A record that has lost its place is PENDING again."""
        return await self._store.reopen(receipt_id, log_origin, external_log)

    async def lease_queued(self, log: str, limit: int, lease: timedelta) -> list[Queued]:
        """Queued records that are due; without those that nobody can open any more."""
        return await self._with_statements(await self._store.lease_queued(log, limit, lease))

    async def complete_queued(
        self, log: str, completions: Sequence[QueuedCompletion]
    ) -> list[LogPosition | NotaryError]:
        """Queued records are in the log."""
        return await self._store.complete_queued(log, completions)

    async def defer_queued(self, log: str, waits: Mapping[UUID, timedelta]) -> None:
        """Queued records wait for longer."""
        await self._store.defer_queued(log, waits)

    async def queues(self) -> list[QueueLength]:
        """The queues that are not empty."""
        return await self._store.queues()

    async def get_record(self, tenant: str, receipt_id: UUID) -> Record | None:
        """One record of a tenant, opened."""
        record = await self._store.get_record(tenant, receipt_id)
        return None if record is None else (await self._opened([record]))[0]

    async def get_records(self, tenant: str, receipt_ids: Sequence[UUID]) -> list[Record]:
        """Some records of a tenant, opened."""
        return await self._opened(await self._store.get_records(tenant, receipt_ids))

    async def changes(self, tenant: str, cursor: str, limit: int) -> Changes:
        """The changes of a tenant's records after a cursor."""
        return await self._store.changes(tenant, cursor, limit)

    async def news(self, cursor: str) -> News:
        """Which tenants have changes after a cursor."""
        return await self._store.news(cursor)

    async def note_witnessed(self, origin: str, tree_size: int) -> int:
        """A tree is cosigned."""
        return await self._store.note_witnessed(origin, tree_size)

    async def find_evidence(self, tenant: str, evidence_hash: bytes, signature: bytes) -> tuple[Record, int] | None:
        """The newest record of the evidence, and how many there are."""
        index = (await self.keys.index_of(tenant)).evidence(evidence_hash)
        found = await self._store.find_evidence(tenant, index, signature)
        return None if found is None else ((await self._opened([found[0]]))[0], found[1])

    async def search(self, query: Search, after: Position | None, limit: int) -> list[Summary]:
        """Records that match, newest first."""
        found = await self._store.search(await self._blind(query), after, limit)
        ciphers = await self._ciphers([each.seal for each in found])
        return [_opened_summary(each, ciphers) for each in found]

    async def read(self, query: Search, after: Position | None, limit: int) -> WholePage:
        """Records that match, whole, as many as fit in memory."""
        page = await self._store.read(await self._blind(query), after, limit)
        return replace(page, records=await self._opened(page.records))

    async def signed(self, query: Search, after: Position | None, limit: int) -> list[SignedRecord]:
        """As `search`, with no more told than which records they are."""
        found = await self._store.signed(await self._blind(query), after, limit)
        ciphers = await self._ciphers([each.seal for each in found])
        return [_opened_signed(each, ciphers) for each in found]

    async def notarized_at(self, tenant: str, receipt_id: UUID) -> datetime | None:
        """When a record of a tenant was notarised."""
        return await self._store.notarized_at(tenant, receipt_id)

    async def claim_stamps(self, limit: int, lease: timedelta) -> list[UnstampedSignature]:
        """Signatures that wait for a stamp; without those whose statement nobody can open any more."""
        return await self._with_statements(await self._store.claim_stamps(limit, lease))

    async def keep_stamp(self, receipt_id: UUID, timestamp: bytes) -> None:
        """A stamp is added to its record."""
        await self._store.keep_stamp(receipt_id, timestamp)

    async def postpone_stamps(self, receipt_ids: Sequence[UUID], wait: timedelta) -> None:
        """Signatures are given back for later."""
        await self._store.postpone_stamps(receipt_ids, wait)

    async def stamp_backlog(self) -> StampBacklog:
        """How many signatures wait for a stamp, and since when."""
        return await self._store.stamp_backlog()

    async def create_batch(self, batch: Batch) -> tuple[UUID, bool]:
        """The batch of this idempotency key, and whether another request made it before."""
        index = await self.keys.index_of(batch.submitter.tenant)
        blinded = replace(
            batch,
            submitter=_blind_submitter(batch.submitter, index),
            idempotency=_blind_key(batch.idempotency, index),
            item_hashes=b"".join(index.evidence(batch.item_hashes[at : at + 32]) for at in _starts(batch)),
        )
        return await self._store.create_batch(blinded)

    async def finish_batch(self, tenant: str, batch_id: UUID, succeeded: int, failed: int) -> None:
        """A batch ends with its counts."""
        await self._store.finish_batch(tenant, batch_id, succeeded, failed)

    async def get_workflow(self, tenant: str, kind: WorkflowType, workflow_id: UUID) -> Workflow | None:
        """One workflow of a tenant."""
        found = await self._store.get_workflow(tenant, kind, workflow_id)
        return None if found is None else (await self._opened_workflows([found]))[0]

    async def list_workflows(self, query: WorkflowQuery, after: Position | None, limit: int) -> list[Workflow]:
        """Workflows that match, newest first."""
        return await self._opened_workflows(await self._store.list_workflows(query, after, limit))

    async def count_workflows(self, query: WorkflowQuery) -> int:
        """How many workflows match."""
        return await self._store.count_workflows(query)

    async def page_key(self) -> bytes:
        """As the store's."""
        return await self._store.page_key()

    async def get_trust_files(self, known: int) -> TrustFiles:
        """The newest publication of the trust root, which everybody may read."""
        return await self._store.get_trust_files(known)

    async def get_trust_file(self, name: str) -> bytes | None:
        """One file of the trust root."""
        return await self._store.get_trust_file(name)

    async def put_trust_files(self, publication: Publication) -> int:
        """A publication of the trust root is written."""
        return await self._store.put_trust_files(publication)

    async def _has_artifact(self, claim: ArtifactOf) -> bool:
        try:
            record = await self.get_record(claim.tenant, claim.receipt_id)
        except DataLoss:
            return False  # which is said of the record, too
        return record is not None and claim.artifact_hash in record.draft.terms.artifact_hashes

    async def _sealed(self, drafts: Sequence[Draft]) -> list[Draft | NotaryError]:
        indexes = await self.keys.indexes({draft.submitter.tenant for draft in drafts})
        scopes: list[Scope | None] = []
        for draft in drafts:
            index = indexes[draft.submitter.tenant]
            scopes.append(None if isinstance(index, NotaryError) else self._scope(draft, index))
        keys = await self.keys.sealing([scope for scope in scopes if scope is not None])
        nonces = os.urandom(_SEALED * NONCE_BYTES * len(drafts))
        sealed: list[Draft | NotaryError] = []
        for place, (draft, scope) in enumerate(zip(drafts, scopes, strict=True)):
            index = indexes[draft.submitter.tenant]
            key = index if scope is None else keys[scope]
            if isinstance(key, DataKey) and isinstance(index, IndexKey):
                own = nonces[place * _SEALED * NONCE_BYTES :]
                terms = tuple(map(index.term, self._terms.of_metadata(draft)))
                sealed.append(_sealed(draft, index, key, own, terms))
            else:
                sealed.append(_as_error(key))
        return sealed

    def _scope(self, draft: Draft, index: IndexKey) -> Scope:
        subject = self._subjects.of(draft)
        return Scope(draft.submitter.tenant, b"" if subject == OWN else index.subject(subject))

    async def _blind(self, query: Search) -> Search:
        self._terms.require_searchable(query)
        named = query.evidence_hash, query.artifact_hash, query.actor_id, query.submitter
        if not query.metadata and all(each is None for each in named):
            return query
        index = await self.keys.index_of(query.tenant)
        return replace(
            query,
            evidence_hash=None if query.evidence_hash is None else index.evidence(query.evidence_hash),
            artifact_hash=None if query.artifact_hash is None else index.artifact(query.artifact_hash),
            actor_id=None if query.actor_id is None else index.actor(query.actor_id),
            submitter=None if query.submitter is None else index.submitter(query.submitter),
            metadata=(),
            terms=tuple(map(index.term, self._terms.asked_of_metadata(query))),
        )

    async def _ciphers(self, seals: Sequence[Seal | None]) -> _Ciphers:
        sealed = [each for each in seals if each is not None]
        return await self.keys.opening(sealed) if sealed else {}

    async def _opened(self, records: Sequence[Record]) -> list[Record]:
        ciphers = await self._ciphers([record.draft.seal for record in records])
        return [_opened(record, ciphers) for record in records]

    async def _opened_outcomes(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        before = {record.draft.receipt_id: record for each in outcomes if (record := _before(each)) is not None}
        if not before:
            return list(outcomes)
        opened = dict(zip(before, await self._opened(list(before.values())), strict=True))
        return [_with_before(each, opened) for each in outcomes]

    async def _opened_workflows(self, workflows: Sequence[Workflow]) -> list[Workflow]:
        ciphers = await self._ciphers([each.seal for each in workflows])
        return [_opened_workflow(each, ciphers) for each in workflows]

    async def _with_statements(self, found: Sequence[T]) -> list[T]:
        ciphers = await self._ciphers([each.seal for each in found])
        opened = []
        for each in found:
            try:
                statement = _open(each.seal, each.statement, each.receipt_id, Column.STATEMENT, ciphers)
                opened.append(replace(each, statement=statement, seal=None))
            except (DataLoss, NotFound) as error:
                _say_left_out(each.receipt_id, error)
        return opened


def _before(outcome: Outcome) -> Record | None:
    if isinstance(outcome, KeyTaken):
        return outcome.before
    return outcome if isinstance(outcome, Record) else None


def _with_before(outcome: Outcome, opened: Mapping[UUID, Record]) -> Outcome:
    if isinstance(outcome, Record):
        return opened[outcome.draft.receipt_id]
    if isinstance(outcome, KeyTaken) and outcome.before is not None:
        return KeyTaken(outcome.message, opened[outcome.before.draft.receipt_id])
    return outcome


def _sealed(draft: Draft, index: IndexKey, key: DataKey, nonces: bytes, found_by: tuple[bytes, ...]) -> Draft:
    """The draft as it is kept."""
    submitter, terms, receipt_id = draft.submitter, draft.terms, draft.receipt_id
    tenant = submitter.tenant.encode()
    head = Head(draft.evidence_hash, terms.artifact_hashes, terms.actor_id, submitter.issuer, submitter.subject)
    first, second, third = (nonces[start : start + NONCE_BYTES] for start in range(0, 3 * NONCE_BYTES, NONCE_BYTES))
    cipher = key.cipher
    sealed_head = seal(cipher, first, head.to_bytes(), receipt_id, tenant, Column.HEAD)
    return replace(
        draft,
        submitter=_blind_submitter(submitter, index),
        idempotency=_blind_key(draft.idempotency, index),
        evidence=seal(cipher, second, draft.evidence, receipt_id, tenant, Column.EVIDENCE),
        evidence_hash=index.evidence(draft.evidence_hash),
        terms=replace(
            terms,
            actor_id=index.actor(terms.actor_id),
            artifact_hashes=tuple([index.artifact(each) for each in terms.artifact_hashes]),
        ),
        statement=seal(cipher, third, draft.statement, receipt_id, tenant, Column.STATEMENT),
        seal=Seal(submitter.tenant, key.id, sealed_head, found_by),
    )


def _starts(batch: Batch) -> range:
    return range(0, len(batch.item_hashes), 32)


def _blind_submitter(submitter: Principal, index: IndexKey) -> Principal:
    return replace(submitter, issuer=index.issuer(submitter.issuer), subject=index.submitter(submitter.subject))


def _blind_key(key: Idempotency | None, index: IndexKey) -> Idempotency | None:
    return None if key is None else Idempotency(key.key, index.evidence(key.fingerprint))


def _as_error(key: object) -> NotaryError:
    if not isinstance(key, NotaryError):
        raise TypeError("a key that is neither a key nor an error")
    return type(key)(key.message, retry_after=key.retry_after)


def _open(seal: Seal | None, sealed: bytes, receipt_id: UUID, column: Column, ciphers: _Ciphers) -> bytes:
    """What was sealed. Raises DataLoss, NotFound where it was erased, and what stands in the way of the key."""
    if seal is None:  # kept in plain
        return sealed
    opener = ciphers[seal.data_key]
    if isinstance(opener, Erased):
        raise NotFound("its subject was erased")
    return unseal(raised(opener), sealed, receipt_id, seal.tenant.encode(), column)


def _open_head(seal: Seal, receipt_id: UUID, ciphers: _Ciphers) -> Head:
    return Head.from_bytes(_open(seal, seal.head, receipt_id, Column.HEAD, ciphers))


def _erased(seal: Seal, ciphers: _Ciphers) -> Erased | None:
    found = ciphers[seal.data_key]
    return found if isinstance(found, Erased) else None


def _opened(record: Record, ciphers: _Ciphers) -> Record:
    draft = record.draft
    if draft.seal is None:
        return record
    if (erased := _erased(draft.seal, ciphers)) is not None:
        return replace(record, draft=_blank(draft), erased=erased)
    head = _open_head(draft.seal, draft.receipt_id, ciphers)
    evidence = _open(draft.seal, draft.evidence, draft.receipt_id, Column.EVIDENCE, ciphers)
    statement = _open(draft.seal, draft.statement, draft.receipt_id, Column.STATEMENT, ciphers)
    return replace(record, draft=_with_head(draft, head, evidence, statement))


def _with_head(draft: Draft, head: Head, evidence: bytes, statement: bytes) -> Draft:
    return replace(
        draft,
        submitter=Principal(draft.submitter.tenant, head.issuer, head.subject, draft.submitter.method),
        evidence=evidence,
        evidence_hash=head.evidence_hash,
        terms=replace(draft.terms, actor_id=head.actor_id, artifact_hashes=head.artifact_hashes),
        statement=statement,
        seal=None,
    )


def _blank(draft: Draft) -> Draft:
    """What is left of an erased record: nothing that its subject could be told or guessed from."""
    return _with_head(draft, _NOTHING, b"", b"")


def _opened_or_none(record: Record, ciphers: _Ciphers) -> Record | None:
    try:
        opened = _opened(record, ciphers)
    except DataLoss as error:
        _say_left_out(record.draft.receipt_id, error)
        return None
    if opened.erased is not None:
        _say_left_out(record.draft.receipt_id, NotFound("its subject was erased"))
        return None
    return opened


def _say_left_out(receipt_id: UUID, error: NotaryError) -> None:
    fields = {"receipt_id": str(receipt_id), "code": error.code, "reason": error.message}
    logger.error("a record that waits cannot be opened, and is left out", extra={"fields": fields})


def _kept(kept: Kept, ciphers: _Ciphers, indexes: Mapping[str, IndexKey | NotaryError]) -> Kept:
    """A record for the reconciler. What cannot be opened is empty, and a blind index that is another's is shown."""
    if kept.record is None or (sealed := kept.record.draft.seal) is None:
        return kept
    if _erased(sealed, ciphers) is not None:
        return replace(kept, record=_opened(kept.record, ciphers), evidence_fits=True)
    draft = kept.record.draft
    try:
        index = raised(indexes[sealed.tenant])
        head = _open_head(sealed, draft.receipt_id, ciphers)
    except DataLoss:
        return replace(kept, record=replace(kept.record, draft=_blank(draft)), evidence_fits=False)
    evidence, statement = (
        _open_or_nothing(sealed, each, draft.receipt_id, column, ciphers)
        for each, column in ((draft.evidence, Column.EVIDENCE), (draft.statement, Column.STATEMENT))
    )
    fits = sha256(evidence).digest() == head.evidence_hash
    shown = _with_head(draft, _as_indexed(draft, head, index), b"", statement)
    return replace(kept, record=replace(kept.record, draft=shown), evidence_fits=fits)


def _open_or_nothing(seal: Seal, sealed: bytes, receipt_id: UUID, column: Column, ciphers: _Ciphers) -> bytes:
    try:
        return _open(seal, sealed, receipt_id, column, ciphers)
    except DataLoss:
        return b""


def _as_indexed(draft: Draft, head: Head, index: IndexKey) -> Head:
    """The head, with what stands in the columns where that is not its index."""
    artifacts = tuple(index.artifact(each) for each in head.artifact_hashes)
    return Head(
        head.evidence_hash if index.evidence(head.evidence_hash) == draft.evidence_hash else draft.evidence_hash,
        head.artifact_hashes if artifacts == draft.terms.artifact_hashes else draft.terms.artifact_hashes,
        head.actor_id if index.actor(head.actor_id) == draft.terms.actor_id else draft.terms.actor_id,
        head.issuer if index.issuer(head.issuer) == draft.submitter.issuer else draft.submitter.issuer,
        head.subject if index.submitter(head.subject) == draft.submitter.subject else draft.submitter.subject,
    )


def _opened_summary(summary: Summary, ciphers: _Ciphers) -> Summary:
    seal = summary.seal
    if seal is None:
        return summary
    erased = _erased(seal, ciphers)
    head = _NOTHING if erased else _open_head(seal, summary.receipt_id, ciphers)
    terms = replace(summary.terms, actor_id=head.actor_id, artifact_hashes=head.artifact_hashes)
    return replace(summary, evidence_hash=head.evidence_hash, terms=terms, seal=None, erased=erased)


def _opened_signed(signed: SignedRecord, ciphers: _Ciphers) -> SignedRecord:
    if signed.seal is None:
        return signed
    erased = _erased(signed.seal, ciphers)
    found = bytes(32) if erased else _open_head(signed.seal, signed.receipt_id, ciphers).evidence_hash
    return replace(signed, evidence_hash=found, seal=None)


def _opened_workflow(workflow: Workflow, ciphers: _Ciphers) -> Workflow:
    if workflow.seal is None:
        return workflow
    erased = _erased(workflow.seal, ciphers)
    actor = "" if erased else _open_head(workflow.seal, workflow.id, ciphers).actor_id
    return replace(workflow, actor_id=actor, seal=None)
