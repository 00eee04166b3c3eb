"""Which timestamps hold, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.rfc3161 import Failure, Imprint, Info, read_granted, refusal_der
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import verify_stamp
from tests.local_authority import CLOSED, OPENED, POLICY, TIME_STAMPING, LocalAuthority

DATA = b"a signature"
TIME = datetime(2026, 11, 24, 4, 9, 28, 119_000, tzinfo=UTC)
AUTHORITY = LocalAuthority()
TRUSTED = (AUTHORITY.trusted,)
RESPONSE = AUTHORITY.stamp(DATA, TIME)


def refused(response: bytes, authorities: tuple[TimestampAuthority, ...] = TRUSTED, data: bytes = DATA) -> str:
    with pytest.raises(NotVerifiedError) as error:
        verify_stamp(response, data, authorities)
    return error.value.reason


def test_a_stamp_says_when_how_exactly_and_by_whom() -> None:
    stamp = verify_stamp(RESPONSE, DATA, [LocalAuthority().trusted, *TRUSTED])

    assert stamp.time == TIME
    assert stamp.accuracy == timedelta(seconds=1)
    assert stamp.authority == AUTHORITY.trusted


def test_what_certificates_a_token_brings_does_not_matter() -> None:
    response = AUTHORITY.stamp(DATA, TIME, with_certificates=True)

    assert verify_stamp(response, DATA, TRUSTED).time == TIME
    assert "does not know" in refused(response, (LocalAuthority().trusted,))


def test_the_certificates_of_a_token_stand_in_the_order_of_der() -> None:
    for authority in (LocalAuthority() for _ in range(8)):
        token = read_granted(authority.stamp(DATA, TIME, with_certificates=True))

        assert list(token.certificates) == sorted(authority.certificates)


def test_a_stamp_over_other_data_does_not_hold() -> None:
    assert "over other data" in refused(RESPONSE, data=b"another signature")


def test_a_stamp_of_an_unknown_authority_does_not_hold() -> None:
    assert "does not know" in refused(RESPONSE, ())
    assert "does not know" in refused(RESPONSE, (LocalAuthority(issuer=AUTHORITY.issuer).trusted,))


def test_a_stamp_does_not_hold_with_another_certificate_of_the_same_number() -> None:
    other = LocalAuthority(issuer=AUTHORITY.issuer)
    builder = x509.CertificateBuilder(
        AUTHORITY.issuer.certificate.subject,
        other.certificate.subject,
        other.certificate.public_key(),
        AUTHORITY.certificate.serial_number,
        OPENED,
        CLOSED,
    )
    other.certificate = builder.add_extension(TIME_STAMPING, True).sign(AUTHORITY.issuer.key, SHA384())

    assert "names another certificate" in refused(RESPONSE, (other.trusted,))


def test_a_changed_bit_anywhere_is_noticed() -> None:
    for bit in range(8 * len(RESPONSE)):
        changed = bytearray(RESPONSE)
        changed[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(changed)), bit


@pytest.mark.parametrize("size", [0, 1, 2, 50, -1])
def test_a_truncated_response_is_refused(size: int) -> None:
    assert "must be a time-stamp response" in refused(RESPONSE[:size])
    assert "must be a time-stamp response" in refused(RESPONSE + RESPONSE[:size] + b"\0")


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_what_is_no_response_is_refused_and_nothing_else_happens(data: bytes) -> None:
    assert refused(data)


def test_a_response_that_grants_nothing_is_refused() -> None:
    assert "grants a token" in refused(refusal_der(Failure.TIME_NOT_AVAILABLE, "no time"))


def test_a_stamp_over_another_hash_than_sha256_does_not_hold() -> None:
    response = AUTHORITY.respond(Info(POLICY, Imprint(sha256(DATA).digest(), "2.16.840.1.101.3.4.2.2"), 1, TIME))

    assert "over other data" in refused(response)


@pytest.mark.parametrize("time", [OPENED - timedelta(seconds=1), CLOSED + timedelta(seconds=1)])
def test_a_stamp_from_outside_its_certificates_validity_does_not_hold(time: datetime) -> None:
    trusted = replace(AUTHORITY.trusted, valid_from=OPENED - timedelta(days=1))

    assert "certificates were not valid" in refused(AUTHORITY.stamp(DATA, time), (trusted,))


def test_a_stamp_counts_only_in_its_authoritys_interval() -> None:
    before = replace(AUTHORITY.trusted, valid_until=TIME)
    after = replace(AUTHORITY.trusted, valid_from=TIME + timedelta(milliseconds=1))
    with_it = replace(AUTHORITY.trusted, valid_from=TIME, valid_until=TIME + timedelta(milliseconds=1))

    assert "do not count" in refused(RESPONSE, (before, after))
    assert verify_stamp(RESPONSE, DATA, (before, after, with_it)).authority == with_it


def test_a_signature_by_another_key_does_not_hold() -> None:
    forger = LocalAuthority(issuer=AUTHORITY.issuer)
    forger.certificate = AUTHORITY.certificate

    assert "signature does not hold" in refused(forger.stamp(DATA, TIME))
