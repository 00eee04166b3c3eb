"""The one who appends: takes all that waits, commits it to the tree, has its root signed, publishes, then answers.

The order is what keeps the log sound: a tree that is signed is on disk, a checkpoint that anybody sees is on disk, and
no lock is held while the signer works. Whatever ends in between is healed by the next append or by the next start: the
leaves are found where they are, and a tree that is ahead of its checkpoint is signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from opentelemetry import trace
from prometheus_client import Gauge, Histogram

from afdp.errors import DataLoss, FailedPrecondition, Internal, NotaryError, Unavailable
from afdp.formats.merkle import Extension, Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint, Note, NoteError, NoteSignature
from afdp.transparency.opening import identify, require_continuity, require_key, shrunken
from afdp.transparency.proofs import Prover, require_signed, withheld
from afdp.transparency.queue import Backlog, Call, Limits, Queue, again, pauses
from afdp.transparency.service import CheckpointSigner, Store
from afdp.transparency.values import (
    BrokenLog,
    FrozenLog,
    Growth,
    Inclusion,
    Leaf,
    Logged,
    LogIdentity,
    SignedCheckpoint,
    StoredTree,
    WrongLog,
)

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

_PROVING_ATTEMPTS = 10  # how often other writers may get a checkpoint signed in between

_tree_size = Gauge("afdp_log_tree_size", "Leaves in the tree.", ["log"])
_published_size = Gauge("afdp_log_published_size", "Leaves that the published checkpoint covers.", ["log"])
_group_size = Histogram(
    "afdp_log_group_entries", "Entries appended in one group.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
)
_stage_seconds = Histogram(
    "afdp_log_stage_seconds",
    "How long the stages of a group took.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class LogWriter:
    """Appends in groups: a group begins when the last one has ended, with all that waits then."""

    def __init__(
        self,
        store: Store,
        signer: CheckpointSigner,
        origin: str,
        limits: Limits,
        require_continuity_of: Callable[[LogIdentity], Awaitable[None]] | None = None,
    ) -> None:
        self._continuity = require_continuity_of  # a further check before the first append
        self._store = store
        self._signer = signer
        self._prover = Prover(store)
        self._origin = origin
        self._queue = Queue(limits, origin)
        self._work = asyncio.Event()
        self._identity: LogIdentity | None = None
        # Why nothing can be appended, if so.
        self._closed: NotaryError | None = Unavailable("the log is being opened", retry_after=1.0)
        # The right edge as this writer left it; None where it must be read.
        self._edge: Frontier | None = None
        # The largest size that the signer is known to have signed.
        self._signed = 0
        self._backlog = Backlog()

    # --- what callers see

    def identity(self) -> LogIdentity:
        """The log's identity.

        Raises:
            Unavailable: neither database nor signer were reached yet.
        """
        if self._identity is None:
            raise self._closed or Unavailable("the log is being opened", retry_after=1.0)
        return self._identity

    async def append(self, leaves: Sequence[Leaf], made_after: int = 0) -> Logged:
        """Returns when a published checkpoint covers every leaf; no leaf may be given twice.

        None of them is in the tree of the size `made_after`, the caller knows; 0 where it does not.

        Raises:
            ResourceExhausted: too much waits already; nothing was appended.
            Unavailable: database or signer are away. The leaves may have been appended: append them again.
            DataLoss: the stored tree is not the one that was signed.
        """
        if self._closed:
            raise again(self._closed)
        answer = self._queue.put(leaves, made_after)
        self._work.set()
        return await answer

    async def check(self) -> None:
        """Raises what keeps appends from succeeding; wakes the writer where a tree is left unsigned."""
        if self._closed:
            raise again(self._closed)
        # In this order: the tree is always ahead of what is signed.
        last = await self._signer.last(self._origin)
        signed = max(self._signed, last.size if last else 0)
        heads = await self._store.heads()
        if heads.tree < signed:
            self._stop_if_broken(shrunken(heads.tree, signed))
        if self._closed:
            raise again(self._closed)
        _tree_size.labels(self._origin).set(heads.tree)
        _published_size.labels(self._origin).set(heads.published)
        # Seen twice with the same tree: no append is about to sign it, its writer is gone.
        if self._backlog.notice(heads.tree if heads.tree > heads.published else None):
            self._work.set()
        if self._backlog.error:
            raise again(self._backlog.error)

    def stop(self, error: BrokenLog) -> None:
        """Appends nothing any more: somebody has found that the log is not what it was."""
        self._stop_if_broken(error)

    # --- opening and running

    async def open(self) -> None:
        """Makes one attempt to open the log.

        Raises:
            WrongLog: settings or key belong to another log.
        """
        try:
            await self._open()
        except WrongLog as error:
            self._closed = error
            raise
        except NotaryError as error:
            if self._closed is None or self._closed.message != error.message:
                logger.warning("the log cannot be opened", extra={"fields": {"reason": error.message}})
            self._closed = error

    async def run(self) -> None:
        """Opens the log as soon as that is possible, then appends until it is cancelled or the log is broken.

        Raises:
            WrongLog: settings or key belong to another log.
        """
        waits = pauses()
        try:
            while self._closed and not isinstance(self._closed, BrokenLog):
                await asyncio.sleep(next(waits))
                await self.open()
            while self._closed is None:
                await self._wait_for_work()
                if self._closed is None:
                    await self._turn()
        finally:
            self._closed = self._closed or Unavailable("the service is ending", retry_after=1.0)
            while group := self._queue.take():
                _fail_all(group, self._closed)

    async def _open(self) -> None:
        self._identity = await identify(self._store, self._signer, self._origin)
        await require_key(self._signer, self._identity)
        self._signed = await require_continuity(self._store, self._signer, self._identity)
        if self._continuity:
            await self._continuity(self._identity)
        heads = await self._store.heads()
        if heads.tree > heads.published:
            self._backlog.begin()
        self._closed = None
        logger.info("the log is open", extra={"fields": {"origin": self._origin, "size": heads.tree}})

    async def _wait_for_work(self) -> None:
        if not self._queue and not self._backlog.is_due():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backlog.due_in()):
                    await self._work.wait()
        self._work.clear()

    async def _turn(self) -> None:
        if group := self._queue.take():
            await self._serve(group)
        elif self._backlog.is_due():
            await self._catch_up()

    # --- one group

    async def _serve(self, group: list[Call]) -> None:
        """Appends a group and answers its callers, whatever becomes of it."""
        try:
            leaves = {leaf.hash: leaf for call in group for leaf in call.leaves}
            # Of many callers, so a trace of its own; without one, each call of the signer would begin one.
            with tracer.start_as_current_span("group"):
                logged = await self._append(leaves, min(call.made_after for call in group))
        except NotaryError as error:
            self._stop_if_broken(error)
            _fail_all(group, error)
        except Exception:  # a fault of ours must neither end the writer nor leave callers waiting
            logger.exception("a group failed unexpectedly")
            _fail_all(group, Internal("an internal fault while appending; the log of the service has it"))
        except BaseException:
            _fail_all(group, Unavailable("the service is ending", retry_after=1.0))
            raise
        else:
            for call in group:
                call.succeed(logged)

    async def _append(self, leaves: Mapping[bytes, Leaf], since: int) -> Logged:
        if self._backlog.error:
            await self._catch_up()
        if self._backlog.error:  # what cannot be signed at present would only lengthen the backlog
            raise again(self._backlog.error)
        _group_size.observe(len(leaves))
        with _stage("tree"):
            tree, extension, positions = await self._integrate(leaves, since)
        if not positions:
            return Logged(None, {each: self._frozen() for each in leaves})
        checkpoint = await self._covering(extension, positions) or await self._publish(tree, extension)
        with _stage("proofs"):
            inclusions = await self._prover.inclusions(positions, checkpoint.size, checkpoint.root, extension)
            for leaf in leaves.values():
                if leaf.hash in positions and leaf_hash(leaf.entry) != leaf.hash:
                    inclusions[leaf.hash] = withheld(f"the leaf hash of entry {positions[leaf.hash]}")
        if len(positions) < len(leaves):
            inclusions |= {each: self._frozen() for each in leaves if each not in positions}
        return Logged(checkpoint, _marked(inclusions, extension.old.size if extension else tree.size))

    async def _integrate(
        self, leaves: Mapping[bytes, Leaf], since: int
    ) -> tuple[Frontier, Extension | None, Mapping[bytes, int]]:
        """Commits leaves to the tree: the tree then, how it grew if it did, and where every leaf is.

        If the tree is frozen, those that it does not hold are nowhere.
        """
        edge, self._edge = self._edge, None
        if edge is not None:
            growth = _grown(edge, leaves.values())
            if await self._store.grow(growth, since):
                self._edge = growth.extension.new
                return self._edge, growth.extension, _positions(growth)
        # Somebody else has written, or some leaves are there already: the same under the lock.
        grown: list[Growth | Frontier] = []

        def plan(stored: StoredTree, found: Mapping[bytes, int]) -> Growth | None:
            locked = self._verified(stored)
            fresh = [leaf for leaf in leaves.values() if leaf.hash not in found]
            growth = _grown(locked, fresh) if fresh and not stored.frozen else None
            grown[:] = [growth or locked]
            return growth

        found = await self._store.integrate(list(leaves), plan, since)
        result = grown[0]
        if isinstance(result, Frontier):
            self._edge = result
            return result, None, found
        self._edge = result.extension.new
        return self._edge, result.extension, {**found, **_positions(result)}

    def _frozen(self) -> NotaryError:
        return FrozenLog(f"the log {self._origin} is frozen: it takes no entries any more")

    def _verified(self, stored: StoredTree) -> Frontier:
        edge = stored.verified()
        if edge.size < self._signed:
            raise shrunken(edge.size, self._signed)
        return edge

    # --- signing and publishing

    async def _covering(self, extension: Extension | None, positions: Mapping[bytes, int]) -> SignedCheckpoint | None:
        """The published checkpoint, where it covers leaves that were all there already."""
        published = None if extension else await self._store.published()
        if published is None or published.size <= max(positions.values()):
            return None
        require_signed(published, self.identity())
        return published

    async def _publish(self, tree: Frontier, extension: Extension | None) -> SignedCheckpoint:
        """Has the tree signed and its checkpoint committed. If that fails, it is tried again without a caller."""
        try:
            with _stage("sign"):
                checkpoint = await self._sign(tree, extension)
            with _stage("checkpoint"):
                await self._store.publish(checkpoint)
        except NotaryError as error:
            self._backlog.begin(error)
            raise
        except BaseException:
            self._backlog.begin()
            raise
        self._backlog.end()
        return checkpoint

    async def _sign(self, tree: Frontier, extension: Extension | None) -> SignedCheckpoint:
        identity = self.identity()
        checkpoint = Checkpoint(identity.origin, tree.size, tree.root())
        last = self._signed
        for _ in range(_PROVING_ATTEMPTS):
            proof = await self._consistency(last, tree.size, extension)
            try:
                signature = await self._signer.sign(checkpoint, last, proof)
            except FailedPrecondition as error:
                stated = _last_size(error)
                if stated == last:
                    raise await self._forked(checkpoint, last) from None
                last = stated
                continue
            self._signed = max(last, tree.size)
            note = Note(checkpoint.body(), (NoteSignature.by(identity.vkey, signature),))
            try:
                return SignedCheckpoint.verified(note, identity)
            except NoteError as error:
                withheld("the signer's signature", error)
                raise Unavailable("the signer signs with another key than this log's", retry_after=5.0) from None
        raise Unavailable("other writers kept getting in between", retry_after=0.1)

    async def _forked(self, refused: Checkpoint, proven: int) -> BrokenLog:
        """The error of a tree that the signer does not take for the one it has signed, after both went to the log."""
        evidence: dict[str, object] = {"refused_size": refused.size, "refused_root": refused.root.hex()}
        with contextlib.suppress(NotaryError):
            if signed := await self._signer.last(self._origin):
                evidence |= {"signed_size": signed.size, "signed_root": signed.root.hex()}
        logger.critical("the signer refuses the tree: it has signed another", extra={"fields": evidence})
        return BrokenLog(
            f"the signer refuses size {refused.size}: it has signed size {proven} of another tree. "
            "Nothing is appended until the database holds the tree that was signed"
        )

    async def _consistency(self, last: int, size: int, extension: Extension | None) -> Sequence[bytes]:
        """The proof between the last signed size and this one, whichever is larger."""
        if extension is not None and (last, size) == (extension.old.size, extension.new.size):
            return extension.consistency_proof()
        try:
            return await self._prover.consistency(*sorted((last, size)))
        except DataLoss as error:
            raise BrokenLog(
                f"size {size} cannot be proven consistent with the signed size {last}: {error.message}; run fsck"
            ) from None

    async def _catch_up(self) -> None:
        """Signs a tree that is ahead of its checkpoint, if it is time to try."""
        if not self._backlog.is_due():
            return
        try:
            tree = self._verified(await self._store.tree())
            heads = await self._store.heads()
            if tree.size > heads.published:
                await self._publish(tree, None)
                logger.info("an unsigned tree was signed", extra={"fields": {"size": tree.size}})
            self._backlog.end()
        except NotaryError as error:
            self._backlog.begin(error)
            self._stop_if_broken(error)

    def _stop_if_broken(self, error: NotaryError) -> None:
        if isinstance(error, BrokenLog):
            logger.critical("nothing is appended any more", extra={"fields": {"reason": error.message}})
            self._closed = error
            self._work.set()


@asynccontextmanager
async def running(writer: LogWriter) -> AsyncIterator[None]:
    """The writer at work for the length of a block, which begins after the first attempt to open the log.

    Raises:
        WrongLog: settings or key belong to another log; found later it ends the block, whose task is cancelled.
    """
    await writer.open()
    block, task = asyncio.current_task(), asyncio.create_task(writer.run())

    def end_block(done: asyncio.Task[None]) -> None:
        if block and not done.cancelled() and done.exception():
            block.cancel()

    task.add_done_callback(end_block)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _grown(edge: Frontier, leaves: Iterable[Leaf]) -> Growth:
    fresh = tuple(leaves)
    return Growth(extend(edge, [leaf.hash for leaf in fresh]), fresh)


def _positions(growth: Growth) -> dict[bytes, int]:
    return {leaf.hash: index for index, leaf in enumerate(growth.leaves, growth.extension.old.size)}


def _marked(inclusions: Mapping[bytes, Inclusion | NotaryError], size: int) -> Mapping[bytes, Inclusion | NotaryError]:
    """The same, with what was there in a tree of this size marked as such."""
    there = {
        leaf: replace(found, existed=True)
        for leaf, found in inclusions.items()
        if isinstance(found, Inclusion) and found.leaf_index < size
    }
    return {**inclusions, **there} if there else inclusions


def _last_size(error: FailedPrecondition) -> int:
    """The size that the signer wants a proof to. Raises the error itself where it refuses for another reason."""
    stated = error.metadata.get("last_size", "")
    if not (stated.isascii() and stated.isdigit()):
        raise error
    return int(stated)


def _fail_all(group: Sequence[Call], error: NotaryError) -> None:
    for call in group:
        call.fail(error)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        _stage_seconds.labels(name).observe(time.perf_counter() - started)
