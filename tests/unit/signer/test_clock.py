"""When the clock is trusted, and what happens while it is not."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from afdp.errors import Unavailable
from afdp.signer.ntp import Synchronisation, system_synchronisation
from tests.local_clock import LocalTime


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"afdp_signer_clock_{name}", labels) or 0.0


def test_a_synchronised_clock_gives_the_time_and_its_bound() -> None:
    time = LocalTime(wall=1_795_493_368.25)
    clock = time.clock(max_offset=0.5)

    assert clock.now() == (datetime(2026, 11, 24, 4, 9, 28, 250_000, UTC), True)
    assert clock.max_offset == timedelta(seconds=0.5)
    assert metric("synchronised") == metric("trusted") == 1


BAD = [
    (Synchronisation(False, 0.0, 16.0), "not synchronised"),
    (Synchronisation(None), "does not say"),
    (Synchronisation(True, 0.0, 2.01), "off too far: by 2.010 s"),
    (Synchronisation(True, -1.2, 0.1), "off too far: by 1.200 s"),
]


@pytest.mark.parametrize(("system", "said"), BAD)
def test_a_strict_clock_refuses_what_the_system_does_not_vouch_for(system: Synchronisation, said: str) -> None:
    time = LocalTime()
    clock = time.clock()
    clock.now()

    time.system = system
    with pytest.raises(Unavailable, match=said):
        clock.now()
    assert metric("trusted") == 0
    assert metric("offset_seconds", by="system") == system.offset

    time.system = Synchronisation(True)
    assert clock.now()[1]


@pytest.mark.parametrize(("system", "said"), BAD)
def test_a_clock_that_only_flags_goes_on_and_says_so_once(
    system: Synchronisation, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "afdp.signer.clock"):
        clock = LocalTime(system=system).clock(strict=False)
        assert [clock.now()[1] for _ in range(3)] == [False] * 3

    [record] = caplog.records
    assert said in record.fields["reason"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [-3600.0, -2.0, 2.0, 86_400.0])
def test_a_clock_that_is_set_is_noticed_whichever_way(step: float, caplog: pytest.LogCaptureFixture) -> None:
    time = LocalTime()
    clock = time.clock(strict=False)
    before = metric("jumps_total")
    time.passes(60)
    clock.now()
    assert not clock.moved.is_set()

    time.wall += step
    clock.now()
    time.passes(60)
    clock.now()

    assert clock.moved.is_set()
    assert metric("jumps_total") == before + 1
    assert [each.fields["seconds"] for each in caplog.records if each.message == "the clock was set"] == [step]  # type: ignore[attr-defined]


def test_no_timestamp_is_given_before_the_last_one() -> None:
    time = LocalTime()
    clock = time.clock()
    clock.now()

    time.wall -= 30
    with pytest.raises(Unavailable, match="set back behind the last timestamp"):
        clock.now()
    time.passes(30)
    assert clock.now()[1]


@pytest.mark.parametrize("ahead", [-1.6, 1.6])
def test_a_clock_that_is_far_from_the_reference_is_refused_beyond_doubt_only(ahead: float) -> None:
    clock = LocalTime().clock()

    clock.compared(ahead, uncertainty=0.7)
    assert clock.now()[1]
    clock.compared(ahead, uncertainty=0.5)
    with pytest.raises(Unavailable, match=r"too far from the reference: 1\.600 s"):
        clock.now()
    assert metric("offset_seconds", by="reference") == ahead


def test_a_step_counts_against_the_last_comparison_at_once() -> None:
    time = LocalTime()
    clock = time.clock()
    clock.compared(0.2, uncertainty=0.1)

    time.wall += 5
    with pytest.raises(Unavailable, match=r"5\.200 s ahead of the reference"):
        clock.now()


async def test_operators_read_what_is_wrong_with_the_clock_and_what_follows() -> None:
    time = LocalTime()

    [good] = await time.clock().status()
    time.system = Synchronisation(False)
    [refuses] = await time.clock().status()
    [goes_on] = await time.clock(strict=False).status()

    assert (good.name, good.good) == ("clock", True)
    assert not refuses.good
    assert "timestamps are refused" in refuses.detail
    assert "chrony" in refuses.remedy
    assert "timestamps go on" in goes_on.detail


def test_the_systems_own_word_can_be_read() -> None:
    found = system_synchronisation()

    assert found.synchronised in (True, False)
    assert 0 <= found.max_error < 60
