"""What an answer gives of many things, as the audit trail tells it: how much, and what names all of it.

A page of a thousand receipts is one event. Its resource is the SHA-256 of their IDs, so that whoever has them can show
that they, and no others, were given; whoever has the question can ask it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from afdp.formats.timestamps import format_timestamp
from afdp.messages.metadata import SearchRecordsRequest

_PLAIN = ("event_type", "actor_type", "key_id", "log_index", "log_origin", "oldest_first", "start_time", "end_time")
_NAMED = ("evidence_hash", "artifact_hash", "actor_id", "submitter")


@dataclass(frozen=True, slots=True)
class Listed:
    """One of many that may be given.

    Attributes:
        evidence: its canonical form, where policies ask for more than its type.
    """

    receipt_id: str
    event_type: str
    evidence: bytes | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What was given.

    Attributes:
        resource: names all of it.
        count: how much it is.
        first, last: its ends, in the order in which they were given; empty where it is nothing.
        asked: what for, without anything that can be about a person.
    """

    resource: str
    count: int
    first: str = ""
    last: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, Any]:
        """As rows of the trail have it."""
        told = {"listed": self.count, "first": self.first, "last": self.last, "asked": self.asked}
        return {name: value for name, value in told.items() if value or name == "listed"}


def receipts_given(receipt_ids: Sequence[str], asked: Mapping[str, Any] | None = None) -> Given:
    """Receipts, in the order in which they are given: as `printf '%s\\n' ID ID | sha256sum` names them."""
    digest = sha256("".join(f"{each}\n" for each in receipt_ids).encode()).hexdigest()
    ends = (receipt_ids[0], receipt_ids[-1]) if receipt_ids else ("", "")
    return Given(f"receipts:{digest}", len(receipt_ids), *ends, asked or {})


def asked_for(request: SearchRecordsRequest) -> dict[str, Any]:
    """What a search asks for. Of what can be about a person there is its name alone: an erasure leaves nothing."""
    asked: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(request, name)
        if value is not None and value is not False and value != "":
            asked[name] = format_timestamp(value) if name.endswith("_time") else value
    if by := sorted(_names(request)):
        asked["by"] = by
    return asked


def _names(request: SearchRecordsRequest) -> Iterator[str]:
    yield from (name for name in _NAMED if getattr(request, name))
    yield from (f"metadata.{place.partition('=')[0]}" for place in request.metadata)
