"""Table tests of policies: a YAML file of cases, each a question with the decision that is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from afdp.policy.cedar import Decision, PolicySet
from afdp.policy.facts import Circumstances, Deployment, EvidenceFacts, Question, Subject
from afdp.policy.sources import BUILT_IN

DEFAULT_CLASSIFICATIONS = ("public", "internal", "confidential", "restricted")
DEFAULT_OPERATORS = ("default",)


class CaseError(Exception):
    """The file cannot be read as cases; says where it is wrong."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question and what is expected of the policies.

    Attributes:
        allowed: the expected decision.
        by: the names of the policies that must have decided; None: whichever.
    """

    name: str
    question: Question
    allowed: bool
    by: frozenset[str] | None

    def missed(self, decision: Decision) -> str:
        """What is not as expected; empty where all is."""
        if decision.allowed != self.allowed:
            return f"expected {'allow' if self.allowed else 'deny'}, but it is {decision.reason}"
        if self.by is not None and frozenset(decision.policies) != self.by:
            return f"expected by {', '.join(sorted(self.by)) or 'no policy'}, but it is {decision.reason}"
        return ""


@dataclass(frozen=True, slots=True)
class Table:
    """The cases of a file, and what they are asked of.

    Attributes:
        policies: folders, those of the file's own relative to where it is.
        deployment: the settings that policies see.
    """

    policies: tuple[str, ...]
    deployment: Deployment
    cases: tuple[Case, ...]

    def results(self, policies: PolicySet) -> Iterator[tuple[Case, Decision]]:
        """Each case with what is decided."""
        return ((case, policies.decide(case.question)) for case in self.cases)


def read_table(file: Path) -> Table:
    """The cases of a file.

    Raises:
        CaseError: it cannot be read, or something in it is not known or not of its kind.
    """
    try:
        document = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise CaseError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise CaseError(f"{file}:{mark.line + 1 if mark else 0}: is not valid YAML") from None
    try:
        return _table(_Members(document, ""), file.parent)
    except _Wrong as wrong:
        raise CaseError(f"{file}: {wrong}") from None


class _Wrong(Exception):
    """A member that is not as it must be; the message names it."""


class _Members:
    """A mapping whose members are taken one by one; what is left over is not known."""

    def __init__(self, value: object, path: str) -> None:
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise _Wrong(f"{path or 'the file'} must be a mapping")
        self._left: dict[Any, Any] = dict(value)
        self.path = path

    def name(self, member: object) -> str:
        return f"{self.path}.{member}" if self.path else str(member)

    def has(self, member: str) -> bool:
        return member in self._left

    def take(self, member: str, kind: type, default: Any = None) -> Any:
        """A member, or the default where it is not there."""
        value = self._left.pop(member, None)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise _Wrong(f"{self.name(member)} must be a {_KINDS[kind]}")
        return value

    def texts(self, member: str, default: Sequence[str] | None = None) -> Sequence[str] | None:
        """A list of texts."""
        value: Sequence[str] | None = self.take(member, list, default)
        if value is not None and not all(isinstance(each, str) for each in value):
            raise _Wrong(f"{self.name(member)} must be a list of texts")
        return value

    def time(self, member: str) -> datetime | None:
        """A time, which YAML itself reads; one without a zone is in UTC."""
        value: datetime | None = self.take(member, datetime)
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    def members(self, member: str) -> _Members:
        """A mapping in it."""
        return _Members(self._left.pop(member, None), self.name(member))

    def end(self) -> None:
        """Refuses what was not taken."""
        if self._left:
            raise _Wrong(f"{self.name(next(iter(self._left)))} is not known")


_KINDS = {str: "text", bool: "true or false", list: "list", datetime: "time such as 2026-11-24T18:30:00Z"}


def _table(members: _Members, folder: Path) -> Table:
    policies = members.texts("policies", [BUILT_IN]) or []
    deployment = Deployment(
        tuple(name.lower() for name in members.texts("classifications", DEFAULT_CLASSIFICATIONS) or ()),
        frozenset(members.texts("operator_tenants", DEFAULT_OPERATORS) or ()),
        members.take("region", str, ""),
    )
    listed = members.take("cases", list, [])
    members.end()
    if not listed:
        raise _Wrong("cases must be a list with at least one case")
    cases = tuple(_case(_Members(each, f"cases[{at}]"), at) for at, each in enumerate(listed))
    return Table(tuple(each if each == BUILT_IN else str(folder / each) for each in policies), deployment, cases)


def _case(members: _Members, at: int) -> Case:
    name = members.take("name", str, f"case {at + 1}")
    who = _subject(members.members("principal"))
    action = members.take("action", str)
    evidence = _evidence(members.members("evidence")) if members.has("evidence") else None
    circumstances = _circumstances(members.members("context"))
    decision, by = members.take("decision", str), members.texts("by")
    members.end()
    if action is None:
        raise _Wrong(f"{members.name('action')} is missing")
    if decision not in ("allow", "deny"):
        raise _Wrong(f"{members.name('decision')} must be allow or deny")
    question = Question(who, action, evidence, circumstances)
    return Case(name, question, decision == "allow", frozenset(by) if by is not None else None)


def _subject(members: _Members) -> Subject:
    scopes = members.texts("scopes")
    subject = Subject(
        tenant=members.take("tenant", str, "default"),
        roles=frozenset(members.texts("roles") or ()),
        scopes=frozenset(scopes) if scopes is not None else None,
        issuer=members.take("issuer", str, ""),
        subject=members.take("subject", str, ""),
        method=members.take("method", str, "oidc"),
        credential=members.take("credential", str, "token"),
        groups=frozenset(members.texts("groups") or ()),
        clearance=members.take("clearance", str, "").lower(),
        residency=members.take("residency", str, ""),
        mfa=members.take("mfa", bool, False),
        authenticated_at=members.time("authenticated_at"),
    )
    members.end()
    return subject


def _evidence(members: _Members) -> EvidenceFacts:
    evidence = EvidenceFacts(
        members.take("event_type", str, ""),
        members.take("classification", str, "").lower(),
        members.take("residency", str, ""),
    )
    members.end()
    return evidence


def _circumstances(members: _Members) -> Circumstances:
    now = members.time("time") or datetime.now(UTC)
    circumstances = Circumstances(now, members.take("rpc", str, ""), members.take("address", str, ""))
    members.end()
    return circumstances
