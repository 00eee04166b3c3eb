"""Time-stamp queries, responses and tokens (RFC 3161, CMS of RFC 5652), written and strictly read as DER.

A token is a CMS SignedData with one signer over a TSTInfo. What is read here is read whole: another version, a second
signer, an attribute twice or a critical extension is an error, and so is every encoding that is not DER.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Annotated, TypeVar

from cryptography.hazmat import asn1

from afdp.formats.der import (
    HASHES,
    SHA1,
    SHA256,
    Algorithm,
    Extension,
    ObjectIdentifier,
    parsed,
    read_der,
    sequence_of,
    signature_algorithm,
)

_Read = TypeVar("_Read")

MAX_NONCE_BITS = 256


class Failure(IntEnum):
    """Why a query was refused: bits of PKIFailureInfo (RFC 3161, 2.4.2)."""

    BAD_ALG = 0
    BAD_REQUEST = 2
    BAD_DATA_FORMAT = 5
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSIONS = 16
    ADD_INFO_NOT_AVAILABLE = 17
    SYSTEM_FAILURE = 25


class QueryError(ValueError):
    """A query that is refused, and the reason that RFC 3161 has for it."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Imprint:
    """What is stamped (MessageImprint).

    Attributes:
        digest: the hash of the data.
        algorithm: the hash's OID.
        null: whether the algorithm is written with parameters of NULL; both spellings are in use.
    """

    digest: bytes
    algorithm: str = SHA256
    null: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """TimeStampReq (2.4.1).

    Attributes:
        policy: the OID of the policy that is asked for, if any.
        wants_certificate: whether the token shall bring the authority's certificate.
        extensions: the OIDs of what else is asked for.
    """

    imprint: Imprint
    policy: str | None = None
    nonce: int | None = None
    wants_certificate: bool = False
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Info:
    """TSTInfo (2.4.2): what an authority states.

    Attributes:
        policy: the OID of the policy under which it does.
        serial: unique among the authority's tokens.
        time: to the microsecond at most.
        accuracy: how far the time may be off, either way; None where nothing is said.
    """

    policy: str
    imprint: Imprint
    serial: int
    time: datetime
    accuracy: timedelta | None = None
    nonce: int | None = None
    ordering: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was read; nothing in it is verified yet.

    Attributes:
        info: what it states, and `content` the same in DER.
        issuer, serial: which certificate signed: its issuer's Name (DER) and its number.
        digest_algorithm: the OID of the hash of `content` in the signed attributes, `content_digest`.
        certificate_digest: of the signer's certificate, by the hash with the OID `certificate_algorithm`.
        attributes: the signed attributes, DER, as they are signed.
        algorithm, signature: the OID of how they are signed, and the signature.
        certificates: what certificates it brings, DER.
    """

    info: Info
    content: bytes
    issuer: bytes
    serial: int
    digest_algorithm: str
    content_digest: bytes
    certificate_algorithm: str
    certificate_digest: bytes
    attributes: bytes
    algorithm: str
    signature: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """TimeStampResp (2.4.2).

    Attributes:
        status: 0 is granted, 1 granted with modifications; with both there is a token.
        reason: in the authority's words.
        failures: the bits that are set in PKIFailureInfo.
        token: DER, where it was granted.
    """

    status: int
    reason: str = ""
    failures: tuple[int, ...] = ()
    token: bytes | None = None


GRANTED = 0
REJECTION = 2


# --- reading ----------------------------------------------------------------------------------------------------------


def read_query(der: bytes) -> Query:
    """A query.

    Raises:
        QueryError: it is none, of another version than 1, or over a digest that is none of its hash.
    """
    try:
        found = read_der(_Query, der, "time-stamp query")
        nonce = _nonce(found.nonce)
    except ValueError as error:
        raise QueryError(Failure.BAD_DATA_FORMAT, str(error)) from error
    if found.version != 1:
        raise QueryError(Failure.BAD_REQUEST, "must be a time-stamp query of version 1")
    imprint = _imprint(found.imprint)
    if imprint.algorithm not in HASHES:
        raise QueryError(Failure.BAD_ALG, "must be over a hash by SHA-256, SHA-384 or SHA-512")
    if len(imprint.digest) != HASHES[imprint.algorithm]().digest_size:
        raise QueryError(Failure.BAD_DATA_FORMAT, "must be over a hash of as many bytes as its algorithm makes")
    return Query(
        imprint=imprint,
        policy=found.policy.dotted_string if found.policy else None,
        nonce=nonce,
        wants_certificate=found.wants_certificate,
        extensions=tuple(each.oid.dotted_string for each in found.extensions or ()),
    )


def read_response(der: bytes) -> Response:
    """A response, whatever it says.

    Raises:
        ValueError: it is none, or has a token where it grants none, or none where it does.
    """
    found = read_der(_Response, der, "time-stamp response")
    status = found.status.status
    if (status in (0, 1)) is not (found.token is not None):
        raise ValueError("must be a time-stamp response that has a token just where it grants one")
    return Response(
        status=status,
        reason="; ".join(found.status.reasons or ()),
        failures=_bits(found.status.failures) if found.status.failures else (),
        token=asn1.encode_der(found.token) if found.token else None,
    )


def read_granted(der: bytes) -> Token:
    """The token of a response that grants one.

    Raises:
        ValueError: it is no response, it grants none, or what is in it is no time-stamp token.
    """
    found = read_der(_Response, der, "time-stamp response")
    if found.status.status != GRANTED or found.token is None:
        raise ValueError("must be a time-stamp response that grants a token")
    return _token(found.token)


def read_token(der: bytes) -> Token:
    """A token by itself.

    Raises:
        ValueError: it is no time-stamp token.
    """
    return _token(read_der(_ContentInfo, der, "time-stamp token"))


def read_info(der: bytes) -> Info:
    """A TSTInfo.

    Raises:
        ValueError: it is none, or of another version than 1, or has a critical extension.
    """
    found = read_der(_Info, der, "TSTInfo")
    if found.version != 1 or any(each.critical for each in found.extensions or ()):
        raise ValueError("must be a TSTInfo of version 1 without critical extensions")
    return Info(
        policy=found.policy.dotted_string,
        imprint=_imprint(found.imprint),
        serial=found.serial,
        time=found.time.as_datetime(),
        accuracy=_accuracy(found.accuracy) if found.accuracy else None,
        nonce=_nonce(found.nonce),
        ordering=found.ordering,
    )


def _token(info: _ContentInfo) -> Token:
    data = info.content
    if info.kind.dotted_string != _SIGNED_DATA or data.version != 3 or data.content.kind.dotted_string != _TST_INFO:
        raise ValueError("must be a CMS SignedData of version 3 over a TSTInfo")
    signers = data.signers.as_list()
    if len(signers) != 1 or signers[0].version != 1:
        raise ValueError("must have one signer, of version 1")
    [signer] = signers
    if [each.oid for each in data.digests.as_list()] != [signer.digest.oid]:
        raise ValueError("must name the signer's digest algorithm and no other")
    if signer.attributes.tag_bytes != b"\xa0":
        raise ValueError("must have signed attributes")
    attributes = b"\x31" + asn1.encode_der(signer.attributes)[1:]  # what is signed is the SET OF (RFC 5652, 5.4)
    values = _attributes(attributes)
    if _value(values, _CONTENT_TYPE, ObjectIdentifier, "content type").dotted_string != _TST_INFO:
        raise ValueError("must have a signed content type of TSTInfo")
    certificate_algorithm, certificate_digest = _signing_certificate(values)
    return Token(
        info=read_info(data.content.content),
        content=data.content.content,
        issuer=asn1.encode_der(signer.certificate.issuer),
        serial=signer.certificate.serial,
        digest_algorithm=signer.digest.oid.dotted_string,
        content_digest=_value(values, _MESSAGE_DIGEST, bytes, "message digest"),
        certificate_algorithm=certificate_algorithm,
        certificate_digest=certificate_digest,
        attributes=attributes,
        algorithm=signature_algorithm(signer.algorithm),
        signature=signer.signature,
        certificates=tuple(asn1.encode_der(each) for each in data.certificates or ()),
    )


def _attributes(der: bytes) -> dict[str, list[asn1.TLV]]:
    found = read_der(_Attributes, sequence_of(der), "SET OF signed attributes").attributes.as_list()
    values = {each.kind.dotted_string: each.values.as_list() for each in found}
    if len(values) != len(found):
        raise ValueError("must have no signed attribute twice")
    return values


def _value(attributes: dict[str, list[asn1.TLV]], kind: str, of: type[_Read], name: str) -> _Read:
    values = attributes.get(kind, [])
    if len(values) != 1:
        raise ValueError(f"must have one value of the signed attribute {kind}")
    return parsed(values[0], of, name)


def _signing_certificate(attributes: dict[str, list[asn1.TLV]]) -> tuple[str, bytes]:
    """The hash of the signer's certificate: by RFC 5816, or as before it by SHA-1 (RFC 3161, 2.4.2)."""
    if _SIGNING_CERTIFICATE_2 in attributes:
        certificates = _value(attributes, _SIGNING_CERTIFICATE_2, _Certificates2, "certificate's hash")
        if certificates.items:
            first = certificates.items[0]
            return first.algorithm.oid.dotted_string if first.algorithm else SHA256, first.digest
    elif items := _value(attributes, _SIGNING_CERTIFICATE, _Certificates, "certificate's hash").items:
        return SHA1, items[0].digest
    raise ValueError("must have a signed attribute that names the signer's certificate")


def _imprint(imprint: _Imprint) -> Imprint:
    return Imprint(imprint.digest, imprint.algorithm.oid.dotted_string, imprint.algorithm.parameters is not None)


def _nonce(nonce: int | None) -> int | None:
    if nonce is not None and nonce.bit_length() > MAX_NONCE_BITS:
        raise ValueError(f"must have a nonce of at most {MAX_NONCE_BITS} bits")
    return nonce


def _accuracy(accuracy: _Accuracy) -> timedelta:
    seconds, millis, micros = accuracy.seconds or 0, accuracy.millis or 0, accuracy.micros or 0
    if not (0 <= seconds < 10**9 and 0 <= millis < 1000 and 0 <= micros < 1000):
        raise ValueError("must have an accuracy of seconds, and of 1 to 999 millis and micros")
    return timedelta(seconds=seconds, milliseconds=millis, microseconds=micros)


def _bits(value: asn1.BitString) -> tuple[int, ...]:
    data = value.as_bytes()
    return tuple(bit for bit in range(8 * len(data)) if data[bit // 8] & 0x80 >> bit % 8)


# --- writing ----------------------------------------------------------------------------------------------------------


def query_der(query: Query) -> bytes:
    """A query in DER. Extensions are not written."""
    return asn1.encode_der(
        _Query(
            version=1,
            imprint=_imprint_of(query.imprint),
            policy=ObjectIdentifier(query.policy) if query.policy else None,
            nonce=query.nonce,
            wants_certificate=query.wants_certificate,
            extensions=None,
        )
    )


def info_der(info: Info) -> bytes:
    """A TSTInfo in DER."""
    return asn1.encode_der(
        _Info(
            version=1,
            policy=ObjectIdentifier(info.policy),
            imprint=_imprint_of(info.imprint),
            serial=info.serial,
            time=asn1.GeneralizedTime(info.time),
            accuracy=_accuracy_of(info.accuracy) if info.accuracy else None,
            ordering=info.ordering,
            nonce=info.nonce,
            authority=None,
            extensions=None,
        )
    )


def attributes_der(content_digest: bytes, certificate_digest: bytes) -> bytes:
    """The attributes to sign: the digest of a TSTInfo and the SHA-256 of the signer's certificate (RFC 5816)."""
    certificate = asn1.encode_der(
        _Certificates2(items=[_Certificate2(algorithm=None, digest=certificate_digest, issuer=None)], policies=None)
    )
    attributes = [
        _attribute(_CONTENT_TYPE, asn1.encode_der(ObjectIdentifier(_TST_INFO))),
        _attribute(_MESSAGE_DIGEST, asn1.encode_der(content_digest)),
        _attribute(_SIGNING_CERTIFICATE_2, certificate),
    ]
    # RFC 5652, 5.4: a SET OF is what is signed, though in the token it has another tag.
    return _content(asn1.encode_der(_Attributes(attributes=asn1.SetOf(attributes))))


def granted_der(
    *,
    content: bytes,
    attributes: bytes,
    issuer: bytes,
    serial: int,
    digest_algorithm: str,
    signature_algorithm: str,
    signature: bytes,
    certificates: Sequence[bytes] = (),
) -> bytes:
    """A response that grants a token, in DER.

    Args:
        content: the TSTInfo.
        attributes: as `attributes_der` wrote them.
        issuer, serial: of the signer's certificate; the issuer's Name in DER.
        digest_algorithm: OID of the hash of `content`.
        signature_algorithm, signature: OID of how the attributes are signed, and the signature.
        certificates: the signer's certificate and more, DER, where they were asked for.
    """
    digest = Algorithm(oid=ObjectIdentifier(digest_algorithm), parameters=None)
    signer = _Signer(
        version=1,
        certificate=_IssuerAndSerial(issuer=_tlv(issuer), serial=serial),
        digest=digest,
        attributes=_tlv(b"\xa0" + attributes[1:]),
        algorithm=Algorithm(oid=ObjectIdentifier(signature_algorithm), parameters=None),
        signature=signature,
        more=None,
    )
    data = _SignedData(
        version=3,
        digests=asn1.SetOf([digest]),
        content=_Content(kind=ObjectIdentifier(_TST_INFO), content=content),
        certificates=[_tlv(each) for each in sorted(certificates)] or None,  # a SET OF (X.690, 11.6)
        revocations=None,
        signers=asn1.SetOf([signer]),
    )
    token = _ContentInfo(kind=ObjectIdentifier(_SIGNED_DATA), content=data)
    status = _Status(status=GRANTED, reasons=None, failures=None)
    return asn1.encode_der(_Response(status=status, token=token))


def sorted_response(der: bytes) -> bytes:
    """The same response with its certificates in the order of DER, which many authorities do not keep.

    They are not signed, so nothing else changes; strict readers want it.

    Raises:
        ValueError: it is no response.
    """
    response = read_der(_Response, der, "time-stamp response")
    if response.token and response.token.content.certificates:
        response.token.content.certificates.sort(key=asn1.encode_der)
    return asn1.encode_der(response)


def refusal_der(failure: Failure, reason: str) -> bytes:
    """A response that refuses, in DER, with a reason in words."""
    bits = bytearray(failure // 8 + 1)
    bits[-1] = 0x80 >> failure % 8
    named = asn1.BitString(bytes(bits), 7 - failure % 8)
    status = _Status(status=REJECTION, reasons=[reason], failures=named)
    return asn1.encode_der(_Response(status=status, token=None))


def _attribute(kind: str, value: bytes) -> _Attribute:
    return _Attribute(kind=ObjectIdentifier(kind), values=asn1.SetOf([_tlv(value)]))


def _imprint_of(imprint: Imprint) -> _Imprint:
    parameters = asn1.Null() if imprint.null else None
    algorithm = Algorithm(oid=ObjectIdentifier(imprint.algorithm), parameters=parameters)
    return _Imprint(algorithm=algorithm, digest=imprint.digest)


def _accuracy_of(accuracy: timedelta) -> _Accuracy:
    millis, micros = divmod(accuracy.microseconds, 1000)
    seconds = accuracy.days * 86_400 + accuracy.seconds
    return _Accuracy(seconds=seconds or None, millis=millis or None, micros=micros or None)


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)


def _content(der: bytes) -> bytes:
    """What stands in a SEQUENCE."""
    return der[2 if der[1] < 0x80 else 2 + (der[1] & 0x7F) :]


# --- ASN.1 ------------------------------------------------------------------------------------------------------------

_SIGNED_DATA, _TST_INFO = "1.2.840.113549.1.7.2", "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"


@asn1.sequence
class _Imprint:
    algorithm: Algorithm
    digest: bytes


@asn1.sequence
class _Query:
    version: int
    imprint: _Imprint
    policy: ObjectIdentifier | None
    nonce: int | None
    wants_certificate: Annotated[bool, asn1.Default(False)]
    extensions: Annotated[list[Extension] | None, asn1.Implicit(0)]


@asn1.sequence
class _Accuracy:
    seconds: int | None
    millis: Annotated[int | None, asn1.Implicit(0)]
    micros: Annotated[int | None, asn1.Implicit(1)]


@asn1.sequence
class _Info:
    version: int
    policy: ObjectIdentifier
    imprint: _Imprint
    serial: int
    time: asn1.GeneralizedTime
    accuracy: _Accuracy | None
    ordering: Annotated[bool, asn1.Default(False)]
    nonce: int | None
    authority: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]  # one GeneralName, explicit: any name will do
    extensions: Annotated[list[Extension] | None, asn1.Implicit(1)]


@asn1.sequence
class _Attribute:
    kind: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Attributes:
    attributes: asn1.SetOf[_Attribute]


@asn1.sequence
class _IssuerAndSerial:
    issuer: asn1.TLV
    serial: int


@asn1.sequence
class _NamesAndSerial:
    issuer: list[asn1.TLV]
    serial: int


@asn1.sequence
class _Certificate:
    digest: bytes
    issuer: _NamesAndSerial | None


@asn1.sequence
class _Certificates:
    items: list[_Certificate]
    policies: list[asn1.TLV] | None


@asn1.sequence
class _Certificate2:
    algorithm: Algorithm | None  # SHA-256 where it is absent
    digest: bytes
    issuer: _NamesAndSerial | None


@asn1.sequence
class _Certificates2:
    items: list[_Certificate2]
    policies: list[asn1.TLV] | None


@asn1.sequence
class _Signer:
    version: int
    certificate: _IssuerAndSerial
    digest: Algorithm
    attributes: asn1.TLV  # [0] IMPLICIT SET OF Attribute
    algorithm: Algorithm
    signature: bytes
    more: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]


@asn1.sequence
class _Content:
    kind: ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _SignedData:
    version: int
    digests: asn1.SetOf[Algorithm]
    content: _Content
    # Sets that are not sorted as DER wants it in what many authorities send; nothing depends on their order.
    certificates: Annotated[list[asn1.TLV] | None, asn1.Implicit(0)]
    revocations: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    signers: asn1.SetOf[_Signer]


@asn1.sequence
class _ContentInfo:
    kind: ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


@asn1.sequence
class _Status:
    status: int
    reasons: list[str] | None
    failures: asn1.BitString | None


@asn1.sequence
class _Response:
    status: _Status
    token: _ContentInfo | None
