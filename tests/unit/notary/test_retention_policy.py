"""Which evidence is kept for how long, as the file of `AFDP_RETENTION` says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from afdp.errors import FailedPrecondition
from afdp.formats.evidence import EvidencePackage
from afdp.formats.statement import Submitter
from afdp.messages.metadata import RetentionClass
from afdp.notary.access.labels import Labels
from afdp.notary.model import CheckedEvidence, Order, Principal
from afdp.notary.retention_policy import RetentionPolicy

LABELS = Labels(("public", "restricted"), ("metadata.classification",), ())
POLICY = """
classes: {short: 90 days, half: 6 months, long: 7 years, always: indefinite}
rules:
  - {tenant: "bank-*", class: long}
  - {event_type: "ai.model.*", class: half}
  - {classification: restricted, class: always}
default: short
minimum: 30 days
"""


def policy_of(tmp_path: Path, text: str) -> RetentionPolicy:
    (tmp_path / "retention.yaml").write_text(text)
    return RetentionPolicy.read(tmp_path / "retention.yaml", LABELS)


def order(tenant: str = "acme", event_type: str = "test.done", label: str | None = None, method: str = "oidc") -> Order:
    metadata = {} if label is None else {"classification": label}
    package = EvidencePackage("1.0.0", datetime(2026, 11, 24, tzinfo=UTC), event_type, None, (), metadata)
    return Order(CheckedEvidence(package, b"{}", bytes(32)), Principal(tenant, Submitter("i", "s", method)))


def test_of_the_rules_that_match_the_one_counts_that_keeps_the_longest(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, POLICY)
    assert policy.class_of(order()) == "short"
    assert policy.class_of(order(event_type="ai.model.deployed")) == "half"
    assert policy.class_of(order("bank-7", "ai.model.deployed")) == "long"
    assert policy.class_of(order("bank-7", "ai.model.deployed", "restricted")) == "always"
    assert policy.class_of(order(label="public")) == "short"
    assert [(each.name, each.years, each.months, each.days) for each in policy.classes] == [
        ("always", 0, 0, 0),
        ("half", 0, 6, 0),
        ("long", 7, 0, 0),
        ("short", 0, 0, 90),
    ]
    assert all(isinstance(each, RetentionClass) for each in policy.classes)


def test_what_the_notary_certifies_itself_has_no_class_and_stays(tmp_path: Path) -> None:
    assert policy_of(tmp_path, POLICY).class_of(order(method="service")) == ""


def test_without_a_file_or_a_default_everything_is_kept(tmp_path: Path) -> None:
    assert RetentionPolicy.read(None, LABELS).class_of(order()) == ""
    assert policy_of(tmp_path, "classes: {a: 1 year}").class_of(order()) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("classes: {a: 7}", "classes.a: .*7 years, 6 months, 90 days or indefinite"),
        ("classes: {a: 0 days}", "classes.a"),
        ("classes: {a: 10 days}\nminimum: 1 month", "classes.a is shorter than the minimum"),
        ("rules: [{class: b}]", "there is no class b"),
        ("default: b", "there is no class b"),
        ("classes: {a: 1 year}\nrule: []", "rule: "),
        ("classes: [", "retention.yaml"),
        ("[1]", "retention.yaml"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(FailedPrecondition, match=fault):
        policy_of(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="AFDP_RETENTION"):
        RetentionPolicy.read(tmp_path / "none.yaml", LABELS)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="default stands more than once"):
        policy_of(tmp_path, "classes: {a: 1 year}\ndefault: a\ndefault: a\n")
