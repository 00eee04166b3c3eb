"""A certificate authority of a test's own, for TLS between real parts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


@dataclass
class TlsAuthority:
    """Issues certificates into a folder."""

    folder: Path
    name: str = "Test authority"
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        subject = _name(self.name)
        built = _builder(subject, subject, self.key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.certificate = built.sign(self.key, SHA256())
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    @property
    def file(self) -> Path:
        """Its own certificate, PEM."""
        return self.folder / f"{self.name.lower().replace(' ', '-')}.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for a server on loopback or a client of this name, and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        built = _builder(_name(name), self.certificate.subject, key)
        built = built.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = built.add_extension(loopback, critical=False).sign(self.key, SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )
