"""Copies the log's files to where a plain web server, or a CDN, can serve them: a folder, a bucket.

A mirror looks like the read path. Tiles and bundles come first and the checkpoint last, so that no reader of the mirror
ever sees a checkpoint whose tiles are not there. Each file is checked as it is for any reader before it is written, and
what the mirror says already must be a beginning of the log. Nothing waits for it: it reads what is published.

Where it stopped stands in the mirror itself, so that one which was emptied is filled anew. Of several replicas one at a
time is at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol
from uuid import uuid4

from prometheus_client import Counter, Gauge

from afdp.errors import Aborted, FailedPrecondition, NotaryError, NotFound
from afdp.formats.merkle import EMPTY_ROOT, ProofError, verify_consistency
from afdp.formats.note import Note, NoteError
from afdp.formats.tiles import WIDTH, TileRef, levels_at, partial_width
from afdp.transparency.cadence import repeat
from afdp.transparency.values import LogIdentity, SignedCheckpoint

logger = logging.getLogger(__name__)

RETRY, LONGEST_RETRY = 1.0, 300.0  # seconds
LEASE = 20.0  # seconds that a replica has for one batch before another may go on
MARK = ".mirror"
"""How many full bundles are there, and of which log: where a mirror that was interrupted goes on."""

_CHECKPOINT, _VKEY = "checkpoint", "vkey"
_BATCH = 4  # bundles, each with the tiles that it completes
_AT_ONCE = 4  # files: of the connections to the database most are for appends and readers
_MARK_EVERY = 256  # bundles

_size = Gauge("afdp_log_mirror_size", "Leaves that the mirror's checkpoint covers.", ["log"])
_lag = Gauge("afdp_log_mirror_lag_entries", "Published leaves that are not in the mirror.", ["log"])
_time = Gauge("afdp_log_mirror_timestamp_seconds", "When the mirror was last found up to date, by our clock.", ["log"])
_files = Counter("afdp_log_mirror_files", "Files that were written to the mirror.", ["log"])
_failures = Counter("afdp_log_mirror_failures", "Attempts to bring the mirror up to date that failed.", ["log"])


class Sink(Protocol):
    """Where the files go: `mirror_folder.py`, `mirror_s3.py`.

    Every method raises Unavailable where it cannot be reached, FailedPrecondition where it does not let us in.
    """

    async def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""

    async def write(self, path: str, data: bytes) -> None:
        """A file, whole or not at all, in the place of the one that was there."""

    async def write_once(self, path: str, data: bytes) -> None:
        """A file that never changes: one that is there already is left, or put right if it is another."""

    async def remove_under(self, path: str) -> None:
        """All files whose path begins so."""


class Turns(Protocol):
    """Who of the replicas is at it: `postgres_mirror.py`."""

    async def hold(self, holder: str, seconds: float) -> bool:
        """Takes or keeps the turn for so long; False while another one has it."""

    async def release(self, holder: str) -> None:
        """Gives it back."""


class Log(Protocol):
    """What is mirrored: `service.py`."""

    def identity(self) -> LogIdentity:
        """Its origin and key. Raises Unavailable until they are known."""

    async def checkpoint(self) -> SignedCheckpoint:
        """The latest checkpoint. Raises NotFound while there is none."""

    async def consistency(self, old_size: int, new_size: int = 0) -> tuple[tuple[bytes, ...], int]:
        """The proof that the tree of one published size begins with that of another."""

    async def tile(self, ref: TileRef) -> bytes:
        """The bytes of a tile or bundle, checked."""


class Mirror:
    """Keeps one copy of one log up to date."""

    def __init__(self, log: Log, turns: Turns, sink: Sink, origin: str, interval: float) -> None:
        self._log = log
        self._turns = turns
        self._sink = sink
        self._origin = origin
        self._interval = interval
        self._holder = str(uuid4())
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._known = 0  # entries that the mirror is known to have
        _failures.labels(origin)

    async def run(self) -> NoReturn:
        """Mirrors until it is cancelled."""
        try:
            await repeat(self._turn, self._failed, RETRY, LONGEST_RETRY)
        finally:
            with contextlib.suppress(NotaryError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._turns.release(self._holder)

    def _failed(self, error: NotaryError) -> None:
        _failures.labels(self._origin).inc()
        logger.warning(
            "the mirror is not up to date",
            extra={"fields": {"log": self._origin, "code": error.code, "reason": error.message}},
        )

    async def _turn(self) -> float:
        if not await self._turns.hold(self._holder, LEASE):
            return self._interval
        identity = self._log.identity()
        try:
            head = await self._log.checkpoint()
        except NotFound:
            return self._interval
        self._tell(head, self._known)
        await self._bring_to(head, identity)
        self._tell(head, head.size)
        _time.labels(self._origin).set_to_current_time()
        return self._interval

    def _tell(self, head: SignedCheckpoint, known: int) -> None:
        self._known = known
        _size.labels(self._origin).set(known)
        _lag.labels(self._origin).set(max(0, head.size - known))

    async def _bring_to(self, head: SignedCheckpoint, identity: LogIdentity) -> None:
        have = await self._mirrored(identity)
        if have.note == head.note:
            return
        self._tell(head, have.size)
        await self._require_beginning(have, head)
        if have.size == 0:
            await self._sink.write(_VKEY, f"{identity.vkey}\n".encode())
        await self._write_full(have.size // WIDTH, head.size // WIDTH, identity)
        await self._write_all(list(_partial_tiles(head.size)))
        await self._require_turn()
        await self._sink.write(_CHECKPOINT, head.note.encode())
        for ref in _partial_tiles(have.size):
            full = TileRef(ref.level, ref.index)
            if (full.index + 1) * WIDTH <= head.size >> 8 * (full.level or 0):
                await self._sink.remove_under(f"{full.path()}.p/")
        logger.debug("the mirror was brought up to date", extra={"fields": {"log": self._origin, "size": head.size}})

    async def _mirrored(self, identity: LogIdentity) -> SignedCheckpoint:
        """The mirror's checkpoint; the empty tree's, unsigned, where it has none.

        Raises:
            FailedPrecondition: it is not one of this log.
        """
        data = await self._sink.read(_CHECKPOINT)
        if data is None:
            return SignedCheckpoint(0, EMPTY_ROOT, "")
        try:
            return SignedCheckpoint.verified(Note.parse(data), identity)
        except NoteError as error:
            raise FailedPrecondition(
                f"the mirror holds a checkpoint that is not of {identity.origin}: {error}; name an empty place"
            ) from None

    async def _require_beginning(self, have: SignedCheckpoint, head: SignedCheckpoint) -> None:
        """Checks that the mirror's tree is a beginning of the log's.

        Raises:
            FailedPrecondition: it is not: one of both is not what it was.
        """
        if have.size > head.size:
            raise FailedPrecondition(
                f"the mirror's checkpoint has {have.size} entries, the log's {head.size}: was an old backup restored?"
            )
        if have.size == 0:
            return
        proof, _ = await self._log.consistency(have.size, head.size)
        try:
            verify_consistency(have.size, have.root, head.size, head.root, proof)
        except ProofError as error:
            raise FailedPrecondition(
                f"the log does not go on from the mirror's checkpoint of size {have.size}, which it has signed: {error}"
            ) from None

    # --- files

    async def _write_full(self, start: int, end: int, identity: LogIdentity) -> None:
        """Every full tile that bundles `start` to `end` - 1 complete."""
        if start == end:
            return
        marked = await self._marked(identity)
        for at in range(marked if start < marked <= end else start, end, _BATCH):
            batch = range(at, min(at + _BATCH, end))
            await self._require_turn()
            await self._write_all([ref for index in batch for ref in _completed_by(index)])
            if at // _MARK_EVERY < batch.stop // _MARK_EVERY:
                await self._sink.write(MARK, f"{batch.stop} {identity.vkey}\n".encode())

    async def _marked(self, identity: LogIdentity) -> int:
        bundles, _, of = (await self._sink.read(MARK) or b"").decode("utf-8", "replace").partition(" ")
        return int(bundles) if bundles.isdecimal() and of == f"{identity.vkey}\n" else 0

    async def _write_all(self, refs: Sequence[TileRef]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for ref in refs:
                    tasks.create_task(self._write(ref))
        except ExceptionGroup as errors:  # one says enough
            raise errors.exceptions[0] from None

    async def _write(self, ref: TileRef) -> None:
        async with self._free:
            await self._sink.write_once(ref.path(), await self._log.tile(ref))
        _files.labels(self._origin).inc()

    async def _require_turn(self) -> None:
        if not await self._turns.hold(self._holder, LEASE):
            raise Aborted("another replica has taken over")


def _completed_by(index: int) -> Iterator[TileRef]:
    """A full bundle and the tiles that are full with it."""
    yield TileRef(None, index)
    level = 0
    while True:
        yield TileRef(level, index)
        if (index + 1) % WIDTH:
            return
        level, index = level + 1, index // WIDTH


def _partial_tiles(size: int) -> Iterator[TileRef]:
    """The tiles and the bundle at the right edge that are not full."""
    for level in (None, *range(levels_at(size))):
        if width := partial_width(level or 0, size):
            yield TileRef(level, (size >> 8 * (level or 0)) // WIDTH, width)
