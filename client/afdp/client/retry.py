"""When a call is sent again: one rule for every transport, free of sockets and clocks."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from afdp.client.calls import Call
from afdp.client.errors import NotConnected, TimedOut
from afdp.errors import NotaryError, ResourceExhausted, Unavailable

T = TypeVar("T")

Steps = Generator[float | None, "T | NotaryError | None", T]
"""Yields None to have the call performed, and gets the value or the error; yields seconds to wait first."""

_WORTH_A_RETRY = (Unavailable, ResourceExhausted, TimedOut)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently.

    Attributes:
        attempts: in all; 1 never retries.
        first_delay: seconds before the second attempt; doubled before each further one, and varied.
        longest_delay: seconds; a notary that asks for a longer wait gets no further attempt.
    """

    attempts: int = 4
    first_delay: float = 0.1
    longest_delay: float = 10.0


def steps(call: Call[T], retry: Retry) -> Steps[T]:
    """The attempts at one call.

    What the notary could not do now is tried again: always where nothing was sent, else where the call may be repeated.

    Raises:
        NotaryError: of the last attempt.
    """
    delay = retry.first_delay
    for attempt in range(1, retry.attempts + 1):
        outcome = yield None
        if not isinstance(outcome, NotaryError):
            return outcome  # type: ignore[return-value]  # the driver sends what performing the call gave
        again = isinstance(outcome, NotConnected) or (call.repeatable and isinstance(outcome, _WORTH_A_RETRY))
        wait = _wait(outcome, delay)
        if not again or attempt == retry.attempts or wait > retry.longest_delay:
            raise outcome
        yield wait
        delay = min(delay * 2, retry.longest_delay)
    raise AssertionError("a retry has at least one attempt")


class Patience:
    """With a stream that goes on where it broke: what came since the last attempt makes the next one a first one."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._attempt, self._delay = 1, retry.first_delay

    def came_on(self) -> None:
        """Something came."""
        self._attempt, self._delay = 1, self._retry.first_delay

    def wait(self, error: NotaryError) -> float:
        """Seconds before the next attempt. Raises the error where there is none to be made."""
        wait = _wait(error, self._delay)
        passes = isinstance(error, _WORTH_A_RETRY)
        if not passes or self._attempt >= self._retry.attempts or wait > self._retry.longest_delay:
            raise error
        self._attempt, self._delay = self._attempt + 1, min(self._delay * 2, self._retry.longest_delay)
        return wait


def _wait(error: NotaryError, delay: float) -> float:
    return max(error.retry_after or 0.0, delay * (500 + secrets.randbelow(501)) / 1000)
