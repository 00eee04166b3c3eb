"""An authority in a folder: `ca.pem`, `ca-key.pem`, `crl.pem`, and `NAME.pem` with `NAME-key.pem` of what it issued.

Keys are EC P-256 and for the folder's owner alone. Certificates are short-lived; a renewed one has a new key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afdp.certs.names import Names, constraints
from afdp.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from afdp.whole_file import write_private, write_whole

AUTHORITY_DAYS = 365
LEAF_DAYS = 30
LIST_DAYS = 7

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CLOCKS = timedelta(minutes=5)  # by which they may differ


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a certificate and its key are."""

    cert: Path
    key: Path


class Authority:
    """An authority that is there."""

    def __init__(self, folder: Path) -> None:
        """Opens it.

        Raises:
            NotFound: the folder holds none.
            FailedPrecondition: it cannot be read.
        """
        self.folder = folder
        if not (self.file.exists() and self._key_file.exists()):
            raise NotFound(f"{folder} holds no authority; `afdp certs init` makes one")
        try:
            self.certificate = x509.load_pem_x509_certificate(self.file.read_bytes())
            key = load_pem_private_key(self._key_file.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise FailedPrecondition(f"the authority in {folder} cannot be read") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FailedPrecondition(f"the authority's key in {folder} is not an EC key")
        self._key = key

    @classmethod
    def make(cls, folder: Path, domain: str, permit: tuple[str, ...] = (), days: int = AUTHORITY_DAYS) -> Authority:
        """A new one, confined to names of a SPIFFE trust domain, of this machine, and those that are permitted.

        Raises:
            AlreadyExists: the folder holds one.
            InvalidArgument: what is permitted is no DNS domain.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / "ca-key.pem").exists():
            raise AlreadyExists(f"{folder} holds an authority already")
        key, limits = ec.generate_private_key(ec.SECP256R1()), constraints(domain, permit)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AFDP"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"Authority of {domain}"),
            ]
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _builder(name, name, key.public_key(), days)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(limits, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        _write_key(folder / "ca-key.pem", key)
        write_whole(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))
        authority = cls(folder)
        authority._write_list([])
        return authority

    @property
    def file(self) -> Path:
        """Its certificate."""
        return self.folder / "ca.pem"

    @property
    def list_file(self) -> Path:
        """Its revocation list."""
        return self.folder / "crl.pem"

    @property
    def _key_file(self) -> Path:
        return self.folder / "ca-key.pem"

    def issued(self, name: str) -> Issued:
        """Where the certificate of this name is, or would be.

        Raises:
            InvalidArgument: no file can have this name.
        """
        if not _NAME.fullmatch(name) or name in ("ca", "crl") or name.endswith("-key"):
            raise InvalidArgument.field("name", "must be of a-z, 0-9, dots and hyphens, and neither ca, crl nor -key")
        return Issued(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")

    def issue(self, name: str, names: Names, *, days: int = LEAF_DAYS, server: bool = True) -> Issued:
        """A certificate for these names; one that the folder has under `name` is replaced.

        Args:
            name: of its files.
            names: whom it is for.
            days: how long it is valid, and no longer than the authority.
            server: whether it is for a server too; every one is for clients.

        Raises:
            InvalidArgument: the authority may not issue for one of the names, or there is none.
        """
        files = self.issued(name)
        if not names.shown():
            raise InvalidArgument.field("name", "a certificate needs a DNS name, an IP address or a URI")
        self._require_permitted(names)
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        # Who it is for stands in the alternative names alone: a common name would be read as a DNS name.
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AFDP")])
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), days, self.certificate.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(names.extension(), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        _write_key(files.key, key)
        write_whole(files.cert, certificate.public_bytes(Encoding.PEM))
        return files

    def renew(self, name: str, days: int = LEAF_DAYS) -> Issued:
        """A new certificate and key for whom the one under this name is for.

        Raises:
            NotFound: there is none.
        """
        old = self._read(name)
        found = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = Names(
            tuple(found.get_values_for_type(x509.DNSName)),
            tuple(found.get_values_for_type(x509.IPAddress)),  # type: ignore[arg-type]  # a leaf has no networks
            tuple(found.get_values_for_type(x509.UniformResourceIdentifier)),
        )
        usages = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return self.issue(name, names, days=days, server=ExtendedKeyUsageOID.SERVER_AUTH in usages)

    def revoke(self, name: str) -> None:
        """Puts the certificate under this name on the revocation list, for good.

        Raises:
            NotFound: there is none.
        """
        serial = self._read(name).serial_number
        listed = list(self._listed())
        if serial not in {each.serial_number for each in listed}:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(datetime.now(UTC))
            listed.append(entry.build())
        self._write_list(listed)

    def renew_list(self) -> None:
        """The same revocation list, due later."""
        self._write_list(list(self._listed()))

    def _read(self, name: str) -> x509.Certificate:
        files = self.issued(name)
        try:
            return x509.load_pem_x509_certificate(files.cert.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"{self.folder} has no certificate {name}") from None
        except ValueError:
            raise FailedPrecondition(f"{files.cert} cannot be read") from None

    def _listed(self) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl(self.list_file.read_bytes())

    def _write_list(self, listed: list[x509.RevokedCertificate]) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _CLOCKS)
            .next_update(now + timedelta(days=LIST_DAYS))
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        )
        for each in listed:
            builder = builder.add_revoked_certificate(each)
        write_whole(self.list_file, builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def _require_permitted(self, names: Names) -> None:
        """Nobody would believe it otherwise, and they would say so less clearly."""
        limits = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        permitted = limits.permitted_subtrees or []
        domains = [each.value for each in permitted if isinstance(each, x509.DNSName)]
        hosts = [each.value for each in permitted if isinstance(each, x509.UniformResourceIdentifier)]
        wrong = [name for name in names.dns if not any(f".{name}".endswith(f".{domain}") for domain in domains)]
        wrong += [uri for uri in names.uris if uri.split("://")[1].split("/")[0] not in hosts]
        if wrong:
            raise InvalidArgument.field("name", f"this authority may not issue for {', '.join(wrong)}")


def inspect(path: Path) -> dict[str, object]:
    """What a certificate or a revocation list says, as plain values.

    Raises:
        InvalidArgument: the file is neither.
    """
    try:
        data = path.read_bytes()
        if b"X509 CRL" in data:
            crl = x509.load_pem_x509_crl(data)
            return {
                "issuer": crl.issuer.rfc4514_string(),
                "updated": crl.last_update_utc.isoformat(),
                "due": crl.next_update_utc.isoformat() if crl.next_update_utc else None,
                "revoked": [f"{each.serial_number:x}" for each in crl],
            }
        found = x509.load_pem_x509_certificate(data)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InvalidArgument(f"{path} holds no certificate and no revocation list, in PEM") from None
    try:
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(each.value) for each in alternatives]
    except x509.ExtensionNotFound:
        names = []
    return {
        "issuer": found.issuer.rfc4514_string(),
        "names": names,
        "serial": f"{found.serial_number:x}",
        "begins": found.not_valid_before_utc.isoformat(),
        "ends": found.not_valid_after_utc.isoformat(),
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(min(ends, latest) if latest else ends)
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
