"""Certificates that nobody should believe, made with an authority's own key or with another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afdp.certs.authority import Authority, Issued
from afdp.certs.names import Names


def forge(folder: Path, names: Names, authority: Authority | None = None, *, days: float = 1) -> Issued:
    """One that ends in so many days, without a look at what its authority may issue; self-signed without one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Forged")])
    signer, issuer = key, subject
    if authority is not None:
        found = load_pem_private_key((authority.folder / "ca-key.pem").read_bytes(), None)
        assert isinstance(found, ec.EllipticCurvePrivateKey)
        signer, issuer = found, authority.certificate.subject
    ends = datetime.now(UTC) + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=3))
        .not_valid_after(ends)
        .add_extension(names.extension(), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(signer, SHA256())
    )
    folder.mkdir(exist_ok=True)
    files = Issued(folder / "forged.pem", folder / "forged-key.pem")
    files.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
