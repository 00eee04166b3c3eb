"""Has checkpoints cosigned by witnesses: the newest one, at most once a second, all witnesses at once.

Each witness sees one history only. What `quorum` of them have cosigned is kept, with those cosignatures that were
verified; a reader, and a receipt, gets the first such checkpoint that covers its entry.

A witness also remembers: one that has cosigned more entries than the database holds shows that an old backup was
restored. Then nothing is appended any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from prometheus_client import Counter, Gauge, Histogram

from afdp.errors import Aborted, FailedPrecondition, NotaryError, Unavailable
from afdp.formats.note import Note, NoteError, NoteSignature, VerifierKey, verify
from afdp.formats.witness import AddCheckpoint
from afdp.transparency.cadence import repeat
from afdp.transparency.proofs import HashStore, Prover, require_signed
from afdp.transparency.values import BrokenLog, Heads, LogIdentity, SignedCheckpoint, WitnessPolicy

logger = logging.getLogger(__name__)

RETRY, LONGEST_RETRY = 1.0, 60.0  # seconds
GRACE = 0.5  # seconds that slower witnesses have once there are enough
CLOCK_SKEW = 300  # seconds that a cosignature's time may be off; what is off by more proves no time
_ATTEMPTS = 3  # sizes that one witness may tell in one turn

_asked = Counter("afdp_log_witness_answers", "Answers of witnesses.", ["witness", "outcome"])
_seconds = Histogram("afdp_log_witness_seconds", "How long a witness took.", ["witness"])
_size = Gauge("afdp_log_cosigned_size", "Leaves that the newest cosigned checkpoint covers.", ["log"])
_time = Gauge("afdp_log_cosigned_timestamp_seconds", "When a checkpoint was cosigned last, by our clock.", ["log"])
_failures = Counter("afdp_log_cosigning_failures", "Turns in which too few witnesses have cosigned.", ["log"])


class OtherSize(Aborted):
    """A witness has cosigned another size than it was proven from.

    Attributes:
        size: that it has cosigned last.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"it has cosigned size {size}")
        self.size = size


class Witness(Protocol):
    """Somebody who cosigns: `witnesses.py`."""

    @property
    def vkey(self) -> VerifierKey: ...

    async def cosign(self, request: AddCheckpoint) -> tuple[NoteSignature, ...]:
        """The signature lines that it answers with, verified by nobody yet.

        Raises:
            OtherSize: it must be proven from another size.
            FailedPrecondition: it refuses, or what it says makes no sense.
            Unavailable: it does not answer.
        """


class CosignedStore(HashStore, Protocol):
    """Where cosigned checkpoints are kept: `postgres.py`."""

    async def published(self) -> SignedCheckpoint | None:
        """The checkpoint that was published last."""

    async def heads(self) -> Heads:
        """How far tree and checkpoint are."""

    async def newest_cosigned(self) -> SignedCheckpoint | None:
        """The largest cosigned checkpoint."""

    async def keep_cosigned(self, checkpoint: SignedCheckpoint) -> None:
        """Keeps a cosigned checkpoint; one of this size that is kept already stays."""

    async def claim_turn(self, interval: float) -> bool:
        """Whether witnesses may be asked now: nobody has asked them in the last `interval` seconds."""


class Log(Protocol):
    """The writer, as far as it matters here: `writer.py`."""

    def identity(self) -> LogIdentity:
        """The log's identity. Raises Unavailable until it is known."""

    def stop(self, error: BrokenLog) -> None:
        """Appends nothing any more."""


@dataclass(slots=True)
class _Known:
    """What is known of a witness.

    Attributes:
        size: that it has cosigned last, as far as it is known; wrong, it is told.
        rest_until: it failed, and is left alone until then, by the loop's clock.
        failures: in a row.
    """

    witness: Witness
    size: int = 0
    rest_until: float = 0.0
    failures: int = field(default=0)


class Witnessing:
    """Asks witnesses, and keeps what they have cosigned."""

    def __init__(self, store: CosignedStore, witnesses: Sequence[Witness], policy: WitnessPolicy, origin: str) -> None:
        self._origin = origin
        self.policy = policy
        self.vkeys = tuple(each.vkey for each in witnesses)
        self._store = store
        self._prover = Prover(store)
        self._witnesses = [_Known(each) for each in witnesses]
        self._log: Log | None = None
        self._newest = 0  # the largest size that is known to be cosigned
        self._grown = asyncio.Condition()

    def attend(self, log: Log) -> None:
        """Names the writer whose log it is."""
        self._log = log

    async def run(self) -> NoReturn:
        """Asks until it is cancelled."""
        await repeat(self._turn, self._failed, RETRY, max(RETRY, self.policy.interval))

    async def until_cosigned(self, size: int, seconds: float) -> None:
        """Returns once a checkpoint of at least this size is cosigned, or when the time is over."""
        try:
            async with asyncio.timeout(seconds), self._grown:
                await self._grown.wait_for(lambda: self._newest >= size)
        except TimeoutError:
            return

    async def require_continuity(self, identity: LogIdentity) -> None:
        """Checks before the first append that no witness has cosigned more than the database holds.

        Raises:
            BrokenLog: one has.
            Unavailable: the policy is closed, and too few witnesses answer.
        """
        checkpoint = await self._store.published()
        if checkpoint is None:
            return
        require_signed(checkpoint, identity)
        answers = await self._ask_all(checkpoint)
        if self.policy.closed and len(answers) < self.policy.quorum:
            raise Unavailable(
                f"{len(answers)} of the {self.policy.quorum} witnesses that it takes say that the log goes on from "
                "what they have seen",
                retry_after=1.0,
            )

    async def _turn(self) -> float:
        log = self._log
        published, newest = await self._store.published(), await self._store.newest_cosigned()
        await self._tell(newest.size if newest else 0)
        if log is None or published is None or published.size <= self._newest:
            return self.policy.interval
        require_signed(published, log.identity())
        if not await self._store.claim_turn(self.policy.interval):
            return self.policy.interval
        began = time.monotonic()
        try:
            cosignatures = await self._ask_all(published)
        except BrokenLog as error:
            log.stop(error)
            raise
        if len(cosignatures) < self.policy.quorum:
            raise Unavailable(f"{len(cosignatures)} of the {self.policy.quorum} witnesses that it takes have cosigned")
        note = Note.parse(published.note).with_signatures(cosignatures.values())
        await self._store.keep_cosigned(SignedCheckpoint(published.size, published.root, str(note)))
        _time.labels(self._origin).set(time.time())
        await self._tell(published.size)
        return max(0.0, self.policy.interval - (time.monotonic() - began))

    async def _tell(self, size: int) -> None:
        if size > self._newest:
            _size.labels(self._origin).set(size)
            async with self._grown:
                self._newest = size
                self._grown.notify_all()

    def _failed(self, error: NotaryError) -> None:
        _failures.labels(self._origin).inc()
        logger.warning("a checkpoint was not cosigned", extra={"fields": {"code": error.code, "reason": error.message}})

    # --- asking

    async def _ask_all(self, checkpoint: SignedCheckpoint) -> Mapping[VerifierKey, NoteSignature]:
        """The cosignatures of those that answer in time, verified.

        Raises:
            BrokenLog: one of them has cosigned more than the database holds.
        """
        loop = asyncio.get_running_loop()
        # Rather those that have failed than too few.
        rested = [each for each in self._witnesses if each.rest_until <= loop.time()]
        asked = rested if len(rested) >= self.policy.quorum else self._witnesses
        found: dict[VerifierKey, NoteSignature] = {}
        broken: list[BrokenLog] = []

        async def ask(known: _Known) -> None:
            try:
                signature = await self._asked(known, checkpoint)
            except BrokenLog as error:
                broken.append(error)
            else:
                if signature:
                    found[known.witness.vkey] = signature

        tasks = [asyncio.create_task(ask(each)) for each in asked]
        try:
            await self._until_enough(tasks, found)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if broken:
            raise broken[0]
        return found

    async def _until_enough(
        self, tasks: Sequence[asyncio.Task[None]], found: Mapping[VerifierKey, NoteSignature]
    ) -> None:
        """Waits for all; once there are enough, only a moment longer."""
        pending = set(tasks)
        while pending and len(found) < self.policy.quorum:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=GRACE)

    async def _asked(self, known: _Known, checkpoint: SignedCheckpoint) -> NoteSignature | None:
        """One witness's cosignature; None where it gives none, which is counted."""
        name = known.witness.vkey.name
        try:
            with _seconds.labels(name).time():
                async with asyncio.timeout(self.policy.timeout):
                    signature = await self._cosigned(known, checkpoint)
        except BrokenLog:
            _asked.labels(name, "ahead").inc()
            raise
        except asyncio.CancelledError:
            self._rest(known, "slow", "the others were faster")
            raise
        except TimeoutError:
            self._rest(known, "timeout", "its time ran out")
            return None
        except NotaryError as error:
            self._rest(known, "refused" if isinstance(error, FailedPrecondition) else "away", error.message)
            return None
        _asked.labels(name, "cosigned").inc()
        known.failures, known.rest_until = 0, 0.0
        return signature

    def _rest(self, known: _Known, outcome: str, reason: str) -> None:
        """Leaves a witness alone for a while, so that it holds nobody up at each turn."""
        name = known.witness.vkey.name
        _asked.labels(name, outcome).inc()
        pause = min(RETRY * 2**known.failures, LONGEST_RETRY)
        known.failures = min(known.failures + 1, 10)
        known.rest_until = asyncio.get_running_loop().time() + pause
        logger.info(
            "a witness has not cosigned", extra={"fields": {"witness": name, "outcome": outcome, "reason": reason}}
        )

    async def _cosigned(self, known: _Known, checkpoint: SignedCheckpoint) -> NoteSignature:
        note = Note.parse(checkpoint.note)
        for _ in range(_ATTEMPTS):
            old = min(known.size, checkpoint.size)
            proof = await self._prover.verified_consistency(old, checkpoint.size, checkpoint.root)
            try:
                signatures = await known.witness.cosign(AddCheckpoint(old, proof, note))
            except OtherSize as error:
                await self._require_not_ahead(known, checkpoint, error.size)
                known.size = error.size
                continue
            signature = _verified(known.witness.vkey, note, signatures)
            known.size = checkpoint.size
            return signature
        raise Unavailable("it names another size each time")

    async def _require_not_ahead(self, known: _Known, checkpoint: SignedCheckpoint, size: int) -> None:
        """Checks the size that a witness says it has cosigned.

        Raises:
            BrokenLog: it is larger than the tree.
            Unavailable: it is larger than this checkpoint only: another replica has asked it meanwhile.
        """
        if size <= checkpoint.size:
            return
        tree = (await self._store.heads()).tree
        if size > tree:
            raise BrokenLog(
                f"the database holds {tree} entries, and the witness {known.witness.vkey.name} has cosigned {size}: "
                "was an old backup restored? Nothing is appended until the missing entries are back"
            )
        raise Unavailable("it has cosigned a newer checkpoint already")


def _verified(vkey: VerifierKey, note: Note, signatures: Sequence[NoteSignature]) -> NoteSignature:
    """The witness's own signature among those that it sent.

    Raises:
        FailedPrecondition: it is missing, is wrong, or states a time that cannot be.
    """
    own = [each for each in signatures if (each.name, each.key_id) == (vkey.name, vkey.key_id)]
    try:
        [verified] = verify(Note(note.text, tuple(own[:1])), [vkey])
    except NoteError as error:
        raise FailedPrecondition(f"its cosignature does not verify: {error}") from None
    if abs((verified.time or 0) - time.time()) > CLOCK_SKEW:
        raise FailedPrecondition("its clock, or ours, is off by more than five minutes")
    return own[0]
