"""Rows of the audit trail: what is written once and never changed, and what is read from it again.

A row is one JSON object with sorted keys, in UTF-8. Its members are those of `RecordedEvent`, without what is empty,
and

- `id`: a UUIDv7 that is the row's alone: written twice it is on record once;
- `act`: what the row is about to do, or has done; the same in its intent and its outcome;
- `items`: several events at once that have the rest in common, each with its own `act`, `resource` and the like;
- `silent`: it is about the trail's own seal, which alone is no reason for another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import orjson
import uuid_utils

from afdp.audit.event import RecordedEvent
from afdp.errors import DataLoss, InvalidArgument

INTENT, OUTCOME = "intent", "outcome"

MAX_ROW_BYTES = 256 * 1024
MAX_ITEMS = 1024
_ITEMS_OF_ROW = 128

RESULTS = ("allow", "deny", "error")
_PHASES = frozenset({"", INTENT, OUTCOME})

Members = Mapping[str, Any]
Item = TypeVar("Item")


def write_row(members: Members, items: Sequence[Members] = (), *, row_id: UUID | None = None) -> bytes:
    """The bytes of a new row; with an ID where it is known without it, so that whoever writes it writes the same."""
    row = {name: value for name, value in members.items() if value or type(value) is int}
    row["id"] = str(row_id or uuid_utils.uuid7())
    if items:
        row["items"] = items
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def parted(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Items as rows have room for them, whatever they say: each of those that the notary makes is under 1 KiB."""
    return [items[start : start + _ITEMS_OF_ROW] for start in range(0, len(items), _ITEMS_OF_ROW)]


@dataclass(frozen=True, slots=True)
class RowHead:
    """What is looked at to file a row.

    Attributes:
        id: names it.
        tenant: whose it is; empty: nobody's.
        phase: `intent`, `outcome` or empty.
        results: those of the events that it tells.
        silent: whether it is about the trail's own seal.
        terms: what it is found by: `actor:`, `outcome:` with an act, and resources as they are.
    """

    id: UUID
    tenant: str
    phase: str
    results: frozenset[str]
    silent: bool
    terms: frozenset[str]


def head_of(row: bytes) -> RowHead:
    """What a row is filed under.

    Raises:
        InvalidArgument: it is no row.
    """
    try:
        members = orjson.loads(row)
        items = members.get("items") or ()
        head = RowHead(
            id=UUID(members["id"]),
            tenant=_text(members, "tenant"),
            phase=_text(members, "phase"),
            results=_results(members["result"], items),
            silent=bool(members.get("silent")),
            terms=frozenset(_terms(members, items)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidArgument("a row of the audit trail is not as rows are") from None
    if head.phase not in _PHASES or len(items) > MAX_ITEMS or len(row) > MAX_ROW_BYTES:
        raise InvalidArgument("a row of the audit trail is not as rows are")
    return head


def events_of(row: bytes, sequence: int = 0) -> list[RecordedEvent]:
    """The events that a row tells, in order: each of its items, or itself.

    Raises:
        DataLoss: it is no row.
    """
    try:
        members = orjson.loads(row)
        name = members.pop("id")
        items = members.pop("items", ())
        if not items:
            return [RecordedEvent.parse(orjson.dumps(members), sequence, name)]
        return [
            RecordedEvent.parse(orjson.dumps({**members, **item}), sequence, f"{name}.{at}")
            for at, item in enumerate(items)
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataLoss(f"what is on record as audit event {sequence} is none") from None


def acts_of(row: bytes) -> tuple[str, list[str]]:
    """The phase of a row, and the acts that it is about; of one that is no row none.

    An event that tells both in one has no act.
    """
    try:
        members = orjson.loads(row)
        each = members.get("items") or [members]
        return members.get("phase", ""), [item["act"] for item in each if "act" in item]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", []


def _terms(members: Members, items: Sequence[Members]) -> Iterator[str]:
    if members.get("subject"):
        yield f"actor:{_text(members, 'subject')}"
    outcome = members.get("phase") == OUTCOME
    for each in (members, *items):
        if resource := _text(each, "resource"):
            yield resource
        if outcome and "act" in each:
            yield f"{OUTCOME}:{_text(each, 'act')}"


def _results(common: str, items: Sequence[Members]) -> frozenset[str]:
    found = frozenset(each.get("result", common) for each in items) or frozenset([common])
    if not found.issubset(RESULTS):
        raise ValueError
    return found


def _text(members: Members, name: str) -> str:
    value = members.get(name, "")
    if not isinstance(value, str):
        raise TypeError
    return value
