"""Copies of records where nobody need be trusted: what was sealed comes back, and nothing else opens."""

from __future__ import annotations

from dataclasses import make_dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdp.messages.metadata import WorkflowType
from afdp.metadata.copies import Copies, FalseCopy, Name, _shape
from afdp.metadata.values import Draft, LogPosition, Principal, Record, Rekor1Entry, SearchTerms

SECRET = "a secret of the tests, long enough"
NOW, LATER = 1_900_000_000, 1_900_003_600
ID, OTHER_ID = UUID("01900000-0000-7000-8000-000000000001"), UUID("01900000-0000-7000-8000-000000000002")

TIMES = st.datetimes(timezones=st.just(UTC))
NUMBERS = st.integers(-(2**63), 2**63 - 1)
POSITIONS = st.builds(
    LogPosition,
    log_index=NUMBERS,
    tree_size=NUMBERS,
    rekor1=st.none() | st.builds(Rekor1Entry, log_index=NUMBERS, integrated_time=NUMBERS),
)
DRAFTS = st.builds(
    Draft,
    workflow_type=st.sampled_from(list(WorkflowType)),
    terms=st.builds(SearchTerms, timestamp_utc=TIMES),
    notarized_at=TIMES,
)
RECORDS = st.builds(
    Record,
    draft=DRAFTS,
    log=st.none() | POSITIONS,
    logged_at=st.none() | TIMES,
    more=st.lists(POSITIONS, max_size=2).map(tuple),
)


def record() -> Record:
    terms = SearchTerms("event", "service", "bot", datetime(2026, 11, 24, tzinfo=UTC), (bytes(32),))
    draft = Draft(
        receipt_id=ID,
        submitter=Principal("acme", "https://id.example.com", "ci", "oidc"),
        idempotency=None,
        workflow_type=WorkflowType.SIMPLE_SIGNING,
        batch_id=None,
        evidence=b"evidence",
        evidence_hash=bytes(32),
        terms=terms,
        statement=b"statement",
        signature=b"signature",
        key_id="key:1",
        leaf_hash=bytes(32),
        notarized_at=datetime(2026, 11, 24, 4, 9, 28, 123456, tzinfo=UTC),
    )
    return Record(draft, LogPosition("log", 4, 9, bytes(96), "note"), datetime(2026, 11, 24, 4, 9, 29, tzinfo=UTC))


@pytest.fixture(scope="module")
def copies() -> Copies:
    return Copies(SECRET)


@pytest.fixture(scope="module")
def name(copies: Copies) -> Name:
    return copies.name("acme", ID)


@given(record=RECORDS)
def test_whatever_a_record_holds_comes_back_as_it_was(copies: Copies, name: Name, record: Record) -> None:
    assert copies.open(name, copies.seal(name, record, LATER), NOW) == record


def test_a_copy_ends_whoever_puts_it_back_when(copies: Copies, name: Name) -> None:
    copy = copies.seal(name, record(), LATER)

    assert copies.open(name, copy, LATER - 1) == record()
    assert copies.open(name, copy, LATER) is None


@given(data=st.data())
def test_no_bit_of_a_copy_can_be_changed_and_nothing_added_or_left_out(
    copies: Copies, name: Name, data: st.DataObject
) -> None:
    copy = copies.seal(name, record(), LATER)
    bit = data.draw(st.integers(0, 8 * len(copy) - 1))
    flipped = bytearray(copy)
    flipped[bit // 8] ^= 1 << bit % 8

    for altered in (bytes(flipped), copy[: bit // 8], copy + b"\0"):
        with pytest.raises(FalseCopy):
            copies.open(name, altered, NOW)


@pytest.mark.parametrize(("tenant", "receipt_id"), [("acme", OTHER_ID), ("other", ID), ("acm", ID)])
def test_a_copy_that_was_moved_does_not_open(copies: Copies, name: Name, tenant: str, receipt_id: UUID) -> None:
    elsewhere = copies.name(tenant, receipt_id)

    with pytest.raises(FalseCopy):
        copies.open(elsewhere, copies.seal(name, record(), LATER), NOW)
    assert elsewhere.text != name.text


def test_under_another_secret_copies_have_other_names_and_do_not_open(copies: Copies, name: Name) -> None:
    other = Copies(SECRET + ".")

    assert other.name("acme", ID).text != name.text
    with pytest.raises(FalseCopy):
        other.open(name, copies.seal(name, record(), LATER), NOW)


def test_a_name_says_nobody_s_tenant_and_no_two_copies_are_alike(copies: Copies, name: Name) -> None:
    assert "acme" not in name.text
    assert copies.name("other", ID).text.split(":")[-1] == name.text.split(":")[-1] == str(ID)
    one, two = (copies.seal(name, record(), LATER) for _ in range(2))
    assert one != two
    assert b"evidence" not in one


def test_a_release_that_knows_more_of_a_record_has_copies_of_its_own() -> None:
    inner = make_dataclass("Inner", [("a", int)], frozen=True)
    wider = make_dataclass("Inner", [("a", int), ("b", str)], frozen=True)
    outer = make_dataclass("Outer", [("inner", inner), ("more", tuple[inner, ...])])  # type: ignore[valid-type]
    same = make_dataclass("Outer", [("inner", inner), ("more", tuple[inner, ...])])  # type: ignore[valid-type]
    other = make_dataclass("Outer", [("inner", inner), ("more", tuple[wider, ...])])  # type: ignore[valid-type]

    assert _shape(outer) == _shape(same)
    assert _shape(outer) != _shape(other)
