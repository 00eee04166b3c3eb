from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.spki import ed25519_spki, from_pem, load_ec, load_ed25519, to_pem

P256, P384 = SignatureAlgorithm.ECDSA_P256_SHA256, SignatureAlgorithm.ECDSA_P384_SHA384
CURVES = {P256: ec.SECP256R1(), P384: ec.SECP384R1()}


def encoded(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey | rsa.RSAPrivateKey, encoding: Encoding) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("algorithm", SignatureAlgorithm)
def test_an_ec_key_is_read_as_cryptography_writes_it(algorithm: SignatureAlgorithm) -> None:
    key = ec.generate_private_key(CURVES[algorithm])

    loaded = load_ec(encoded(key, Encoding.DER), algorithm)

    assert loaded.public_numbers() == key.public_key().public_numbers()


def test_an_ed25519_key_is_read_and_written_as_cryptography_does() -> None:
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()

    assert load_ed25519(encoded(key, Encoding.DER)) == raw
    assert ed25519_spki(raw) == encoded(key, Encoding.DER)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()])
def test_pem_is_written_as_cryptography_does_and_read_back(
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey,
) -> None:
    spki, pem = encoded(key, Encoding.DER), encoded(key, Encoding.PEM).decode()

    assert to_pem(spki) == pem
    assert from_pem(pem) == spki
    assert from_pem("\n" + pem.replace("\n", "\r\n")) == spki


def test_a_key_of_another_kind_is_refused() -> None:
    p256 = encoded(ec.generate_private_key(ec.SECP256R1()), Encoding.DER)
    ed25519 = encoded(Ed25519PrivateKey.generate(), Encoding.DER)
    big = encoded(rsa.generate_private_key(65537, 2048), Encoding.DER)

    for spki in (ed25519, big, b"", p256 + b"\0", p256[:-1]):
        with pytest.raises(ValueError, match="must be a key for PKIX_ECDSA_P256"):
            load_ec(spki, P256)
    for spki in (p256, big, b"", ed25519 + b"\0", ed25519[12:]):
        with pytest.raises(ValueError, match="must be an Ed25519 key"):
            load_ed25519(spki)


def test_a_point_that_is_not_on_the_curve_is_refused() -> None:
    spki = bytearray(encoded(ec.generate_private_key(ec.SECP256R1()), Encoding.DER))
    spki[-1] ^= 0x01

    with pytest.raises(ValueError):
        load_ec(bytes(spki), P256)


@pytest.mark.parametrize("text", ["", "?", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"])
def test_what_is_not_one_pem_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a PEM public key"):
        from_pem(text)
