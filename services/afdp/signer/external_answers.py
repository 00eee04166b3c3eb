"""Whether an external authority's answer counts.

Each thing that may be wrong has its own word, so that an operator sees which; then `rfc3161-client` has its say, and
at last our own verifier, for what it accepts is what everybody accepts who has the trust root.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from afdp.errors import Unavailable
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import Chain, read_chain
from afdp.formats.rfc3161 import GRANTED, Query, Token, read_response, read_token, sorted_response
from afdp.formats.timestamps import format_timestamp
from afdp.signer.chains import with_issuers
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import verify_stamp

_RETRY = 30.0  # seconds
# An honest authority and an honest clock are never so far apart. One of them that is wrong must not date anything.
_APART = timedelta(minutes=10)


class Reason(StrEnum):
    """What was wrong with an authority or its answer."""

    TIMEOUT = "TIMEOUT"
    UNREACHABLE = "UNREACHABLE"
    HTTP_STATUS = "HTTP_STATUS"
    NOT_A_RESPONSE = "NOT_A_RESPONSE"
    REFUSED = "REFUSED"
    WRONG_NONCE = "WRONG_NONCE"
    WRONG_IMPRINT = "WRONG_IMPRINT"
    WRONG_TIME = "WRONG_TIME"
    NO_CERTIFICATE = "NO_CERTIFICATE"
    UNKNOWN_AUTHORITY = "UNKNOWN_AUTHORITY"
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"
    NOT_VERIFIED = "NOT_VERIFIED"


@dataclass(frozen=True, slots=True)
class Anchors:
    """What is believed of one authority: its roots, and certificates between them and it that it may not send."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalStamp:
    """A stamp that was verified.

    Attributes:
        response: TimeStampResp, DER.
        url: the authority's, without user and password.
        time, accuracy: as the authority states them.
        chain: its certificates.
    """

    response: bytes
    url: str
    time: datetime
    accuracy: timedelta | None
    chain: Chain


def refusal(url: str, reason: Reason, what: str) -> Unavailable:
    """The error that says what is wrong with an authority."""
    return Unavailable(f"{url} {what}", retry_after=_RETRY, metadata={"authority": url, "reason": reason.value})


def verified(
    answer: bytes, query: Query, data: bytes, url: str, anchors: Anchors, now: datetime | None
) -> ExternalStamp:
    """The stamp in an answer to a query over the SHA-256 of some data; near to `now`, where that is given.

    Raises:
        Unavailable: it does not count; `reason` in the metadata is a `Reason`.
    """
    token, response = _granted(answer, url)
    if token.info.nonce != query.nonce:
        raise refusal(url, Reason.WRONG_NONCE, "answered with another nonce than the query's: an answer to another one")
    if token.info.imprint.algorithm != query.imprint.algorithm or token.info.imprint.digest != query.imprint.digest:
        raise refusal(url, Reason.WRONG_IMPRINT, "stamped other data than the query's")
    if now is not None and abs(token.info.time - now) > _APART:
        stated = format_timestamp(token.info.time)
        raise refusal(url, Reason.WRONG_TIME, f"states the time {stated}, too far from the signer's own")
    chain = _chain(token, url, anchors)
    _require_verified(response, query, data, url, anchors)
    return _stamp(response, data, url, chain)


def _granted(answer: bytes, url: str) -> tuple[Token, bytes]:
    """The token, and the answer as strict readers take it."""
    try:
        response = read_response(answer)
        if response.token is None or response.status != GRANTED:
            why = response.reason or f"status {response.status}, failure {list(response.failures)}"
            raise refusal(url, Reason.REFUSED, f"refused the query: {why[:200]}")
        return read_token(response.token), sorted_response(answer)
    except ValueError as error:
        raise refusal(url, Reason.NOT_A_RESPONSE, f"answered what {str(error)[:200]}") from None


def _chain(token: Token, url: str, anchors: Anchors) -> Chain:
    """The signer's certificate up to a root that is believed, all valid when the stamp was made."""
    try:
        brought = [x509.load_der_x509_certificate(each) for each in token.certificates]
    except ValueError:
        raise refusal(url, Reason.NOT_A_RESPONSE, "sent something as its certificate that is none") from None
    between = [*brought, *anchors.intermediates]
    signer = next((each for each in between if _is_signer(each, token)), None)
    if signer is None:
        raise refusal(url, Reason.NO_CERTIFICATE, "did not send the certificate that it signed with")
    found = with_issuers(signer, [*anchors.roots, *(each for each in between if each.issuer != each.subject)])
    if found[-1] not in anchors.roots:
        name = found[-1].issuer.rfc4514_string()
        raise refusal(url, Reason.UNKNOWN_AUTHORITY, f"has a certificate of {name}, which its ca_file does not have")
    try:
        chain = read_chain(tuple(each.public_bytes(Encoding.DER) for each in found))
    except ValueError as error:
        raise refusal(url, Reason.NOT_VERIFIED, f"has a chain of certificates that {error}") from None
    if not chain.valid_from <= token.info.time <= chain.valid_until:
        until = format_timestamp(chain.valid_until)
        raise refusal(url, Reason.CERTIFICATE_EXPIRED, f"has a certificate that is not valid now; it ends {until}")
    return chain


def _is_signer(certificate: x509.Certificate, token: Token) -> bool:
    return certificate.serial_number == token.serial and certificate.issuer.public_bytes() == token.issuer


def _require_verified(response: bytes, query: Query, data: bytes, url: str, anchors: Anchors) -> None:
    verifier = VerifierBuilder(
        nonce=query.nonce, roots=list(anchors.roots), intermediates=list(anchors.intermediates)
    ).build()
    try:
        verifier.verify_message(decode_timestamp_response(response), data)
    except (VerificationError, ValueError) as error:
        raise refusal(url, Reason.NOT_VERIFIED, f"gave a timestamp that does not verify: {str(error)[:200]}") from None


def _stamp(response: bytes, data: bytes, url: str, chain: Chain) -> ExternalStamp:
    certificates = tuple(each.der for each in chain.certificates)
    authority = TimestampAuthority(url, certificates, chain.authority.not_before)
    try:
        stamp = verify_stamp(response, data, [authority])
    except NotVerifiedError as error:
        raise refusal(url, Reason.NOT_VERIFIED, f"gave a timestamp that does not verify: {error.reason}") from None
    return ExternalStamp(response, url, stamp.time, stamp.accuracy, chain)
