"""Messages of RFC 5424, and frames of RFC 5425."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.audit.event import RecordedEvent
from afdp.audit.syslog import Originator, escaped, framed, syslog_message
from afdp.version import VERSION

SENDER = Originator("notary.example", "77")
EVENT = RecordedEvent(
    datetime(2026, 11, 24, 22, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=1))),
    "authorization",
    "allow",
    "GetEvidence",
    tenant="acme",
    request_id="req-1",
    sequence=42,
    uid="one",
)
# The grammar of section 6, as far as it holds for what is not free text.
GRAMMAR = re.compile(
    rb"<(?P<pri>(?:0|[1-9]\d{0,2}))>1 "
    rb"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) "
    rb"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) "
    rb"(?P<data>(?:\[[!#-<>-\\^-~]{1,32}(?: [!#-<>-\\^-~]{1,32}=\"(?:[^\"\\\]]|\\[\"\\\]])*\")*\])+) "
    rb"(?P<text>.*)",
    re.DOTALL,
)


def test_a_message_is_as_the_rfc_has_it() -> None:
    assert syslog_message(EVENT, b"{}", SENDER).decode() == (
        "<110>1 2026-11-24T21:30:00.250000Z notary.example afdp-notary 77 authorization "
        f'[origin software="afdp-notary" swVersion="{VERSION}"]'
        '[afdp@32473 uid="one" sequence="42" tenant="acme" rpc="GetEvidence" result="allow" requestId="req-1"] {}'
    )


@pytest.mark.parametrize(
    ("step", "result", "permission", "severity"),
    [
        ("authorization", "allow", "evidence.read", 6),
        ("authentication", "deny", "evidence.read", 5),
        ("limit", "deny", "evidence.read", 5),
        ("authorization", "deny", "evidence.read", 4),
        ("authentication", "error", "evidence.read", 3),
        ("authorization", "deny", "keys.admin", 3),
    ],
)
def test_a_message_matters_as_much_as_its_event(step: str, result: str, permission: str, severity: int) -> None:
    event = replace(EVENT, step=step, result=result, permission=permission, rpc="RotateKey", resource="evidence:a")

    message = syslog_message(event, b"", replace(SENDER, facility=10))

    assert message.startswith(b"<%d>1 " % (10 * 8 + severity))


@pytest.mark.parametrize(
    ("value", "told"),
    [('a"b', 'a\\"b'), ("a\\b", "a\\\\b"), ("a]b", "a\\]b"), ("[=é", "[=é"), ("a\nb\0", "a\ufffdb\ufffd")],
)
def test_a_value_of_structured_data_is_escaped(value: str, told: str) -> None:
    assert escaped(value) == told


texts = st.text(st.characters(codec="utf-8"))


@settings(deadline=None)
@given(step=texts, rpc=texts, tenant=texts, request_id=texts, host=texts, process=texts, body=st.binary())
def test_whatever_is_told_keeps_to_the_grammar(
    step: str, rpc: str, tenant: str, request_id: str, host: str, process: str, body: bytes
) -> None:
    event = replace(EVENT, step=step, rpc=rpc, tenant=tenant, request_id=request_id)

    found = GRAMMAR.fullmatch(syslog_message(event, body, Originator(host, process)))

    assert found is not None
    assert found["text"] == body
    assert f'rpc="{escaped(rpc)}"'.encode() in found["data"] or not rpc


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1), max_size=5))
def test_frames_are_taken_apart_by_their_lengths(messages: list[bytes]) -> None:
    stream = b"".join(map(framed, messages))

    found = []
    while stream:
        length, _, rest = stream.partition(b" ")
        found.append(rest[: int(length)])
        stream = rest[int(length) :]

    assert found == messages


def test_a_time_before_the_year_1000_has_four_digits_of_year() -> None:
    message = syslog_message(replace(EVENT, time=datetime(1, 1, 2, tzinfo=UTC)), b"", SENDER)

    assert GRAMMAR.fullmatch(message)
