"""A time-stamping authority in memory, for tests: a chain made with `cryptography.x509`, tokens by our own formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import read_certificate
from afdp.formats.der import ECDSA_SHA256
from afdp.formats.der import SHA256 as SHA256_OID
from afdp.formats.rfc3161 import Imprint, Info, attributes_der, granted_der, info_der

OPENED = datetime(2026, 11, 1, tzinfo=UTC)
CLOSED = datetime(2046, 11, 1, tzinfo=UTC)
POLICY = "1.3.6.1.4.1.99999.7"
TIME_STAMPING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])


def name_of(common_name: str) -> x509.Name:
    """A name with an organisation."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AFDP tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


@dataclass
class Issuer:
    """One that issues certificates: a root, or below another issuer."""

    common_name: str = "Root of time"
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    above: Issuer | None = None
    path_length: int | None = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        by = self.above or self
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = by.issue(
            self.common_name,
            self.key.public_key(),
            (x509.BasicConstraints(True, self.path_length), True),
            (usage, True),
            *self.extensions,
        )

    def issue(
        self,
        common_name: str,
        key: Any,
        *extensions: tuple[x509.ExtensionType, bool],
        opened: datetime = OPENED,
        closed: datetime = CLOSED,
    ) -> x509.Certificate:
        """A certificate, with each extension and whether it is critical."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_of(common_name))
            .issuer_name(name_of(self.common_name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(opened)
            .not_valid_after(closed)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, SHA384())

    @property
    def chain(self) -> list[x509.Certificate]:
        """Its certificate and those above it."""
        return [self.certificate, *(self.above.chain if self.above else [])]


@dataclass
class LocalAuthority:
    """Stamps what it is given, at whatever time it is told."""

    uri: str = "https://tsa.example/stamp"
    issuer: Issuer = field(default_factory=Issuer)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        self.certificate = self.issuer.issue("Clock", self.key.public_key(), (TIME_STAMPING, True))

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """The chain, DER."""
        return tuple(each.public_bytes(Encoding.DER) for each in (self.certificate, *self.issuer.chain))

    @property
    def trusted(self) -> TimestampAuthority:
        """As a trust root has it."""
        return TimestampAuthority.of(self.uri, self.certificates, OPENED)

    def stamp(self, data: bytes, time: datetime, *, with_certificates: bool = False) -> bytes:
        """A response over the SHA-256 of some data."""
        self.made += 1
        imprint = Imprint(sha256(data).digest())
        return self.respond(Info(POLICY, imprint, self.made, time, timedelta(seconds=1)), with_certificates)

    def respond(self, info: Info, with_certificates: bool = False) -> bytes:
        """A response that grants a token with this content."""
        certificate = read_certificate(self.certificates[0])
        content = info_der(info)
        attributes = attributes_der(sha256(content).digest(), certificate.fingerprint)
        return granted_der(
            content=content,
            attributes=attributes,
            issuer=certificate.issuer,
            serial=certificate.serial,
            digest_algorithm=SHA256_OID,
            signature_algorithm=ECDSA_SHA256,
            signature=self.key.sign(attributes, ec.ECDSA(SHA256())),
            certificates=self.certificates if with_certificates else (),
        )
