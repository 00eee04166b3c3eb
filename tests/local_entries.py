"""Entries that somebody signs who is not the notary: requests of Rekor v2's API."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.encoding import b64

ENTRIES = "/api/v2/log/entries"
P256 = "PKIX_ECDSA_P256_SHA_256"

_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    P256: (ec.SECP256R1(), hashes.SHA256()),
    "PKIX_ECDSA_P384_SHA_384": (ec.SECP384R1(), hashes.SHA384()),
    "PKIX_ECDSA_P521_SHA_512": (ec.SECP521R1(), hashes.SHA512()),
}


def signed_digest(key_details: str = P256) -> tuple[bytes, bytes, bytes]:
    """A digest, the signature over it, and the public key of a key that is fresh unless it is RSA; the key in DER."""
    if key_details in _CURVES:
        curve, hashed = _CURVES[key_details]
        private = ec.generate_private_key(curve)
        digest = os.urandom(hashed.digest_size)
        return digest, private.sign(digest, ec.ECDSA(Prehashed(hashed))), _spki(private.public_key())
    key = _rsa(int(key_details.split("_")[3]))
    digest = os.urandom(32)
    return digest, key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256())), _spki(key.public_key())


def request_of(digest: bytes, signature: bytes, spki: bytes, key_details: str = P256) -> dict[str, Any]:
    """The request for a hashedrekord 0.0.2."""
    verifier = {"publicKey": {"rawBytes": b64(spki)}, "keyDetails": key_details}
    return {
        "hashedRekordRequestV002": {
            "digest": b64(digest),
            "signature": {"content": b64(signature), "verifier": verifier},
        }
    }


def fresh_request(key_details: str = P256) -> dict[str, Any]:
    """A request that nobody has made before."""
    return request_of(*signed_digest(key_details), key_details)


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    """One for all: it takes a second to make."""
    return rsa.generate_private_key(65537, bits)


def _spki(key: Any) -> bytes:
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki
