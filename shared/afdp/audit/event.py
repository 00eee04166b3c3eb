"""An audit event as it is on record, whoever recorded it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import orjson

from afdp.errors import DataLoss

MOST_CHARACTERS = 1024
"""Of one text of an event; the rest is cut off and `cut` says so."""

_MOST_POLICIES = 64
_MOST_FURTHER = 32


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """Who wanted to do what, and what came of it.

    Attributes:
        time: when it was decided, or done.
        step: what decided: `authentication`, `limit` or `authorization`.
        result: `allow`, `deny` or `error`.
        rpc: the method that was called.
        permission: what it asks for.
        reason: why, for the operator.
        issuer, subject, tenant, method: who, as authenticated; empty where that failed.
        resource: what it is about, such as `evidence:` and its hash; empty: the tenant as a whole.
        policies: the names of the policies that decided.
        policy_hash: SHA-256 of all policies that were asked, in hex.
        address: the IP address that the call came from.
        request_id: of the call.
        phase: `intent` before an act, `outcome` after it; empty where one event tells both.
        count: how many alike this one stands for.
        sequence: its place in the trail, from 1; 0: it has none.
        uid: what names it among all events, the same each time that it is sent; empty: its place does.
        further: what else is on record of it, by name.
        cut: whether a text was too long to be told whole.
    """

    time: datetime
    step: str
    result: str
    rpc: str
    permission: str = ""
    reason: str = ""
    issuer: str = ""
    subject: str = ""
    tenant: str = ""
    method: str = ""
    resource: str = ""
    policies: tuple[str, ...] = ()
    policy_hash: str = ""
    address: str = ""
    request_id: str = ""
    phase: str = ""
    count: int = 1
    sequence: int = 0
    uid: str = ""
    further: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def parse(cls, recorded: bytes, sequence: int = 0, uid: str = "") -> RecordedEvent:
        """The event whose JSON object is on record. Members that are not known here are `further` ones.

        Args:
            recorded: JSON; `time` is RFC 3339.
            sequence: its place in the trail.
            uid: what names it.

        Raises:
            DataLoss: it is no such object.
        """
        try:
            members = orjson.loads(recorded)
            time = datetime.fromisoformat(members.pop("time"))
            known, rest, cut = _told(members)
            return cls(
                time=time if time.tzinfo else time.replace(tzinfo=UTC),
                step=known.pop("step"),
                result=known.pop("result"),
                rpc=known.pop("rpc", ""),
                policies=tuple(map(str, members.get("policies") or ()))[:_MOST_POLICIES],
                count=max(1, int(members.get("count") or 1)),
                sequence=sequence,
                uid=uid,
                further=rest,
                cut=cut,
                **known,
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataLoss(f"what is on record as audit event {sequence} is none") from None


_TEXTS = frozenset(each.name for each in fields(RecordedEvent) if each.type == "str") - {"uid"}
_NOT_FURTHER = _TEXTS | {"policies", "count", "sequence", "uid"}


def _told(members: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str], bool]:
    """The texts that are known here, the further ones, and whether one was cut."""
    cut = False
    known: dict[str, str] = {}
    further: dict[str, str] = {}
    for name, value in members.items():
        if value is None or value == "" or (name in _NOT_FURTHER and name not in _TEXTS):
            continue
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        if len(text) > MOST_CHARACTERS:
            text, cut = text[: MOST_CHARACTERS - 1] + "…", True
        if name in _TEXTS:
            known[name] = text
        elif len(further) < _MOST_FURTHER:
            further[name] = text
    return known, further, cut
