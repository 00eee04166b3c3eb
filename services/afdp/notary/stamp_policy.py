"""Which receipts also get the stamp of an authority outside of the notary.

A rule names event types, and before a slash the tenant that it is for; without one it is for every tenant:

    ai.model.deployed        this event type
    ai.model.*               all below ai.model, however deep
    ai.*.approved            one part, whatever it is
    bank/*                   all that the tenant bank has notarised
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from afdp.formats.tenant import TENANT_RULE, is_tenant

_PART = r"[a-z0-9][a-z0-9_-]*"
_EVENT_TYPES = re.compile(rf"(?:{_PART}|\*)(?:\.(?:{_PART}|\*))*")


@dataclass(frozen=True, slots=True)
class StampRule:
    """Event types of a tenant; an empty tenant: of every one."""

    tenant: str
    event_types: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> StampRule:
        """Reads a rule.

        Raises:
            ValueError: it is none; the message says what it must be.
        """
        tenant, slash, event_types = text.rpartition("/")
        if not _EVENT_TYPES.fullmatch(event_types):
            raise ValueError("must be an event type such as ai.model.deployed, in which * stands for a part")
        if slash and tenant != "*" and not is_tenant(tenant):
            raise ValueError(f"has a tenant before its slash, which {TENANT_RULE}")
        return cls("" if tenant == "*" else tenant, _pattern(event_types))

    def covers(self, tenant: str, event_type: str) -> bool:
        """Whether it speaks of this one."""
        return self.tenant in ("", tenant) and self.event_types.fullmatch(event_type) is not None


@dataclass(frozen=True, slots=True)
class StampPolicy:
    """Rules of which one must cover a receipt."""

    rules: tuple[StampRule, ...] = ()

    @classmethod
    def parse(cls, rules: Sequence[str]) -> StampPolicy:
        """Reads them; raises `ValueError` as `StampRule.parse` does."""
        return cls(tuple(map(StampRule.parse, rules)))

    def asks_for(self, tenant: str, event_type: str) -> bool:
        """Whether a receipt of this tenant and event type is to be stamped outside."""
        return any(rule.covers(tenant, event_type) for rule in self.rules)


def _pattern(event_types: str) -> re.Pattern[str]:
    *parts, last = event_types.split(".")
    written = [_PART if part == "*" else re.escape(part) for part in parts]
    written.append(rf"{_PART}(?:\.{_PART})*" if last == "*" else re.escape(last))
    return re.compile(r"\.".join(written))
