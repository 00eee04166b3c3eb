"""What is promised of logs that others run: an entry counts once its proof and its checkpoint have been verified here.

Each checkpoint is compared with the largest one that was seen of the same tree. A log that has forked, shrunk or gone
back, or that signs with another key, is refused from then on, by every replica: both notes are kept as evidence, and
only an operator lets it in again. Knows logs and proofs; no HTTP and no SQL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from afdp.errors import NotaryError, NotFound, Unavailable
from afdp.formats.bundle import LogEntry
from afdp.formats.hashedrekord import parse_entry_body
from afdp.formats.note import Checkpoint
from afdp.transparency.external.continuity import Continuity
from afdp.transparency.external.values import (
    Answer,
    ContradictionError,
    FrozenShard,
    KnownShard,
    RefusedLog,
    SeenTree,
    Shard,
    Submission,
    WrongProof,
)
from afdp.verify.log import check_envelope_body, check_inclusion, check_promise, signed_checkpoint, signed_tree
from afdp.verify.result import NotVerifiedError

logger = logging.getLogger(__name__)

RETRY_AFTER = 5.0  # seconds

_entries = Counter(
    "afdp_external_log_entries", "Entries for a log of others, by what became of them.", ["log", "outcome"]
)
_seconds = Histogram(
    "afdp_external_log_duration_seconds",
    "How long a log of others took for an entry.",
    ["log"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30),
)
_refused = Gauge("afdp_external_log_refused", "1 while a log of others is refused for what it has signed.", ["log"])


class LogClient(Protocol):
    """One shard, as it is spoken to: `rekor2.py`, `rekor1.py`.

    Raises Unavailable while it cannot be reached or pushes back, UnreadableAnswer where it talks nonsense.
    """

    async def add(self, submission: Submission) -> Answer:
        """Brings an entry in; one that is in already is answered the same way.

        Raises:
            FrozenShard: it takes no entries any more.
            InvalidArgument: it refuses this entry.
        """

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> Sequence[bytes]:
        """The proof that leads from one tree to a larger one, from whatever the log serves."""


class Shards(Protocol):
    """Where it stands which shards there are: `shards.py`."""

    async def usable(self) -> Sequence[Shard]:
        """Those that take entries, the one to use first. Raises FailedPrecondition where the sources are wrong."""

    def freeze(self, shard: Shard) -> None:
        """Says that a shard was found frozen."""


class Store(Protocol):
    """What is remembered of other people's logs: `postgres.py`. Raises Unavailable while it cannot be reached."""

    async def shards(self) -> Sequence[KnownShard]:
        """Every shard that was ever met, the newest first."""

    async def remember(self, shard: Shard) -> KnownShard:
        """Keeps a shard; one that is known stays as it is."""

    async def tree(self, log_id: bytes, origin: str) -> SeenTree | None:
        """The largest tree that was seen."""

    async def advance(self, log_id: bytes, tree: SeenTree) -> bool:
        """Keeps a larger tree; False where one at least as large is there already."""

    async def refuse(self, log_id: bytes, reason: str, known: str, refused: str) -> None:
        """Keeps both notes, and that the log is not to be used."""


class ExternalLogs:
    """The logs of others, by their names in the settings."""

    def __init__(self, logs: Mapping[str, Shards], store: Store, connect: Callable[[Shard], LogClient]) -> None:
        self._logs = logs
        self._store = store
        self._connect = connect
        self._clients: dict[Shard, LogClient] = {}
        self._trees: dict[bytes, tuple[int, Continuity]] = {}  # with the readmissions that each begins after
        for name in logs:
            _refused.labels(name).set(0)  # there from the start: an alert looks at it

    async def log(self, name: str, submission: Submission) -> LogEntry:
        """Brings an entry into a log: where it is, verified. May be repeated.

        Raises:
            NotFound: the settings have no log of this name.
            InvalidArgument: the log refuses the entry.
            Unavailable: the log is away, slow, or has too much to do; or the database is away.
            RefusedLog: it was caught telling two stories.
            WrongProof: what it gave proves nothing.
        """
        shards = self._logs.get(name)
        if shards is None:
            raise NotFound(f"AFDP_EXTERNAL_LOGS has no log named {name}")
        began, outcome = time.monotonic(), "logged"
        try:
            return await self._log(shards, submission)
        except NotaryError as error:
            outcome = error.code.lower()
            raise
        finally:
            _entries.labels(name, outcome).inc()
            _seconds.labels(name).observe(time.monotonic() - began)

    async def listed(self) -> list[tuple[KnownShard, bool]]:
        """Every shard that was met, and whether entries go there now. The current ones are met by being asked for."""
        current: set[bytes] = set()
        for name, shards in self._logs.items():
            for shard in (await self._usable(name, shards))[:1]:
                await self._store.remember(shard)
                current.add(shard.log.log_id)
        known = await self._store.shards()
        for each in known:
            if each.shard.log.log_id in current:
                _refused.labels(each.shard.name).set(bool(each.refused))
        return [(each, each.shard.log.log_id in current) for each in known]

    async def _usable(self, name: str, shards: Shards) -> Sequence[Shard]:
        try:
            return await shards.usable()
        except NotaryError as error:
            logger.error("a log of others cannot be used", extra={"fields": {"log": name, "reason": error.message}})
            return ()

    async def _log(self, shards: Shards, submission: Submission) -> LogEntry:
        for shard in await shards.usable():
            try:
                return await self._log_in(shard, submission)
            except FrozenShard:
                logger.warning("a shard is frozen", extra={"fields": {"log": shard.name, "url": shard.url}})
                shards.freeze(shard)
        raise Unavailable("no shard of this log takes entries", retry_after=RETRY_AFTER)

    async def _log_in(self, shard: Shard, submission: Submission) -> LogEntry:
        known = await self._store.remember(shard)
        if known.refused:
            raise RefusedLog(f"nothing goes to {shard.log.origin} until an operator says so: {known.refused}")
        trees = self._trees_of(known)
        client = self._clients.setdefault(shard, self._connect(shard))
        floors = trees.floors()
        answer = await client.add(submission)
        try:
            tree = _verified(answer.entry, shard, submission)
            floor = 0 if answer.read else floors.get(tree.checkpoint.origin, 0)
            await trees.accept(tree, floor, client)
        except ContradictionError as found:
            await self._refuse(shard, found)
            raise RefusedLog(f"{shard.log.origin}: {found.reason}; the evidence is kept") from None
        return answer.entry

    def _trees_of(self, known: KnownShard) -> Continuity:
        """What was seen of a log, since an operator let it in the last time."""
        log_id = known.shard.log.log_id
        readmissions, trees = self._trees.get(log_id, (-1, None))
        if trees is None or readmissions != known.readmissions:
            trees = Continuity(known.shard, self._store)
            self._trees[log_id] = known.readmissions, trees
        return trees

    async def _refuse(self, shard: Shard, found: ContradictionError) -> None:
        fields = {"log": shard.name, "origin": shard.log.origin, "reason": found.reason}
        logger.critical("a log of others is refused from now on; both notes are kept", extra={"fields": fields})
        _refused.labels(shard.name).set(1)
        await self._store.refuse(shard.log.log_id, found.reason, found.known, found.refused)


def _verified(entry: LogEntry, shard: Shard, submission: Submission) -> SeenTree:
    """The tree that an answer is proven by.

    Raises:
        ContradictionError: the log has not signed it.
        WrongProof: something else does not hold.
    """
    vkey = shard.log.vkey
    try:
        checkpoint = (signed_tree if shard.api_version == 1 else signed_checkpoint)(entry.checkpoint, vkey)
    except NotVerifiedError as error:
        raise ContradictionError(error.reason, "", entry.checkpoint) from None
    try:
        if shard.api_version == 1:
            read = parse_entry_body(submission.body)
            check_envelope_body(entry.body, submission.statement, read.signature, read.spki)
            check_promise(entry, vkey)
        else:
            _require_same(entry.body, submission.body)
        if entry.log_id != shard.log.log_id:
            raise NotVerifiedError("the entry is of another log")
        check_inclusion(entry)
        if (checkpoint.size, checkpoint.root) != (entry.tree_size, entry.root_hash):
            raise NotVerifiedError("the checkpoint is of another tree than the proof")
    except NotVerifiedError as error:
        raise WrongProof(f"{shard.log.origin}: {error.reason}") from None
    return SeenTree(checkpoint, entry.checkpoint)


def _require_same(body: bytes, submitted: bytes) -> None:
    if body != submitted:
        raise NotVerifiedError("the entry is not the one that was submitted")
