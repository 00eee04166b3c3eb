"""What is refused before it is a call, for which nobody decides and no act is on record: counted until it is told.

    REFUSALS.add("limit", "too many requests come from this address", address="192.0.2.7")

The gateway tells the notary, whose audit trail has it then. What serves HTTP besides has its log and its metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Literal

Step = Literal["authentication", "limit"]

MOST_KINDS = 128
MOST_REASON = 256  # characters
OTHER = "of many more kinds"


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals that are alike.

    Attributes:
        step: what refused: `authentication`, or `limit` for a bound, or a form that is not taken.
        reason: one of a few fixed sentences, which quotes nothing of what came.
        count: how many there were.
        last_address: the IP address that the last one came from; empty where that is not known.
        last_request_id: of the last one; empty where it was no request yet.
    """

    step: Step
    reason: str
    count: int
    last_address: str = ""
    last_request_id: str = ""


class Refusals:
    """Counts refusals by their kind. However many come, it holds no more than `MOST_KINDS` of them."""

    def __init__(self) -> None:
        self._lock = Lock()  # the metrics' server has threads
        self._found: dict[tuple[Step, str], Refused] = {}

    def add(self, step: Step, reason: str, *, address: str = "", request_id: str = "", count: int = 1) -> None:
        """Counts one, or some that were counted before and could not be told."""
        with self._lock:
            key = step, reason[:MOST_REASON]
            if key not in self._found and len(self._found) >= MOST_KINDS:
                key = "limit", OTHER
            before = self._found.get(key)
            self._found[key] = Refused(*key, (before.count if before else 0) + count, address, request_id)

    def take(self) -> list[Refused]:
        """All since the last time."""
        with self._lock:
            found, self._found = self._found, {}
        return list(found.values())


REFUSALS = Refusals()
"""Those of this process."""
