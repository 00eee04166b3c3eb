"""What the built-in policies decide, and that nothing is allowed which could not be evaluated."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from afdp.policy.cedar import Decision, PolicySet
from afdp.policy.facts import Circumstances, Deployment, EvidenceFacts, Question, Subject
from afdp.policy.sources import BUILT_IN, read

NOW = datetime(2026, 11, 24, 18, 30, tzinfo=UTC)  # a Tuesday
DEPLOYMENT = Deployment(("public", "internal", "secret"), frozenset({"default"}), "EU")
BUILT_INS = PolicySet(read([BUILT_IN]), DEPLOYMENT)
PERMISSIONS = {
    "evidence.create",
    "evidence.read",
    "evidence.approve",
    "audit.read",
    "erasure.admin",
    "holds.admin",
    "keys.admin",
    "retention.admin",
    "status.read",
}
READ, WRITE = "afdp.notary.read", "afdp.notary.write"


def asked(
    action: str, *roles: str, scopes: set[str] | None = None, tenant: str = "default", policies: PolicySet = BUILT_INS
) -> Decision:
    """What the policies say of a principal with these roles."""
    who = Subject(tenant, frozenset(roles), frozenset(scopes) if scopes is not None else None)
    return policies.decide(Question(who, action, None, Circumstances(NOW)))


def with_policy(folder: Path, text: str) -> PolicySet:
    """The built-in policies and another."""
    (folder / "more.cedar").write_text(text)
    return PolicySet(read([BUILT_IN, str(folder)]), DEPLOYMENT)


@pytest.mark.parametrize(
    ("role", "permitted"),
    [
        ("ai_engineer", {"evidence.create", "evidence.read"}),
        ("security_analyst", {"evidence.read", "audit.read"}),
        ("admin", PERMISSIONS),
        ("nobody", set()),
    ],
)
def test_a_role_is_permitted_what_the_guide_says_and_nothing_else(role: str, permitted: set[str]) -> None:
    assert {each for each in PERMISSIONS if asked(each, role).allowed} == permitted


def test_a_scope_alone_permits_nothing() -> None:
    assert not any(asked(each, scopes={READ, WRITE}).allowed for each in PERMISSIONS)


def test_a_token_without_the_scope_is_refused_whatever_its_role() -> None:
    reads = {"evidence.read", "audit.read", "status.read"}
    assert {each for each in PERMISSIONS if asked(each, "admin", scopes={READ}).allowed} == reads
    assert {each for each in PERMISSIONS if asked(each, "admin", scopes={WRITE}).allowed} == PERMISSIONS - reads
    assert asked("evidence.read", "admin", scopes=set()).policies == ("scope-read",)


def test_administrators_of_other_tenants_have_no_say_in_what_is_of_all_tenants() -> None:
    assert asked("evidence.create", "admin", tenant="acme").allowed
    for each in ("keys.admin", "retention.admin", "status.read"):
        assert asked(each, "admin", tenant="acme").policies == ("operators-only",)


def test_a_permission_that_does_not_exist_is_denied() -> None:
    found = asked("evidence.destroy", "admin")
    assert not found.allowed
    assert found.errors


def test_what_one_policy_forbids_no_other_permits(tmp_path: Path) -> None:
    policies = with_policy(tmp_path, '@id("closed") forbid (principal, action, resource);')
    assert asked("evidence.read", "admin", policies=policies) == Decision(False, ("closed",))


def test_a_forbid_that_cannot_be_evaluated_denies(tmp_path: Path) -> None:
    """Cedar itself would leave it out, and allow."""
    overflow = "context.hour * 9223372036854775807 > 10"
    policies = with_policy(tmp_path, f'@id("broken") forbid (principal, action, resource) when {{ {overflow} }};')
    found = asked("evidence.read", "admin", policies=policies)
    assert (found.allowed, found.reason) == (False, "a policy could not be evaluated")


@pytest.mark.parametrize(
    ("clearance", "classification", "allowed"),
    [
        ("", "", True),
        ("", "public", False),
        ("internal", "internal", True),
        ("internal", "secret", False),
        ("secret", "secret", True),
        ("secret", "cosmic", False),  # not known: above all
        ("cosmic", "public", False),  # not known: none
    ],
)
def test_evidence_above_the_clearance_can_be_forbidden(
    tmp_path: Path, clearance: str, classification: str, allowed: bool
) -> None:
    policies = with_policy(
        tmp_path,
        '@id("clearance") forbid (principal, action, resource is Evidence)'
        " when { resource.classification > principal.clearance };",
    )
    who = Subject("default", frozenset({"ai_engineer"}), clearance=clearance)
    evidence = EvidenceFacts("ai.model.trained", classification)
    assert policies.decide(Question(who, "evidence.read", evidence, Circumstances(NOW))).allowed is allowed


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("context.hour == 18 && context.weekday == 2", True),
        ('context.now < datetime("2026-11-24T18:30:01Z")', True),
        ('context has address && context.address.isInRange(ip("10.0.0.0/8"))', True),
        ('context has address && context.address.isInRange(ip("192.168.0.0/16"))', False),
        ('context has region && context.region == "EU"', True),
        ('context.rpc == "RotateKey"', True),
        ("principal.mfa", True),
        (
            'principal has authenticated_at && context.now.durationSince(principal.authenticated_at) < duration("15m")',
            True,
        ),
        (
            'principal has authenticated_at && context.now.durationSince(principal.authenticated_at) < duration("5m")',
            False,
        ),
        ('principal.groups.contains("eng")', True),
        ('principal == Principal::"https://issuer|alice"', True),
        ('principal.credential == "certificate"', False),
        ('principal has residency && principal.residency == "EU"', True),
    ],
)
def test_what_is_known_of_a_caller_can_decide(tmp_path: Path, condition: str, holds: bool) -> None:
    policies = with_policy(tmp_path, f'@id("rule") forbid (principal, action, resource) when {{ {condition} }};')
    who = Subject(
        "default",
        frozenset({"admin"}),
        issuer="https://issuer",
        subject="alice",
        groups=frozenset({"eng"}),
        residency="EU",
        mfa=True,
        authenticated_at=NOW - timedelta(minutes=10),
    )
    question = Question(who, "keys.admin", None, Circumstances(NOW, "RotateKey", "10.1.2.3"))
    assert policies.decide(question).allowed is not holds


@pytest.mark.parametrize("address", ["", "not an address", "fe80::1%eth0", "10.0.0.0/8"])
def test_an_address_that_is_none_is_not_there_and_no_error(address: str) -> None:
    question = Question(Subject("default", frozenset({"admin"})), "audit.read", None, Circumstances(NOW, "", address))
    assert BUILT_INS.decide(question).allowed


def test_an_explanation_names_the_policies_that_hold_also_where_another_outweighs_them() -> None:
    who = Subject("acme", frozenset({"ai_engineer"}), frozenset({READ}))
    question = Question(who, "evidence.create", None, Circumstances(NOW))
    assert [each.name for each in BUILT_INS.satisfied(question)] == ["role-ai-engineer", "scope-write"]
    allowed = replace(question, action="evidence.read")
    assert [each.name for each in BUILT_INS.satisfied(allowed)] == ["role-ai-engineer"]
