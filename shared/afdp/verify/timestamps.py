"""Verification of a trusted timestamp: an RFC 3161 response over some data, by an authority of the trust root.

stamp = verify_stamp(response, signature, trust.timestamp_authorities)
print(stamp.time, stamp.authority.uri)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha1, sha256

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import Certificate
from afdp.formats.der import HASHES, SHA1, SHA256, verifies
from afdp.formats.rfc3161 import Token, read_granted
from afdp.formats.timestamps import format_timestamp
from afdp.verify.result import NotVerifiedError

_NEWER_TRUST = "get the notary's newest trust root with `afdp trust export`; an authority that is not there is unknown"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A timestamp that holds.

    Attributes:
        time: what the authority states (genTime).
        accuracy: how far it may be off, either way; None where the authority does not say.
        authority: the one of the trust root that signed it.
    """

    time: datetime
    accuracy: timedelta | None
    authority: TimestampAuthority


class UnknownAuthorityError(NotVerifiedError):
    """The timestamp is of none of the authorities it was to be verified by; `time` is what it states, unproven."""

    def __init__(self, time: datetime) -> None:
        super().__init__("the timestamp is of an authority that the trust root does not know", _NEWER_TRUST)
        self.time = time


class UncountedError(NotVerifiedError):
    """The timestamp holds, and is of a time when its authority's stamps do not count, such as after its revocation."""

    def __init__(self, time: datetime) -> None:
        super().__init__(f"the timestamp is of {format_timestamp(time)}, when the authority's stamps do not count")
        self.time = time


def verify_stamp(response: bytes, data: bytes, authorities: Sequence[TimestampAuthority]) -> Stamp:
    """Verifies a response (TimeStampResp, DER) over the SHA-256 of some data (RFC 3161, 2.4.2; RFC 5652, 5.4 and 5.6).

    The certificate is the one that the trust root has; what the response brings itself is not believed. It must have
    been valid, with its whole chain, at the time that is stated, and the authority's stamps must have counted then.

    Raises:
        UnknownAuthorityError: it is of none of these authorities.
        UncountedError: it holds, and does not count.
        NotVerifiedError: something else does not hold; one sentence says what.
    """
    token, known = _claim(response, data, authorities)
    _require_signed(token, known[0].chain.authority)
    return _counted(token, known)


def read_stamp(response: bytes, data: bytes, authorities: Sequence[TimestampAuthority]) -> tuple[Token, Stamp]:
    """What `verify_stamp` gives, with the token, and its signature not verified: for who has it from who verified it.

    Raises:
        UnknownAuthorityError: it is of none of these authorities.
        UncountedError: it holds, and does not count.
        NotVerifiedError: something else does not hold.
    """
    token, known = _claim(response, data, authorities)
    return token, _counted(token, known)


def _claim(
    response: bytes, data: bytes, authorities: Sequence[TimestampAuthority]
) -> tuple[Token, list[TimestampAuthority]]:
    try:
        token = read_granted(response)
    except ValueError as error:
        raise NotVerifiedError(f"the timestamp {error}") from error
    imprint = token.info.imprint
    if imprint.algorithm != SHA256 or imprint.digest != sha256(data).digest():
        raise NotVerifiedError("the timestamp is over other data")
    return token, _signers(token, authorities)


def _counted(token: Token, known: Sequence[TimestampAuthority]) -> Stamp:
    time = token.info.time
    for authority in known:
        if authority.valid_from <= time and (authority.valid_until is None or time < authority.valid_until):
            _require_valid(authority, time)
            return Stamp(time, token.info.accuracy, authority)
    raise UncountedError(time)


def _signers(token: Token, authorities: Sequence[TimestampAuthority]) -> list[TimestampAuthority]:
    """The authorities with the certificate that the token names; it may stand there for more than one interval."""
    named = [each for each in authorities if _is_named(each.chain.authority, token)]
    if not named:
        raise UnknownAuthorityError(token.info.time)
    found = [
        each
        for each in named
        if _digest_of(each.chain.authority, token.certificate_algorithm) == token.certificate_digest
    ]
    if not found:
        raise NotVerifiedError("the timestamp names another certificate than the authority's in the trust root")
    return found


def _is_named(certificate: Certificate, token: Token) -> bool:
    return certificate.serial == token.serial and certificate.issuer == token.issuer


def _require_signed(token: Token, certificate: Certificate) -> None:
    hashed = HASHES.get(token.digest_algorithm)
    if hashed is None or hashed(token.content).digest() != token.content_digest:
        raise NotVerifiedError("the timestamp's signature is over other content")
    if not verifies(certificate.key, token.algorithm, token.signature, token.attributes, digest=token.digest_algorithm):
        raise NotVerifiedError("the timestamp's signature does not hold")


def _digest_of(certificate: Certificate, algorithm: str) -> bytes:
    if algorithm == SHA256:
        return certificate.fingerprint
    if algorithm == SHA1:  # it only tells certificates apart here: the trust root says which one it is
        return sha1(certificate.der, usedforsecurity=False).digest()
    return HASHES[algorithm](certificate.der).digest() if algorithm in HASHES else b""


def _require_valid(authority: TimestampAuthority, time: datetime) -> None:
    chain = authority.chain
    if not chain.valid_from <= time <= chain.valid_until:
        raise NotVerifiedError(
            f"the timestamp is of {format_timestamp(time)}, when the authority's certificates were not valid: they are "
            f"from {format_timestamp(chain.valid_from)} to {format_timestamp(chain.valid_until)}"
        )
