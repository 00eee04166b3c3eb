"""Whether the audit trail is as it was written: rows against seals, seals against each other and against the log.

Fed in order, each part is checked as it comes; what is found names what is broken, and the first that is found is the
first broken link. Memory does not grow with the trail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from afdp.audit.rows import INTENT, OUTCOME, acts_of
from afdp.audit.seals import BEFORE_THE_FIRST, Seal, root_of, row_leaf, seal_hash
from afdp.errors import DataLoss
from afdp.formats.merkle import HASH_SIZE, ProofError, verify_inclusion

MOST_UNFINISHED = 100_000


class Fault(StrEnum):
    """What can be broken."""

    ROW_ALTERED = "row altered"
    """A row is not what its seal says."""
    ROW_MISSING = "row missing"
    """A row that a seal covers is not there."""
    ROW_ADDED = "row added"
    """A row is there that its seal does not cover."""
    SEAL_ALTERED = "seal altered"
    """A seal is not what the log, or its own rows' hashes, say."""
    SEAL_MISSING = "seal missing"
    """A seal is not there, while later ones are."""
    CHAIN_BROKEN = "chain broken"
    """A seal does not name the one before as it is."""
    ANCHOR_MISSING = "anchor missing"
    """No receipt shows that the log knows a seal, nor a later one."""
    ANCHOR_WRONG = "anchor wrong"
    """A seal's receipt is about something else, or does not hold."""
    HOLD_MISSING = "hold missing"
    """A legal hold that was placed is not on record, or is released there and nobody has released it."""
    EXPIRY_UNTOLD = "expiry untold"
    """Records are said to have expired, and no row says that they were about to, or that they did."""
    REWRITTEN = "trail rewritten"
    """A seal is not the one that was verified here before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing broken; `subject` is `row N`, `seal N`, or `hold` or `expiry` and its ID."""

    fault: Fault
    subject: str
    why: str


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row as it is on record; `misfiled` names what it is filed under that is not its own."""

    sequence: int
    recorded_at: datetime
    row: bytes
    misfiled: str = ""

    def leaf(self) -> bytes:
        """Its leaf hash."""
        return row_leaf(self.sequence, self.recorded_at, self.row)


@dataclass
class Chain:
    """Seals, checked one after the other.

    Attributes:
        seals: how many there were.
        anchored: the number of the newest one that the log knows; 0: none.
    """

    seals: int = 0
    anchored: int = 0
    _before: bytes | None = None

    def follow(self, number: int, body: bytes) -> tuple[Seal | None, list[Finding]]:
        """The next seal, and what is wrong with it by itself and with its link to the one before."""
        subject, expected = f"seal {number}", self.seals + 1
        findings = []
        if number != expected:
            findings.append(Finding(Fault.SEAL_MISSING, f"seal {expected}", f"seal {number} comes instead"))
        previous = self.newest
        self.seals, self._before = number, body
        try:
            seal = Seal.parse(body)
        except DataLoss as error:
            return None, [*findings, Finding(Fault.SEAL_ALTERED, subject, error.message)]
        if seal.number != number:
            findings.append(Finding(Fault.SEAL_ALTERED, subject, f"it says that it is number {seal.number}"))
        if number == expected and seal.previous != previous:
            why = "it does not name the seal before as that one is"
            findings.append(Finding(Fault.CHAIN_BROKEN, subject, why))
        return seal, findings

    @property
    def newest(self) -> bytes:
        """The hash of the newest seal."""
        return BEFORE_THE_FIRST if self._before is None else seal_hash(self._before)

    def anchor(self, number: int) -> None:
        """The log knows this seal, and so all before it."""
        self.anchored = max(self.anchored, number)


def check_rows(seal: Seal, sequences: Sequence[int], leaves: bytes, rows: Iterable[SealedRow]) -> Iterator[Finding]:
    """All rows that there are up to a seal's last one, after those of the seal before, against the seal."""
    hashes = [leaves[at : at + HASH_SIZE] for at in range(0, len(leaves), HASH_SIZE)]
    subject = f"seal {seal.number}"
    if len(hashes) != len(sequences) or not hashes or root_of(hashes) != seal.root:
        yield Finding(Fault.SEAL_ALTERED, subject, "its rows' hashes do not lead to its root")
        return
    if (seal.rows, seal.first, seal.last) != (len(sequences), sequences[0], sequences[-1]):
        yield Finding(Fault.SEAL_ALTERED, subject, "its rows are not those that it names")
        return
    covered = dict(zip(sequences, hashes, strict=True))
    for row in rows:
        expected = covered.pop(row.sequence, None)
        if expected is None:
            yield Finding(Fault.ROW_ADDED, f"row {row.sequence}", f"seal {seal.number} does not cover it")
        elif row.leaf() != expected:
            yield Finding(Fault.ROW_ALTERED, f"row {row.sequence}", f"seal {seal.number} has another hash for it")
        elif finding := check_filing(row):
            yield finding
    for sequence in covered:
        yield Finding(Fault.ROW_MISSING, f"row {sequence}", f"seal {seal.number} covers it")


def check_filing(row: SealedRow) -> Finding | None:
    """A row against what it is filed under, by which lists find it."""
    if not row.misfiled:
        return None
    return Finding(Fault.ROW_ALTERED, f"row {row.sequence}", f"it is filed under what is not its own: {row.misfiled}")


def check_proof(seal: Seal, row: SealedRow, leaf_index: int, proof: bytes) -> Finding | None:
    """One row of an export against its seal."""
    hashes = [proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE)]
    try:
        verify_inclusion(leaf_index, seal.rows, row.leaf(), hashes, seal.root)
    except (ProofError, OverflowError):
        why = f"it is not proven to be under seal {seal.number}"
        return Finding(Fault.ROW_ALTERED, f"row {row.sequence}", why)
    if not seal.first <= row.sequence <= seal.last:
        return Finding(Fault.ROW_ALTERED, f"row {row.sequence}", f"its sequence is none of seal {seal.number}")
    return None


@dataclass
class Acts:
    """Which acts have the intent on record, and no outcome."""

    unfinished: dict[str, int] = field(default_factory=dict)
    """The act, and the sequence of the row that says what was intended."""

    def hear(self, row: SealedRow) -> None:
        """The next row."""
        phase, acts = acts_of(row.row)
        for act in acts:
            if phase == OUTCOME:
                self.unfinished.pop(act, None)
            elif phase == INTENT and len(self.unfinished) < MOST_UNFINISHED:
                self.unfinished[act] = row.sequence
