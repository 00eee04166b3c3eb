"""How much a tenant may notarise a day, by what the store says it did."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from afdp.errors import InvalidArgument, ResourceExhausted
from afdp.messages.metadata import TenantUsage
from afdp.notary.allowances import Allowance, Allowances
from afdp.notary.tenant_labels import OTHER, TenantLabels

DAY = 20_000
NOON = DAY * 86_400 + 43_200.0


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def allowances(clock: Clock | None = None, **by_tenant: Allowance) -> Allowances:
    named = {name.replace("everybody", "*"): allowance for name, allowance in by_tenant.items()}
    return Allowances(named, TenantLabels(0), clock or Clock())


def notarise(desk: Allowances, tenant: str, size: int = 10) -> None:
    with desk.taking(tenant, size):
        pass


def test_a_tenant_notarises_as_many_packages_as_it_may_and_waits_for_midnight_then() -> None:
    desk = allowances(acme=Allowance(records_per_day=3))
    for used in range(1, 4):
        notarise(desk, "acme")
        desk.told([TenantUsage("acme", DAY, used, 10 * used)])

    with pytest.raises(ResourceExhausted, match="3 packages a day") as refused:
        notarise(desk, "acme")
    assert refused.value.retry_after == 43_200
    notarise(desk, "bank")


def test_the_operator_is_told_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    desk = allowances(clock, acme=Allowance(records_per_day=0))
    for now in (NOON, NOON + 1, NOON + 86_400):
        clock.now = now
        with pytest.raises(ResourceExhausted):
            notarise(desk, "acme")
    assert [record.getMessage() for record in caplog.records] == ["a tenant has used up its quota of the day"] * 2


def test_bytes_count_too() -> None:
    desk = allowances(everybody=Allowance(bytes_per_day=100))
    desk.told([TenantUsage("acme", DAY, 1, 90)])

    notarise(desk, "acme", 10)
    with pytest.raises(ResourceExhausted, match="100 bytes"):
        notarise(desk, "acme", 11)


def test_the_next_day_begins_anew() -> None:
    clock = Clock()
    desk = allowances(clock, acme=Allowance(records_per_day=1))
    desk.told([TenantUsage("acme", DAY, 1, 10)])
    with pytest.raises(ResourceExhausted):
        notarise(desk, "acme")

    clock.now += 43_200
    notarise(desk, "acme")


def test_what_is_on_its_way_counts_until_it_has_ended_well_or_not() -> None:
    desk = allowances(acme=Allowance(records_per_day=1))
    with desk.taking("acme", 10), pytest.raises(ResourceExhausted):
        notarise(desk, "acme")
    with pytest.raises(ZeroDivisionError), desk.taking("acme", 10):
        raise ZeroDivisionError
    notarise(desk, "acme")


def test_of_answers_that_overtake_each_other_the_later_one_counts() -> None:
    desk = allowances(acme=Allowance(records_per_day=2))
    for day, used in ((DAY, 2), (DAY, 1), (DAY - 1, 0)):
        desk.told([TenantUsage("acme", day, used, 10 * used)])

    with pytest.raises(ResourceExhausted):
        notarise(desk, "acme")


def test_a_named_tenant_has_its_own_allowance_and_the_store_counts_only_where_there_is_one() -> None:
    desk = allowances(everybody=Allowance(records_per_day=0), acme=Allowance())
    notarise(desk, "acme")
    with pytest.raises(ResourceExhausted):
        notarise(desk, "bank")
    assert desk.counted
    assert not allowances().counted
    assert not allowances(everybody=Allowance(batch_packages=5)).counted


def test_a_batch_has_no_more_packages_than_its_tenant_may_send_at_once() -> None:
    desk = allowances(acme=Allowance(batch_packages=5))
    desk.require_batch("acme", 5)
    desk.require_batch("bank", 1000)
    with pytest.raises(InvalidArgument, match="evidence_packages: must be at most 5"):
        desk.require_batch("acme", 6)


def test_few_tenants_have_labels_of_their_own_and_keep_them() -> None:
    labels = TenantLabels(2)
    assert [labels.of(each) for each in ("a", "b", "c", "a", "c")] == ["a", "b", OTHER, "a", OTHER]
    assert TenantLabels(5).of("jane@example.org") == OTHER
    assert TenantLabels(0).of("a") == OTHER


def test_packages_are_counted_by_tenant_and_outcome() -> None:
    desk = Allowances({"labelled": Allowance(records_per_day=1)}, TenantLabels(1), Clock())
    notarise(desk, "labelled", 7)
    desk.told([TenantUsage("labelled", DAY, 1, 7)])
    with pytest.raises(ResourceExhausted):
        notarise(desk, "labelled", 7)

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"tenant": "labelled", **labels})

    assert value("afdp_notary_tenant_packages_total", outcome="receipt") == 1
    assert value("afdp_notary_tenant_packages_total", outcome="over_quota") == 1
    assert value("afdp_notary_tenant_bytes_total") == 7
