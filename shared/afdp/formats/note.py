"""Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature).

>>> Checkpoint("log.example", 0, bytes(32)).body()
'log.example\\n0\\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\\n'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from afdp.formats.encoding import b64, from_b64, from_hex
from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.spki import load_ec

MAX_NOTE_SIZE = 1_000_000
MAX_SIGNATURES = 100


class NoteError(ValueError):
    """A note, a checkpoint or a key is not well-formed, or a signature does not hold. The message says why."""


class SignatureType(IntEnum):
    """The byte that tells what a key signs, and how (signed-note, "Signature types")."""

    ED25519 = 0x01
    ECDSA = 0x02  # of the text as it is, with P-256 and SHA-256: what Rekor may sign its checkpoints with
    COSIGNATURE_ED25519 = 0x04
    COSIGNATURE_ML_DSA_44 = 0x06

    @property
    def cosigns(self) -> bool:
        """Whether it is a witness's, over a checkpoint and a time."""
        return self in (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_ML_DSA_44)


# --- keys -------------------------------------------------------------------------------------------------------------


def key_digest(name: str, public_key: bytes, kind: SignatureType = SignatureType.ED25519) -> bytes:
    """The untruncated key ID, 32 bytes: what Sigstore's `logId.keyId` holds for a log with such a key."""
    if kind is SignatureType.ECDSA:  # the name is not in it
        return sha256(public_key).digest()
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()


def key_id(name: str, public_key: bytes, kind: SignatureType = SignatureType.ED25519) -> bytes:
    """The key ID of a note signature, 4 bytes. `public_key` is raw, or of ECDSA the whole SPKI in DER."""
    return key_digest(name, public_key, kind)[:4]


def validate_key_name(name: str) -> None:
    """Checks the rule of signed-note: not empty, no space of any kind, no plus, no control character.

    Raises:
        NoteError: the name breaks it.
    """
    if not name or "+" in name or any(each.isspace() or each < " " for each in name):
        raise NoteError("a key name must not be empty and must not contain spaces, plus signs or control characters")


def validate_origin(origin: str) -> None:
    """Checks that a log of ours may have this origin: one bare, lower-case host name, which is its key name too.

    Sigstore's verifiers derive the origin from a URL's host, so a path, a port or a capital letter would not be found
    again, and they read an origin like `name - 123` as a Rekor v1 tree head.

    Raises:
        NoteError: it may not.
    """
    if re.search(r" - [0-9]+$", origin):
        raise NoteError("a log origin must not end in ' - ' and a number: verifiers take that for a Rekor v1 tree")
    labels = origin.split(".")
    if len(origin) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise NoteError(
            "a log origin must be a bare host name in lower case, such as notary.example.org: "
            "no scheme, no port, no path, no address"
        )


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and what it signs.

    Attributes:
        name: the key's name; for a log its origin.
        public_key: raw bytes, 32 of Ed25519 or 1,312 of ML-DSA-44; of ECDSA the SubjectPublicKeyInfo in DER.
    """

    name: str
    public_key: bytes
    kind: SignatureType = SignatureType.ED25519

    def __post_init__(self) -> None:
        validate_key_name(self.name)
        if len(self.public_key) != _PUBLIC_KEY_SIZE[self.kind]:
            raise NoteError(f"a public key of this type has {_PUBLIC_KEY_SIZE[self.kind]} bytes")
        if self.kind is SignatureType.ECDSA:
            try:
                _p256(self.public_key)
            except ValueError as error:
                raise NoteError(f"the public key {error}") from error

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signatures of this key carry."""
        return key_id(self.name, self.public_key, self.kind)

    def __str__(self) -> str:
        """The vkey: `name+hex(key ID)+base64(type ‖ public key)`."""
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.kind]) + self.public_key)}"

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Reads a vkey.

        Raises:
            NoteError: it is not exactly one, its key ID is another key's, or its type is not supported.
        """
        name, _, rest = vkey.partition("+")
        given_id, _, encoded = rest.partition("+")
        try:
            expected, key = from_hex(given_id), from_b64(encoded)
        except ValueError as error:
            raise NoteError("a vkey has the form name+hex(key ID)+base64(type and public key)") from error
        if not key or key[0] not in _PUBLIC_KEY_SIZE:
            raise NoteError("the vkey's signature type is not supported")
        parsed = cls(name, key[1:], SignatureType(key[0]))
        if parsed.key_id != expected:
            raise NoteError("the vkey's key ID is not that of its name and public key")
        return parsed


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PUBLIC_KEY_SIZE = {
    SignatureType.ED25519: 32,
    SignatureType.ECDSA: 91,
    SignatureType.COSIGNATURE_ED25519: 32,
    SignatureType.COSIGNATURE_ML_DSA_44: 1312,
}


# --- notes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """A signature line, verified by nobody yet.

    Attributes:
        key_id: 4 bytes.
        signature: 64 bytes of Ed25519; for a cosignature 8 bytes of time, big-endian, before the signature.
    """

    name: str
    key_id: bytes
    signature: bytes

    @classmethod
    def by(cls, key: VerifierKey, signature: bytes) -> NoteSignature:
        """A signature that this key has made."""
        return cls(key.name, key.key_id, signature)

    def line(self) -> str:
        """The signature line with its newline."""
        return f"— {self.name} {b64(self.key_id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """Reads a signature line, given without its newline.

        Raises:
            NoteError: it is not exactly one.
        """
        name, space, encoded = line.removeprefix("— ").partition(" ")
        if not line.startswith("— ") or not space:
            raise NoteError("a signature line has the form '— name base64'")
        validate_key_name(name)
        try:
            data = from_b64(encoded)
        except ValueError as error:
            raise NoteError(f"a signature line's data {error}") from error
        if len(data) < 5:
            raise NoteError("a signature line's data must be a key ID of 4 bytes and a signature")
        return cls(name, data[:4], data[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and its signatures."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(each.line() for each in self.signatures)

    def to_bytes(self) -> bytes:
        """The note as it is served and stored."""
        return str(self).encode()

    def names_signer(self, key: VerifierKey) -> bool:
        """Whether a signature says that it is by this key; nobody has verified it."""
        return any((each.name, each.key_id) == (key.name, key.key_id) for each in self.signatures)

    def with_signatures(self, more: Iterable[NoteSignature]) -> Note:
        """The note with these signatures added after its own; one of a key that has signed is not added again."""
        have = {(each.name, each.key_id) for each in self.signatures}
        return Note(self.text, self.signatures + tuple(each for each in more if (each.name, each.key_id) not in have))

    @classmethod
    def parse(cls, data: bytes | str) -> Note:
        """Reads a note; the signatures begin after its last blank line.

        Raises:
            NoteError: it is not UTF-8, has control characters, no signature, more than 100, or over 1,000,000 bytes.
        """
        if len(data) > MAX_NOTE_SIZE:
            raise NoteError(f"a note must not be larger than {MAX_NOTE_SIZE} bytes")
        try:
            note = data if isinstance(data, str) else data.decode()
        except UnicodeDecodeError as error:
            raise NoteError("a note must be UTF-8") from error
        if _CONTROL.search(note):
            raise NoteError("a note must not contain control characters")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not text or not lines.endswith("\n"):
            raise NoteError("a note is a text, a blank line and signature lines, each ended by a newline")
        signatures = lines.removesuffix("\n").split("\n")
        if len(signatures) > MAX_SIGNATURES:
            raise NoteError(f"a note must not have more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(map(NoteSignature.parse, signatures)))


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A key that has signed, and when, if its type of signature says so.

    Attributes:
        time: seconds since the epoch for a cosignature, else None.
    """

    key: VerifierKey
    time: int | None


def verify(note: Note, keys: Iterable[VerifierKey]) -> list[VerifiedSignature]:
    """The signatures of known keys, verified, in the note's order, each key once; unknown keys are ignored.

    Raises:
        NoteError: no known key has signed, or a known key's signature is wrong: then the whole note is refused.
    """
    known = {(key.name, key.key_id): key for key in keys}
    verified: list[VerifiedSignature] = []
    for signature in note.signatures:
        key = known.pop((signature.name, signature.key_id), None)
        if key is not None:
            verified.append(VerifiedSignature(key, _verified(key, note.text, signature.signature)))
    if not verified:
        raise NoteError("the note is not signed by a known key")
    return verified


def _verified(key: VerifierKey, text: str, signature: bytes) -> int | None:
    """Verifies one signature and gives its time."""
    try:
        if key.kind is SignatureType.ED25519:
            _ed25519(key.public_key).verify(signature, text.encode())
            return None
        if key.kind is SignatureType.ECDSA:
            _p256(key.public_key).verify(signature, text.encode(), ECDSA(SHA256()))
            return None
        time, bare = parse_cosignature(signature)
        if key.kind is SignatureType.COSIGNATURE_ED25519:
            _ed25519(key.public_key).verify(bare, cosignature_message(time, text))
        else:
            message = ml_dsa_cosignature_message(key.name, time, Checkpoint.parse(text))
            MLDSA44PublicKey.from_public_bytes(key.public_key).verify(bare, message)
    except UnsupportedAlgorithm as error:  # ML-DSA needs OpenSSL 3.5
        raise NoteError(f"the signature of {key.name}+{key.key_id.hex()} is by an algorithm not known here") from error
    except (InvalidSignature, ValueError) as error:
        raise NoteError(f"the signature of {key.name}+{key.key_id.hex()} is wrong") from error
    return time


_ed25519 = lru_cache(maxsize=256)(Ed25519PublicKey.from_public_bytes)


@lru_cache(maxsize=256)
def _p256(spki: bytes) -> EllipticCurvePublicKey:
    return load_ec(spki, SignatureAlgorithm.ECDSA_P256_SHA256)


# --- checkpoints and cosignatures -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its origin, its size and its root hash of 32 bytes (tlog-checkpoint)."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not self.origin or any(each < " " for each in self.origin):
            raise NoteError("a checkpoint's origin must not be empty and must not contain control characters")
        if not 0 <= self.size < 2**63:
            raise NoteError("a checkpoint's size must be between 0 and 2^63-1")
        if len(self.root) != 32:
            raise NoteError("a checkpoint's root hash must have 32 bytes")

    def body(self) -> str:
        """The note text: three lines, each ended by a newline. A log's key signs its UTF-8 bytes."""
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads a checkpoint's note text.

        Raises:
            NoteError: it is not exactly three lines; a size has leading zeros; there are extension lines.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise NoteError("a checkpoint is three lines: origin, size and root hash, each ended by a newline")
        if len(lines) > 4:
            raise NoteError("a checkpoint must not have extension lines")
        origin, size, root = lines[:3]
        if not _SIZE.fullmatch(size):
            raise NoteError("a checkpoint's size must be a decimal number without leading zeros")
        try:
            return cls(origin, int(size), from_b64(root))
        except NoteError:
            raise
        except ValueError as error:
            raise NoteError(f"a checkpoint's root hash {error}") from error


def cosignature_message(time: int, text: str) -> bytes:
    """What an Ed25519 cosigner signs, type 0x04 (tlog-cosignature): `time` in seconds, `text` a checkpoint's body."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def ml_dsa_cosignature_message(cosigner: str, time: int, checkpoint: Checkpoint) -> bytes:
    """What an ML-DSA-44 cosigner signs, type 0x06 (tlog-cosignature): the `cosigned_message` of a whole tree."""
    parts: Sequence[bytes] = (
        b"subtree/v1\n\0",
        _opaque(cosigner),
        time.to_bytes(8, "big"),
        _opaque(checkpoint.origin),
        (0).to_bytes(8, "big"),
        checkpoint.size.to_bytes(8, "big"),
        checkpoint.root,
    )
    return b"".join(parts)


def format_cosignature(time: int, signature: bytes) -> bytes:
    """The `timestamped_signature` of a cosignature line: 8 bytes of time, then the signature."""
    return time.to_bytes(8, "big") + signature


def parse_cosignature(data: bytes) -> tuple[int, bytes]:
    """The time and the bare signature of a `timestamped_signature`.

    Raises:
        NoteError: it is too short, or its time is over 2^63−1.
    """
    if len(data) <= 8 or data[0] & 0x80:
        raise NoteError("a cosignature is 8 bytes of time, at most 2^63-1, and a signature")
    return int.from_bytes(data[:8], "big"), data[8:]


def _opaque(text: str) -> bytes:
    data = text.encode()
    if not 1 <= len(data) <= 255:
        raise NoteError("a name in a cosigned message has 1 to 255 bytes")
    return bytes([len(data)]) + data


_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
