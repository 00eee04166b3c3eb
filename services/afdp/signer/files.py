"""Keys in files: encrypted PKCS #8, one file per version, with a manifest of when each began.

    DIR/keyring.json         {"afdp-file-key": [{"version": 1, "valid_from": "…"}], "afdp-file-log-key": […]}
    DIR/afdp-file-key.1.pem  ECDSA P-256
    DIR/afdp-file-log-key.1.pem  Ed25519

A file that others may read is refused. Keys are made at the first start only: a manifest without its files, or files
without their manifest, are an error, so that a lost volume never passes for a new installation.
"""

from __future__ import annotations

import asyncio
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.disk import private_folder, write_durably
from afdp.signer.service import KeyVersion, Purpose, Signature

EVIDENCE_KEY = "afdp-file-key"
LOG_KEY = "afdp-file-log-key"

_PURPOSES = {EVIDENCE_KEY: Purpose.EVIDENCE, LOG_KEY: Purpose.LOG}
_ALGORITHMS = {EVIDENCE_KEY: "PKIX_ECDSA_P256_SHA_256", LOG_KEY: "PKIX_ED25519"}
_OVER_SHA256 = ECDSA(Prehashed(SHA256()))

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey
K = TypeVar("K", EllipticCurvePrivateKey, Ed25519PrivateKey)


@dataclass(frozen=True, slots=True)
class _Held(Generic[K]):
    private: K
    public: KeyVersion


_Evidence = list[_Held[EllipticCurvePrivateKey]]
_Log = list[_Held[Ed25519PrivateKey]]


class FileKeyring:
    """Both keys, read once at the start."""

    def __init__(self, folder: Path, passphrase: bytes, evidence: _Evidence, log: _Log) -> None:
        self._folder = folder
        self._passphrase = passphrase
        self._evidence = evidence
        self._log = log
        self._lock = asyncio.Lock()

    @classmethod
    def open(cls, folder: Path, passphrase_file: Path) -> FileKeyring:
        """Reads the keys, or makes them where there are none yet.

        Raises:
            FailedPrecondition: a file may be read by others, is missing, or does not open with the passphrase.
        """
        private_folder(folder)
        manifest = folder / "keyring.json"
        if not manifest.exists():
            if left := sorted(folder.glob("*.pem")):
                raise FailedPrecondition(f"{left[0]} has no manifest: restore {manifest}")
            passphrase = _read_passphrase(passphrase_file, make=True)
            entries = {name: [_make(folder, name, 1, passphrase)] for name in _PURPOSES}
            _write_manifest(folder, entries)
        passphrase = _read_passphrase(passphrase_file, make=False)
        entries = _read_manifest(folder)
        evidence = [_read_key(folder, EVIDENCE_KEY, entry, passphrase, _p256) for entry in entries[EVIDENCE_KEY]]
        log = [_read_key(folder, LOG_KEY, entry, passphrase, _ed25519) for entry in entries[LOG_KEY]]
        return cls(folder, passphrase, evidence, log)

    async def sign_digests(self, digests: Sequence[bytes]) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign_digests`."""
        current = self._evidence[-1]
        return [_sign_digest(current, digest) for digest in digests]

    async def sign_message(self, message: bytes) -> Signature:
        """As `Keyring.sign_message`."""
        current = self._log[-1]
        return Signature(current.private.sign(message), current.public)

    async def versions(self) -> Sequence[KeyVersion]:
        """As `Keyring.versions`."""
        evidence = [replace(each.public, current=each is self._evidence[-1]) for each in self._evidence]
        return [*evidence, *(each.public for each in self._log)]

    async def rotate(self) -> KeyVersion:
        """As `Keyring.rotate`: the new file first, then the manifest, so that a crash in between changes nothing."""
        async with self._lock:
            try:
                fresh = await asyncio.to_thread(self._rotated)
            except OSError as error:
                raise Unavailable("the signer cannot write its keys", retry_after=5.0) from error
            self._evidence = [*self._evidence, fresh]
        return fresh.public

    async def check(self) -> None:
        """Keys in memory are always there."""

    def _rotated(self) -> _Held[EllipticCurvePrivateKey]:
        entries = _read_manifest(self._folder)
        version = len(entries[EVIDENCE_KEY]) + 1
        entry = _make(self._folder, EVIDENCE_KEY, version, self._passphrase)
        entries[EVIDENCE_KEY].append(entry)
        _write_manifest(self._folder, entries)
        return _read_key(self._folder, EVIDENCE_KEY, entry, self._passphrase, _p256)


def _sign_digest(key: _Held[EllipticCurvePrivateKey], digest: bytes) -> Signature | NotaryError:
    if len(digest) != 32:
        return InvalidArgument.field("digest", "must have 32 bytes")
    return Signature(key.private.sign(digest, _OVER_SHA256), key.public)


def _make(folder: Path, name: str, version: int, passphrase: bytes) -> dict[str, Any]:
    private: PrivateKey = (
        generate_private_key(SECP256R1()) if _PURPOSES[name] is Purpose.EVIDENCE else Ed25519PrivateKey.generate()
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    write_durably(_path(folder, name, version), pem)
    return {"version": version, "valid_from": format_timestamp(datetime.now(UTC).replace(microsecond=0))}


def _read_key(
    folder: Path, name: str, entry: dict[str, Any], passphrase: bytes, narrow: Callable[[object], K | None]
) -> _Held[K]:
    path = _path(folder, name, entry["version"])
    data = _read_private(path)
    try:
        private = narrow(load_pem_private_key(data, passphrase))
    except (ValueError, TypeError):
        raise FailedPrecondition(f"{path} is not an encrypted PKCS #8 key, or the passphrase is another") from None
    if private is None:
        raise FailedPrecondition(f"{path} is a key of another kind than {_ALGORITHMS[name]}")
    public = KeyVersion(
        key_id=f"{name}:{entry['version']}",
        purpose=_PURPOSES[name],
        algorithm=_ALGORITHMS[name],
        spki=private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        valid_from=parse_timestamp(entry["valid_from"]),
        current=True,
    )
    return _Held(private, public)


def _p256(key: object) -> EllipticCurvePrivateKey | None:
    return key if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1) else None


def _ed25519(key: object) -> Ed25519PrivateKey | None:
    return key if isinstance(key, Ed25519PrivateKey) else None


def _read_manifest(folder: Path) -> dict[str, list[dict[str, Any]]]:
    path = folder / "keyring.json"
    try:
        entries: dict[str, list[dict[str, Any]]] = orjson.loads(path.read_bytes())
        if all([entry["version"] for entry in entries[name]] for name in _PURPOSES):
            return entries
    except (ValueError, KeyError, TypeError):
        pass
    raise FailedPrecondition(f"{path} is not a keyring's manifest: restore it")


def _write_manifest(folder: Path, entries: dict[str, list[dict[str, Any]]]) -> None:
    write_durably(folder / "keyring.json", orjson.dumps(entries, option=orjson.OPT_INDENT_2))


def _read_passphrase(path: Path, *, make: bool) -> bytes:
    if make and not path.exists():
        private_folder(path.parent)
        write_durably(path, secrets.token_urlsafe(32).encode())
    passphrase = _read_private(path).strip()
    if not passphrase:
        raise FailedPrecondition(f"{path} is empty: it must hold the passphrase of the key files")
    return passphrase


def _read_private(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise FailedPrecondition(f"{path} may be read or changed by others: chmod 600 it")
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None


def _path(folder: Path, name: str, version: int) -> Path:
    return folder / f"{name}.{version}.pem"
