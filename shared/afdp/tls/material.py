"""What TLS needs, read from files and looked through: a certificate and its key, authorities, revocations."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


class TlsError(Exception):
    """The files do not serve; the message says which and why, and shows nothing of a key.

    Attributes:
        path: the file that it is about.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """The files, all PEM.

    Attributes:
        cert: the own certificate, then its intermediates.
        key: its key, not encrypted.
        ca: the authorities that the services of one deployment have their certificates from.
        client_ca: those that callers from outside have theirs from, beside `ca`.
        crl: revocation lists of any of them, one after the other.
    """

    cert: Path
    key: Path
    ca: Path
    client_ca: Path | None = None
    crl: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Each file there is."""
        return tuple(each for each in (self.cert, self.key, self.ca, self.client_ca, self.crl) if each is not None)

    def setting(self, path: Path) -> str:
        """The name of a service's setting that names a file."""
        return next(f"AFDP_TLS_{field.name.upper()}" for field in fields(self) if getattr(self, field.name) == path)


Serial = tuple[str, int]
"""A certificate's issuer, as `name_key` has it, and its serial number."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the files held at one moment.

    Attributes:
        chain: the own certificate and its intermediates, PEM.
        key: its key, PEM.
        services: the authorities of the services.
        authorities: all authorities, PEM.
        revoked: what the lists name.
        expires: when the own certificate ends.
        lists_due: when the first of the lists was to be renewed; none: there is none.
    """

    chain: bytes
    key: bytes
    services: tuple[x509.Certificate, ...]
    authorities: bytes
    revoked: frozenset[Serial]
    expires: datetime
    lists_due: datetime | None

    @property
    def services_pem(self) -> bytes:
        """The authorities of the services, PEM."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.services)


def load_material(paths: TlsPaths) -> Material:
    """Reads the files and looks whether they go together.

    Raises:
        TlsError: one cannot be read, or does not go with another.
    """
    chain, key = _read(paths.cert), _read(paths.key)
    own = _certificates(paths.cert, chain)[0]
    _require_pair(paths, own, key)
    services = _certificates(paths.ca, _read(paths.ca))
    clients = _certificates(paths.client_ca, _read(paths.client_ca)) if paths.client_ca else ()
    authorities = (*services, *clients)
    _require_use(paths, chain, key)
    lists = _revocation_lists(paths.crl, authorities) if paths.crl else ()
    dues = [each.next_update_utc for each in lists if each.next_update_utc is not None]
    return Material(
        chain=chain,
        key=key,
        services=services,
        authorities=b"".join(each.public_bytes(Encoding.PEM) for each in authorities),
        revoked=frozenset((name_key(each.issuer), entry.serial_number) for each in lists for entry in each),
        expires=own.not_valid_after_utc,
        lists_due=min(dues, default=None),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(path, f"cannot be read: {error.strerror}") from None


def _certificates(path: Path, data: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise TlsError(path, "holds no certificate in PEM, or a broken one") from None


def _require_pair(paths: TlsPaths, own: x509.Certificate, pem: bytes) -> None:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise TlsError(paths.key, "holds no key in PEM that can be read without a password") from None
    spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*spki) != own.public_key().public_bytes(*spki):
        raise TlsError(paths.key, f"is not the key of the certificate in {paths.cert}")


def is_revoked(material: Material, certificate: bytes) -> bool:
    """Whether a list names a certificate, given as DER."""
    found = x509.load_der_x509_certificate(certificate)
    return (name_key(found.issuer), found.serial_number) in material.revoked


def show(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Has connections of a context show a certificate.

    A context takes files only, and what stands in those on disk may be newer than what was looked through.

    Raises:
        ssl.SSLError: OpenSSL does not take it.
    """
    number = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(number, "wb", buffering=0) as file:
        file.write(key + b"\n" + chain)
        context.load_cert_chain(f"/proc/self/fd/{number}")


def _require_use(paths: TlsPaths, chain: bytes, key: bytes) -> None:
    """What is in order by itself may be too weak for TLS."""
    try:
        show(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain, key)
    except ssl.SSLError as error:
        why = (error.reason or "it is refused").replace("_", " ").lower()
        raise TlsError(paths.cert, f"cannot be used for TLS with {paths.key}: {why}") from None


def _revocation_lists(
    path: Path, authorities: Iterable[x509.Certificate]
) -> tuple[x509.CertificateRevocationList, ...]:
    """Each list in a file, which one of the authorities must have signed (RFC 5280, section 6.3.3)."""
    end = b"-----END X509 CRL-----"
    found = []
    for part in _read(path).split(end)[:-1]:
        try:
            each = x509.load_pem_x509_crl(part + end)
        except ValueError:
            raise TlsError(path, "holds a revocation list that cannot be read") from None
        if not any(_signed_by(each, authority) for authority in authorities):
            raise TlsError(path, "holds a revocation list that none of the authorities has signed")
        found.append(each)
    if not found:
        raise TlsError(path, "holds no revocation list in PEM")
    return tuple(found)


def _signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if name_key(crl.issuer) != name_key(authority.subject):
        return False
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # it raises for other kinds
    except (TypeError, UnsupportedAlgorithm):
        return False


def name_key(name: x509.Name) -> str:
    """The same for all encodings of a name: who compares bytes misses a revocation (RFC 5280, section 7.1).

    Coarser than what libraries of TLS take for the same name, so that whatever they let in is found on a list.
    """
    parts = (sorted((each.oid.dotted_string, _folded(each.value)) for each in part) for part in name.rdns)
    return repr(list(parts))


def _folded(value: str | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else " ".join(value.casefold().split())


def days_left(until: datetime) -> float:
    """Days until a moment, negative when it is past."""
    return (until - datetime.now(UTC)).total_seconds() / 86_400
