"""Writing time-stamp tokens, many at a time, for one version of the key with its certificate.

Of two tokens all but the imprint, the serial number, the time and the signature is the same. So the encoder of
`formats.rfc3161` writes each form once, around values that are known, and those are exchanged from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from afdp.formats.certificates import Chain
from afdp.formats.der import ECDSA_SHA256, ECDSA_SHA384, HASHES, SHA256, SHA384
from afdp.formats.rfc3161 import Imprint, Info, Query, attributes_der, granted_der, info_der
from afdp.signer.keys import P256, P384, KeyVersion
from afdp.signer.verification import DIGESTS, require_ecdsa

_ALGORITHMS = {P256: (SHA256, ECDSA_SHA256), P384: (SHA384, ECDSA_SHA384)}


@dataclass(frozen=True, slots=True)
class Moment:
    """When, and how exactly that is known."""

    time: datetime
    accuracy: timedelta | None

    @classmethod
    def of(cls, time: datetime, accuracy: timedelta | None) -> Moment:
        """To the millisecond, of which the last digit is never 0.

        DER has no trailing zeros in a fraction (X.690, 11.7), and sigstore-js reads three digits or none.
        """
        millis = time.microsecond // 1000
        whole = time.replace(microsecond=millis * 1000)
        return cls(whole if millis % 10 else whole - timedelta(milliseconds=1), accuracy)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A token that lacks its signature.

    Attributes:
        content: the TSTInfo.
        attributes: the signed attributes: what the signature is over.
        digest: of the attributes, as the key signs it.
        with_certificates: whether the token shall bring the chain.
    """

    content: bytes
    attributes: bytes
    digest: bytes
    with_certificates: bool = False


class TokenWriter:
    """Writes the tokens of one version of the key."""

    def __init__(self, version: KeyVersion, chain: Chain, policy: str) -> None:
        self.version = version
        self.chain = chain
        self._policy = policy
        self._hash, self._signature_algorithm = _ALGORITHMS[version.algorithm]
        self._digest = DIGESTS[version.algorithm]
        marker = secrets.token_bytes(HASHES[self._hash]().digest_size)
        self._attributes = _split(attributes_der(marker, chain.authority.fingerprint), marker)
        self._contents: dict[timedelta | None, list[bytes]] = {}
        self._responses: dict[tuple[int, int], list[bytes]] = {}

    def batch(self, imprints: Sequence[bytes], moment: Moment, serials: Iterator[bytes]) -> list[Unsigned]:
        """A token for each SHA-256, all of one moment."""
        form = self._contents.get(moment.accuracy)
        if form is None:
            form = self._contents[moment.accuracy] = self._content_form(moment.accuracy)
        head, before_serial, before_time, end = form
        end = before_time + _generalized(moment.time) + end
        return [self._unsigned(b"".join((head, each, before_serial, next(serials), end))) for each in imprints]

    def single(self, query: Query, moment: Moment, serial: bytes) -> Unsigned:
        """A token for a query."""
        info = Info(
            policy=self._policy,
            imprint=query.imprint,
            serial=int.from_bytes(serial, "big"),
            time=moment.time,
            accuracy=moment.accuracy,
            nonce=query.nonce,
        )
        return self._unsigned(info_der(info), with_certificates=query.wants_certificate)

    def response(self, token: Unsigned, signature: bytes) -> bytes:
        """The response with a token and its signature.

        Raises:
            Internal: the signature does not verify.
        """
        require_ecdsa(self.version.spki, signature, token.digest)
        if token.with_certificates:
            return self._granted(token.content, token.attributes, signature, with_certificates=True)
        size = len(token.content), len(signature)
        form = self._responses.get(size)
        if form is None:
            form = self._responses[size] = self._response_form(*size)
        head, before_attributes, before_signature, end = form
        return b"".join(
            (head, token.content, before_attributes, token.attributes[1:], before_signature, signature, end)
        )

    def _unsigned(self, content: bytes, *, with_certificates: bool = False) -> Unsigned:
        head, end = self._attributes
        attributes = b"".join((head, HASHES[self._hash](content).digest(), end))
        return Unsigned(content, attributes, self._digest(attributes).digest(), with_certificates)

    def _granted(
        self, content: bytes, attributes: bytes, signature: bytes, *, with_certificates: bool = False
    ) -> bytes:
        certificate = self.chain.authority
        return granted_der(
            content=content,
            attributes=attributes,
            issuer=certificate.issuer,
            serial=certificate.serial,
            digest_algorithm=self._hash,
            signature_algorithm=self._signature_algorithm,
            signature=signature,
            certificates=[each.der for each in self.chain.certificates] if with_certificates else (),
        )

    def _content_form(self, accuracy: timedelta | None) -> list[bytes]:
        imprint, serial = secrets.token_bytes(32), next(serial_numbers())
        time = datetime(2001, 2, 3, 4, 5, 6, 789_000, UTC)
        info = Info(self._policy, Imprint(imprint), int.from_bytes(serial, "big"), time, accuracy)
        return _split(info_der(info), imprint, serial, _generalized(time))

    def _response_form(self, content_size: int, signature_size: int) -> list[bytes]:
        content, signature = secrets.token_bytes(content_size), secrets.token_bytes(signature_size)
        attributes = secrets.token_bytes(HASHES[self._hash]().digest_size).join(self._attributes)
        return _split(self._granted(content, attributes, signature), content, attributes[1:], signature)


def serial_numbers() -> Iterator[bytes]:
    """Numbers that never come twice: 78 random bits for this process, then a counter of 48; positive, 16 bytes each."""
    prefix = bytearray(secrets.token_bytes(10))
    prefix[0] = prefix[0] & 0x3F | 0x40
    for count in range(2**48):
        yield bytes(prefix) + count.to_bytes(6, "big")


def _generalized(time: datetime) -> bytes:
    return f"{time:%Y%m%d%H%M%S}.{time.microsecond // 1000:03d}Z".encode()


def _split(der: bytes, *values: bytes) -> list[bytes]:
    """What stands before, between and after the values, which stand in this order, each once."""
    parts = []
    for value in values:
        before, found, der = der.partition(value)
        if not found or value in der:
            raise ValueError("a value of the form must stand in it once")
        parts.append(before)
    return [*parts, der]
