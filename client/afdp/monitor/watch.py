"""What a monitor looks for in entries: keys that somebody should be signing with alone, identities that are somebody's.

Entries of Rekor are read: `hashedrekord` 0.0.1 and 0.0.2, `dsse` 0.0.1 and 0.0.2, `intoto` 0.0.2. What is in them is
anybody's word until its signature is checked; that a log took it is what a watcher wants to know. An entry of another
kind is counted as one that could not be read, never passed over in silence.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509.oid import ObjectIdentifier

from afdp.errors import InvalidArgument
from afdp.formats.encoding import from_b64

# Fulcio's extensions: the issuer of the identity token, as a bare string and as DER; a user name among the names.
_ISSUER_V1, _ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_USER_NAME = ObjectIdentifier("1.3.6.1.4.1.57264.1.7")

_HEX = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody in other people's logs.

    Attributes:
        subject: searched in each name of a certificate: e-mail addresses, URIs, user names.
        issuer: searched in who vouched for the name; None takes any.
    """

    subject: re.Pattern[str]
    issuer: re.Pattern[str] | None = None

    def __str__(self) -> str:
        issuer = f" by {self.issuer.pattern}" if self.issuer else ""
        return f"identity {self.subject.pattern}{issuer}"


@dataclass(frozen=True, slots=True)
class Match:
    """An entry that was looked for.

    Attributes:
        index: of the entry.
        watched: what it was found for.
        fingerprint: of the key that signed, SHA-256 of its SubjectPublicKeyInfo in hex.
        subjects: the names in the certificate, where there is one.
        issuer: who vouched for them.
    """

    index: int
    watched: str
    fingerprint: str
    subjects: tuple[str, ...] = ()
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Signatory:
    """Whose signature an entry holds: a key, and the names that a certificate gives it."""

    fingerprint: str
    subjects: tuple[str, ...] = ()
    issuer: str | None = None


class UnreadableEntryError(ValueError):
    """The entry is of a kind that is not known here, or not as its kind should be."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is looked for.

    Attributes:
        keys: fingerprints of keys.
        identities: in certificates.
    """

    keys: frozenset[str] = frozenset()
    identities: tuple[Identity, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.identities)

    def matches(self, index: int, entry: bytes) -> Iterator[Match]:
        """What an entry is found for.

        Raises:
            UnreadableEntryError: it cannot be told.
        """
        for each in signatories(entry):
            if each.fingerprint in self.keys:
                yield Match(index, f"key {each.fingerprint}", each.fingerprint, each.subjects, each.issuer)
            for identity in self.identities:
                if _is(each, identity):
                    yield Match(index, str(identity), each.fingerprint, each.subjects, each.issuer)


def fingerprint_of(text: str) -> str | None:
    """The fingerprint that a text is: SHA-256 of a SubjectPublicKeyInfo in hex, or in base64 as in a bundle's hint."""
    if match := _HEX.fullmatch(text):
        return match[1].lower()
    try:
        digest = from_b64(text)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None


def fingerprint_in(data: bytes) -> str:
    """The fingerprint of the key in a file: a public key or a certificate, PEM or DER.

    Raises:
        InvalidArgument: it is neither.
    """
    try:
        return _signatory(data).fingerprint
    except UnreadableEntryError as error:
        raise InvalidArgument("it is neither a public key nor a certificate (PEM or DER)") from error


def signatories(entry: bytes) -> Sequence[Signatory]:
    """Who has signed what an entry is about.

    Raises:
        UnreadableEntryError: it cannot be told.
    """
    try:
        content = orjson.loads(entry)
        read = _KINDS[content["kind"], content["apiVersion"]]
        return [_signatory(data) for data in read(content["spec"])]
    except (ValueError, KeyError, TypeError, IndexError, Base64Error) as error:
        raise UnreadableEntryError("the entry is not of a kind that is known here") from error


def _is(signatory: Signatory, identity: Identity) -> bool:
    if identity.issuer and not identity.issuer.search(signatory.issuer or ""):
        return False
    return any(identity.subject.search(each) for each in signatory.subjects)


# --- where each kind of entry has its keys ----------------------------------------------------------------------------


def _hashedrekord_1(spec: Any) -> Iterable[bytes]:
    yield from_b64(spec["signature"]["publicKey"]["content"])


def _hashedrekord_2(spec: Any) -> Iterable[bytes]:
    yield _verifier(spec["hashedRekordV002"]["signature"]["verifier"])


def _dsse_1(spec: Any) -> Iterable[bytes]:
    for each in spec["signatures"]:
        yield from_b64(each["verifier"])


def _dsse_2(spec: Any) -> Iterable[bytes]:
    for each in spec["dsseV002"]["signatures"]:
        yield _verifier(each["verifier"])


def _intoto_2(spec: Any) -> Iterable[bytes]:
    for each in spec["content"]["envelope"]["signatures"]:
        yield from_b64(each["publicKey"])


def _verifier(verifier: Any) -> bytes:
    return from_b64(verifier["publicKey" if "publicKey" in verifier else "x509Certificate"]["rawBytes"])


_KINDS = {
    ("hashedrekord", "0.0.1"): _hashedrekord_1,
    ("hashedrekord", "0.0.2"): _hashedrekord_2,
    ("dsse", "0.0.1"): _dsse_1,
    ("dsse", "0.0.2"): _dsse_2,
    ("intoto", "0.0.2"): _intoto_2,
}


# --- keys and certificates --------------------------------------------------------------------------------------------


def _signatory(data: bytes) -> Signatory:
    """A key or a certificate, in PEM or DER."""
    try:
        if data.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
            return _of_certificate(x509.load_pem_x509_certificate(data))
        if data.lstrip().startswith(b"-----BEGIN"):
            return Signatory(_fingerprint(load_pem_public_key(data)))
        # A certificate holds a SEQUENCE first where a key holds its algorithm; asking is simpler than to tell.
        try:
            return Signatory(_fingerprint(load_der_public_key(data)))
        except ValueError:
            return _of_certificate(x509.load_der_x509_certificate(data))
    except Exception as error:  # what strangers wrote: whatever the reader of it says, it cannot be read
        raise UnreadableEntryError("neither a public key nor a certificate") from error


def _fingerprint(key: Any) -> str:
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _of_certificate(certificate: x509.Certificate) -> Signatory:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Signatory(sha256(spki).hexdigest(), tuple(_subjects(certificate)), _issuer(certificate))


def _subjects(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names:
        if isinstance(name, (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)):
            yield name.value
        elif isinstance(name, x509.OtherName) and name.type_id == _USER_NAME:
            yield _der_string(name.value)


def _issuer(certificate: x509.Certificate) -> str | None:
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            if extension.oid == _ISSUER_V2:
                return _der_string(extension.value.value)
            if extension.oid == _ISSUER_V1:
                return extension.value.value.decode("utf-8", "replace")
    return None


def _der_string(data: bytes) -> str:
    """A short DER string; the length is one byte, or one byte after a byte that says so."""
    start = 3 if data[1:2] == b"\x81" else 4 if data[1:2] == b"\x82" else 2
    return data[start:].decode("utf-8", "replace")
