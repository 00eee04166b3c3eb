"""Following a log: each new checkpoint must go on from all that were seen, and every new entry is read.

First the new tree is found to go on from the one that was seen last, by tiles that lead to both signed roots; that is
remembered at once. Then the entries are read, each against its hash in that tree, and looked at; how far this has come
is remembered after what was found has been handed on. So whatever is killed when, nothing is believed that was not
verified, and nothing that was found is lost (it may be told twice).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afdp.formats.note import VerifierKey
from afdp.monitor.state import Followed
from afdp.monitor.watch import Match, UnreadableEntryError, Watch
from afdp.verify.tile_files import CHECKPOINT, BrokenLogError, Fault, Head, TileSource, read_head
from afdp.verify.tree import VerifiedTree

_BETWEEN_STATES = 16_384
"""Entries between two times that the state is kept."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What was found at one look at the log.

    Attributes:
        head: its newest checkpoint, if that holds.
        fault: what is wrong, if something is.
        served: the checkpoint as it came, whether it is good or not.
        seen: the one that was seen before.
        start: entries that had been read before.
        followed: how far it is followed now.
        matches: how many were found.
        unreadable: entries of kinds that are not known, or not as they should be.
    """

    head: Head | None
    fault: Fault | None
    served: bytes | None
    seen: Head | None
    start: int
    followed: Followed | None
    matches: int = 0
    unreadable: int = 0

    @property
    def read(self) -> int:
        """Entries that were read."""
        return self.followed.read - self.start if self.followed else 0


@dataclass(slots=True)
class Follower:
    """Looks at one log again and again.

    Attributes:
        followed: what is known of it; None before the first look.
        from_start: whether a log that was never seen is read from its first entry; else it is believed once, as it is.
        hand_on: called with what was found, before it is remembered that these entries were read.
        keep: called with what is to be remembered.
    """

    source: TileSource
    vkey: VerifierKey
    witnesses: Sequence[VerifierKey]
    watch: Watch
    followed: Followed | None
    from_start: bool
    hand_on: Callable[[Sequence[Match]], None]
    keep: Callable[[Followed], None]

    def look(self, progress: Callable[[int, int], None] | None = None) -> Pass:
        """Looks at the log once.

        Raises:
            Unavailable: it cannot be reached, or what was found could not be handed on.
        """
        seen, start = (self.followed.head, self.followed.read) if self.followed else (None, 0)
        served = head = None
        counted: Counter[str] = Counter()
        try:
            served = self.source.read(CHECKPOINT)
            head = read_head(served, self.vkey, self.witnesses)
            tree = VerifiedTree(self.source, head.checkpoint)
            start = self._go_on(tree, head)
            self._read(tree, head, counted, progress)
        except BrokenLogError as wrong:
            return Pass(
                head, wrong.fault, served, seen, start, self.followed, counted["matches"], counted["unreadable"]
            )
        return Pass(head, None, served, seen, start, self.followed, counted["matches"], counted["unreadable"])

    def _go_on(self, tree: VerifiedTree, head: Head) -> int:
        """Takes the new tree, once it goes on from the one before; gives how many entries were read of it."""
        size = head.checkpoint.size
        if self.followed is None:
            tree.frontier(size)  # leads to the signed root, so tiles and checkpoint are of one tree
            self._remember(Followed(head, 0 if self.from_start else size))
        else:
            tree.require_follows(self.followed.head.checkpoint)
            if head.checkpoint != self.followed.head.checkpoint:
                self._remember(Followed(head, self.followed.read, self.followed.matches))
        return self.followed.read if self.followed else 0

    def _read(
        self, tree: VerifiedTree, head: Head, counted: Counter[str], progress: Callable[[int, int], None] | None
    ) -> None:
        followed = self.followed
        if followed is None:
            return
        end, found, kept = head.checkpoint.size, list[Match](), followed.read
        for first, entries in tree.entries(followed.read, end):
            for index, entry in enumerate(entries, first):
                found += self._look_at(index, entry, counted)
            done = first + len(entries)
            if done - kept >= _BETWEEN_STATES or done == end:
                self._hand_on(head, done, found)
                found, kept = [], done
            if progress:
                progress(done, end)

    def _look_at(self, index: int, entry: bytes, counted: Counter[str]) -> list[Match]:
        if not self.watch:
            return []
        try:
            found = list(self.watch.matches(index, entry))
        except UnreadableEntryError:
            counted["unreadable"] += 1
            return []
        counted["matches"] += len(found)
        return found

    def _hand_on(self, head: Head, read: int, found: Sequence[Match]) -> None:
        if found:
            self.hand_on(found)
        totals = Counter(self.followed.matches if self.followed else {})
        totals.update(each.watched for each in found)
        self._remember(Followed(head, read, dict(totals)))

    def _remember(self, followed: Followed) -> None:
        self.keep(followed)
        self.followed = followed
