"""Who is at the other end of a connection whose certificate the handshake has verified: by name, and whether still."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from afdp.tls.files import TlsFiles
from afdp.tls.material import Material, Serial, name_key

_MOST_KNOWN = 4096  # certificates that are remembered as read
_DNS_NAME = re.compile(r"[A-Za-z0-9.*_-]+")


class PeerRefused(Exception):
    """Its certificate does not count. The message is for the operator, who also finds `serial`, in hex."""

    def __init__(self, reason: str, serial: str = "") -> None:
        super().__init__(reason)
        self.serial = serial


@dataclass(frozen=True, slots=True)
class Peer:
    """One that was read.

    Attributes:
        uris, dns: its subject alternative names of these two kinds, which are never taken for each other: an authority
            that looks at DNS names only as such may let one pass that reads like somebody's URI.
        der: the certificate itself.
        service: which service of this deployment it is, by `AFDP_TLS_NAMES`; empty: none.
        serial: under which a revocation list names it.
        begins, ends: seconds since 1970 between which it is valid.
    """

    uris: tuple[str, ...]
    dns: tuple[str, ...]
    der: bytes
    service: str
    serial: Serial
    begins: float
    ends: float


class Peers:
    """Reads certificates of peers, each once, and says whether they still count."""

    def __init__(self, files: TlsFiles, names: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """`names`: those of services, by service; none: as the settings have them."""
        self._files = files
        self._names = files.names if names is None else names
        self._material: Material | None = None
        self._known: dict[bytes, Peer] = {}

    def of(self, encoded: bytes) -> Peer:
        """The peer of a certificate, PEM or DER.

        Raises:
            PeerRefused: it cannot be read, is revoked or not valid now; no matter since when its connection stands.
        """
        if self._material is not (material := self._files.material):
            self._material = material
            self._known.clear()  # who is a service of ours depends on the authorities
        peer = self._known.get(encoded)
        if peer is None:
            peer = self._read(encoded, material)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[encoded] = peer
        if peer.serial in material.revoked:
            raise PeerRefused("the certificate is revoked", f"{peer.serial[1]:x}")
        if not peer.begins <= time() <= peer.ends:
            raise PeerRefused("the certificate is not valid now", f"{peer.serial[1]:x}")
        return peer

    def _read(self, encoded: bytes, material: Material) -> Peer:
        try:
            pem = encoded.startswith(b"-----BEGIN")
            found = x509.load_pem_x509_certificate(encoded) if pem else x509.load_der_x509_certificate(encoded)
            uris, dns = _names_of(found)
        except ValueError:
            raise PeerRefused("the certificate cannot be read") from None
        service = next((name for name, known in self._names.items() if _has_one_of(known, uris, dns)), "")
        if service and not _issued_by(found, material.services):
            service = ""  # a name of ours from another's authority
        return Peer(
            uris,
            dns,
            found.public_bytes(Encoding.DER),
            service,
            (name_key(found.issuer), found.serial_number),
            found.not_valid_before_utc.timestamp(),
            found.not_valid_after_utc.timestamp(),
        )


def _has_one_of(known: tuple[str, ...], uris: tuple[str, ...], dns: tuple[str, ...]) -> bool:
    return any(name in (uris if "://" in name else dns) for name in known)


def _names_of(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Its URIs and its DNS names, of those that can be one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    dns = (name for name in names.get_values_for_type(x509.DNSName) if _DNS_NAME.fullmatch(name))
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier)), tuple(dns)


def _issued_by(certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> bool:
    """Whether one of the authorities has signed it; that it counts otherwise, the handshake has seen to."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
