"""Public keys as PEM."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key


def spki_pem(spki: bytes) -> str:
    """A SubjectPublicKeyInfo (DER) as PEM text (RFC 7468, section 13).

    Raises:
        ValueError: it is none.
    """
    return load_der_public_key(spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
