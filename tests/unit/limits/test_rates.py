"""GCRA: a steady pace and a burst, whatever the order of calls and however the clock begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdp.limits.failures import FailureLimit, network_of
from afdp.limits.rates import Bucket, Buckets, Rate

gaps = st.lists(st.floats(0, 3), min_size=1, max_size=200)


@given(gaps, st.floats(0.1, 50), st.integers(1, 30), st.floats(0, 1e6))
def test_no_stretch_of_time_has_more_than_the_burst_and_the_pace(
    gaps: list[float], per_second: float, burst: int, begin: float
) -> None:
    bucket, now, taken = Bucket(Rate(per_second, burst)), begin, []
    for gap in gaps:
        now += gap
        if bucket.left(now) >= 1:
            bucket.take(now)
            taken.append(now)
        else:
            assert bucket.wait(now) > 0
    for at, first in enumerate(taken):
        for count, last in enumerate(taken[at:], 1):
            assert count <= burst + (last - first) * per_second + 1e-3


@given(st.floats(0.1, 50), st.integers(1, 30), st.integers(1, 200))
def test_after_the_wait_that_is_told_there_is_room(per_second: float, burst: int, taken: int) -> None:
    bucket = Bucket(Rate(per_second, burst))
    bucket.take(10.0, taken)
    wait = bucket.wait(10.0)

    assert bucket.left(10.0 + wait + 1e-6) >= 1
    assert wait == 0 or bucket.left(10.0 + wait * 0.99 - 1e-3) < 1
    assert bucket.left(10.0 + bucket.full_in(10.0)) == burst


@pytest.mark.parametrize("text", ["", "5", "5/", "/5", "0/5", "5/0", "-1/5", "1e3/5", "5/5/5", "nan/1", "5 / 5"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RATE/BURST"):
        Rate.parse(text)


def test_strangers_are_remembered_up_to_a_bound_and_the_longest_unseen_are_forgotten() -> None:
    buckets = Buckets(Rate(1, 1), 3)
    for name in "abcad":
        buckets.of(name).take(0.0)

    assert buckets.known("b") is None
    assert all(buckets.known(name) is not None for name in "acd")


def test_an_address_that_fails_too_often_is_shut_out_and_who_was_good_there_is_not() -> None:
    limit = FailureLimit(Rate(1, 3))
    limit.succeeded("Bearer good")
    for _ in range(50):
        limit.failed("192.0.2.1", "Bearer bad", 0.0)

    assert limit.wait("192.0.2.1", "Bearer bad", 0.0) == pytest.approx(1.0)
    assert limit.wait("192.0.2.1", "Bearer good", 0.0) == 0
    assert limit.wait("192.0.2.2", "Bearer bad", 0.0) == 0
    assert limit.wait("192.0.2.1", "Bearer bad", 1.01) == 0
    limit.failed("192.0.2.2", "Bearer good", 0.0)  # it has expired
    assert limit.wait("192.0.2.1", "Bearer good", 0.0) > 0


def test_an_ipv6_host_has_one_count_for_all_its_addresses() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::2")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
