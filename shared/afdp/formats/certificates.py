"""Certificate chains of time-stamping authorities (X.509, RFC 5280), as far as a verifier of timestamps needs them.

A chain is given whole, the authority's certificate first and its root last, so nothing is searched for: each link is
checked, and an extension that is critical and not understood here is a refusal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated

from cryptography.hazmat import asn1

from afdp.formats.der import (
    Algorithm,
    Extension,
    ObjectIdentifier,
    PublicKey,
    load_public_key,
    read_der,
    sequence_of,
    signature_algorithm,
    verifies,
)
from afdp.formats.encoding import b64, from_b64


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was read.

    Attributes:
        der: the certificate whole.
        signed, algorithm, signature: what its issuer signed, the OID of how, and the signature.
        subject, issuer: each a Name, DER.
        serial: as the issuer numbered it.
        key: the public key.
        not_before, not_after: its validity, both included.
        extensions: by OID: the value and whether it is critical.
    """

    der: bytes
    signed: bytes
    algorithm: str
    signature: bytes
    subject: bytes
    issuer: bytes
    serial: int
    key: PublicKey
    not_before: datetime
    not_after: datetime
    extensions: Mapping[str, tuple[bytes, bool]]

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the certificate."""
        return sha256(self.der).digest()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that holds: the authority's certificate first, the root last.

    Attributes:
        valid_from, valid_until: the interval in which every certificate of it is valid, both included.
    """

    certificates: tuple[Certificate, ...]
    valid_from: datetime
    valid_until: datetime

    @property
    def authority(self) -> Certificate:
        """The certificate whose key signs timestamps."""
        return self.certificates[0]


@lru_cache(maxsize=256)
def read_chain(certificates: tuple[bytes, ...]) -> Chain:
    """The chain of a time-stamping authority, each link checked.

    Raises:
        ValueError: a certificate cannot be read, one did not issue the one before it, or the first is not for
            time-stamping and for nothing else (RFC 3161, 2.3).
    """
    if len(certificates) < 2:
        raise ValueError("must have the authority's certificate first and its root last")
    chain = tuple(map(read_certificate, certificates))
    _require_authority(chain[0])
    for below, (issued, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        _require_issued(issued, issuer, min(below, len(chain) - 2))
    valid_from, valid_until = max(each.not_before for each in chain), min(each.not_after for each in chain)
    if valid_until < valid_from:
        raise ValueError("must have certificates that were all valid at one time")
    return Chain(chain, valid_from, valid_until)


def read_certificate(der: bytes) -> Certificate:
    """A certificate of version 3.

    Raises:
        ValueError: it is none, or its key is of a kind that is not used here.
    """
    outer = read_der(_Certificate, der, "certificate")
    signed = asn1.encode_der(outer.signed)
    inner = read_der(_Signed, signed, "certificate of version 3")
    found = inner.extensions or []
    extensions = {each.oid.dotted_string: (each.value, each.critical) for each in found}
    if inner.version != 2 or len(extensions) != len(found):
        raise ValueError("must be a certificate of version 3 with no extension twice")
    if asn1.encode_der(inner.algorithm) != asn1.encode_der(outer.algorithm) or outer.signature.padding_bits():
        raise ValueError("must be a certificate that names one signature algorithm")
    return Certificate(
        der=der,
        signed=signed,
        algorithm=signature_algorithm(outer.algorithm),
        signature=outer.signature.as_bytes(),
        subject=asn1.encode_der(inner.subject),
        issuer=asn1.encode_der(inner.issuer),
        serial=inner.serial,
        key=load_public_key(asn1.encode_der(inner.spki)),
        not_before=inner.validity.not_before.as_datetime(),
        not_after=inner.validity.not_after.as_datetime(),
        extensions=extensions,
    )


def to_pem(certificates: Iterable[bytes]) -> str:
    """Certificates in PEM (RFC 7468)."""
    return "".join("\n".join([_BEGIN, *textwrap.wrap(b64(each), 64), _END, ""]) for each in certificates)


def from_pem(text: str) -> list[bytes]:
    """The certificates of a PEM file, which may have words between them.

    Raises:
        ValueError: something that begins as a certificate does not end as one.
    """
    begun = text.split(_BEGIN)[1:]
    parts = [each.partition(_END) for each in begun]
    if not all(end for _, end, _ in parts):
        raise ValueError("must have whole certificates in PEM")
    return [from_b64("".join(data.split())) for data, _, _ in parts]


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def name_parts(name: bytes) -> dict[str, str]:
    """What a Name (DER) has of `organization` and `commonName`."""
    parts = {}
    for relative in read_der(_Names, sequence_of(name), "name").names:
        for part in relative.as_list():
            if kind := _NAMES.get(part.oid.dotted_string):
                parts[kind] = bytes(part.value.data).decode("utf-8", "replace")
    return parts


_NAMES = {"2.5.4.10": "organization", "2.5.4.3": "commonName"}


# --- the rules --------------------------------------------------------------------------------------------------------

_TIME_STAMPING, _ANY = "1.3.6.1.5.5.7.3.8", "2.5.29.37.0"
_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
_UNDERSTOOD = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE})
# Bits of KeyUsage (RFC 5280, 4.2.1.3), as they stand in its first byte.
_SIGN, _ISSUE = 0x80 | 0x40, 0x04


def _require_authority(certificate: Certificate) -> None:
    _, critical = certificate.extensions.get(_EXTENDED_KEY_USAGE, (b"", False))
    if not critical or _extended_usages(certificate) != [_TIME_STAMPING]:
        raise ValueError("must have a first certificate with the critical extended key usage timeStamping and no other")
    if _basic_constraints(certificate).ca or not _may(certificate, _SIGN):
        raise ValueError("must have a first certificate that may sign and may not issue")


def _require_issued(issued: Certificate, issuer: Certificate, below: int) -> None:
    """`below` is the number of issuers between this one and the authority (RFC 5280, 4.2.1.9)."""
    unknown = [oid for oid, (_, critical) in issued.extensions.items() if critical and oid not in _UNDERSTOOD]
    if unknown:
        raise ValueError(f"must have no critical extension that is not understood, as {unknown[0]} is not")
    constraints = _basic_constraints(issuer)
    limit = constraints.path_length
    if not constraints.ca or not _may(issuer, _ISSUE) or (limit is not None and limit < below):
        raise ValueError("must have issuers that may issue")
    if _EXTENDED_KEY_USAGE in issuer.extensions and not {_TIME_STAMPING, _ANY} & set(_extended_usages(issuer)):
        raise ValueError("must have issuers that may issue for time-stamping")
    if issued.issuer != issuer.subject:
        raise ValueError("must have after each certificate the one of its issuer")
    if not verifies(issuer.key, issued.algorithm, issued.signature, issued.signed):
        raise ValueError("must have after each certificate the one of its issuer: a signature does not hold")


def _extended_usages(certificate: Certificate) -> list[str]:
    value, _ = certificate.extensions[_EXTENDED_KEY_USAGE]
    usages = read_der(_Usages, sequence_of(value), "certificate's extended key usage").usages
    return [each.dotted_string for each in usages]


def _basic_constraints(certificate: Certificate) -> _BasicConstraints:
    value, _ = certificate.extensions.get(_BASIC_CONSTRAINTS, (b"\x30\x00", False))
    return read_der(_BasicConstraints, value, "certificate's basicConstraints")


def _may(certificate: Certificate, bits: int) -> bool:
    if _KEY_USAGE not in certificate.extensions:
        return True
    value, _ = certificate.extensions[_KEY_USAGE]
    usage = read_der(asn1.BitString, value, "certificate's keyUsage").as_bytes()
    return bool(usage and usage[0] & bits)


# --- ASN.1 (RFC 5280, 4.1) --------------------------------------------------------------------------------------------


@asn1.sequence
class _Validity:
    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Certificate:
    signed: asn1.TLV
    algorithm: Algorithm
    signature: asn1.BitString


@asn1.sequence
class _Signed:
    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    algorithm: Algorithm
    issuer: asn1.TLV
    validity: _Validity
    subject: asn1.TLV
    spki: asn1.TLV
    extensions: Annotated[list[Extension] | None, asn1.Explicit(3)]


@asn1.sequence
class _NamePart:
    oid: ObjectIdentifier
    value: asn1.TLV


# What is a SEQUENCE OF by itself can be declared as the only member of a sequence.
@asn1.sequence
class _Names:
    names: list[asn1.SetOf[_NamePart]]


@asn1.sequence
class _Usages:
    usages: list[ObjectIdentifier]


@asn1.sequence
class _BasicConstraints:
    ca: Annotated[bool, asn1.Default(False)]
    path_length: int | None
