from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.timestamps import format_timestamp, parse_timestamp

TIMES = st.datetimes(timezones=st.just(UTC))


@settings(max_examples=150, deadline=None)
@given(st.one_of(TIMES, TIMES.map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000))))
def test_a_time_prints_as_protobuf_prints_it_and_comes_back(time: datetime) -> None:
    message = Timestamp()
    message.FromDatetime(time)

    assert format_timestamp(time) == message.ToJsonString()
    assert parse_timestamp(format_timestamp(time)) == time


def test_fractions_have_no_three_or_six_digits() -> None:
    time = datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC)

    assert format_timestamp(time) == "2026-11-24T04:09:28Z"
    assert format_timestamp(time.replace(microsecond=120_000)) == "2026-11-24T04:09:28.120Z"
    assert format_timestamp(time.replace(microsecond=1)) == "2026-11-24T04:09:28.000001Z"


def test_another_time_zone_prints_as_utc() -> None:
    east = timezone(timedelta(hours=2))

    assert format_timestamp(datetime(2026, 1, 1, 1, tzinfo=east)) == "2025-12-31T23:00:00Z"
    with pytest.raises(ValueError, match="time zone"):
        format_timestamp(datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T04:09:28Z", "2026-11-24T04:09:28Z"),
        ("2026-11-24T04:09:28.1Z", "2026-11-24T04:09:28.100Z"),
        ("2026-11-24T04:09:28.123456000Z", "2026-11-24T04:09:28.123456Z"),
        ("2026-11-24T04:09:28+05:30", "2026-11-23T22:39:28Z"),
        ("2026-11-24T04:09:28-00:00", "2026-11-24T04:09:28Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
    ],
)
def test_rfc_3339_is_read(text: str, expected: str) -> None:
    assert format_timestamp(parse_timestamp(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T04:09:28",
        "2026-11-24 04:09:28Z",
        "2026-11-24t04:09:28z",
        "2026-11-24T04:09Z",
        "2026-11-24T04:09:28.Z",
        "2026-11-24T04:09:28,5Z",
        "2026-11-24T04:09:28.0000000001Z",
        "2026-11-24T04:09:28.1234567Z",
        "2026-11-24T04:09:28.000000001Z",
        "2026-11-24T04:09:60Z",
        "2026-11-24T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-24T04:09:28+0530",
        "2026-11-24T04:09:28+24:00",
        "2026-11-24T04:09:28+05:60",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
        "2026-W48-2T00:00:00Z",
        "٢٠٢٦-11-24T04:09:28Z",
        "2026-11-24T04:09:28Z\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_timestamp(text)
