"""What a call that was let in does, as the audit trail tells it: an intent before the act, its outcome after.

What is notarised has its intent and its outcome written with its record (`pipeline_rows.py`). Of every other call the
intent is on record before its act, or, where it only reads, before its answer leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol
from weakref import WeakSet

import uuid_utils

from afdp.audit.rows import INTENT, OUTCOME, parted, write_row
from afdp.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotaryError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
)
from afdp.notary.access.audit import AuditEvent

PIPELINED = frozenset({"SignEvidence", "SignEvidenceBatch", "SignEvidenceStream"})
"""Methods whose acts are written with the records that they make."""

_REFUSALS = (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
)


_MOST_NOTES = 1024


class Written(Protocol):
    """Rows that are on their way to where they are durable."""

    async def settled(self) -> None:
        """Returns once they are. Raises Unavailable where they can be nowhere."""


class Trail(Protocol):
    """As much of the trail as acts need (`durable_trail.py`)."""

    def put(self, row: bytes) -> Written:
        """Puts a row on its way. Raises Unavailable where it takes none."""

    def record(self, event: AuditEvent) -> None:
        """Puts an event on record."""


class Act:
    """One call that was let in."""

    __slots__ = (
        "_decision",
        "_intent",
        "_let_in",
        "_notes",
        "_trail",
        "_verdicts",
        "_written",
        "head",
        "id",
        "request_id",
    )

    def __init__(self, trail: Trail, request_id: str) -> None:
        self._trail = trail
        self._let_in = False
        self._decision: Mapping[str, Any] = _BY_NOBODY
        self.head: Mapping[str, Any] = {}
        """What all its rows say: who, by which method, from where."""
        self.request_id = request_id
        self.id = ""
        self._intent: Written | None = None
        self._written: Written | None = None
        self._notes: list[dict[str, Any]] = []
        self._verdicts: dict[str, Mapping[str, Any]] = {}

    # --- acts of one call ---------------------------------------------------------------------------------------------

    def admitted(self, head: Mapping[str, Any]) -> None:
        """Its caller is let in."""
        self._let_in = True
        self.head = head

    async def begin(self, *, before: bool) -> None:
        """Its intent is put on record; with `before` it is there when this returns.

        Raises:
            Unavailable: it can be nowhere.
        """
        self.id = str(uuid_utils.uuid7())
        row = {**self.head, **self._decision, "phase": INTENT, "act": self.id, "time": datetime.now(UTC)}
        self._intent = self._trail.put(write_row({**row, "request_id": self.request_id}))
        if before:
            await self._intent.settled()

    def hears(self, event: AuditEvent) -> bool:
        """Takes note of what was decided meanwhile; whether its own rows will say so."""
        decision = decided(event)
        if not self._let_in:
            if event.result != "allow":
                return False
            self._decision = decision
            return True
        if event.resource.startswith("evidence:") and event.result == "allow" and self._intent is None:
            self._verdicts[event.resource] = decision  # it goes with the record that is made of it
        elif len(self._notes) < _MOST_NOTES:
            more = {"resource": event.resource, "reason": event.reason, **event.more}
            kept = {name: value for name, value in more.items() if value or type(value) is int}
            self._notes.append({**decision, **kept})
        return True

    def follows(self, written: Written) -> None:
        """A row that is about this call is on its way by itself."""
        self._written = written

    async def answering(self) -> None:
        """What it gives, and what it was refused, is durable when this returns: an answer may leave.

        Raises:
            Unavailable: that is not to be had, and so the answer must not leave.
        """
        self._put_notes()
        if (written := self._written) is not None:
            self._written = None
            await written.settled()

    async def done(self) -> None:
        """Its outcome is on its way; returns once its intent is durable, and what it gave.

        Raises:
            Unavailable: that is not to be had, and so the answer must not leave.
        """
        if self._intent is None:
            if self._notes or self._written is not None:
                await self.answering()
        elif self._notes:
            await self._put_outcome("allow", "").settled()
        else:
            await self._intent.settled()
            with suppress(NotaryError):  # the next call is not let in
                self._put_outcome("allow", "")

    def failed(self, error: BaseException) -> None:
        """Its outcome is on its way, unless it is on record already."""
        with suppress(NotaryError):  # it fails anyway, and the next call is not let in
            if self._intent is not None:
                code = error.code if isinstance(error, NotaryError) else ""
                self._written = self._put_outcome(*judged(error), code)
            else:
                self._put_notes()
        if self._intent is None:
            self.refused(error)

    def _put_outcome(self, result: str, reason: str, code: str = "") -> Written:
        """What came of it. A single denial is the outcome itself; the caller may have been told less: `answered`."""
        row = {**self.head, "phase": OUTCOME, "act": self.id, "time": datetime.now(UTC), "step": "act"}
        row |= {"result": result, "request_id": self.request_id}
        notes, self._notes = self._notes, []
        if result == "allow":
            return self._put({**row, "reason": reason}, [{**note, "act": self.id} for note in notes])
        if len(notes) == 1:
            [note] = notes
            told = note if note["result"] != "allow" else {"resource": note.get("resource", "")}
            return self._put({**row, "reason": reason, **told, "answered": code})
        items = [*notes, {"step": "act", "result": result, "reason": reason, "answered": code}] if notes else []
        return self._put(row if items else {**row, "reason": reason}, [{**each, "act": self.id} for each in items])

    def _put_notes(self) -> None:
        if self._notes:
            row = {**self.head, "time": datetime.now(UTC), "step": "authorization", "result": "allow"}
            notes, self._notes = self._notes, []
            self._written = self._put({**row, "request_id": self.request_id}, notes)

    def _put(self, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]] = ()) -> Written:
        """The last of the rows that these are. Raises Unavailable where the trail takes none."""
        *some, last = parted(items) or [()]
        for each in some:
            self._trail.put(write_row(row, each))
        return self._trail.put(write_row(row, last))

    # --- evidence -----------------------------------------------------------------------------------------------------

    def verdict(self, evidence_hash: bytes) -> Mapping[str, Any]:
        """What permitted that this evidence is notarised, once; that of the call where nobody asked for more."""
        if not self._verdicts:
            return self._decision
        return self._verdicts.pop(f"evidence:{evidence_hash.hex()}", self._decision)

    async def answered(self, receipt_id: str) -> None:
        """Evidence that an earlier record answers, without going through the pipeline; durable when this returns.

        Raises:
            Unavailable: it can be nowhere.
        """
        told = {"step": "act", "result": "allow", "reason": "an earlier record answers it"}
        row = {**self.head, **told, "resource": f"receipt:{receipt_id}", "time": datetime.now(UTC)}
        await self._trail.put(write_row({**row, "request_id": self.request_id})).settled()

    def refused(self, error: BaseException, evidence_hash: bytes = b"") -> None:
        """Evidence that is not notarised, and why; of the call as a whole without a hash."""
        if error in _on_record:
            return
        _on_record.add(error)
        result, reason = judged(error)
        head = self.head
        _quietly(
            self._trail.record,
            AuditEvent(
                step="limit" if isinstance(error, ResourceExhausted) else "act",
                result=result,
                rpc=head.get("rpc", ""),
                permission=head.get("permission", ""),
                reason=reason,
                issuer=head.get("issuer", ""),
                subject=head.get("subject", ""),
                tenant=head.get("tenant", ""),
                method=head.get("method", ""),
                resource=f"evidence:{evidence_hash.hex()}" if evidence_hash else "",
                address=head.get("address", ""),
                request_id=self.request_id,
            ),
        )


_on_record: WeakSet[BaseException] = WeakSet()


def on_record(error: NotaryError) -> NotaryError:
    """An error that rows tell already, so that the end of its call does not once more."""
    _on_record.add(error)
    return error


current: ContextVar[Act | None] = ContextVar("act", default=None)
"""The act of the call that is being served."""

_BY_NOBODY: Mapping[str, Any] = {"step": "act", "result": "allow"}


def decided(event: AuditEvent) -> dict[str, Any]:
    """What a row says of a decision."""
    told: dict[str, Any] = {"step": event.step, "result": event.result}
    if event.policies:
        told["policies"], told["policy_hash"] = event.policies, event.policy_hash
    return told


def judged(error: BaseException) -> tuple[Any, str]:
    """The result and the reason that an error is told as: what a caller did is refused, all else is ours."""
    if isinstance(error, asyncio.CancelledError):
        return "error", "the caller went away, or its time ran out"
    if isinstance(error, NotaryError):
        return "deny" if isinstance(error, _REFUSALS) else "error", error.message
    return "error", "an internal fault"


def _quietly(put: Callable[[Any], object], what: Any) -> None:
    """Where the trail takes nothing, the next call is not let in; this one's answer is decided already."""
    with suppress(NotaryError):
        put(what)
