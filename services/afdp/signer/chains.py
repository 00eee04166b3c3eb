"""The certificates of the time-stamping key: a chain for each of its versions.

By default each version gets a root of its own, whose private key is made, used once and forgotten; what stays is

    DIR/afdp-file-timestamp-key:1.pem   the authority's certificate, then its root

An organisation may bring the chains instead, from an authority of its own: one PEM file, shared by all signers that
share the key. Certificates are never made anew for a version that had some: its stamps name the first for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.formats.certificates import Chain, from_pem, read_chain, to_pem
from afdp.signer.disk import private_folder, write_durably
from afdp.signer.keys import KeyVersion

logger = logging.getLogger(__name__)

# A clock that a keyring stamps its versions' beginning with may be ahead of ours.
_AHEAD = timedelta(minutes=5)
_LIFETIME = timedelta(days=365 * 25)


class ChainMemory(Protocol):
    """Which chains there were, by whose they are (`external_chains.py`)."""

    def known(self) -> Sequence[tuple[str, Chain]]:
        """Each with whose it is, in the order in which they were first seen."""

    async def keep(self, url: str, chain: Chain) -> None:
        """Keeps a chain; it survives a crash once this returns."""


class Chains(Protocol):
    """What knows the chain of each version of the time-stamping key."""

    @property
    def at_once(self) -> bool:
        """Whether each version has one from its beginning; else one may have to wait for it, and another goes on."""

    async def known(self, version: KeyVersion) -> Chain | None:
        """The chain of a version that it stamps under, if it has one."""

    async def every(self, version: KeyVersion) -> Sequence[Chain]:
        """Every chain of a version that is known; a certificate may have been renewed, and its stamps need it still."""

    async def keep(self, version: KeyVersion, chain: Chain) -> None:
        """Remembers that a version stamps under a chain from now on.

        Raises:
            Unavailable: the disk refuses.
        """

    async def of(self, version: KeyVersion) -> Chain:
        """The chain of a version that signs.

        Raises:
            FailedPrecondition: it has none, and none can be made here.
            Unavailable: one cannot be written.
        """


class OwnChains:
    """Chains made here, kept in a folder."""

    at_once = True

    def __init__(self, folder: Path, organization: str) -> None:
        self._folder = private_folder(folder)
        self._organization = organization
        self._lock = asyncio.Lock()
        self._chains: dict[str, Chain] = {}

    async def known(self, version: KeyVersion) -> Chain | None:
        """As `Chains.known`.

        Raises:
            DataLoss: its file is there and cannot be read as the chain of this version.
        """
        if version.key_id not in self._chains:
            chain = await asyncio.to_thread(_read, self._path(version), version)
            if chain is None:
                return None
            self._chains[version.key_id] = chain
        return self._chains[version.key_id]

    async def every(self, version: KeyVersion) -> Sequence[Chain]:
        """As `Chains.every`: never more than one."""
        chain = await self.known(version)
        return () if chain is None else (chain,)

    async def keep(self, version: KeyVersion, chain: Chain) -> None:
        """As `Chains.keep`: its file does that."""

    async def of(self, version: KeyVersion) -> Chain:
        """As `Chains.of`: one that is missing is made, and on disk when this returns."""
        async with self._lock:
            if chain := await self.known(version):
                return chain
            try:
                await asyncio.to_thread(self._make, version)
            except OSError as error:
                raise Unavailable("the signer cannot write its time-stamping certificates", retry_after=5.0) from error
            if chain := await self.known(version):
                return chain
        raise DataLoss(f"{self._path(version)} was written and is not there")

    def _make(self, version: KeyVersion) -> None:
        certificates = _issued(version, self._organization)
        pem = to_pem(each.public_bytes(Encoding.DER) for each in certificates)
        write_durably(self._path(version), pem.encode(), mode=0o644)

    def _path(self, version: KeyVersion) -> Path:
        return self._folder / f"{version.key_id}.pem"


class GivenChains:
    """Chains of an organisation's own authority, in one PEM file that it may add to while the signer runs."""

    at_once = False

    def __init__(self, file: Path, memory: ChainMemory) -> None:
        """Reads the file; `memory` has what was stamped under, whatever is taken out of the file.

        Raises:
            FailedPrecondition: it cannot be read, or is not certificates in PEM.
        """
        self._file = file
        self._memory = memory
        self._seen = _state(file)
        self._chains: Mapping[bytes, Sequence[Chain]] = _given(file)

    async def known(self, version: KeyVersion) -> Chain | None:
        """As `Chains.known`: of several in the file the one that began last, of those that are valid if any is."""
        now, given = datetime.now(UTC), self._chains.get(version.spki, ())
        valid = [chain for chain in given if chain.valid_from <= now <= chain.valid_until]
        return max(valid or given, key=lambda each: each.valid_from, default=None)

    async def every(self, version: KeyVersion) -> Sequence[Chain]:
        """As `Chains.every`."""
        given = self._chains.get(version.spki, ())
        used = [chain for key_id, chain in self._memory.known() if key_id == version.key_id]
        return [*(each for each in used if each not in given), *given]

    async def keep(self, version: KeyVersion, chain: Chain) -> None:
        """As `Chains.keep`."""
        await self._memory.keep(version.key_id, chain)

    async def of(self, version: KeyVersion) -> Chain:
        """As `Chains.of`; the file is read again where it has changed."""
        await asyncio.to_thread(self._read_again)
        if chain := await self.known(version):
            return chain
        raise FailedPrecondition(
            f"{self._file} has no certificate for {version.key_id}: have one issued for this version's public key, "
            "with the critical extended key usage timeStamping alone, and add it with its issuers"
        )

    def _read_again(self) -> None:
        """What it said before stands while somebody writes it, or has made a mistake."""
        state = _state(self._file)
        if state == self._seen:
            return
        try:
            self._chains = _given(self._file)
        except FailedPrecondition as error:
            logger.warning("certificates for time-stamping were not read again", extra={"fields": {"why": str(error)}})
        self._seen = state


def _state(file: Path) -> tuple[int, int, int] | None:
    """What tells one content of a file from another; None where it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path, version: KeyVersion) -> Chain | None:
    try:
        pem = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataLoss(f"{path} cannot be read; restore it, do not remove it") from error
    try:
        chain = read_chain(tuple(from_pem(pem)))
    except ValueError as error:
        raise DataLoss(f"{path} is no chain of certificates; restore it, do not remove it: it {error}") from error
    if _spki(chain.authority.der) != version.spki:
        raise DataLoss(f"{path} is not for {version.key_id}; restore it, do not remove it")
    return chain


def _given(file: Path) -> dict[bytes, list[Chain]]:
    """The certificates for time-stamping in the file, each with the issuers that it has there, by their public key."""
    try:
        certificates = [x509.load_der_x509_certificate(each) for each in from_pem(file.read_text())]
    except OSError as error:
        raise FailedPrecondition(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FailedPrecondition(f"{file} is not certificates in PEM: {error}") from None
    issuers = [each for each in certificates if _may_issue(each)]
    chains: dict[bytes, list[Chain]] = {}
    for certificate in certificates:
        if certificate not in issuers:
            chain = [each.public_bytes(Encoding.DER) for each in with_issuers(certificate, issuers)]
            try:
                chains.setdefault(_spki(chain[0]), []).append(read_chain(tuple(chain)))
            except ValueError as error:
                subject = certificate.subject.rfc4514_string()
                raise FailedPrecondition(f"{file}: the chain of {subject} {error}") from None
    if not chains:
        raise FailedPrecondition(f"{file} has no certificate for time-stamping")
    return chains


def with_issuers(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """A certificate and its issuers, up to a root, as far as they are there."""
    chain, left = [certificate], list(issuers)
    while chain[-1].issuer != chain[-1].subject:
        above = next((each for each in left if _issued_by(chain[-1], each)), None)
        if above is None:
            break
        left.remove(above)
        chain.append(above)
    return chain


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # whatever is wrong with it, it is not this one's
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _spki(certificate: bytes) -> bytes:
    public = x509.load_der_x509_certificate(certificate).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- making -----------------------------------------------------------------------------------------------------------


def _issued(version: KeyVersion, organization: str) -> list[x509.Certificate]:
    """The authority's certificate and the root that issued it and nothing else, both from this moment's own key."""
    root_key = ec.generate_private_key(ec.SECP384R1())
    root_public, public = root_key.public_key(), load_der_public_key(version.spki)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise FailedPrecondition(f"{version.key_id} is no key for ECDSA, so that it cannot sign timestamps")
    short = sha256(version.spki).hexdigest()[:16]  # two roots of one name would confuse verifiers
    name, root_name = (_name(organization, f"AFDP time-stamping {each}{short}") for each in ("", "root "))
    named_root = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_public)
    root = (
        _builder(root_name, root_name, version)
        .public_key(root_public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_public), critical=False)
        .sign(root_key, SHA384())
    )
    authority = (
        _builder(name, root_name, version)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(named_root, critical=False)
        .sign(root_key, SHA384())
    )
    return [authority, root]


def _builder(subject: x509.Name, issuer: x509.Name, version: KeyVersion) -> x509.CertificateBuilder:
    begins = version.valid_from - _AHEAD
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        serial_number=x509.random_serial_number(),
        not_valid_before=begins,
        not_valid_after=begins + _LIFETIME,
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Signing timestamps, or else issuing certificates."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
