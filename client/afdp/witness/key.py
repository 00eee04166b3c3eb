"""A witness's key: Ed25519 in a PKCS #8 file that its owner alone may read, encrypted where there is a passphrase."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from afdp.embedded.process import write_private
from afdp.errors import FailedPrecondition
from afdp.formats.note import (
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    cosignature_message,
    format_cosignature,
)


class Ed25519Cosigner:
    """Makes cosignatures of type 0x04 (cosignature/v1)."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.vkey = VerifierKey(name, key.public_key().public_bytes_raw(), SignatureType.COSIGNATURE_ED25519)

    def cosign(self, time: int, note: Note) -> NoteSignature:
        """The cosignature over a checkpoint at a time, in seconds since the epoch."""
        signature = self._key.sign(cosignature_message(time, note.text))
        return NoteSignature.by(self.vkey, format_cosignature(time, signature))


def make_key(path: Path, passphrase: bytes | None) -> None:
    """Writes a new key.

    Raises:
        FailedPrecondition: there is one already.
    """
    if path.exists():
        raise FailedPrecondition(f"{path} is there already")
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_private(path, pem.decode())


def read_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """Reads a key.

    Raises:
        FailedPrecondition: it cannot be read, others may read it, it is of another kind, or the passphrase is another.
    """
    data = read_private(path)
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError):
        raise FailedPrecondition(
            f"{path} is not a PKCS #8 key that opens with {'this' if passphrase else 'no'} passphrase"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FailedPrecondition(f"{path} is not an Ed25519 key")
    return key


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file.

    Raises:
        FailedPrecondition: it cannot be read, others may read it, or it is empty.
    """
    passphrase = read_private(path).strip()
    if not passphrase:
        raise FailedPrecondition(f"{path} is empty: it must hold the passphrase of the key")
    return passphrase


def read_private(path: Path) -> bytes:
    """The content of a file that its owner, and at most its group, may read.

    Raises:
        FailedPrecondition: it cannot be read, or others may read or change it.
    """
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise FailedPrecondition(f"{path} may be read or changed by others: chmod 600 it")
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None
