from __future__ import annotations

import datetime
import os
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from afdp.errors import InvalidArgument
from afdp.formats.entry_request import EntryAlgorithm, EntryRequest
from afdp.verify.entry_request import verify_entry_request
from tests.local_entries import signed_digest

P256, P384 = EntryAlgorithm.ECDSA_P256_SHA256, EntryAlgorithm.ECDSA_P384_SHA384
CONTENT = "hashedRekordRequestV002.signature.content"
KEY = "hashedRekordRequestV002.signature.verifier.publicKey.rawBytes"
CERTIFICATE = "hashedRekordRequestV002.signature.verifier.x509Certificate.rawBytes"


def signed(algorithm: EntryAlgorithm = P256) -> EntryRequest:
    digest, signature, spki = signed_digest(algorithm)
    return EntryRequest(digest, signature, algorithm, spki)


def refusal(request: EntryRequest) -> tuple[str, str]:
    with pytest.raises(InvalidArgument) as refused:
        verify_entry_request(request)
    [fault] = refused.value.fields
    return fault.field, fault.message


@pytest.mark.parametrize("algorithm", EntryAlgorithm)
def test_a_signature_of_each_algorithm_holds_over_its_digest_and_no_other(algorithm: EntryAlgorithm) -> None:
    request = signed(algorithm)

    verify_entry_request(request)

    other = bytes([request.digest[0] ^ 1]) + request.digest[1:]
    assert refusal(replace(request, digest=other)) == (CONTENT, "is not a signature of this key over the digest")


@pytest.mark.parametrize("at", [0, 4, -1])
def test_a_flipped_bit_of_the_signature_is_found(at: int) -> None:
    request = signed()
    spoilt = bytearray(request.signature)
    spoilt[at] ^= 1

    assert refusal(replace(request, signature=bytes(spoilt)))[0] == CONTENT


def test_the_signature_of_another_key_does_not_hold() -> None:
    assert refusal(replace(signed(), verifier=signed().verifier))[0] == CONTENT


@pytest.mark.parametrize("cut", [1, 40, 90])
def test_a_truncated_key_is_no_key(cut: int) -> None:
    request = signed()

    assert refusal(replace(request, verifier=request.verifier[:-cut])) == (
        KEY,
        "must be a public key (SubjectPublicKeyInfo) in DER",
    )


def test_bytes_after_the_key_are_refused() -> None:
    request = signed()

    assert refusal(replace(request, verifier=request.verifier + b"\0"))[0] == KEY


def test_a_compressed_point_is_refused() -> None:
    request = signed()
    point = load_der_public_key(request.verifier)
    assert isinstance(point, ec.EllipticCurvePublicKey)
    raw = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + raw

    assert refusal(replace(request, verifier=compressed)) == (KEY, "must be in the usual form, a point uncompressed")


def test_a_key_that_is_not_for_the_algorithm_is_refused() -> None:
    ed = ed25519.Ed25519PrivateKey.generate().public_key()
    ed_spki = ed.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert refusal(replace(signed(P384), algorithm=P256)) == (KEY, f"must be a key for {P256}")
    assert refusal(replace(signed(), verifier=ed_spki)) == (KEY, f"must be a key for {P256}")
    by_rsa = signed(EntryAlgorithm.RSA_2048_SHA256)
    assert refusal(replace(by_rsa, algorithm=EntryAlgorithm.RSA_4096_SHA256))[0] == KEY
    assert refusal(replace(by_rsa, algorithm=P256))[0] == KEY


def test_a_key_with_a_huge_exponent_is_refused_before_it_is_used() -> None:
    request = signed(EntryAlgorithm.RSA_2048_SHA256)
    usual = load_der_public_key(request.verifier)
    assert isinstance(usual, rsa.RSAPublicKey)
    huge = rsa.RSAPublicNumbers(2**1999 + 1, usual.public_numbers().n).public_key()
    spki = huge.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert refusal(replace(request, verifier=spki)) == (KEY, f"must be a key for {EntryAlgorithm.RSA_2048_SHA256}")


def test_a_certificates_key_is_what_verifies() -> None:
    key, digest = ec.generate_private_key(ec.SECP256R1()), os.urandom(32)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(minutes=10))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    signature = key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    request = EntryRequest(digest, signature, P256, certificate, certified=True)

    verify_entry_request(request)

    assert refusal(replace(request, digest=bytes(32)))[0] == CONTENT
    assert refusal(replace(request, verifier=certificate[:-1])) == (CERTIFICATE, "must be a certificate in DER")
    of_version_9 = certificate.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020108"), 1)
    assert of_version_9 != certificate
    assert refusal(replace(request, verifier=of_version_9)) == (CERTIFICATE, "must be a certificate in DER")
