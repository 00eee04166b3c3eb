"""Public keys as SubjectPublicKeyInfo (RFC 5480, RFC 8410), of the three kinds that are used here, in DER and PEM.

Each kind has one DER form: a fixed head, then the key's own bytes. Read so, a key has one spelling only, on which the
hint and the log entry depend, and a verifier starts without cryptography's reader for every format there is.
"""

from __future__ import annotations

import textwrap

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from afdp.formats.encoding import b64, from_b64
from afdp.formats.hashedrekord import SignatureAlgorithm

_ED25519_HEAD = bytes.fromhex("302a300506032b6570032100")
_EC: dict[SignatureAlgorithm, tuple[ec.EllipticCurve, bytes, int]] = {
    SignatureAlgorithm.ECDSA_P256_SHA256: (
        ec.SECP256R1(),
        bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
        65,
    ),
    SignatureAlgorithm.ECDSA_P384_SHA384: (
        ec.SECP384R1(),
        bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
        97,
    ),
}
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"


def load_ec(spki: bytes, algorithm: SignatureAlgorithm) -> ec.EllipticCurvePublicKey:
    """The key for an algorithm, its point uncompressed.

    Raises:
        ValueError: it is no such key, or the point is not on the curve.
    """
    curve, head, size = _EC[algorithm]
    point = spki.removeprefix(head)
    if len(point) != size or len(spki) != len(head) + size or point[0] != 4:
        raise ValueError(f"must be a key for {algorithm}: SubjectPublicKeyInfo, the point uncompressed")
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def load_ed25519(spki: bytes) -> bytes:
    """The raw Ed25519 key, 32 bytes.

    Raises:
        ValueError: it is no such key.
    """
    raw = spki.removeprefix(_ED25519_HEAD)
    if len(raw) != 32 or len(spki) != len(_ED25519_HEAD) + 32:
        raise ValueError("must be an Ed25519 key: SubjectPublicKeyInfo")
    Ed25519PublicKey.from_public_bytes(raw)
    return raw


def ed25519_spki(raw: bytes) -> bytes:
    """The DER form of a raw Ed25519 key, 32 bytes."""
    return _ED25519_HEAD + raw


def to_pem(spki: bytes) -> str:
    """The PEM form (RFC 7468)."""
    return "\n".join([_BEGIN, *textwrap.wrap(b64(spki), 64), _END, ""])


def from_pem(text: str) -> bytes:
    """The DER form of one public key in PEM, with nothing around it but white space.

    Raises:
        ValueError: it is anything else.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise ValueError("must be a PEM public key (SubjectPublicKeyInfo)")
    return from_b64("".join(lines[1:-1]))
