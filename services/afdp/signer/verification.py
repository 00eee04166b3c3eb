"""The last look at a signature before it leaves."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256, sha384

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from prometheus_client import Counter

from afdp.errors import Internal
from afdp.signer.keys import P256, P384

# What each algorithm signs, and how a signature over it is verified.
DIGESTS = {P256: sha256, P384: sha384}
_PREHASHED = {"secp256r1": ECDSA(Prehashed(SHA256())), "secp384r1": ECDSA(Prehashed(SHA384()))}
_load = lru_cache(maxsize=256)(load_der_public_key)
_failures = Counter("afdp_signer_bad_signatures", "Signatures of a keyring that did not verify; stays zero.")


def require_ecdsa(spki: bytes, signature: bytes, digest: bytes) -> None:
    """Verifies an ECDSA signature (DER) over the digest that its curve goes with: SHA-256 for P-256, SHA-384 for P-384.

    Raises:
        Internal: it does not verify.
    """
    if not verifies_ecdsa(spki, signature, digest):
        raise _bad()


def verifies_ecdsa(spki: bytes, signature: bytes, digest: bytes) -> bool:
    """Whether an ECDSA signature (DER) holds over the digest that its curve goes with."""
    key = _load(spki)
    try:
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, digest, _PREHASHED[key.curve.name])
            return True
    except (InvalidSignature, KeyError, ValueError):
        pass
    return False


def require_ed25519(spki: bytes, signature: bytes, message: bytes) -> bytes:
    """Verifies an Ed25519 signature over a message; gives the raw public key, 32 bytes.

    Raises:
        Internal: it does not verify.
    """
    key = _load(spki)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
            return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    except InvalidSignature:
        pass
    raise _bad()


def _bad() -> Internal:
    _failures.inc()
    return Internal("the key's signature did not verify and was not released")
