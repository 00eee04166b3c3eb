"""Prepare: signed drafts become PENDING records, all in one transaction.

A batch without conflicts is one statement, and so one round trip. Whatever answers a draft already is looked up after
it, and a batch with a draft that PostgreSQL refuses is written once more, each draft behind a savepoint of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import UUID

import asyncpg

from afdp.errors import Aborted, AlreadyExists, FailedPrecondition, NotaryError
from afdp.metadata.audit_trail import NewRow
from afdp.metadata.postgres import audit, changes, idempotency, months, records
from afdp.metadata.postgres.conditions import fetch_pruned
from afdp.metadata.postgres.idempotency import Claim
from afdp.metadata.postgres.lookup import lookup_key, term_key
from afdp.metadata.record_keys import shut
from afdp.metadata.terms import Terms
from afdp.metadata.values import Asked, Draft, KeyTaken, Outcome, Prepared, Record, Usage
from afdp.postgres import Connection, is_refused, refusal
from afdp.postgres.errors import FOREIGN, RETRY_AFTER

_STATEMENT = """
    WITH shut AS MATERIALIZED (
        SELECT data_key, decided FROM shut_data_keys($33) WHERE cardinality(array_remove($33::uuid[], NULL)) > 0
    ), given AS MATERIALIZED (
        SELECT * FROM unnest(
            $6::uuid[], $7::text[], $8::timestamptz[], $9::bytea[], $10::bigint[], $11::text[], $12::text[],
            $13::text[], $14::timestamptz[], $15::bytea[], $16::text[], $17::smallint[], $18::uuid[], $19::text[],
            $20::text[], $21::text[], $22::bytea[], $23::bytea[], $24::bytea[], $25::bytea[], $26::bytea[],
            $27::bytea[], $28::bytea[], $29::uuid[], $30::boolean[], $31::text[], $32::text[],
            $33::uuid[], $34::bytea[], $41::text[]
        ) AS d (
            receipt_id, tenant, notarized_at, evidence_hash, evidence_key, event_type, actor_type,
            actor_id, timestamp_utc, artifact_hashes, key_id, workflow_type, batch_id, issuer,
            subject, method, evidence, statement, signature, leaf_hash, timestamp, digest,
            fingerprint, target, external_stamp, external_log, log_origin, data_key, head, retention_class
        )
    ), draft AS MATERIALIZED (
        SELECT * FROM given WHERE data_key IS NULL OR data_key NOT IN (SELECT data_key FROM shut)
    ), claimed AS (
        {claimed}
    ), won AS MATERIALIZED (
        SELECT * FROM draft WHERE digest IS NULL OR digest IN (SELECT digest FROM claimed)
    ), new AS MATERIALIZED (
        SELECT * FROM won WHERE target = receipt_id
    ), in_record AS (
        INSERT INTO record (
            receipt_id, tenant, notarized_at, evidence_hash, evidence_key, event_type, actor_type, actor_id,
            timestamp_utc, artifact_hashes, key_id, workflow_type, batch_id, data_key, head, retention_class
        )
        SELECT receipt_id, tenant, notarized_at, evidence_hash, evidence_key, event_type, actor_type, actor_id,
               timestamp_utc, artifact_hashes, key_id, workflow_type, batch_id, data_key, head, retention_class
        FROM new
    ), in_content AS (
        INSERT INTO record_content (
            receipt_id, tenant, issuer, subject, method, evidence, statement, signature, leaf_hash, timestamp
        )
        SELECT receipt_id, tenant, issuer, subject, method, evidence, statement, signature, leaf_hash, timestamp
        FROM new
    ), in_artifact AS (
        INSERT INTO record_artifact (artifact_key, notarized_at, receipt_id, tenant, artifact_hash)
        SELECT a.artifact_key, a.notarized_at, receipt_id, new.tenant, a.artifact_hash
        FROM unnest($2::bigint[], $3::timestamptz[], $4::uuid[], $5::bytea[])
            AS a (artifact_key, notarized_at, receipt_id, artifact_hash) JOIN new USING (receipt_id)
    ), in_term AS (
        INSERT INTO record_term (term_key, notarized_at, receipt_id, tenant, term)
        SELECT t.term_key, new.notarized_at, receipt_id, new.tenant, t.term
        FROM unnest($38::bigint[], $39::uuid[], $40::bytea[]) AS t (term_key, receipt_id, term)
            JOIN new USING (receipt_id)
    ), in_stamp_wanted AS (
        INSERT INTO stamp_wanted (receipt_id, tenant, since)
        SELECT receipt_id, tenant, notarized_at FROM new WHERE external_stamp
    ), in_pending AS (
        INSERT INTO pending (receipt_id, tenant, notarized_at, log_origin)
        SELECT receipt_id, tenant, notarized_at, log_origin FROM new WHERE external_log IS NULL
    ), in_change AS (
        {changed}
    ), in_queue AS (
        INSERT INTO log_queue (receipt_id, tenant, log, main)
        SELECT receipt_id, tenant, external_log, true FROM new WHERE external_log IS NOT NULL
        UNION ALL
        SELECT receipt_id, tenant, log, false
        FROM unnest($35::uuid[], $36::text[]) AS further (receipt_id, log) JOIN new USING (receipt_id)
    ), in_audit AS (
        {audit}
    ), in_usage AS (
        INSERT INTO tenant_usage AS u (tenant, day, slot, records, bytes)
        SELECT tenant, current_date, pg_backend_pid() % 32, count(*),
               sum(octet_length(evidence) - CASE WHEN data_key IS NULL THEN 0 ELSE 28 END)  -- nonce and tag
        FROM new
        WHERE $37 GROUP BY tenant ORDER BY tenant
        ON CONFLICT (tenant, day, slot) DO UPDATE
            SET records = u.records + excluded.records, bytes = u.bytes + excluded.bytes
        RETURNING tenant, day, slot, records, bytes
    )
    SELECT receipt_id, NULL AS tenant, NULL AS day, NULL AS records, NULL AS bytes, NULL::boolean AS decided FROM won
    UNION ALL
    SELECT NULL, w.tenant, w.day - date '1970-01-01', w.records + coalesce(others.records, 0)::bigint,
           w.bytes + coalesce(others.bytes, 0)::bigint, NULL
    FROM in_usage w LEFT JOIN LATERAL (
        SELECT sum(o.records) AS records, sum(o.bytes) AS bytes FROM tenant_usage o
        WHERE o.tenant = w.tenant AND o.day = w.day AND o.slot <> w.slot
    ) AS others ON true
    UNION ALL
    SELECT receipt_id, NULL, NULL, NULL, NULL, decided FROM given JOIN shut USING (data_key)
"""
_CLAIMED = "SELECT digest, fingerprint, target, false FROM draft WHERE digest IS NOT NULL ORDER BY digest"
_WRITE = _STATEMENT.format(
    claimed=idempotency.CLAIM.format(rows=_CLAIMED), audit=audit.insert(42), changed=changes.WRITE.format(changed="new")
)

# Two writers that dedupe the same evidence take turns, so that the second one finds the first one's record.
_TAKE_TURNS = """
    SELECT pg_advisory_xact_lock(turn) FROM (SELECT DISTINCT turn FROM unnest($1::bigint[]) AS turn ORDER BY turn) AS t
"""
_NEWEST = """
    SELECT d.place, newest.receipt_id
    FROM unnest($1::integer[], $2::bigint[], $3::text[], $4::bytea[]) AS d (
        place, evidence_key, tenant, evidence_hash
    ), LATERAL (
        SELECT receipt_id FROM record r
        WHERE r.evidence_key = d.evidence_key AND r.tenant = d.tenant AND r.evidence_hash = d.evidence_hash
        ORDER BY notarized_at DESC, receipt_id DESC
        LIMIT 1
    ) AS newest
"""
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class _Item:
    """A draft at its place in the batch. `target` answers it: its own receipt ID, or a record from before."""

    place: int
    draft: Draft
    digest: bytes | None
    evidence_key: int
    target: UUID
    terms: list[bytes]


_Usage = dict[str, Usage] | None

# Writes items, but those whose subject is being erased; gives the receipt IDs of those that were written or claimed
# their key, and what was refused.
_Write = Callable[[Connection, Sequence[_Item], timedelta, _Usage], Awaitable[tuple[set[UUID], dict[int, Outcome]]]]


async def prepare(
    connection: Connection,
    drafts: Sequence[Draft],
    retention: timedelta,
    terms: Terms,
    usage: _Usage = None,
    rows: Sequence[NewRow] = (),
) -> list[Outcome]:
    """One outcome per draft, in order. With `usage` what is written counts as its tenant's use of the day.

    The rows of the audit trail are written in the same transaction, whatever becomes of the drafts.

    An idempotency key has one answer: the record of the first draft that claimed it. A receipt ID that is on record
    with the same content is `Prepared` while PENDING, and answered by its record once LOGGED.

    Raises:
        Aborted: keys expired or records vanished while this ran.
    """
    if not drafts:
        await audit.add_rows(connection, rows)
        return []
    items = [_item(place, draft, terms.of(draft)) for place, draft in enumerate(drafts)]
    first, later = _independent(items)
    try:
        # One statement is a transaction by itself.
        one_statement = not later and not any(item.draft.dedupe for item in first)
        write = partial(_write_together, rows=rows if one_statement else ())
        before = () if one_statement else rows
        return await _in_rounds(connection, items, retention, usage, write, before, in_transaction=not one_statement)
    except FOREIGN as error:
        if not is_refused(error):
            raise
        await months.make_for(connection, [draft.receipt_id for draft in drafts])  # a missing one refuses all of them
    return await _in_rounds(connection, items, retention, usage, _write_singly, rows, in_transaction=True)


def _item(place: int, draft: Draft, terms: list[bytes]) -> _Item:
    key = idempotency.digest(draft.submitter, draft.idempotency) if draft.idempotency else None
    evidence_key = lookup_key(draft.submitter.tenant, draft.evidence_hash)
    return _Item(place, draft, key, evidence_key, draft.receipt_id, terms)


async def _in_rounds(
    connection: Connection,
    items: list[_Item],
    retention: timedelta,
    usage: _Usage,
    write: _Write,
    rows: Sequence[NewRow],
    *,
    in_transaction: bool,
) -> list[Outcome]:
    """Write what does not depend on another item, look up what answers the rest, and so on until all are answered."""
    outcomes: dict[int, Outcome] = {}
    async with AsyncExitStack() as stack:
        if in_transaction:
            await stack.enter_async_context(connection.transaction())
        await audit.add_rows(connection, rows)
        waiting = items
        for _ in range(_ROUNDS):
            waiting = await _with_targets(connection, waiting)
            first, later = _independent(waiting)
            won, refused = await write(connection, first, retention, usage)
            outcomes |= refused
            outcomes |= await _answered_by_targets(connection, [item for item in first if item.draft.receipt_id in won])
            lost = [item for item in first if item.draft.receipt_id not in won and item.place not in refused]
            if lost or later:
                outcomes |= await _answered_before(connection, lost + later, retention)
            waiting = [item for item in waiting if item.place not in outcomes]
            if not waiting:
                return [outcomes[place] for place in range(len(items))]
    raise Aborted("what answers these drafts changed while it was looked up: try again", retry_after=RETRY_AFTER)


async def _with_targets(connection: Connection, items: list[_Item]) -> list[_Item]:
    """Items that dedupe get the newest record of their evidence as their target, if there is one."""
    deduped = [item for item in items if item.draft.dedupe]
    if not deduped:
        return items
    keys = [item.evidence_key for item in deduped]
    await connection.fetch(_TAKE_TURNS, keys)
    tenants = [item.draft.submitter.tenant for item in deduped]
    hashes = [item.draft.evidence_hash for item in deduped]
    rows = await fetch_pruned(connection, _NEWEST, [item.place for item in deduped], keys, tenants, hashes)
    targets = {row["place"]: row["receipt_id"] for row in rows}
    return [replace(item, target=targets.get(item.place, item.draft.receipt_id)) for item in items]


def _independent(items: Sequence[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Items that can be written together, and those that must see what became of an earlier one first."""
    first: list[_Item] = []
    later: list[_Item] = []
    keys: set[object] = set()
    for item in items:
        own: set[object] = {item.draft.receipt_id} | ({item.digest} if item.digest else set())
        evidence = (item.draft.submitter.tenant, item.draft.evidence_hash)
        is_new = item.target == item.draft.receipt_id
        if own & keys or (is_new and item.draft.dedupe and evidence in keys):
            later.append(item)
        else:
            first.append(item)
            keys |= own | {evidence}
    return first, later


async def _write_together(
    connection: Connection,
    items: Sequence[_Item],
    retention: timedelta,
    usage: _Usage,
    rows: Sequence[NewRow] = (),
) -> tuple[set[UUID], dict[int, Outcome]]:
    columns = (*_artifact_columns(items), *_columns(items), *_further_columns(items))
    classes = [item.draft.retention_class for item in items]
    told = await connection.fetch(
        _WRITE, retention, *columns, usage is not None, *_term_columns(items), classes, *audit.columns(rows)
    )
    if usage is not None:
        for row in [row for row in told if row["receipt_id"] is None]:
            usage[row["tenant"]] = Usage(row["day"], row["records"], row["bytes"])
    refused = {row["receipt_id"]: shut(decided=row["decided"]) for row in told if row["decided"] is not None}
    won = {row["receipt_id"] for row in told} - refused.keys() - {None}
    return won, {item.place: refused[item.draft.receipt_id] for item in items if item.draft.receipt_id in refused}


async def _write_singly(
    connection: Connection, items: Sequence[_Item], retention: timedelta, usage: _Usage
) -> tuple[set[UUID], dict[int, Outcome]]:
    won: set[UUID] = set()
    refused: dict[int, Outcome] = {}
    for item in items:
        try:
            async with connection.transaction():
                written, shut_out = await _write_together(connection, [item], retention, usage)
                won |= written
                refused |= shut_out
        except asyncpg.UniqueViolationError:
            pass  # the receipt ID is on record: whether as the same, the look-up tells
        except FOREIGN as error:
            if not is_refused(error):
                raise
            refused[item.place] = refusal(error)
    return won, refused


def _artifact_columns(items: Sequence[_Item]) -> tuple[list[object], ...]:
    """Parameters 2 to 5 of `_WRITE`: one element per draft and distinct artifact."""
    columns: tuple[list[object], ...] = ([], [], [], [])
    for item in items:
        draft = item.draft
        for artifact_hash in dict.fromkeys(draft.terms.artifact_hashes):
            row = (
                lookup_key(draft.submitter.tenant, artifact_hash),
                draft.notarized_at,
                draft.receipt_id,
                artifact_hash,
            )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return columns


def _term_columns(items: Sequence[_Item]) -> tuple[list[int], list[UUID], list[bytes]]:
    """Parameters 38 to 40 of `_WRITE`: one element per draft and term."""
    rows = [(item.draft.receipt_id, term) for item in items for term in item.terms]
    return [term_key(term) for _, term in rows], [receipt_id for receipt_id, _ in rows], [term for _, term in rows]


def _columns(items: Sequence[_Item]) -> list[list[object]]:
    """Parameters 6 to 34 of `_WRITE`: one element per draft."""
    rows = [
        (
            draft.receipt_id,
            draft.submitter.tenant,
            draft.notarized_at,
            draft.evidence_hash,
            item.evidence_key,
            draft.terms.event_type,
            draft.terms.actor_type,
            draft.terms.actor_id,
            draft.terms.timestamp_utc,
            b"".join(draft.terms.artifact_hashes),
            draft.key_id,
            int(draft.workflow_type),
            draft.batch_id,
            draft.submitter.issuer,
            draft.submitter.subject,
            draft.submitter.method,
            draft.evidence,
            draft.statement,
            draft.signature,
            draft.leaf_hash,
            draft.timestamp or None,
            item.digest,
            draft.idempotency.fingerprint if draft.idempotency else None,
            item.target,
            draft.external_stamp,
            draft.external_log or None,
            draft.log_origin,
            draft.seal.data_key if draft.seal else None,
            draft.seal.head if draft.seal else None,
        )
        for item in items
        for draft in (item.draft,)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _further_columns(items: Sequence[_Item]) -> tuple[list[object], list[object]]:
    """Parameters 35 and 36 of `_WRITE`: one element per draft and further log."""
    rows = [(item.draft.receipt_id, log) for item in items for log in item.draft.more_logs]
    return [receipt_id for receipt_id, _ in rows], [log for _, log in rows]


async def _answered_by_targets(connection: Connection, items: Iterable[_Item]) -> dict[int, Outcome]:
    """The outcomes of items that are written, or that claimed their key for a record from before."""
    outcomes: dict[int, Outcome] = {}
    deduped = []
    for item in items:
        if item.target == item.draft.receipt_id:
            outcomes[item.place] = Prepared()
        else:
            deduped.append(item)
    if deduped:
        found = await records.by_ids(connection, {item.target for item in deduped})
        outcomes |= {item.place: found[item.target] for item in deduped if item.target in found}
    return outcomes


async def _answered_before(connection: Connection, items: Sequence[_Item], retention: timedelta) -> dict[int, Outcome]:
    """The outcomes of items whose key or receipt ID is taken; none for an item that nothing stands against yet."""
    claims = await idempotency.look_up(connection, (item.digest for item in items if item.digest), retention)
    ids = {claim.target for claim in claims.values()} | {item.draft.receipt_id for item in items}
    found = await records.by_ids(connection, ids)
    outcomes: dict[int, Outcome] = {}
    for item in items:
        claim = claims.get(item.digest) if item.digest else None
        outcome = _by_claim(item.draft, claim, found) if claim else _by_receipt_id(item.draft, found)
        if outcome is not None:
            outcomes[item.place] = outcome
    return outcomes


def _by_claim(draft: Draft, claim: Claim, found: dict[UUID, Record]) -> Outcome | None:
    if claim.target == draft.receipt_id and not claim.is_batch and _is_same(draft, claim):
        return _by_receipt_id(draft, found)
    return by_claim(draft, claim, found.get(claim.target))


def by_claim(asked: Draft | Asked, claim: Claim, before: Record | None) -> Record | NotaryError:
    """What a key that is taken answers: the record of before, or why it does not."""
    if claim.is_batch:
        return AlreadyExists("this idempotency key was used before, for a batch")
    if not _is_same(asked, claim):
        same_evidence = before is not None and before.draft.evidence_hash == asked.evidence_hash
        what = "the same evidence and other options" if same_evidence else "other evidence"
        return KeyTaken(f"this idempotency key was used before, with {what}", before)
    # A key and its record are written together: what is missing now was deleted, and a retry must not bring it back.
    return before or FailedPrecondition("what this idempotency key stands for was deleted: its retention is over")


def _is_same(asked: Draft | Asked, claim: Claim) -> bool:
    return asked.idempotency is not None and asked.idempotency.fingerprint == claim.fingerprint


def _by_receipt_id(draft: Draft, found: dict[UUID, Record]) -> Outcome | None:
    before = found.get(draft.receipt_id)
    if before is None:
        return None
    if _content(before.draft) != _content(draft):
        return AlreadyExists("another record stands under this receipt ID")
    # What is in the log already must not go there again.
    return Prepared() if before.log is None else before


def _content(draft: Draft) -> tuple[object, ...]:
    """What is the same where a draft is sent again. Sealed bytes never are; the leaf is made of the statement."""
    statement = draft.statement if draft.seal is None else b""
    return (draft.submitter, draft.evidence_hash, statement, draft.signature, draft.leaf_hash, draft.timestamp)
