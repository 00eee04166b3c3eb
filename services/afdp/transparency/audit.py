"""The log looks at itself, a little at a time, for as long as the service runs.

Each turn takes the next bundles of entries, and one at random, and recomputes what is stored over them: leaf hashes,
the hashes of every tile level, the way up to the root that was signed. In time the whole log has been looked at, and
then it begins anew; replicas share the walk. Beside that it compares the tree with what the signer has signed last, one
earlier size with the latest one, and checkpoints that witnesses have cosigned with their keys.

Any difference stops writing, on every replica and after a restart too, until fsck has found the log whole again.
Reading goes on: whatever is served is checked by itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from prometheus_client import Counter, Gauge

from afdp.errors import DataLoss, NotaryError
from afdp.formats.merkle import HashRange, frontier, leaf_hash, plan_consistency, plan_frontier, plan_inclusion
from afdp.formats.note import Note, NoteError, VerifierKey, verify
from afdp.formats.tiles import WIDTH, TileRef, width_at
from afdp.transparency.cadence import repeat
from afdp.transparency.opening import require_continuity
from afdp.transparency.proofs import Prover, require_signed, root_of_full_tile
from afdp.transparency.service import CheckpointSigner, Store
from afdp.transparency.values import BrokenLog, Leaf, LogIdentity, SignedCheckpoint

logger = logging.getLogger(__name__)

RETRY = 1.0  # seconds
_COSIGNED_AT_A_TIME = 64

_failures = Counter(
    "afdp_log_audit_failures", "Differences that the self-audit has found: more than 0 is an alarm.", ["log"]
)
_entries = Counter("afdp_log_audit_entries", "Entries that the self-audit has recomputed.", ["log"])
_position = Gauge("afdp_log_audit_position", "The entry that the self-audit's walk goes on from.", ["log"])
_rounds = Gauge("afdp_log_audit_rounds", "How often the walk has come through the whole log.", ["log"])
_time = Gauge("afdp_log_audit_timestamp_seconds", "When the self-audit has last found nothing, by our clock.", ["log"])


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the walk of all replicas is.

    Attributes:
        start: the first bundle that is this replica's turn.
        rounds: how often the end was reached.
        fault: what some replica has found; empty while nothing was.
    """

    start: int
    rounds: int
    fault: str


class AuditBook(Protocol):
    """What replicas share of the audit: `postgres_audit.py`."""

    async def take(self, bundles: int, total: int) -> Walk:
        """Takes the next bundles of so many in all; after the last one it begins anew."""

    async def fault(self) -> str:
        """What was found; empty while nothing was."""

    async def keep_fault(self, fault: str) -> None:
        """Keeps what was found first."""

    async def cosigned_between(self, start: int, end: int, most: int) -> Sequence[SignedCheckpoint]:
        """Cosigned checkpoints of more than `start` and at most `end` entries: so many of them, by chance."""


class Log(Protocol):
    """The writer, as far as it matters here: `writer.py`."""

    def identity(self) -> LogIdentity:
        """The log's identity. Raises Unavailable until it is known."""

    def stop(self, error: BrokenLog) -> None:
        """Appends nothing any more."""


class Auditor:
    """Looks at one log.

    Args:
        interval: seconds between two turns.
        bundles: of at most 256 entries each, that one turn takes of the walk.
        witnesses: whose cosignatures are checked.
    """

    def __init__(
        self,
        store: Store,
        book: AuditBook,
        signer: CheckpointSigner,
        witnesses: Sequence[VerifierKey],
        interval: float,
        bundles: int,
    ) -> None:
        self._store = store
        self._book = book
        self._signer = signer
        self._witnesses = witnesses
        self._interval = interval
        self._bundles = bundles
        self._prover = Prover(store)
        self._log: Log | None = None
        self._stopped = False
        self._unkept = ""  # what was found, until the book has it

    def attend(self, log: Log) -> None:
        """Names the writer whose log it is."""
        self._log = log

    async def run(self) -> NoReturn:
        """Audits until it is cancelled."""
        await repeat(self._turn, self._failed, RETRY, max(RETRY, self._interval))

    async def _turn(self) -> float:
        if self._unkept:
            await self._keep(self._unkept)
        elif self._log and not self._stopped:
            identity = self._log.identity()
            _failures.labels(identity.origin)  # there from the start: an alert looks at it
            try:
                await self._audit(identity)
            except DataLoss as error:
                await self._stop(self._log, identity, error)
        return self._interval

    def _failed(self, error: NotaryError) -> None:
        logger.debug("the log could not be audited", extra={"fields": {"code": error.code, "reason": error.message}})

    async def _stop(self, log: Log, identity: LogIdentity, error: DataLoss) -> None:
        """Stops writing here at once, and by the book everywhere."""
        self._stopped = True
        fault = broken(error.message)
        log.stop(fault)
        _failures.labels(identity.origin).inc()
        logger.critical("the self-audit has found a difference", extra={"fields": {"place": error.message}})
        await self._keep(error.message)

    async def _keep(self, fault: str) -> None:
        self._unkept = fault
        await self._book.keep_fault(fault)
        self._unkept = ""

    # --- one turn

    async def _audit(self, identity: LogIdentity) -> None:
        head = await self._store.published()
        if head is None:
            return
        require_signed(head, identity)
        await self._compare_with_signer(identity)
        total = -(-head.size // WIDTH)
        walk = await self._book.take(self._bundles, total)
        if walk.fault:
            raise DataLoss(walk.fault)
        end = min(walk.start + self._bundles, total)
        for index in (*range(walk.start, end), secrets.randbelow(total)):
            await self._check_bundle(index, head)
            _entries.labels(identity.origin).inc(width_at(0, index, head.size))
        await self._check_growth(secrets.randbelow(head.size) + 1, head)
        await self._check_cosigned(identity, walk.start * WIDTH, min(end * WIDTH, head.size))
        _position.labels(identity.origin).set(min(end * WIDTH, head.size))
        _rounds.labels(identity.origin).set(walk.rounds)
        _time.labels(identity.origin).set_to_current_time()

    async def _compare_with_signer(self, identity: LogIdentity) -> None:
        try:
            await require_continuity(self._store, self._signer, identity)
        except DataLoss:
            raise
        except NotaryError as error:  # the signer is away: the rest can be looked at all the same
            self._failed(error)

    async def _check_bundle(self, index: int, head: SignedCheckpoint) -> None:
        start, width = index * WIDTH, width_at(0, index, head.size)
        leaves = await self._store.entries(start, start + width)
        hashes = await asyncio.to_thread(_recomputed, leaves, start)
        if width == WIDTH:
            await self._check_parents(index, hashes)
        await self._check_way_up(start + secrets.randbelow(width), hashes, start, head)

    async def _check_parents(self, index: int, hashes: Sequence[bytes]) -> None:
        """Every stored hash of a full tile that this bundle completes."""
        level = 1
        while True:
            stored = (await self._store.hashes([HashRange(level, index, index + 1)]))[level, index]
            if root_of_full_tile(hashes) != stored:
                raise DataLoss(_not_of_below(level, index))
            if (index + 1) % WIDTH:
                return
            index = index // WIDTH
            first = index * WIDTH
            found = await self._store.hashes([HashRange(level, first, first + WIDTH)])
            hashes = [found[level, at] for at in range(first, first + WIDTH)]
            level += 1

    async def _check_way_up(self, leaf: int, hashes: Sequence[bytes], start: int, head: SignedCheckpoint) -> None:
        """That the root which was signed is made of this bundle; all hashes beside the way up take part."""
        found = await self._prover.inclusions({hashes[leaf - start]: leaf}, head.size, head.root)
        [proof] = found.values()
        if isinstance(proof, NotaryError):
            raise DataLoss(await self._place(leaf, head)) if isinstance(proof, DataLoss) else proof

    async def _place(self, leaf: int, head: SignedCheckpoint) -> str:
        """Which of the hashes beside the way up is not that of what is below it.

        Raises:
            DataLoss: it is an entry's.
        """
        if place := await self._place_among(plan_inclusion(leaf, head.size)):
            return place
        partial = head.size - head.size % WIDTH
        _recomputed(await self._store.entries(partial, head.size), partial)
        edge = frontier(head.size, await self._store.hashes(plan_frontier(head.size)))
        if edge.root() != head.root:
            return f"the stored hashes at the right edge do not lead to the root that was signed at size {head.size}"
        bundle = leaf // WIDTH
        return f"{TileRef(0, bundle, width_at(0, bundle, head.size)).path()} does not lead to the root that was signed"

    async def _place_among(self, ranges: Sequence[HashRange]) -> str:
        """The first of these stored hashes that is not that of the 256 below it; empty where there is none."""
        for span in ranges:
            for index in range(span.start, span.end) if span.level else ():
                below = HashRange(span.level - 1, index * WIDTH, (index + 1) * WIDTH)
                found = await self._store.hashes([below, HashRange(span.level, index, index + 1)])
                tile = [found[below.level, at] for at in range(below.start, below.end)]
                if root_of_full_tile(tile) != found[span.level, index]:
                    return _not_of_below(span.level, index)
        return ""

    async def _check_growth(self, old: int, head: SignedCheckpoint) -> None:
        """That the tree of an earlier size is the beginning of the one that was signed."""
        try:
            await self._prover.verified_consistency(old, head.size, head.root)
        except DataLoss as error:
            place = await self._place_among([*plan_frontier(old), *plan_consistency(old, head.size)])
            raise DataLoss(place or error.message) from None

    async def _check_cosigned(self, identity: LogIdentity, start: int, end: int) -> None:
        some = await self._book.cosigned_between(start, end, _COSIGNED_AT_A_TIME)
        newest = await self._store.newest_cosigned()
        for checkpoint in (*some, *([newest] if newest else [])):
            require_signed(checkpoint, identity)
            try:
                verify(Note.parse(checkpoint.note), [identity.vkey, *self._witnesses])
            except NoteError as error:
                raise DataLoss(f"the cosigned checkpoint of size {checkpoint.size}: {error}") from None
        if newest and await self._prover.root(newest.size) != newest.root:
            place = await self._place_among(plan_frontier(newest.size))
            raise DataLoss(place or f"the tree has another root at size {newest.size} than was cosigned")


async def require_no_fault(book: AuditBook) -> None:
    """Checks before the first append that no replica has found a difference which was not repaired since.

    Raises:
        BrokenLog: one has.
    """
    if fault := await book.fault():
        raise broken(fault)


def broken(place: str) -> BrokenLog:
    """The error of a log that is not what was logged, at this place."""
    return BrokenLog(
        f"the self-audit has found a difference: {place.rstrip('.')}. Nothing is appended until the log is repaired, "
        "fsck has found it whole, and the service was started anew"
    )


def _recomputed(leaves: Sequence[Leaf], start: int) -> list[bytes]:
    """The leaf hashes, from the entries."""
    for index, leaf in enumerate(leaves, start):
        if leaf_hash(leaf.entry) != leaf.hash:
            raise DataLoss(f"entry {index} and its stored leaf hash do not belong together")
    return [leaf.hash for leaf in leaves]


def _not_of_below(level: int, index: int) -> str:
    first = index << 8 * level
    last = first + (1 << 8 * level) - 1
    return f"the stored hash of level {level} and index {index} is not that of entries {first} to {last}"
