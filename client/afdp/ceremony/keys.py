"""Offline keys: Ed25519, each in a file of encrypted PKCS #8, named after its role and the beginning of its ID.

DIR/keys/root-3fa94c1d.pem
DIR/keys/targets-90b1e2aa.pem
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from afdp.errors import FailedPrecondition

_ID_LENGTH = 8  # of an ID's hex digits in a file's name


@dataclass(frozen=True, slots=True)
class OfflineKey:
    """A key that was opened."""

    path: Path
    signer: CryptoSigner = field(repr=False)

    @property
    def public(self) -> SSlibKey:
        """Its public half, as metadata has it."""
        return self.signer.public_key

    @property
    def key_id(self) -> str:
        """What names it in metadata."""
        return self.public.keyid


def make_key(folder: Path, role: str, passphrase: bytes) -> OfflineKey:
    """A fresh key in a file of its own, which its owner alone may read.

    Raises:
        FailedPrecondition: the passphrase is empty.
        OSError: the disk refuses.
    """
    if not passphrase:
        raise FailedPrecondition("an offline key needs a passphrase")
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    path = folder / f"{role}-{signer.public_key.keyid[:_ID_LENGTH]}.pem"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(descriptor)
    return OfflineKey(path, signer)


def open_key(path: Path, passphrase: bytes) -> OfflineKey:
    """A key from its file.

    Raises:
        FailedPrecondition: it cannot be read, may be read by others, is no such key, or the passphrase is another's.
    """
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IRGRP | stat.S_IWOTH | stat.S_IWGRP):
            raise FailedPrecondition(f"{path} may be read or changed by others: chmod 600 it")
        pem = path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from error
    try:
        private = load_pem_private_key(pem, passphrase)
    except TypeError as error:
        raise FailedPrecondition(f"{path} is not encrypted: an offline key must be") from error
    except ValueError as error:
        raise FailedPrecondition(f"{path} does not open with this passphrase, or is no key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise FailedPrecondition(f"{path} is not an Ed25519 key")
    return OfflineKey(path, CryptoSigner(private))


def is_named_after(path: Path, key_id: str) -> bool:
    """Whether a file's name says that it holds this key."""
    return path.stem.rpartition("-")[2] == key_id[:_ID_LENGTH]
