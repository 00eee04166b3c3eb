"""Points in time as proto3's JSON prints them: RFC 3339 in UTC with 0, 3 or 6 fractional digits.

>>> format_timestamp(datetime(2026, 11, 24, 4, 9, 28, 120_000, tzinfo=UTC))
'2026-11-24T04:09:28.120Z'
>>> parse_timestamp("2026-11-24T05:09:28.12+01:00")
datetime.datetime(2026, 11, 24, 4, 9, 28, 120000, tzinfo=datetime.timezone.utc)
"""

from __future__ import annotations

import re
from datetime import UTC, datetime


def format_timestamp(time: datetime) -> str:
    """The text of an aware datetime.

    Raises:
        ValueError: the datetime has no time zone.
    """
    if time.tzinfo is not UTC:
        if time.utcoffset() is None:
            raise ValueError("a point in time needs a time zone")
        time = time.astimezone(UTC)
    micros = time.microsecond
    precision = "microseconds" if micros % 1000 else "milliseconds" if micros else "seconds"
    return time.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def parse_timestamp(text: str) -> datetime:
    """The point in time, in UTC, of an RFC 3339 text; `Z` or any offset, up to 9 fractional digits.

    Raises:
        ValueError: it is not RFC 3339 (section 5.6), outside the years 1 to 9999, or finer than microseconds.
    """
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError("must be an RFC 3339 time such as 2026-11-24T04:09:28.123Z")
    seconds, fraction, offset = match.groups()
    if fraction and fraction[6:].strip("0"):
        raise ValueError("must not be finer than microseconds")
    try:
        time = datetime.fromisoformat(f"{seconds}.{(fraction or '0')[:6]:0<6}{'+00:00' if offset == 'Z' else offset}")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a time that exists, in the years 1 to 9999") from error


_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-5][0-9])"
)
