"""A certification request (PKCS #10, RFC 2986) for the time-stamping key, signed by the key itself wherever it is held.

An organisation's own authority takes it, and gives the certificate for `AFDP_TSA_CHAIN_FILE`.
"""

from __future__ import annotations

import textwrap
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afdp.errors import FailedPrecondition, NotaryError
from afdp.formats.der import ECDSA_SHA256, ECDSA_SHA384, Algorithm, Extension, ObjectIdentifier
from afdp.formats.encoding import b64
from afdp.signer.keys import P256, P384, KeyCatalogue, KeyVersion, Purpose
from afdp.signer.verification import DIGESTS, require_ecdsa

_ALGORITHMS = {P256: ECDSA_SHA256, P384: ECDSA_SHA384}
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985, 5.4.2


async def timestamp_certificate_request(keys: KeyCatalogue, organization: str) -> str:
    """The request for the current version of the time-stamping key, in PEM (RFC 7468).

    Raises:
        Unavailable: the key cannot be reached.
        FailedPrecondition: the key was rotated meanwhile; ask again.
    """
    spec = keys.named(Purpose.TIMESTAMP)
    version = next(each for each in await keys.versions(Purpose.TIMESTAMP) if each.current)
    info = _Info(
        version=0,
        subject=_tlv(_subject(version, organization)),
        spki=_tlv(version.spki),
        attributes=asn1.SetOf([_extensions()]),
    )
    digest = DIGESTS[version.algorithm](asn1.encode_der(info)).digest()
    [answer] = await keys.sign(spec, [digest])
    if isinstance(answer, NotaryError):
        raise answer
    if answer.key.key_id != version.key_id:
        raise FailedPrecondition("the time-stamping key was rotated meanwhile: ask again")
    require_ecdsa(version.spki, answer.value, digest)
    algorithm = Algorithm(oid=ObjectIdentifier(_ALGORITHMS[version.algorithm]), parameters=None)
    request = _Request(info=info, algorithm=algorithm, signature=asn1.BitString(answer.value, 0))
    body = textwrap.wrap(b64(asn1.encode_der(request)), 64)
    return "\n".join(["-----BEGIN CERTIFICATE REQUEST-----", *body, "-----END CERTIFICATE REQUEST-----", ""])


def _subject(version: KeyVersion, organization: str) -> bytes:
    name = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:64]),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Time-stamping {version.key_id}"[:64]),
    ]
    return x509.Name(name).public_bytes()


def _extensions() -> _Attribute:
    """What RFC 3161 (2.3) wants the certificate to say."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    wanted = Extension(oid=ObjectIdentifier(usage.oid.dotted_string), critical=True, value=usage.public_bytes())
    return _Attribute(kind=ObjectIdentifier(_EXTENSION_REQUEST), values=asn1.SetOf([[wanted]]))


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)


@asn1.sequence
class _Attribute:
    kind: ObjectIdentifier
    values: asn1.SetOf[list[Extension]]


@asn1.sequence
class _Info:
    version: int
    subject: asn1.TLV
    spki: asn1.TLV
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]


@asn1.sequence
class _Request:
    info: _Info
    algorithm: Algorithm
    signature: asn1.BitString
