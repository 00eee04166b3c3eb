"""Rates, by the generic cell rate algorithm (GCRA, ITU-T I.371): a steady pace, and a burst on top.

All that is kept of a caller is one time: when the next call would arrive if it had kept to the pace exactly. A call may
come earlier than that by as much as the burst takes at the pace.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_TEXT = re.compile(r"(\d{1,7}(?:\.\d{1,6})?)/(\d{1,7})")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls a second on the whole, and so many at once after a pause."""

    per_second: float
    burst: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`RATE/BURST`, such as `100/200`: calls a second, calls at once.

        Raises:
            ValueError: it is something else, or one of them is 0.
        """
        found = _TEXT.fullmatch(text)
        if found is None or float(found[1]) <= 0 or int(found[2]) <= 0:
            raise ValueError("must be RATE/BURST, such as 100/200: calls a second, and at once; or `off`")
        return cls(float(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.per_second:g}/{self.burst}"

    @property
    def window(self) -> int:
        """Seconds in which a burst that was used up is there again, rounded up."""
        return max(1, ceil(self.burst / self.per_second))


def _rate(value: object) -> object:
    if isinstance(value, str):
        return None if value == "off" else Rate.parse(value)
    return value


RateText = Annotated[
    Rate | None, BeforeValidator(_rate), PlainSerializer(lambda rate: str(rate) if rate else "off", return_type=str)
]
"""A setting: `RATE/BURST`, or `off`."""


class Bucket:
    """What is left for one caller. Time is given in, in seconds; only its differences count."""

    __slots__ = ("_due", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._due = 0.0

    def left(self, now: float) -> int:
        """Calls that may come at once; negative where more was taken than there was."""
        return int(self.rate.burst - max(0.0, self._due - now) * self.rate.per_second + 1e-6)

    def take(self, now: float, count: int = 1) -> None:
        """Counts calls, whether or not there is room for them."""
        self._due = max(self._due, now) + count / self.rate.per_second

    def wait(self, now: float) -> float:
        """Seconds until one call may come."""
        return max(0.0, self._due - now - (self.rate.burst - 1) / self.rate.per_second)

    def full_in(self, now: float) -> float:
        """Seconds until the whole burst is there again."""
        return max(0.0, self._due - now)


class Buckets:
    """Of many callers, who are strangers: no more are remembered than a bound; the longest unseen are forgotten."""

    def __init__(self, rate: Rate, most: int) -> None:
        self._rate = rate
        self._most = most
        self._found: OrderedDict[Any, Bucket] = OrderedDict()

    def of(self, key: Any) -> Bucket:
        """A caller's own, full where it is new."""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Bucket(self._rate)
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        else:
            self._found.move_to_end(key)
        return found

    def known(self, key: Any) -> Bucket | None:
        """As `of`, and None of whom nothing is remembered."""
        return self._found.get(key)
