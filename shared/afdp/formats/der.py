"""What the ASN.1 formats share: strict DER in declared classes (`cryptography.hazmat.asn1`), algorithms, signatures.

`cryptography.x509` is left alone on purpose: importing it would cost a lone `afdp verify` a quarter of its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256, sha384, sha512
from typing import TYPE_CHECKING, Annotated, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.spki import load_ec

if TYPE_CHECKING:
    from cryptography.x509 import ObjectIdentifier as ObjectIdentifier
else:  # the class itself, without the package that exports it
    ObjectIdentifier = type(ec.EllipticCurveOID.SECP256R1)

SHA1 = "1.3.14.3.2.26"
SHA256, SHA384, SHA512 = "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.3"
# The hashes that a timestamp may rest on.
HASHES = {SHA256: sha256, SHA384: sha384, SHA512: sha512}
ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512 = "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3", "1.2.840.10045.4.3.4"

PublicKey = ec.EllipticCurvePublicKey | RSAPublicKey
_Read = TypeVar("_Read")


@asn1.sequence
class Algorithm:
    """AlgorithmIdentifier (RFC 5280, 4.1.1.2) of an algorithm whose parameters are absent or NULL."""

    oid: ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class Extension:
    """Extension (RFC 5280, 4.1)."""

    oid: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


def read_der(kind: type[_Read], der: bytes, name: str) -> _Read:
    """DER as a declared class.

    Raises:
        ValueError: it is anything else; `name` says what it should be.
    """
    try:
        return asn1.decode_der(kind, der)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"must be a {name} in DER: {error}") from error


def parsed(value: asn1.TLV, kind: type[_Read], name: str) -> _Read:
    """A value that was read as any, as a declared class.

    Raises:
        ValueError: it is anything else; `name` says what it should be.
    """
    try:
        found: _Read = value.parse(kind)
        return found
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"must be a {name} in DER: {error}") from error


def sequence_of(content: bytes) -> bytes:
    """A SEQUENCE around encoded values."""
    size = len(content)
    if size < 0x80:
        return bytes((0x30, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x30, 0x80 | len(length))) + length + content


def signature_algorithm(algorithm: Algorithm) -> str:
    """The OID of a signature algorithm.

    Raises:
        ValueError: it is ECDSA with parameters (RFC 5758, 3.2).
    """
    oid = algorithm.oid.dotted_string
    if oid in _ECDSA and algorithm.parameters is not None:
        raise ValueError("must have a signature algorithm without parameters, as it is ECDSA")
    return oid


def load_public_key(spki: bytes) -> PublicKey:
    """An RSA or EC public key from its SubjectPublicKeyInfo.

    Raises:
        ValueError: it is neither, RSA of less than 2,048 bits, or of another curve than P-256, P-384 and P-521.
    """
    for each in SignatureAlgorithm:
        try:
            return load_ec(spki, each)
        except ValueError:
            continue
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # starts slowly, and is rarely needed

    try:
        key = load_der_public_key(spki)
    except UnsupportedAlgorithm as error:
        raise ValueError(_KEY_RULE) from error
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        return key
    raise ValueError(_KEY_RULE)


_KEY_RULE = "must be a key for RSA of 2,048 bits or more, or for ECDSA on P-256, P-384 or P-521"


def verifies(key: PublicKey, algorithm: str, signature: bytes, data: bytes, *, digest: str = "") -> bool:
    """Whether a signature is the key's over these bytes.

    `algorithm` is the OID of the signature's, `digest` that of the hash where the former names none.
    """
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(signature, data, PKCS1v15(), _RSA_HASHES.get(algorithm) or _hash_beside(algorithm, digest))
        else:
            key.verify(signature, data, _ECDSA[algorithm])
    except (InvalidSignature, KeyError):
        return False
    return True


def _hash_beside(oid: str, digest: str) -> hashes.HashAlgorithm:
    """RFC 8017, A.1: `rsaEncryption` says nothing of the hash."""
    if oid != "1.2.840.113549.1.1.1":
        raise KeyError(oid)
    return _HASH_ALGORITHMS[digest]


_HASH_ALGORITHMS: Mapping[str, hashes.HashAlgorithm] = {
    SHA256: hashes.SHA256(),
    SHA384: hashes.SHA384(),
    SHA512: hashes.SHA512(),
}
# RFC 5758, 3.2
_ECDSA = {
    ECDSA_SHA256: ec.ECDSA(hashes.SHA256()),
    ECDSA_SHA384: ec.ECDSA(hashes.SHA384()),
    ECDSA_SHA512: ec.ECDSA(hashes.SHA512()),
}
# RFC 8017, A.2.4
_RSA_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
}
