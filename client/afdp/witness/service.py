"""What a witness promises: of each log it cosigns one history, each checkpoint going on from the last.

Knows checkpoints and proofs. Knows no HTTP and no SQL. The order of the checks and their answers are those of C2SP
tlog-witness, "add-checkpoint".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import Counter, Gauge

from afdp.errors import Unavailable
from afdp.formats.merkle import EMPTY_ROOT, ProofError, verify_consistency
from afdp.formats.note import Checkpoint, Note, NoteError, NoteSignature, verify
from afdp.formats.witness import AddCheckpoint
from afdp.witness.values import (
    Cosigned,
    Forked,
    Inconsistent,
    NotACheckpoint,
    OtherSize,
    UnknownLog,
    Unsigned,
    WitnessedLog,
)

logger = logging.getLogger(__name__)

CLOCK_SLACK = 5  # seconds that a clock may be set back by without being disbelieved
_WAITING = 64  # requests of one log at a time; the next is told to come again

_size = Gauge("afdp_witness_size", "The size that was cosigned last.", ["origin"])
_time = Gauge("afdp_witness_cosigned_timestamp_seconds", "When a checkpoint was cosigned last.", ["origin"])
_forks = Counter(
    "afdp_witness_forks", "Checkpoints, signed by their log, of another tree than was cosigned.", ["origin"]
)


class State(Protocol):
    """What a witness remembers: `state.py`. Each write is on disk when it returns."""

    async def last(self, origin: str) -> Cosigned | None:
        """The checkpoint that was cosigned last."""

    async def advance(self, origin: str, last: Cosigned | None, new: Cosigned) -> bool:
        """Makes `new` the last one, if `last` still is; else does nothing."""

    async def keep_evidence(self, origin: str, cosigned: str, other: str) -> None:
        """Keeps two notes that one log has signed and that do not go together."""


class Cosigner(Protocol):
    """Who signs: `key.py`."""

    def cosign(self, time: int, note: Note) -> NoteSignature:
        """The cosignature over a checkpoint at a time, in seconds since the epoch."""


class Witness:
    """Cosigns the checkpoints of the logs that it was told of. `clock` gives seconds since the epoch."""

    def __init__(
        self, logs: Iterable[WitnessedLog], state: State, cosigner: Cosigner, clock: Callable[[], float]
    ) -> None:
        self._logs = {log.origin: log for log in logs}
        self._state = state
        self._cosigner = cosigner
        self._clock = clock
        self._turns = {origin: asyncio.Semaphore(1) for origin in self._logs}
        self._waiting = dict.fromkeys(self._logs, 0)

    async def add_checkpoint(self, body: bytes) -> tuple[NoteSignature, ...]:
        """The cosignature over a log's newest checkpoint, which from now on is the last one.

        Raises:
            NotACheckpoint, UnknownLog, Unsigned, OtherSize, Forked, Inconsistent: as they say.
            Unavailable: too many ask at once, the state cannot be written, or the clock is not to be believed.
        """
        try:
            request = AddCheckpoint.parse(body)
            new = Checkpoint.parse(request.note.text)
        except NoteError as error:
            raise NotACheckpoint(str(error)) from None
        self._require_signed(new.origin, request.note)
        if request.old_size > new.size:
            raise NotACheckpoint(f"the old size, {request.old_size}, is beyond the checkpoint's, {new.size}")
        if self._waiting[new.origin] >= _WAITING:
            raise Unavailable("too many requests of this log are under way", retry_after=1.0)
        self._waiting[new.origin] += 1
        try:
            async with self._turns[new.origin]:
                return (await self._advanced(request, new),)
        finally:
            self._waiting[new.origin] -= 1

    def _require_signed(self, origin: str, note: Note) -> None:
        log = self._logs.get(origin)
        if log is None:
            raise UnknownLog("this log is not witnessed here")
        try:
            verify(note, log.keys)
        except NoteError as error:
            raise Unsigned(str(error)) from None

    async def _advanced(self, request: AddCheckpoint, new: Checkpoint) -> NoteSignature:
        last = await self._state.last(new.origin)
        if request.old_size != (last.size if last else 0):
            raise OtherSize(last.size if last else 0)
        await self._require_consistent(request, new, last)
        cosigned = Cosigned(new.size, new.root, str(request.note), self._now(last))
        if not await self._state.advance(new.origin, last, cosigned):
            raise Unavailable("another process of this witness was faster", retry_after=0.1)
        _size.labels(new.origin).set(cosigned.size)
        _time.labels(new.origin).set(cosigned.time)
        return self._cosigner.cosign(cosigned.time, request.note)

    async def _require_consistent(self, request: AddCheckpoint, new: Checkpoint, last: Cosigned | None) -> None:
        if last and last.size == new.size and last.root != new.root:
            await self._tell_fork(new, last, request.note)
            raise Forked(f"another tree of size {new.size} was cosigned")
        try:
            verify_consistency(request.old_size, last.root if last else EMPTY_ROOT, new.size, new.root, request.proof)
            if new.size == 0 and new.root != EMPTY_ROOT:
                raise ProofError("the root hash is not that of the empty tree")
        except ProofError as error:
            raise Inconsistent(str(error)) from None

    async def _tell_fork(self, new: Checkpoint, last: Cosigned, note: Note) -> None:
        _forks.labels(new.origin).inc()
        logger.critical("the log %s has signed two trees of size %d; both notes are kept", new.origin, new.size)
        await self._state.keep_evidence(new.origin, last.note, str(note))

    def _now(self, last: Cosigned | None) -> int:
        """The time to state: never before the last one, since it may have to prove what was there when."""
        now = int(self._clock())
        if last and now < last.time - CLOCK_SLACK:
            raise Unavailable("the witness's clock is behind its last cosignature", retry_after=60.0)
        return max(now, last.time) if last else now
