"""What verification says: a list of checks, each with what was found and, where it failed, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended. ABSENT: it did not run, because there was nothing to check or nothing to check it with."""

    PASSED = "pass"
    FAILED = "fail"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: `envelope`, `signature`, `time`, `key`, `evidence`, `artifact`, `approvals`, `log`, `checkpoint`,
            `witnesses` or `anchors`.
        detail: what was found, or one sentence of why it failed.
        advice: what to do next, where there is something.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """Every check, in the order in which they are read."""

    checks: tuple[Check, ...]

    @property
    def verified(self) -> bool:
        """Whether the receipt holds: nothing failed, and what no receipt can do without was really checked."""
        passed = {check.name for check in self.checks if check.status is Status.PASSED}
        return passed >= INDISPENSABLE and all(check.status is not Status.FAILED for check in self.checks)

    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status is Status.FAILED)

    def status(self, name: str) -> Status:
        """How the checks of this name ended, the worst of them: FAILED before ABSENT before PASSED."""
        found = {check.status for check in self.checks if check.name == name}
        return next((each for each in (Status.FAILED, Status.ABSENT, Status.PASSED) if each in found), Status.ABSENT)

    def to_object(self) -> dict[str, object]:
        """The result as a JSON object."""
        return {
            "verified": self.verified,
            "checks": [
                {"name": each.name, "status": each.status.value, "detail": each.detail, "advice": each.advice}
                for each in self.checks
            ],
        }


INDISPENSABLE = frozenset({"envelope", "signature", "key", "evidence"})


class NotVerifiedError(ValueError):
    """A single check failed: one sentence of why, and what to do next where there is something."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
