"""Which chains an authority may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.certificates import from_pem, name_parts, read_certificate, read_chain, to_pem
from tests.local_authority import CLOSED, OPENED, TIME_STAMPING, Issuer, LocalAuthority

ROOT = Issuer("Root")
MIDDLE = Issuer("Middle", above=ROOT)
KEY = ec.generate_private_key(ec.SECP256R1())
DAY = timedelta(days=1)
Extensions = Sequence[tuple[x509.ExtensionType, bool]]


def chain_of(
    extensions: Extensions = ((TIME_STAMPING, True),), issuer: Issuer = ROOT, key: Any = None, **options: Any
) -> tuple[bytes, ...]:
    certificate = issuer.issue("Clock", (key or KEY).public_key(), *extensions, **options)
    return tuple(each.public_bytes(Encoding.DER) for each in (certificate, *issuer.chain))


def usage(**uses: bool) -> x509.KeyUsage:
    none = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    return x509.KeyUsage(**{**none, **uses})


def test_cryptography_reads_the_same_certificate() -> None:
    der = chain_of(issuer=MIDDLE)[0]

    ours, theirs = read_certificate(der), x509.load_der_x509_certificate(der)

    assert ours.subject == theirs.subject.public_bytes()
    assert ours.issuer == theirs.issuer.public_bytes()
    assert ours.serial == theirs.serial_number
    assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert ours.signed == theirs.tbs_certificate_bytes
    assert ours.fingerprint == theirs.fingerprint(SHA256())
    assert ours.key == theirs.public_key()
    assert name_parts(ours.subject) == {"organization": "AFDP tests", "commonName": "Clock"}


@pytest.mark.parametrize("issuer", [ROOT, MIDDLE, Issuer("Low", above=MIDDLE)])
def test_a_chain_of_any_length_holds(issuer: Issuer) -> None:
    chain = read_chain(chain_of(issuer=issuer))

    assert chain.authority.key == KEY.public_key()
    assert (chain.valid_from, chain.valid_until) == (OPENED, CLOSED)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_authorities_have_ecdsa_or_rsa_keys(key: Any) -> None:
    issuer = Issuer("Another root", key=key)

    assert read_chain(chain_of(key=key, issuer=issuer)).authority.key == key.public_key()


ACCEPTED: list[Extensions] = [
    [(TIME_STAMPING, True), (usage(digital_signature=True), True)],
    [(TIME_STAMPING, True), (usage(content_commitment=True), False)],
    [(TIME_STAMPING, True), (x509.BasicConstraints(False, None), True)],
    [(TIME_STAMPING, True), (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), False)],
]
REFUSED: list[tuple[Extensions, str]] = [
    ([], "critical extended key usage"),
    ([(TIME_STAMPING, False)], "critical extended key usage"),
    ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True)], "critical extended key usage"),
    (
        [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]), True)],
        "and no other",
    ),
    ([(TIME_STAMPING, True), (usage(key_cert_sign=True), True)], "may sign and may not issue"),
    ([(TIME_STAMPING, True), (x509.BasicConstraints(True, None), True)], "may sign and may not issue"),
    (
        [(TIME_STAMPING, True), (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True)],
        r"not understood, as 1\.2\.3 is not",
    ),
]


@pytest.mark.parametrize("extensions", ACCEPTED)
def test_an_authoritys_certificate_may_say_more(extensions: Extensions) -> None:
    assert read_chain(chain_of(extensions))


@pytest.mark.parametrize(("extensions", "said"), REFUSED)
def test_a_certificate_that_is_not_for_time_stamping_alone_is_refused(extensions: Extensions, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_chain(chain_of(extensions))


def unrelated_root() -> tuple[bytes, ...]:
    """The root has the right name, and another key."""
    return (*chain_of()[:1], Issuer("Root").certificate.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (lambda: chain_of()[:1], "its root last"),
        (lambda: (), "its root last"),
        (lambda: chain_of(issuer=MIDDLE)[:2], "the one of its issuer"),
        (lambda: (chain_of(issuer=MIDDLE)[0], *chain_of()[1:]), "the one of its issuer"),
        (unrelated_root, "a signature does not hold"),
        (lambda: (*chain_of(), *chain_of()[1:], *chain_of(issuer=MIDDLE)[1:2]), "the one of its issuer"),
        (lambda: chain_of(issuer=Issuer("Low", above=Issuer("Top", path_length=0))), "issuers that may issue"),
        (lambda: chain_of(issuer=LeafAsIssuer()), "issuers that may issue"),
        (
            lambda: chain_of(issuer=Issuer("Mail", extensions=((CODE_SIGNING, True),))),
            "may issue for time-stamping",
        ),
        (lambda: chain_of(opened=CLOSED + DAY, closed=CLOSED + 2 * DAY), "all valid at one time"),
        (lambda: chain_of(key=rsa.generate_private_key(65537, 1024)), "RSA of 2,048 bits or more"),
        (lambda: chain_of(key=ec.generate_private_key(ec.SECP256K1())), "P-256, P-384 and P-521|P-256, P-384 or P-521"),
        (lambda: chain_of(key=ed25519.Ed25519PrivateKey.generate()), "must be a key for RSA"),
        (lambda: (b"", b""), "must be a certificate in DER"),
        (lambda: (chain_of()[0] + b"\0", chain_of()[1]), "must be a certificate in DER"),
    ],
)
def test_a_chain_that_does_not_hold_is_refused(chain: Callable[[], tuple[bytes, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_chain(chain())


CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])


class LeafAsIssuer(Issuer):
    """A certificate that was never meant to issue, and does."""

    def __init__(self) -> None:
        self.common_name, self.key, self.above = "Leaf", ec.generate_private_key(ec.SECP256R1()), ROOT
        self.certificate = ROOT.issue("Leaf", self.key.public_key(), (x509.BasicConstraints(False, None), True))


def test_a_changed_bit_anywhere_in_a_certificate_is_noticed() -> None:
    certificate, root = chain_of()
    for bit in range(8 * len(certificate)):
        changed = bytearray(certificate)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            read_chain((bytes(changed), root))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_what_is_no_certificate_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_certificate(data)


def test_certificates_in_pem_read_back_with_words_between_them() -> None:
    chain = list(LocalAuthority().certificates)

    assert from_pem(to_pem(chain)) == chain
    assert from_pem("Our clock\n" + to_pem(chain[:1]) + "and its root\n" + to_pem(chain[1:])) == chain
    assert from_pem("") == []
    with pytest.raises(ValueError, match="whole certificates"):
        from_pem(to_pem(chain)[:-40])


def test_openssl_and_we_agree_on_dates_beyond_2050() -> None:
    closed = datetime(2099, 1, 1, tzinfo=OPENED.tzinfo)

    assert read_certificate(chain_of(closed=closed)[0]).not_after == closed
