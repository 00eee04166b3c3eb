"""Which receipts a policy wants stamped outside."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from afdp.notary.config import NotarySettings
from afdp.notary.stamp_policy import StampPolicy


@pytest.mark.parametrize(
    ("rule", "wanted", "others"),
    [
        ("ai.model.deployed", ["ai.model.deployed"], ["ai.model.deployed.twice", "ai.model", "ai.model.deployedx"]),
        ("ai.model.*", ["ai.model.deployed", "ai.model.approval.granted"], ["ai.model", "ai.models.deployed", "bi.x"]),
        ("ai.*.approved", ["ai.model.approved"], ["ai.model.card.approved", "ai.approved", "ai.model.approved.late"]),
        ("*", ["ai.model", "x.y.z"], []),
    ],
)
def test_a_rule_names_event_types_of_every_tenant(rule: str, wanted: list[str], others: list[str]) -> None:
    policy = StampPolicy.parse([rule])

    assert all(policy.asks_for("bank", each) for each in wanted)
    assert not any(policy.asks_for("bank", each) for each in others)


def test_a_rule_may_be_for_one_tenant() -> None:
    policy = StampPolicy.parse(["bank/ai.model.*", "a.b/*", "*/audit.report"])

    assert policy.asks_for("bank", "ai.model.deployed")
    assert not policy.asks_for("agency", "ai.model.deployed")
    assert not policy.asks_for("bank", "ai.data.read")
    assert policy.asks_for("a.b", "ai.data.read")
    assert not policy.asks_for("b", "ai.data.read")
    assert policy.asks_for("agency", "audit.report")


def test_without_rules_nothing_is_stamped() -> None:
    assert not StampPolicy().asks_for("default", "ai.model.deployed")


def test_rules_are_separated_by_commas_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_EXTERNAL_STAMPS", "ai.model.*, bank/*,")

    assert NotarySettings().external_stamps == ("ai.model.*", "bank/*")


@pytest.mark.parametrize(
    "rule", ["AI.model", "ai..model", "/ai.model", "ai.mod*", "bank/", "ai model", "x" * 513 + "/*"]
)
def test_what_is_no_rule_is_refused_by_name(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_EXTERNAL_STAMPS", f"ai.model.*,{rule}")

    with pytest.raises(ValidationError, match="must"):
        NotarySettings()
