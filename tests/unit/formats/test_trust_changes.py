"""What may follow a trust root, and what takes something back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.repository import KeyRevocation
from afdp.formats.trust import EvidenceKey, Log, Revocation, TrustRoot
from afdp.formats.trust_changes import added, is_as_strict, stricter, taken_back, with_revocations
from tests.local_authority import OPENED, LocalAuthority
from tests.local_notary import LocalNotary

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST = replace(LocalNotary(key_id="signer:1").evidence_key, valid_from=START, tenants=("acme",))
SECOND = replace(LocalNotary(key_id="signer:2").evidence_key, valid_from=START + DAY)
LOG, OTHER_LOG = LocalNotary().log.log, replace(LocalNotary().log.log, origin="other.example")
CLOCK, OTHER_CLOCK = LocalAuthority().trusted, LocalAuthority("https://other.example/stamp").trusted
ROOT = TrustRoot((FIRST,), (LOG,), (CLOCK,))
COMPROMISED = Revocation(START + 9 * DAY, START + 5 * DAY, "stolen")


def lost(old: TrustRoot, new: TrustRoot, *distrusted: KeyRevocation) -> list[str]:
    return list(taken_back(old, new, distrusted))


def keyed(key: EvidenceKey) -> TrustRoot:
    return replace(ROOT, keys=(key,))


@pytest.mark.parametrize(
    "new",
    [
        ROOT,
        replace(ROOT, keys=(SECOND, FIRST)),
        replace(ROOT, logs=(LOG, OTHER_LOG)),
        replace(ROOT, timestamp_authorities=(OTHER_CLOCK, CLOCK)),
        replace(ROOT, timestamp_authorities=(replace(CLOCK, valid_until=OPENED + DAY),)),
        keyed(replace(FIRST, valid_until=START + DAY)),
        keyed(replace(FIRST, tenants=("initech", "acme"))),
        keyed(replace(FIRST, revoked=COMPROMISED)),
    ],
)
def test_a_trust_root_may_grow_end_and_grow_stricter(new: TrustRoot) -> None:
    assert lost(ROOT, new) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (keyed(SECOND), "the key signer:1"),
        (replace(ROOT, logs=(OTHER_LOG,)), "the log "),
        (replace(ROOT, logs=(replace(LOG, valid_from=START - DAY),)), "since when the log"),
        (replace(ROOT, timestamp_authorities=()), "a certificate of the authority"),
        (replace(ROOT, timestamp_authorities=(replace(CLOCK, uri="https://notary.example/"),)), "the address of"),
        (replace(ROOT, timestamp_authorities=(replace(CLOCK, valid_from=OPENED - DAY),)), "since when a certificate"),
        (keyed(replace(FIRST, key_id="signer:9")), "the name of the key signer:1"),
        (keyed(replace(FIRST, valid_from=START - DAY)), "since when the key signer:1"),
        (keyed(replace(FIRST, tenants=("initech",))), "tenants of the key signer:1"),
    ],
)
def test_what_is_taken_back_is_named(new: TrustRoot, words: str) -> None:
    [what] = lost(ROOT, new)

    assert what.startswith(words)


@pytest.mark.parametrize("end", [None, START + 3 * DAY])
def test_an_end_that_was_set_is_not_put_off(end: datetime | None) -> None:
    ended = keyed(replace(FIRST, valid_until=START + 2 * DAY))
    clock = replace(ROOT, timestamp_authorities=(replace(CLOCK, valid_until=OPENED + DAY),))

    assert lost(ended, keyed(replace(FIRST, valid_until=end))) == ["until when the key signer:1 was valid"]
    assert lost(clock, ROOT) == [f"until when a certificate of the authority {CLOCK.uri} was valid"]


@pytest.mark.parametrize(
    "weaker",
    [
        None,
        replace(COMPROMISED, compromised_since=None),
        replace(COMPROMISED, compromised_since=START + 6 * DAY),
        replace(COMPROMISED, at=START + 10 * DAY),
    ],
)
def test_a_revocation_is_never_made_weaker(weaker: Revocation | None) -> None:
    revoked = keyed(replace(FIRST, revoked=COMPROMISED))

    assert lost(revoked, keyed(replace(FIRST, revoked=weaker))) == ["the revocation of signer:1"]


@pytest.mark.parametrize(("since", "gone"), [(START, []), (START + DAY, ["the key signer:1"])])
def test_only_a_key_that_was_never_to_be_trusted_may_disappear(since: datetime, gone: list[str]) -> None:
    revocation = KeyRevocation("signer:1", FIRST.hint, Revocation(START + 9 * DAY, since, "never ours"))

    assert lost(ROOT, keyed(SECOND), revocation) == gone


moments = st.integers(0, 20).map(lambda day: START + day * DAY)
revocations = st.one_of(
    st.none(), st.builds(Revocation, at=moments, compromised_since=st.none() | moments, reason=st.just("because"))
)


@given(revocations, revocations)
@settings(max_examples=200)
def test_the_stricter_of_two_revocations_distrusts_what_either_does(
    one: Revocation | None, other: Revocation | None
) -> None:
    both = stricter(one, other)

    assert is_as_strict(both, one)
    assert is_as_strict(both, other)
    assert both is None or (both.at in {each.at for each in (one, other) if each})


KEYS = [LocalNotary(key_id=f"signer:{number}").evidence_key for number in (1, 1, 2, 3)]
LOGS = [LOG, OTHER_LOG, LocalNotary().log.log]


@st.composite
def roots(draw: st.DrawFn) -> TrustRoot:
    """Trust roots that share keys, logs and authorities, and disagree about them."""
    keys: dict[str, EvidenceKey] = {}
    for key in draw(st.lists(st.sampled_from(KEYS), unique_by=lambda key: key.hint)):
        keys.setdefault(
            key.key_id,
            replace(
                key,
                valid_from=draw(moments),
                valid_until=draw(st.none() | st.just(START + 30 * DAY) | st.just(START + 40 * DAY)),
                tenants=draw(st.sampled_from([("*",), ("acme",), ("acme", "initech")])),
                revoked=draw(revocations),
            ),
        )
    logs: dict[str, Log] = {}
    for log in draw(st.lists(st.sampled_from(LOGS), unique_by=lambda log: log.log_id)):
        logs.setdefault(log.origin, replace(log, valid_from=draw(moments)))
    clocks = draw(st.lists(st.sampled_from([CLOCK, OTHER_CLOCK]), unique_by=lambda each: each.certificates))
    ended = [replace(each, valid_until=draw(st.none() | st.just(OPENED + 9 * DAY))) for each in clocks]
    return TrustRoot(tuple(keys.values()), tuple(logs.values()), tuple(ended))


@given(roots(), roots())
@settings(max_examples=200, deadline=None)
def test_whatever_is_added_nothing_is_taken_back(old: TrustRoot, new: TrustRoot) -> None:
    both = added(old, new)

    assert lost(old, both) == []
    assert {key.key_id for key in both.keys} == {key.key_id for key in (*old.keys, *new.keys)}
    assert added(both, new) == both


def test_a_revocation_meets_its_key_under_whatever_name() -> None:
    revocation = KeyRevocation("signer:1", FIRST.hint, COMPROMISED)

    renamed = with_revocations(keyed(replace(FIRST, key_id="other:1")), [revocation])

    assert renamed.keys[0].revoked == COMPROMISED
