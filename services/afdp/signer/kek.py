"""The key that encrypts keys (KEK) of what stands on disk: in a file under the passphrase, or `tokenkek.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from afdp.errors import DataLoss, FailedPrecondition
from afdp.formats.encoding import b64, from_b64
from afdp.signer.disk import read_passphrase, read_private, write_durably

NONCE_BYTES = 12
_ITERATIONS = 600_000  # of PBKDF2; 0.1 s once per start
_ABOUT = b"afdp key-encrypting key"


class Kek(Protocol):
    """Seals with AES-256-GCM. Its calls block: they are made in threads."""

    @property
    def form(self) -> int:
        """As `SubjectKeys.form`, of the subjects' keys that it seals."""

    @property
    def home(self) -> str:
        """Where it is, for operators."""

    def require(self) -> None:
        """Returns where the key is there, or `make` will make it.

        Raises:
            FailedPrecondition: it is not.
            Unavailable: what holds it cannot be reached.
        """

    def make(self) -> None:
        """Makes the key where nothing was sealed with it yet.

        Raises:
            Unavailable: what holds it cannot be reached.
        """

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """The sealed bytes; `about` is authenticated with them.

        Raises:
            Unavailable: the key cannot be reached.
        """

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What was sealed.

        Raises:
            DataLoss: it was altered, or sealed by another key or about something else.
            Unavailable: the key cannot be reached.
        """


class FileKek:
    """A KEK in a file, itself encrypted under the passphrase of the key files."""

    form = 1

    def __init__(self, path: Path, passphrase_file: Path) -> None:
        self.home = str(path)
        self._path = path
        self._passphrase_file = passphrase_file
        self._cipher: AESGCM | None = None

    def require(self) -> None:
        """As `Kek.require`."""
        if self._path.exists():
            self._opened()

    def make(self) -> None:
        """As `Kek.make`."""
        if not self._path.exists():
            passphrase = read_passphrase(self._passphrase_file, make=True)
            write_durably(self._path, _encrypted(AESGCM.generate_key(256), passphrase))

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """As `Kek.seal`.

        Raises:
            FailedPrecondition: the file is missing or may be read by others, or the passphrase is another.
        """
        return seal(self._opened(), plain, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """As `Kek.open`.

        Raises:
            FailedPrecondition: as `seal`.
        """
        try:
            return unseal(self._opened(), sealed, about)
        except InvalidTag:
            raise DataLoss("a sealed key does not open: restore it, or the key that sealed it") from None

    def _opened(self) -> AESGCM:
        if self._cipher is None:
            if not self._path.exists():
                raise FailedPrecondition(f"{self._path} is missing: restore it")
            self._cipher = AESGCM(_decrypted(self._path, read_passphrase(self._passphrase_file, make=False)))
        return self._cipher


def seal(cipher: AESGCM, plain: bytes, about: bytes) -> bytes:
    """A fresh nonce, the ciphertext and the tag: 28 bytes more than the plain ones."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, about)


def unseal(cipher: AESGCM, sealed: bytes, about: bytes) -> bytes:
    """What `seal` gave.

    Raises:
        InvalidTag: it is not what this key sealed about this.
    """
    if len(sealed) < NONCE_BYTES:
        raise InvalidTag
    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)


def _encrypted(key: bytes, passphrase: bytes) -> bytes:
    salt = os.urandom(16)
    sealed = seal(_under(passphrase, salt, _ITERATIONS), key, _ABOUT)
    return orjson.dumps(
        {
            "kdf": "PBKDF2-HMAC-SHA-256",
            "iterations": _ITERATIONS,
            "salt": b64(salt),
            "cipher": "AES-256-GCM",
            "sealed": b64(sealed),
        },
        option=orjson.OPT_INDENT_2,
    )


def _decrypted(path: Path, passphrase: bytes) -> bytes:
    try:
        told: dict[str, Any] = orjson.loads(read_private(path))
        cipher = _under(passphrase, from_b64(told["salt"]), int(told["iterations"]))
        return unseal(cipher, from_b64(told["sealed"]), _ABOUT)
    except (ValueError, KeyError, TypeError, InvalidTag):
        raise FailedPrecondition(f"{path} is not a sealed key, or the passphrase is another") from None


def _under(passphrase: bytes, salt: bytes, iterations: int) -> AESGCM:
    return AESGCM(PBKDF2HMAC(SHA256(), 32, salt, iterations).derive(passphrase))
