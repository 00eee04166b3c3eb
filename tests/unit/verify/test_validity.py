"""When a key's signature counts: its interval, its retirement, and the worst day, each branch on a whole receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afdp.formats.note import Note, NoteSignature, SignatureType, VerifierKey, cosignature_message, format_cosignature
from afdp.formats.receipt import Receipt
from afdp.formats.trust import Revocation, TrustRoot
from afdp.verify.policy import DEFAULT_POLICY, Policy
from afdp.verify.receipts import verify_receipt
from afdp.verify.result import Check, Status
from tests.local_authority import LocalAuthority
from tests.local_notary import STAMPED_AT, LocalNotary

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
LATER = STAMPED_AT + 30 * DAY
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS_KEY = VerifierKey("witness.example", WITNESS.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)
NAMES_WITNESS = Policy(witnesses=(WITNESS_KEY,))
THEIRS = LocalAuthority("https://tsa.example/tsr")


@pytest.fixture(scope="module")
def notary() -> LocalNotary:
    return LocalNotary()


@pytest.fixture(scope="module")
def receipt(notary: LocalNotary) -> Receipt:
    return notary.notarise()


def knowing_theirs(trust: TrustRoot) -> TrustRoot:
    return replace(trust, timestamp_authorities=(*trust.timestamp_authorities, THEIRS.trusted))


def compromised(notary: LocalNotary, since: datetime, **key: Any) -> TrustRoot:
    return knowing_theirs(notary.trusting(revoked=Revocation(LATER, since, "laptop lost"), **key))


def key_check(receipt: Receipt, trust: TrustRoot, policy: Policy = DEFAULT_POLICY) -> Check:
    result = verify_receipt(receipt, trust, policy, now=LATER)
    [check] = [check for check in result.checks if check.name == "key"]
    assert result.verified is (check.status is Status.PASSED), result.failures()
    return check


def passes(receipt: Receipt, trust: TrustRoot, policy: Policy = DEFAULT_POLICY) -> bool:
    return key_check(receipt, trust, policy).status is Status.PASSED


# --- what may be told of a receipt


def cosigned(receipt: Receipt, time: datetime, key: Ed25519PrivateKey = WITNESS) -> Receipt:
    entry = receipt.bundle.entry
    assert entry is not None
    note, seconds = Note.parse(entry.checkpoint), int(time.timestamp())
    signature = format_cosignature(seconds, key.sign(cosignature_message(seconds, note.text)))
    note = note.with_signatures([NoteSignature.by(WITNESS_KEY, signature)])
    return replace(receipt, bundle=replace(receipt.bundle, entry=replace(entry, checkpoint=str(note))))


def stamped_by_them(receipt: Receipt, time: datetime) -> Receipt:
    stamps = (*receipt.bundle.timestamps, THEIRS.stamp(receipt.signature, time))
    return replace(receipt, bundle=replace(receipt.bundle, timestamps=stamps))


def anchored(notary: LocalNotary, receipt: Receipt, time: datetime, by: LocalAuthority = THEIRS) -> Receipt:
    return replace(receipt, anchors=(notary.anchor(receipt, by, time),))


# --- the interval


@pytest.mark.parametrize(
    ("valid_until", "passes_"),
    [(STAMPED_AT - DAY, False), (STAMPED_AT, False), (STAMPED_AT + timedelta(milliseconds=1), True), (LATER, True)],
)
def test_what_was_stamped_before_the_keys_validity_ended_verifies_for_ever(
    valid_until: datetime, passes_: bool, notary: LocalNotary, receipt: Receipt
) -> None:
    assert passes(receipt, notary.trusting(valid_until=valid_until)) is passes_


def test_what_was_stamped_after_the_keys_validity_ended_says_both_times(notary: LocalNotary, receipt: Receipt) -> None:
    check = key_check(receipt, notary.trusting(valid_until=datetime(2026, 11, 20, tzinfo=UTC)))

    assert check.detail == (
        "afdp-notary-key:3 was valid until 2026-11-20T00:00:00Z, and what it signed is known only since "
        "2026-11-24T04:09:28.253Z"
    )


def test_what_was_stamped_before_the_key_was_there_is_refused(notary: LocalNotary, receipt: Receipt) -> None:
    check = key_check(receipt, notary.trusting(valid_from=STAMPED_AT + 2 * SECOND))

    assert check.status is Status.FAILED
    assert (
        "is valid only since 2026-11-24T04:09:30.253Z, and the timestamp is of 2026-11-24T04:09:28.253Z" in check.detail
    )


def test_a_key_may_be_newer_than_the_timestamp_by_its_accuracy(notary: LocalNotary, receipt: Receipt) -> None:
    assert passes(receipt, notary.trusting(valid_from=STAMPED_AT + SECOND))


def test_the_end_of_a_keys_validity_does_not_matter_where_somebody_else_saw_the_entry_before(
    notary: LocalNotary,
) -> None:
    unstamped = notary.notarise(stamped_at=None)
    trust = knowing_theirs(notary.trusting(valid_until=LATER))

    assert not passes(unstamped, trust)
    assert passes(anchored(notary, unstamped, LATER - DAY), trust)
    assert not passes(anchored(notary, unstamped, LATER), trust)
    assert passes(cosigned(unstamped, LATER - DAY), trust, NAMES_WITNESS)
    assert not passes(cosigned(unstamped, LATER + SECOND), trust, NAMES_WITNESS)


# --- retired


@pytest.mark.parametrize(("at", "passes_"), [(STAMPED_AT, False), (STAMPED_AT + timedelta(milliseconds=1), True)])
def test_what_was_stamped_before_the_key_was_retired_verifies(
    at: datetime, passes_: bool, notary: LocalNotary, receipt: Receipt
) -> None:
    check = key_check(receipt, notary.trusting(revoked=Revocation(at, None, "the law asks for larger ones")))

    assert (check.status is Status.PASSED) is passes_
    assert ("the law asks for larger ones" in check.advice) is not passes_
    if passes_:
        assert check.detail == (
            "valid since 2026-11-01, revoked at 2026-11-24T04:09:28.254Z, after it signed, tenant acme"
        )


def test_a_retired_key_may_have_an_end_too(notary: LocalNotary, receipt: Receipt) -> None:
    retired = Revocation(LATER, None, "retired")

    assert passes(receipt, notary.trusting(revoked=retired, valid_until=LATER))
    assert not passes(receipt, notary.trusting(revoked=retired, valid_until=STAMPED_AT))


# --- compromised


def test_the_notarys_own_timestamp_does_not_help_a_key_that_was_compromised_later(
    notary: LocalNotary, receipt: Receipt
) -> None:
    check = key_check(receipt, compromised(notary, LATER - DAY))

    assert check.status is Status.FAILED
    assert "compromised since 2026-12-23T04:09:28.253Z" in check.detail
    assert "nobody outside of the notary proves that it signed before: there is no word" in check.detail
    assert "laptop lost" in check.advice
    assert "get the receipt anew" in check.advice


def test_nothing_helps_where_there_is_nothing(notary: LocalNotary) -> None:
    assert not passes(notary.notarise(stamped_at=None), compromised(notary, LATER - DAY))
    assert not passes(notary.notarise(stamped_at=None), compromised(notary, LATER - DAY), NAMES_WITNESS)


TOLD: dict[str, Callable[[LocalNotary, Receipt, datetime], Receipt]] = {
    "a witness": lambda notary, receipt, time: cosigned(receipt, time),
    "an authority, on the receipt": lambda notary, receipt, time: stamped_by_them(receipt, time),
    "an authority, on a checkpoint": anchored,
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD.keys())
def test_the_word_of_somebody_else_from_before_the_compromise_counts_and_one_from_after_does_not(
    told: Callable[[LocalNotary, Receipt, datetime], Receipt], notary: LocalNotary, receipt: Receipt
) -> None:
    since = STAMPED_AT.replace(microsecond=0) + 10 * DAY
    trust = compromised(notary, since)

    assert passes(told(notary, receipt, since - 2 * SECOND), trust, NAMES_WITNESS)
    assert not passes(told(notary, receipt, since), trust, NAMES_WITNESS)
    assert not passes(told(notary, receipt, since + DAY), trust, NAMES_WITNESS)


@pytest.mark.parametrize("told", list(TOLD.values())[1:], ids=list(TOLD)[1:])
def test_a_time_that_may_be_off_to_after_the_compromise_is_not_before_it(
    told: Callable[[LocalNotary, Receipt, datetime], Receipt], notary: LocalNotary, receipt: Receipt
) -> None:
    since = STAMPED_AT + 10 * DAY

    assert not passes(told(notary, receipt, since - SECOND), compromised(notary, since))


def test_who_proves_it_is_said(notary: LocalNotary, receipt: Receipt) -> None:
    check = key_check(anchored(notary, receipt, STAMPED_AT + DAY), compromised(notary, LATER - DAY))

    assert check.detail == (
        "valid since 2026-11-01, compromised since 2026-12-23T04:09:28.253Z; Clock proves that it signed before, "
        "tenant acme"
    )


def test_the_earliest_word_is_said_where_it_is_too_late(notary: LocalNotary, receipt: Receipt) -> None:
    check = key_check(anchored(notary, receipt, LATER - DAY), compromised(notary, STAMPED_AT + DAY))

    assert "the earliest word is that of Clock, 2026-12-23T04:09:29.253Z" in check.detail


def test_of_two_words_the_earlier_one_counts(notary: LocalNotary, receipt: Receipt) -> None:
    late = anchored(notary, receipt, LATER)
    both = replace(late, anchors=(*late.anchors, notary.anchor(receipt, THEIRS, STAMPED_AT + DAY)))

    assert passes(both, compromised(notary, LATER - DAY))


def test_an_anchor_stamped_by_the_notarys_own_authority_does_not_count(notary: LocalNotary, receipt: Receipt) -> None:
    own = anchored(notary, receipt, STAMPED_AT + DAY, by=notary.authority)

    assert not passes(own, compromised(notary, LATER - DAY))
    assert verify_receipt(own, notary.trust).status("anchors") is Status.ABSENT


def test_an_authority_whose_host_is_the_origin_of_the_log_is_the_notarys_own(
    notary: LocalNotary, receipt: Receipt
) -> None:
    disguised = replace(THEIRS.trusted, uri="https://NOTARY.localhost:8443/elsewhere")
    trust = replace(compromised(notary, LATER - DAY), timestamp_authorities=(notary.authority.trusted, disguised))

    assert not passes(stamped_by_them(receipt, STAMPED_AT + DAY), trust)


def test_a_witness_that_the_policy_does_not_name_does_not_count(notary: LocalNotary, receipt: Receipt) -> None:
    assert not passes(cosigned(receipt, STAMPED_AT + DAY), compromised(notary, LATER - DAY))


def test_a_key_that_had_ended_before_it_was_stamped_does_not_count_whatever_a_witness_says(
    notary: LocalNotary, receipt: Receipt
) -> None:
    witnessed = cosigned(receipt, STAMPED_AT + DAY)

    assert passes(witnessed, compromised(notary, LATER - DAY, valid_until=LATER), NAMES_WITNESS)
    assert not passes(witnessed, compromised(notary, LATER - DAY, valid_until=STAMPED_AT), NAMES_WITNESS)


def test_a_witness_of_a_checkpoint_that_the_entry_is_not_in_does_not_count(
    notary: LocalNotary, receipt: Receipt
) -> None:
    witnessed = cosigned(receipt, STAMPED_AT + DAY)
    entry = witnessed.bundle.entry
    assert entry is not None
    elsewhere = replace(entry, hashes=(bytes(32), *entry.hashes[1:]))
    result = verify_receipt(
        replace(witnessed, bundle=replace(witnessed.bundle, entry=elsewhere)),
        compromised(notary, LATER - DAY),
        NAMES_WITNESS,
        now=LATER,
    )

    assert result.status("key") is Status.FAILED
    assert result.status("log") is Status.FAILED


# --- the notary's own authority, revoked


def with_own_authority_revoked(notary: LocalNotary, since: datetime) -> TrustRoot:
    own = replace(notary.authority.trusted, valid_until=since)
    return replace(notary.trust, timestamp_authorities=(own, THEIRS.trusted))


def test_a_timestamp_from_before_its_authority_was_revoked_counts(notary: LocalNotary, receipt: Receipt) -> None:
    assert verify_receipt(receipt, with_own_authority_revoked(notary, STAMPED_AT + SECOND)).verified


def test_a_timestamp_from_after_its_authority_was_revoked_is_refused_unless_somebody_else_has_seen_it(
    notary: LocalNotary, receipt: Receipt
) -> None:
    trust = with_own_authority_revoked(notary, STAMPED_AT)
    alone = verify_receipt(receipt, trust)
    seen = verify_receipt(anchored(notary, receipt, STAMPED_AT + DAY), trust)

    assert not alone.verified
    assert (alone.status("time"), alone.status("key")) == (Status.FAILED, Status.ABSENT)
    assert seen.verified
    [time] = [check for check in seen.checks if check.name == "time"]
    assert time.status is Status.ABSENT
    assert time.detail == (
        "the timestamp is of 2026-11-24T04:09:28.253Z, when the authority's stamps do not count; Clock saw it at "
        "2026-11-25T04:09:29.253Z at the latest"
    )
    asked = verify_receipt(anchored(notary, receipt, STAMPED_AT + DAY), trust, Policy(require_timestamp=True))
    assert asked.status("time") is Status.FAILED


def test_what_somebody_else_has_seen_must_have_been_in_time_for_the_key(notary: LocalNotary, receipt: Receipt) -> None:
    trust = replace(
        with_own_authority_revoked(notary, STAMPED_AT), keys=notary.trusting(valid_until=STAMPED_AT + 2 * DAY).keys
    )

    assert verify_receipt(anchored(notary, receipt, STAMPED_AT + DAY), trust).verified
    assert not verify_receipt(anchored(notary, receipt, STAMPED_AT + 3 * DAY), trust).verified


# --- anchors by themselves


def anchor_check(receipt: Receipt, trust: TrustRoot, policy: Policy = DEFAULT_POLICY) -> Check:
    result = verify_receipt(receipt, trust, policy, now=LATER)
    [check] = [check for check in result.checks if check.name == "anchors"]
    assert result.verified is (check.status is not Status.FAILED), result.failures()
    return check


def test_an_anchor_says_who_stamped_which_tree_when(notary: LocalNotary, receipt: Receipt) -> None:
    check = anchor_check(anchored(notary, receipt, STAMPED_AT + DAY), knowing_theirs(notary.trust))

    assert check.status is Status.PASSED
    assert check.detail == f"2026-11-25T04:09:28Z by Clock, ±1 s, in a tree of {len(notary.log.entries)}"


def test_an_anchor_of_an_authority_that_is_not_known_is_absent(notary: LocalNotary, receipt: Receipt) -> None:
    check = anchor_check(anchored(notary, receipt, STAMPED_AT + DAY), notary.trust)

    assert check.status is Status.ABSENT
    assert "no authority outside of the notary that the trust root knows" in check.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"log_index": 0},
        {"tree_size": 3},
        {"hashes": ()},
        {"hashes": (bytes(32),) * 3},
        {"checkpoint": "notary.localhost\n7\n"},
        {"timestamp": b"a TimeStampResp"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_anchor_in_which_anything_was_changed_is_refused(
    changes: dict[str, Any], notary: LocalNotary, receipt: Receipt
) -> None:
    good = anchored(notary, receipt, STAMPED_AT + DAY)
    bad = replace(good, anchors=(replace(good.anchors[0], **changes),))

    assert anchor_check(bad, knowing_theirs(notary.trust)).status is Status.FAILED
    assert not passes(bad, compromised(notary, LATER - DAY))


def test_an_anchor_of_another_checkpoint_than_was_stamped_is_refused(notary: LocalNotary) -> None:
    receipt = notary.notarise()
    before = notary.anchor(receipt, THEIRS, STAMPED_AT + DAY)
    notary.log.append([b"later"])
    after = replace(notary.anchor(receipt, THEIRS, LATER), timestamp=before.timestamp)

    assert anchor_check(replace(receipt, anchors=(before,)), knowing_theirs(notary.trust)).status is Status.PASSED
    assert "over other data" in anchor_check(replace(receipt, anchors=(after,)), knowing_theirs(notary.trust)).detail


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD.keys())
def test_a_policy_that_asks_for_an_independent_time_takes_any_of_them(
    told: Callable[[LocalNotary, Receipt, datetime], Receipt], notary: LocalNotary, receipt: Receipt
) -> None:
    policy = replace(NAMES_WITNESS, require_independent_time=True)
    trust = knowing_theirs(notary.trust)

    assert anchor_check(receipt, trust, policy).status is Status.FAILED
    assert anchor_check(told(notary, receipt, STAMPED_AT + DAY), trust, policy).status is not Status.FAILED


def test_an_anchor_of_what_is_in_no_log_does_not_satisfy_a_policy(notary: LocalNotary, receipt: Receipt) -> None:
    unlogged = replace(notary.notarise(logged=False), anchors=(notary.anchor(receipt, THEIRS, STAMPED_AT + DAY),))
    policy = Policy(require_log=False, require_independent_time=True)

    assert anchor_check(unlogged, knowing_theirs(notary.trust), Policy(require_log=False)).status is Status.ABSENT
    assert anchor_check(unlogged, knowing_theirs(notary.trust), policy).status is Status.FAILED
