"""Audit events in the Common Event Format, read back by its rules."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.audit.cef import cef, escaped, escaped_header
from afdp.audit.event import RecordedEvent

EVENT = RecordedEvent(
    time=datetime(2026, 11, 24, 21, 30, 0, 250_000, tzinfo=UTC),
    step="authorization",
    result="deny",
    rpc="GetEvidence",
    permission="evidence.read",
    reason="outside of hours",
    issuer="https://issuer.example",
    subject="ci@acme",
    tenant="acme",
    method="oidc",
    resource="evidence:" + "ab" * 32,
    policies=("roles", "hours"),
    policy_hash="cd" * 32,
    address="192.0.2.7",
    request_id="req-1",
    sequence=42,
    uid="01936ae1-7c1e-7d00-8000-0123456789ab.3",
)
# Keys of the dictionary, with the length that it gives them; 0: a number or an address.
DICTIONARY = {
    **dict.fromkeys(("rt", "cnt", "src", "c6a2"), 0),
    "externalId": 40,
    "cat": 1023,
    "act": 63,
    "outcome": 63,
    "reason": 1023,
    "msg": 1023,
    "suser": 1023,
    **{f"cs{number}": 4000 for number in range(1, 7)},
    **{f"cs{number}Label": 1023 for number in range(1, 7)},
    "c6a2Label": 1023,
    "flexString1": 1023,
    "flexString2": 1023,
    "flexString1Label": 128,
    "flexString2Label": 128,
}


def read(line: bytes) -> tuple[list[str], dict[str, str]]:
    """Header and extension of a line, as a receiver takes them apart."""
    *header, extension = re.split(r"(?<!\\)(?:\\\\)*\|", line.decode(), maxsplit=7)
    keys = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", extension))
    ends = [each.start() for each in keys[1:]] + [len(extension)]
    values = {each[1]: extension[each.end() : end] for each, end in zip(keys, ends, strict=True)}
    return header, {key: unescaped(value) for key, value in values.items()}


def unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), value)


def test_an_event_is_told_by_keys_of_the_dictionary() -> None:
    header, facts = read(cef(EVENT))

    assert header[:3] == ["CEF:0", "AFDP", "Notary Service"]
    assert header[4:] == ["authorization.deny", "API Activity: Read, denied", "6"]
    assert facts == {
        "rt": "1795555800250",
        "externalId": "01936ae17c1e7d0080000123456789ab.3",
        "cat": "authorization",
        "act": "GetEvidence",
        "outcome": "failure",
        "reason": "outside of hours",
        "msg": "authorization: GetEvidence: refused: outside of hours",
        "cnt": "1",
        "suser": "ci@acme",
        "src": "192.0.2.7",
        "cs1Label": "tenant",
        "cs1": "acme",
        "cs2Label": "issuer",
        "cs2": "https://issuer.example",
        "cs3Label": "resource",
        "cs3": "evidence:" + "ab" * 32,
        "cs4Label": "policies",
        "cs4": "roles, hours",
        "cs5Label": "permission",
        "cs5": "evidence.read",
        "cs6Label": "policyHash",
        "cs6": "cd" * 32,
        "flexString1Label": "requestId",
        "flexString1": "req-1",
        "flexString2Label": "authMethod",
        "flexString2": "oidc",
    }


def test_an_ipv6_address_has_the_key_for_it() -> None:
    _, facts = read(cef(replace(EVENT, address="2001:db8::1")))

    assert (facts["c6a2"], facts["c6a2Label"]) == ("2001:db8::1", "Source IPv6 Address")
    assert "src" not in facts


@pytest.mark.parametrize(
    ("text", "header", "value"),
    [
        ("a|b", r"a\|b", "a|b"),
        ("a\\b", r"a\\b", r"a\\b"),
        ("a=b", "a=b", r"a\=b"),
        ("a\nb", "a b", r"a\nb"),
        ("a\r\nb", "a b", r"a\r\nb"),
        ("a\\nb", r"a\\nb", r"a\\nb"),
        ("a\x00\tb", "a  b", "a  b"),
        ("a\u2028b\x85c", "a b c", "a b c"),
    ],
)
def test_what_would_be_misread_is_escaped(text: str, header: str, value: str) -> None:
    assert escaped_header(text) == header
    assert escaped(text) == value


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]) | st.sampled_from("\n\r|\\= "))


@settings(deadline=None)
@given(reason=texts, subject=texts, tenant=texts, rpc=texts, step=texts)
def test_whatever_an_event_says_is_one_line_and_reads_back(
    reason: str, subject: str, tenant: str, rpc: str, step: str
) -> None:
    line = cef(replace(EVENT, reason=reason, subject=subject, tenant=tenant, rpc=rpc, step=step))

    assert len(line.splitlines()) == 1
    header, facts = read(line)
    assert len(header) == 7
    assert facts.get("reason", "") == reason[:1023]
    assert facts.get("suser", "") == subject[:1023]
    assert facts.get("cs1", "") == tenant[:4000]
    assert facts.get("act", "") == rpc[:63]
    assert facts.keys() <= DICTIONARY.keys()


def test_no_value_is_longer_than_the_dictionary_lets_it_be() -> None:
    names = ("rpc", "permission", "reason", "issuer", "subject", "tenant", "method", "resource", "request_id", "uid")

    _, facts = read(cef(replace(EVENT, policies=("p" * 5000,), **dict.fromkeys(names, "x" * 5000))))

    assert not {key for key, value in facts.items() if DICTIONARY[key] and len(value) > DICTIONARY[key]}
