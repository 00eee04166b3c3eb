"""The audit trail's rows of the pipeline: they are written with the records that they are about.

An act of the pipeline is one draft, named by its receipt ID. What one batch does for the same caller is one row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from afdp.audit.rows import INTENT, OUTCOME, parted, write_row
from afdp.errors import NotaryError
from afdp.messages.metadata import Draft
from afdp.notary.access.acts import Act, judged
from afdp.telemetry.context import request_id

SILENT = "audit-sealer"
"""The subject that notarises seals of the trail: its own rows are no reason for another one."""

_MOST_OPEN = 100_000  # acts whose outcome may be this process's to write
_ISSUER = "afdp-notary"

Head = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Open:
    """An act whose intent is on record: who acts, and in which call."""

    head: Head
    request_id: str


class PipelineRows:
    """Makes rows for what is prepared and completed."""

    def __init__(self, put: Callable[[bytes], object] | None = None, subject: str = "recovery") -> None:
        """
        Args:
            put: takes rows that go with no record; None: they are left out.
            subject: who completes what another process has begun.
        """
        self._put = put
        self._subject = subject
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def intents(self, drafts: Sequence[tuple[Draft, Act | None]]) -> list[bytes]:
        """Rows that say that these are about to be notarised."""
        rows: dict[object, tuple[Head, list[dict[str, Any]]]] = {}
        for draft, act in drafts:
            head, request = _head(draft, act)
            key = (*head.values(),) if act is None else (*act.head.values(), head.get("policies"))
            items = rows.setdefault(key, (head, []))[1]
            items.append(_item(draft.receipt_id, request))
            self._open[draft.receipt_id] = _Open(head, request)
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        now = datetime.now(UTC)
        return [row for head, items in rows.values() for row in _rows({**head, "phase": INTENT, "time": now}, items)]

    def forget(self, drafts: Iterable[Draft]) -> None:
        """These were not prepared: nobody knows whether their intents are on record."""
        for draft in drafts:
            self._open.pop(draft.receipt_id, None)

    def answered(self, draft: Draft, reason: str, by: str = "") -> None:
        """An act is over without a record of its own: another one answers it, or it goes elsewhere."""
        self._settle(draft, {"result": "allow", "reason": reason, "resource": f"receipt:{by or draft.receipt_id}"})

    def refused(self, draft: Draft, error: NotaryError) -> None:
        """An act is over: the store refuses it."""
        result, reason = judged(error)
        self._settle(draft, {"result": result, "reason": reason, "resource": f"receipt:{draft.receipt_id}"})

    def outcomes(self, logged: Iterable[tuple[Draft, int]], origin: str) -> list[bytes]:
        """Rows that say that these are in a log, at these places."""
        rows: dict[object, tuple[Head, list[dict[str, Any]]]] = {}
        for draft, index in logged:
            known = self._open.pop(draft.receipt_id, None)
            head, request = (known.head, known.request_id) if known is not None else self._ours(draft)
            items = rows.setdefault(id(head) if known is None else (*head.values(),), (head, []))[1]
            items.append({**_item(draft.receipt_id, request), "log_index": index})
        told = {"phase": OUTCOME, "step": "act", "result": "allow", "log": origin, "time": datetime.now(UTC)}
        return [row for head, items in rows.values() for row in _rows({**_without_decision(head), **told}, items)]

    def _settle(self, draft: Draft, told: dict[str, Any]) -> None:
        known = self._open.pop(draft.receipt_id, None)
        if known is None or self._put is None:
            return
        row = {**_without_decision(known.head), "phase": OUTCOME, "step": "act", "act": draft.receipt_id, **told}
        with suppress(NotaryError):  # the intent stays without an outcome, which is how it shows
            self._put(write_row({**row, "request_id": known.request_id, "time": datetime.now(UTC)}))

    def _ours(self, draft: Draft) -> tuple[Head, str]:
        tenant = draft.submitter.tenant if draft.submitter is not None else ""
        who = {"issuer": _ISSUER, "subject": self._subject, "tenant": tenant, "method": "service"}
        return {"rpc": "SignEvidence", **who}, request_id.get()


def _head(draft: Draft, act: Act | None) -> tuple[Head, str]:
    if act is not None:
        return {**act.head, **act.verdict(draft.evidence_hash)}, act.request_id
    who = draft.submitter
    if who is None:
        return {"step": "act", "result": "allow"}, request_id.get()
    head = {"issuer": who.issuer, "subject": who.subject, "tenant": who.tenant, "method": who.method}
    silent = {"silent": True} if who.method == "service" and who.subject == SILENT else {}
    return {"rpc": "SignEvidence", **head, **silent, "step": "act", "result": "allow"}, request_id.get()


def _item(receipt_id: str, request: str) -> dict[str, Any]:
    item = {"act": receipt_id, "resource": f"receipt:{receipt_id}"}
    return {**item, "request_id": request} if request else item


def _rows(head: Head, items: list[dict[str, Any]]) -> list[bytes]:
    if len(items) == 1:
        return [write_row({**head, **items[0]})]
    return [write_row(head, some) for some in parted(items)]


def _without_decision(head: Head) -> dict[str, Any]:
    return {name: value for name, value in head.items() if name not in ("policies", "policy_hash")}
