"""From a record to the receipt that leaves: assembled in one place, and checked on the way out.

The same record gives the same bytes whether it was notarised a moment or a year ago.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from prometheus_client import Counter

from afdp.errors import DataLoss, Erased, Unavailable
from afdp.formats.bundle import LogEntry, bundle_json
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import entry_body, key_hint
from afdp.formats.merkle import HASH_SIZE, leaf_hash
from afdp.formats.rekor1 import API_VERSION as REKOR1_VERSION
from afdp.formats.rekor1 import KIND as REKOR1_KIND
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import EvidenceKey
from afdp.messages.metadata import Draft, LogPosition, Record, RecordState, Rekor1Entry
from afdp.messages.metadata import Erased as ErasedRecord
from afdp.messages.notary import NotarizationReceipt, ReceiptState
from afdp.notary.anchors import Anchors
from afdp.notary.cosignatures import Cosignatures
from afdp.notary.fresh_stamps import FreshStamps
from afdp.notary.keys import KeyDirectory, LogIdentity
from afdp.notary.outside import OutsideStamps, StampedAt
from afdp.verify.log import check_checkpoint, check_envelope_body, check_inclusion, signed_checkpoint, signed_tree
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import UncountedError, UnknownAuthorityError, verify_stamp

_failures = Counter("afdp_notary_release_failures", "Receipts that were held back because a check failed; stays zero.")
_hint = lru_cache(maxsize=256)(key_hint)
# A fresh timestamp is read twice: before its record is written, and a few milliseconds later for its receipt.
_read_fresh = FreshStamps().read


class ReceiptOffice:
    """Turns records into receipts. No receipt leaves that it has not checked."""

    def __init__(
        self, keys: KeyDirectory, anchors: Anchors, cosignatures: Cosignatures, outside: OutsideStamps
    ) -> None:
        self._cosignatures = cosignatures
        self._keys = keys
        self._anchors = anchors
        self._outside = outside

    async def receipt(
        self,
        record: Record,
        *,
        fresh: bool = False,
        witnessed: float | None = None,
        stamps: Sequence[StampedAt] = (),
    ) -> NotarizationReceipt:
        """The receipt of a record.

        Args:
            fresh: whether the record was signed just now; else it was read from the store.
            witnessed: how long to wait for cosignatures, in seconds; None: they are not asked for.
            stamps: those of authorities outside over its signature.

        Raises:
            Erased: its subject was.
            DataLoss: leaf hash, inclusion proof, checkpoint or timestamp do not hold; the receipt stays here.
            Unavailable: a key it needs is not known.
        """
        require_readable(record)
        draft = _draft(record)
        key = await self._keys.evidence_key(draft.key_id)
        log = await self._log_of(record, draft)
        stamped = await stamped_at(draft, self._keys, fresh=fresh)
        stamps = [*([StampedAt(draft.timestamp, stamped)] if stamped else []), *stamps]
        entry = log_entry(draft, key)
        if record.state != RecordState.LOGGED or record.log is None:
            return _receipt(draft, key, log, stamps, ReceiptState.SIGNED, None, entry)
        located = _checked(draft, record.log, log, entry, key)
        cosigned = await self._cosignatures.of(record, witnessed) if witnessed is not None else None
        if cosigned is not None:
            with suppress(DataLoss):  # it was counted, and what is on record holds
                located = _checked(draft, cosigned, log, entry, key)
                return _receipt(draft, key, log, stamps, ReceiptState.WITNESSED, located, entry)
        return _receipt(draft, key, log, stamps, ReceiptState.LOGGED, located, entry)

    async def later_receipt(self, record: Record) -> NotarizationReceipt:
        """The receipt of a record of before, with what was added to it since: cosignatures, anchors and stamps."""
        require_readable(record)
        stamps = await self._outside.of(record)
        receipt = await self.receipt(record, witnessed=0.0, stamps=stamps)
        receipt.anchors = [each.to_json() for each in await self._anchors.of(record)]
        receipt.more_bundles = await self._more_bundles(record, stamps)
        return receipt

    async def _log_of(self, record: Record, draft: Draft) -> LogIdentity:
        if record.log is not None:
            return await self._keys.log(record.log.origin, record.log.checkpoint)
        if draft.external_log:
            return await self._keys.external_log(draft.external_log)
        return await self._keys.log(draft.log_origin)

    async def _more_bundles(self, record: Record, stamps: Sequence[StampedAt]) -> list[bytes]:
        """The bundles of further logs, each checked as the first one is."""
        draft = _draft(record)
        if not record.more:
            return []
        key = await self._keys.evidence_key(draft.key_id)
        entry, timestamps = log_entry(draft, key), [each.response for each in stamps]
        if draft.timestamp:
            timestamps = [draft.timestamp, *timestamps]
        bundles = []
        for position in record.more:
            log = await self._keys.log(position.origin, position.checkpoint)
            located = _checked(draft, position, log, entry, key)
            bundles.append(_bundle(draft, key, located, timestamps))
        return bundles


async def stamped_at(draft: Draft, keys: KeyDirectory, *, fresh: bool) -> datetime | None:
    """The time of the timestamp over a draft's signature; None where it has none.

    The signer lets no timestamp out that it has not verified, so one that comes straight from it is checked for what
    could have gone wrong since: whether it is over this signature, and of an authority that verifiers know. One from
    the store is verified whole, for nothing else would notice a bit that was flipped there. It goes out also where its
    authority was revoked since: what it is still worth, with other proof of the time or without, is for verifiers.

    Raises:
        DataLoss: it does not hold.
        Unavailable: the authorities are not known, or one was revoked while it stamped this.
    """
    if not draft.timestamp:
        return None
    check = _read_fresh if fresh else verify_stamp
    try:
        try:
            return check(draft.timestamp, draft.signature, await keys.authorities()).time
        except UnknownAuthorityError:
            return check(draft.timestamp, draft.signature, await keys.authorities(newest=True)).time
    except UncountedError as error:
        if fresh:
            raise Unavailable("the time-stamping key was revoked meanwhile", retry_after=1.0) from None
        return error.time
    except NotVerifiedError as error:
        raise _withheld(error.reason) from None


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry's bytes and their leaf hash."""

    body: bytes
    leaf_hash: bytes


def log_entry(draft: Draft, key: EvidenceKey) -> Entry:
    """The entry of a signed statement: the same bytes for the same draft, always."""
    digest = key.algorithm.digest(pae(IN_TOTO_PAYLOAD_TYPE, draft.statement))
    body = entry_body(digest, draft.signature, key.spki, key.algorithm)
    return Entry(body, leaf_hash(body))


def require_readable(record: Record) -> None:
    """Refuses a record that nobody can read any more, its subject being erased. Raises Erased."""
    if record.erased is not None:
        raise unreadable(record.erased)


def unreadable(erased: ErasedRecord) -> Erased:
    """What is said in the place of a record whose subject was erased."""
    when = f" at {format_timestamp(erased.at)}" if erased.at else ""
    certified = f", certificate {erased.certificate}" if erased.certificate else ""
    facts = {"certificate": erased.certificate} | ({"erased_at": format_timestamp(erased.at)} if erased.at else {})
    return Erased(f"its subject was erased{when}{certified}: nobody can read it any more", metadata=facts)


def _draft(record: Record) -> Draft:
    if record.draft is None or record.draft.notarized_at is None:
        raise _withheld("the record is not whole")
    return record.draft


def check_place(draft: Draft, position: LogPosition, log: LogIdentity, entry: Entry, key: EvidenceKey) -> LogEntry:
    """The entry of a draft at a place in a log, once all that proves it was recomputed.

    Raises:
        NotVerifiedError: leaf hash, inclusion proof or checkpoint do not hold.
    """
    if draft.leaf_hash != entry.leaf_hash:
        raise NotVerifiedError("the leaf hash on record is not that of the entry")
    located = LogEntry(
        log_index=position.log_index,
        log_id=log.trusted.log_id,
        body=entry.body,
        tree_size=position.tree_size,
        root_hash=_root(position, log),
        hashes=[position.proof[at : at + HASH_SIZE] for at in range(0, len(position.proof), HASH_SIZE)],
        checkpoint=position.checkpoint,
    )
    if position.rekor1 is not None:
        located = _with_promise(located, position.rekor1)
        check_envelope_body(located.body, draft.statement, draft.signature, key.spki)
    check_inclusion(located)
    check_checkpoint(located, log.vkey)
    return located


def _checked(draft: Draft, position: LogPosition, log: LogIdentity, entry: Entry, key: EvidenceKey) -> LogEntry:
    try:
        return check_place(draft, position, log, entry, key)
    except NotVerifiedError as error:
        raise _withheld(error.reason) from None


def _root(position: LogPosition, log: LogIdentity) -> bytes:
    signed = signed_checkpoint if position.rekor1 is None else signed_tree
    return signed(position.checkpoint, log.vkey).root


def _with_promise(located: LogEntry, rekor1: Rekor1Entry) -> LogEntry:
    """An entry of a Rekor v1, which has another body and place beside."""
    return replace(
        located,
        log_index=rekor1.log_index,
        proof_index=located.log_index,
        body=rekor1.body,
        kind=REKOR1_KIND,
        version=REKOR1_VERSION,
        integrated_time=rekor1.integrated_time,
        promise=rekor1.promise,
    )


def _bundle(draft: Draft, key: EvidenceKey, located: LogEntry | None, timestamps: Sequence[bytes]) -> bytes:
    return bundle_json(
        hint=_hint(key.spki),
        payload=draft.statement,
        signature=draft.signature,
        entry=located,
        timestamps=timestamps,
    )


def _receipt(
    draft: Draft,
    key: EvidenceKey,
    log: LogIdentity,
    stamps: Sequence[StampedAt],
    state: ReceiptState,
    located: LogEntry | None,
    entry: Entry,
) -> NotarizationReceipt:
    time = stamps[0].time if stamps else draft.notarized_at
    seconds = int(time.timestamp()) if time else 0
    if located is not None and located.is_rekor1:
        seconds = located.integrated_time
    return NotarizationReceipt(
        evidence_package_hash=draft.evidence_hash.hex(),
        rekor_log_id=(leaf_hash(located.body) if located else entry.leaf_hash).hex(),
        rekor_server_url=log.base_url,
        signature_b64=b64(draft.signature),
        public_key_b64=b64(key.spki),
        integrated_time=seconds,
        log_index=located.log_index if located else 0,
        receipt_id=draft.receipt_id,
        state=state,
        key_id=draft.key_id,
        bundle=_bundle(draft, key, located, [each.response for each in stamps]),
    )


def _withheld(reason: str) -> DataLoss:
    _failures.inc()
    return DataLoss(f"the receipt is withheld: {reason}; an operator is needed")
