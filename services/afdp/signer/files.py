"""Keys in files: encrypted PKCS #8, one file per version, with a manifest of when each began.

    DIR/keyring.json         {"afdp-file-key": [{"version": 1, "valid_from": "…"}], "afdp-file-log-key": […]}
    DIR/afdp-file-key.1.pem  ECDSA P-256
    DIR/afdp-file-log-key.1.pem  Ed25519

A file that others may read is refused. A key is made when the manifest does not name it: a manifest without its files,
or files without their manifest, are an error, so that a lost volume never passes for a new installation.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.disk import private_folder, read_passphrase, read_private, write_durably
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Signature
from afdp.signer.part import Part

_PREHASHED = {P256: (32, ECDSA(Prehashed(SHA256()))), P384: (48, ECDSA(Prehashed(SHA384())))}

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey
_Manifest = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Held:
    private: PrivateKey
    public: KeyVersion


class FileKeyring:
    """Every version of its keys, read once at the start."""

    kind = "files"

    def __init__(self, folder: Path, passphrase: bytes, keys: Mapping[str, tuple[KeySpec, list[_Held]]]) -> None:
        self._folder = folder
        self._passphrase = passphrase
        self._keys = dict(keys)
        self._lock = asyncio.Lock()

    @classmethod
    def open(cls, folder: Path, passphrase_file: Path, specs: Sequence[KeySpec]) -> FileKeyring:
        """Reads the keys, and makes those that the manifest does not name yet.

        Raises:
            FailedPrecondition: a file may be read by others, is missing, is of another kind than its spec, or does not
                open with the passphrase.
        """
        private_folder(folder)
        entries: _Manifest = {}
        if (folder / "keyring.json").exists():
            entries = _read_manifest(folder)
        elif left := sorted(folder.glob("*.pem")):
            raise FailedPrecondition(f"{left[0]} has no manifest: restore {folder / 'keyring.json'}")
        passphrase = read_passphrase(passphrase_file, make=not entries)
        missing = [spec for spec in specs if spec.name not in entries]
        if left := [path for spec in missing if (path := _path(folder, spec.name, 1)).exists()]:
            raise FailedPrecondition(f"the manifest does not name {left[0]}: restore {folder / 'keyring.json'}")
        fresh = {spec.name: [_make(folder, spec, 1, passphrase)] for spec in missing}
        if fresh:
            entries.update(fresh)
            _write_manifest(folder, entries)
        keys = {
            spec.name: (spec, [_read_key(folder, spec, entry, passphrase) for entry in entries[spec.name]])
            for spec in specs
        }
        return cls(folder, passphrase, keys)

    @staticmethod
    def missing(folder: Path, specs: Sequence[KeySpec]) -> list[str]:
        """Names of keys that `open` would make.

        Raises:
            FailedPrecondition: the manifest cannot be read.
        """
        entries = _read_manifest(folder) if (folder / "keyring.json").exists() else {}
        return [spec.name for spec in specs if spec.name not in entries]

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign`."""
        _, versions = self._keys[name]
        key = versions[-1] if version is None else versions[version.number - 1]
        return [_sign(key, each) for each in inputs]

    async def versions(self, name: str) -> Sequence[KeyVersion]:
        """As `Keyring.versions`."""
        _, versions = self._keys[name]
        return [replace(each.public, current=each is versions[-1]) for each in versions]

    async def rotate(self, name: str) -> KeyVersion:
        """As `Keyring.rotate`: the new file first, then the manifest, so that a crash in between changes nothing."""
        async with self._lock:
            spec, versions = self._keys[name]
            try:
                fresh = await asyncio.to_thread(self._rotated, spec)
            except OSError as error:
                raise Unavailable("the signer cannot write its keys", retry_after=5.0) from error
            self._keys[name] = (spec, [*versions, fresh])
        return fresh.public

    async def check(self) -> None:
        """Keys in memory are always there."""

    async def status(self) -> Sequence[Part]:
        """As `Keyring.status`: whether a new version could be written, and the old ones found again at a start."""
        return [await asyncio.to_thread(self._status)]

    def _status(self) -> Part:
        files = [self._folder / "keyring.json"]
        for name, (_, versions) in self._keys.items():
            files += [_path(self._folder, name, number + 1) for number in range(len(versions))]
        try:
            for path in files:
                read_private(path)
        except FailedPrecondition as error:
            return Part(
                self.kind, False, str(error), "give the file back to the signer's user, mode 600, or restore it"
            )
        if not os.access(self._folder, os.W_OK):
            remedy = f"make {self._folder} writable for the signer's user"
            return Part(self.kind, False, f"{self._folder} cannot be written, so that no key can be rotated", remedy)
        return Part(self.kind, True, f"{len(files) - 1} versions of {len(self._keys)} keys in {self._folder}")

    def _rotated(self, spec: KeySpec) -> _Held:
        entries = _read_manifest(self._folder)
        entry = _make(self._folder, spec, len(entries[spec.name]) + 1, self._passphrase)
        entries[spec.name].append(entry)
        _write_manifest(self._folder, entries)
        return _read_key(self._folder, spec, entry, self._passphrase)


def _sign(key: _Held, data: bytes) -> Signature | NotaryError:
    if isinstance(key.private, Ed25519PrivateKey):
        return Signature(key.private.sign(data), key.public)
    size, prehashed = _PREHASHED[key.public.algorithm]
    if len(data) != size:
        return InvalidArgument.field("digest", f"must have {size} bytes")
    return Signature(key.private.sign(data, prehashed), key.public)


def _make(folder: Path, spec: KeySpec, version: int, passphrase: bytes) -> dict[str, Any]:
    private = _GENERATORS[spec.algorithm]()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    write_durably(_path(folder, spec.name, version), pem)
    return {"version": version, "valid_from": format_timestamp(datetime.now(UTC).replace(microsecond=0))}


_GENERATORS: Mapping[str, Callable[[], PrivateKey]] = {
    P256: partial(generate_private_key, SECP256R1()),
    P384: partial(generate_private_key, SECP384R1()),
    ED25519: Ed25519PrivateKey.generate,
}


def _read_key(folder: Path, spec: KeySpec, entry: dict[str, Any], passphrase: bytes) -> _Held:
    path = _path(folder, spec.name, entry["version"])
    data = read_private(path)
    try:
        private = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError):
        raise FailedPrecondition(f"{path} is not an encrypted PKCS #8 key, or the passphrase is another") from None
    if not isinstance(private, PrivateKey) or _algorithm(private) != spec.algorithm:
        raise FailedPrecondition(f"{path} is a key of another kind than {spec.algorithm}")
    public = KeyVersion(
        key_id=f"{spec.name}:{entry['version']}",
        purpose=spec.purpose,
        algorithm=spec.algorithm,
        spki=private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        valid_from=parse_timestamp(entry["valid_from"]),
        current=True,
    )
    return _Held(private, public)


def _algorithm(key: PrivateKey) -> str | None:
    if isinstance(key, Ed25519PrivateKey):
        return ED25519
    return {"secp256r1": P256, "secp384r1": P384}.get(key.curve.name)


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / "keyring.json"
    try:
        entries: _Manifest = orjson.loads(path.read_bytes())
        if entries and all([entry["version"] for entry in versions] for versions in entries.values()):
            return entries
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise FailedPrecondition(f"{path} is not a keyring's manifest: restore it")


def _write_manifest(folder: Path, entries: _Manifest) -> None:
    write_durably(folder / "keyring.json", orjson.dumps(entries, option=orjson.OPT_INDENT_2))


def _path(folder: Path, name: str, version: int) -> Path:
    return folder / f"{name}.{version}.pem"
