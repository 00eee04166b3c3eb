"""Decisions that are remembered are those that the policies would make now, whatever was asked before."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from afdp.formats.statement import Submitter
from afdp.notary.access import policies as module
from afdp.notary.access.permissions import PERMISSIONS
from afdp.notary.access.policies import LivePolicies, _subject
from afdp.notary.model import Attributes, Principal
from afdp.policy import sources
from afdp.policy.cedar import PolicySet
from afdp.policy.facts import Circumstances, Deployment, EvidenceFacts, Question

DEPLOYMENT = Deployment(("public", "internal", "secret"), frozenset({"acme"}))
TIMED = '@id("by day") forbid (principal, action, resource) when { context.hour < 8 || context.hour >= 18 };'
OTHERS = {
    "by address": '@id("by address") forbid (principal, action, resource) '
    'when { context has address && context.address.isInRange(ip("10.0.0.0/8")) };',
    "by method": '@id("by method") forbid (principal, action, resource) when { context.rpc == "GetReceipt" };',
    "by mfa": '@id("by mfa") forbid (principal, action, resource) unless { principal.mfa };',
    "by clearance": '@id("by clearance") forbid (principal, action, resource is Evidence) '
    "when { resource.classification > principal.clearance };",
    "for all": '@id("for all") permit (principal, action, resource);',
    "timed": TIMED,
}
BEGIN = datetime(2026, 11, 24, 7, 59, 58, tzinfo=UTC)

PRINCIPALS = st.builds(
    Principal,
    st.sampled_from(["acme", "other"]),
    st.builds(Submitter, st.just("https://id"), st.sampled_from(["alice", "bob"]), st.just("oidc")),
    st.sets(st.sampled_from(["admin", "auditor", "ai_engineer"]), max_size=2).map(frozenset),
    st.sampled_from([None, frozenset[str](), frozenset({"afdp.notary.read"})]),
    st.builds(Attributes, clearance=st.sampled_from(["", "internal", "secret"]), mfa=st.booleans()),
)
QUESTIONS = st.tuples(
    PRINCIPALS,
    st.sampled_from(sorted(PERMISSIONS)),
    st.sampled_from(["GetReceipt", "SignEvidence"]),
    st.sampled_from(["10.0.0.1", "192.0.2.1", ""]),
)
EVIDENCE = st.builds(EvidenceFacts, st.sampled_from(["a", "b"]), st.sampled_from(["", "public", "secret"]))


class Clock:
    """What the policies take for `datetime`."""

    def __init__(self) -> None:
        self.time = BEGIN

    def now(self, zone: Any) -> datetime:
        return self.time.astimezone(zone)


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "datetime", clock)


class Memory(RuleBasedStateMachine):
    """Questions, some again and again, while time goes on and policies change; there is room for few answers."""

    @initialize()
    def begin(self) -> None:
        clock.time = BEGIN
        self._folder = tempfile.TemporaryDirectory()
        self._folders = ["builtin", self._folder.name]
        self.change({"by address", "timed"})
        self._live = LivePolicies(self._folders, DEPLOYMENT, 60.0)
        self._asked: list[tuple[Any, ...]] = []

    @rule(names=st.sets(st.sampled_from(sorted(OTHERS)), min_size=1, max_size=3))
    def change(self, names: set[str]) -> None:
        Path(self._folder.name, "more.cedar").write_text(
            "\n".join(OTHERS[name] for name in sorted(names | {"for all"}))
        )
        if hasattr(self, "_live") and (changed := self._live._changed()):
            self._live._take(changed)

    @rule(question=QUESTIONS, evidence=st.none() | EVIDENCE)
    def ask(self, question: tuple[Any, ...], evidence: EvidenceFacts | None) -> None:
        if evidence is not None:
            question = question[0], "evidence.read", *question[2:]
        self._asked.append((*question, evidence))
        self._check(self._asked[-1])

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        if self._asked:
            self._check(data.draw(st.sampled_from(self._asked)))

    @rule(data=st.data(), seconds=st.sampled_from([1, 2, 3600]))
    def ask_again_later(self, data: st.DataObject, seconds: int) -> None:
        self.ask_again(data)
        clock.time += timedelta(seconds=seconds)
        if self._asked:
            for each in self._asked[-3:]:
                self._check(each)

    @rule(question=QUESTIONS, data=st.data())
    def ask_something_else_in_one_respect(self, question: tuple[Any, ...], data: st.DataObject) -> None:
        if self._asked:
            last = self._asked[-1]
            at = data.draw(st.sampled_from([0, 2, 3] if last[4] is not None else [0, 1, 2, 3]))
            self._check(last)
            self._check((*last[:at], question[at], *last[at + 1 :]))

    def _check(self, asked: tuple[Any, ...]) -> None:
        who, permission, rpc, address, evidence = asked
        fresh = PolicySet(sources.read(self._folders), DEPLOYMENT)
        expected = fresh.decide(Question(_subject(who), permission, evidence, Circumstances(clock.time, rpc, address)))
        found = self._live.decide(who, permission, rpc, address, evidence)
        assert (found.allowed, found.reason, found.policies) == (expected.allowed, expected.reason, expected.policies)
        assert found.policy_hash == fresh.hash

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def test_what_is_remembered_is_what_would_be_decided_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 8)
    run_state_machine_as_test(
        Memory,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_answers_that_are_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    live = LivePolicies(["builtin"], DEPLOYMENT, 60.0)
    who = Principal("acme", Submitter("https://id", "alice", "oidc"))
    often = live.decide(who, "evidence.read", "GetReceipt", "10.0.0.1")

    for last in range(2, 12):
        live.decide(who, "evidence.read", "GetReceipt", f"10.0.0.{last}")
        assert live.decide(who, "evidence.read", "GetReceipt", "10.0.0.1") is often
