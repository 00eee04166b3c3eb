"""Subjects' keys in files, sealed by a key-encrypting key (KEK) that is in a file or inside a token.

    DIR/lock        held while a signer uses the folder
    DIR/names       the key that names are made with, sealed
    DIR/keys/ab/…   one file per scope: the versions of its key, sealed; or when they were destroyed
    DIR/leaving/    what is being replaced, until it is overwritten

A file's name is a keyed hash of its scope, so that it tells nothing about a subject to whoever has not the KEK. What is
replaced, by rotation or by destruction, is kept by a second link in `leaving` until it is overwritten there: whenever
the process dies, a later start finds it and finishes. Whether overwriting reaches the medium is the file system's to
say; where that matters, the KEK belongs into a token, or the disk is encrypted.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from afdp.errors import DataLoss, FailedPrecondition, NotaryError, Unavailable
from afdp.formats.encoding import b64, from_b64
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.datakeys import Scope, Sealed, destroyed, does_not_open, lost, never_was
from afdp.signer.disk import private_folder, read_private, sync_folder, write_all, write_durably
from afdp.signer.kek import Kek, seal, unseal
from afdp.signer.part import Part

_NAMES = b"afdp names of subject keys"
_SUBJECT_KEY = b"afdp subject key"
_DATA_KEY = b"afdp data key"

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class SubjectFiles:
    """As `SubjectKeys`, in one folder."""

    def __init__(self, folder: Path, kek: Kek) -> None:
        self.form = kek.form
        self._kek = kek
        self._folder = folder
        self._keys = folder / "keys"
        self._leaving = folder / "leaving"
        self._names: bytes | None = None  # what names are made with, once it was needed: a token may be away before
        self._naming = threading.Lock()
        self._lock = threading.Lock()  # held to change a file; reading needs none, as each is replaced as a whole

    async def seal(self, keys: Sequence[tuple[Scope, bytes]]) -> Sequence[Sealed | NotaryError]:
        """As `SubjectKeys.seal`."""
        return await asyncio.to_thread(self._each, keys, self._found_or_made, self._sealed)

    async def open(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[bytes | NotaryError]:
        """As `SubjectKeys.open`."""
        return await asyncio.to_thread(self._each, keys, self._found, self._opened)

    async def reseal(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[Sealed | NotaryError]:
        """As `SubjectKeys.reseal`."""
        return await asyncio.to_thread(self._each, keys, self._found, self._resealed)

    async def rotate(self, scope: Scope) -> int:
        """As `SubjectKeys.rotate`."""
        return await asyncio.to_thread(_told, self._rotate, scope)

    async def destroy(self, scope: Scope) -> datetime:
        """As `SubjectKeys.destroy`. From the moment when the file is replaced, nothing opens."""
        return await asyncio.to_thread(_told, self._destroy, scope)

    async def status(self) -> Sequence[Part]:
        """As `SubjectKeys.status`."""
        try:
            await asyncio.to_thread(_told, self.unlock)
        except NotaryError as error:
            return [Part("data keys", False, f"subjects' keys do not open: {error}", f"see {self._kek.home}")]
        if not os.access(self._keys, os.W_OK):
            remedy = f"make {self._keys} writable for the signer's user"
            return [Part("data keys", False, f"{self._keys} cannot be written: no subject can get a key", remedy)]
        return [Part("data keys", True, f"subjects' keys in {self._keys}, sealed by {self._kek.home}")]

    def unlock(self) -> None:
        """Looks at the KEK before it is needed.

        Raises:
            FailedPrecondition: it is missing, or another than the one that sealed.
            Unavailable: what holds it cannot be reached.
        """
        self._kek.require()
        if (self._folder / "names").exists():
            self._key_of_names()

    def finish(self) -> None:
        """Overwrites what a process that died has left.

        Raises:
            OSError: the disk refuses.
        """
        for path in self._leaving.iterdir():
            self._leave(path)

    def _each(
        self,
        keys: Sequence[tuple[Scope, T]],
        find: Callable[[Scope], _SubjectKey],
        answer: Callable[[Scope, _SubjectKey, T], R],
    ) -> list[R | NotaryError]:
        _told(self._key_of_names)
        found: dict[Scope, _SubjectKey] = {}
        answers: list[R | NotaryError] = []
        for scope, item in keys:
            try:
                if scope not in found:
                    found[scope] = _told(find, scope)
                answers.append(answer(scope, found[scope], item))
            except Unavailable:  # neither would the others fare better
                raise
            except NotaryError as error:
                answers.append(error)
        return answers

    def _sealed(self, scope: Scope, key: _SubjectKey, plain: bytes) -> Sealed:
        return Sealed(key.newest, seal(key.cipher(key.newest), plain, self._about(scope, key.newest)))

    def _opened(self, scope: Scope, key: _SubjectKey, sealed: Sealed) -> bytes:
        if not 1 <= sealed.version <= key.newest:
            raise does_not_open()
        try:
            return unseal(key.cipher(sealed.version), sealed.body, self._about(scope, sealed.version))
        except InvalidTag:
            raise does_not_open() from None

    def _resealed(self, scope: Scope, key: _SubjectKey, sealed: Sealed) -> Sealed:
        plain = self._opened(scope, key, sealed)
        return sealed if sealed.version == key.newest else self._sealed(scope, key, plain)

    def _about(self, scope: Scope, version: int) -> bytes:
        return _DATA_KEY + bytes([self.form]) + version.to_bytes(4, "big") + scope.to_bytes()

    def _rotate(self, scope: Scope) -> int:
        path = self._path(scope)
        with self._lock:
            if not path.exists():
                raise never_was()
            key = self._read(path)
            self._write(key)
            return key.newest

    def _destroy(self, scope: Scope) -> datetime:
        path = self._path(scope)
        with self._lock:
            self._settle(path.name)
            if (before := _destroyed_at(path)) is not None:
                return before
            now = datetime.now(UTC).replace(microsecond=0)
            self._replace(path, orjson.dumps({"destroyed_at": format_timestamp(now)}))
            return now

    def _found_or_made(self, scope: Scope) -> _SubjectKey:
        path = self._path(scope)
        if path.exists():
            return self._found(scope)
        with self._lock:
            if path.exists():
                return self._read(path)
            key = _SubjectKey(self._kek, path.name, [])
            self._write(key)
            return key

    def _found(self, scope: Scope) -> _SubjectKey:
        path = self._path(scope)
        try:
            return self._read(path)
        except DataLoss:  # or it was just being overwritten: what is there once that has ended?
            with self._lock:
                return self._read(path)

    def _read(self, path: Path) -> _SubjectKey:
        if not path.exists():
            raise lost()
        told = _content(path)
        if "destroyed_at" in told:
            raise destroyed()
        return _SubjectKey(self._kek, path.name, [from_b64(each) for each in told["versions"]])

    def _write(self, key: _SubjectKey) -> None:
        """Adds a version to a key and writes it."""
        key.add()
        path = self._keys / key.name[:2] / key.name
        self._replace(path, orjson.dumps({"versions": [b64(each) for each in key.sealed]}))

    def _replace(self, path: Path, data: bytes) -> None:
        """The file's new content, in place of an old one of which nothing stays."""
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
            sync_folder(self._keys)
        self._settle(path.name)
        if path.exists():
            os.link(path, self._leaving / path.name)
            sync_folder(self._leaving)
        write_durably(path, data, scratch=self._leaving)
        self._settle(path.name)

    def _settle(self, name: str) -> None:
        if (old := self._leaving / name).exists():
            self._leave(old)

    def _leave(self, old: Path) -> None:
        """Overwrites and removes a file, unless it is still the one in use."""
        used = self._keys / old.name[:2] / old.name
        if not (used.exists() and used.samefile(old)):
            _overwrite(old)
        old.unlink()
        sync_folder(self._leaving)

    def _path(self, scope: Scope) -> Path:
        name = hmac.digest(self._key_of_names(), scope.to_bytes(), "sha256").hex()
        return self._keys / name[:2] / name

    def _key_of_names(self) -> bytes:
        if self._names is None:
            path = self._folder / "names"
            with self._naming:
                if not path.exists():
                    self._kek.make()
                    write_durably(path, self._kek.seal(os.urandom(32), _NAMES))
            try:
                self._names = self._kek.open(read_private(path), _NAMES)
            except DataLoss:
                message = f"{path} was sealed by another key than {self._kek.home}: restore it"
                raise FailedPrecondition(message) from None
        return self._names


class _SubjectKey:
    """The versions of one scope's key, sealed; each is opened when it is asked for, once."""

    def __init__(self, kek: Kek, name: str, sealed: list[bytes]) -> None:
        self.name = name
        self.sealed = sealed
        self._kek = kek
        self._ciphers: dict[int, AESGCM] = {}

    @property
    def newest(self) -> int:
        """The version that seals."""
        return len(self.sealed)

    def add(self) -> None:
        """A new version."""
        key = AESGCM.generate_key(256)
        self.sealed.append(self._kek.seal(key, self._about(self.newest + 1)))
        self._ciphers[self.newest] = AESGCM(key)

    def cipher(self, version: int) -> AESGCM:
        """One version, opened."""
        if version not in self._ciphers:
            self._ciphers[version] = AESGCM(self._kek.open(self.sealed[version - 1], self._about(version)))
        return self._ciphers[version]

    def _about(self, version: int) -> bytes:
        return _SUBJECT_KEY + bytes.fromhex(self.name) + version.to_bytes(4, "big")


@contextmanager
def open_subject_files(folder: Path, kek: Kek) -> Iterator[SubjectFiles]:
    """The keys in a folder, which is made if need be and nobody else's meanwhile.

    Raises:
        FailedPrecondition: another signer uses the folder, or a file is missing.
    """
    private_folder(folder)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FailedPrecondition(f"{folder} is in use by another signer") from None
        for each in (folder / "keys", folder / "leaving"):
            private_folder(each)
        sync_folder(folder.parent)
        if any((folder / "keys").iterdir()) and not (folder / "names").exists():
            raise FailedPrecondition(f"{folder / 'names'} is missing: restore it")
        files = SubjectFiles(folder, kek)
        files.finish()
        yield files
    finally:
        os.close(lock)


def _told(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    try:
        return function(*arguments, **named)
    except OSError as error:
        raise Unavailable("the signer cannot read or write its subjects' keys", retry_after=5.0) from error


def _content(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = orjson.loads(read_private(path))
        if "destroyed_at" in told or [from_b64(each) for each in told["versions"]]:
            return told
    except (ValueError, KeyError, TypeError):
        pass
    raise DataLoss(f"{path} is not a subject's key: restore it")


def _destroyed_at(path: Path) -> datetime | None:
    try:
        told = _content(path) if path.exists() else {}
        return parse_timestamp(told["destroyed_at"]) if "destroyed_at" in told else None
    except (DataLoss, ValueError, TypeError):
        return None  # what is damaged can be destroyed all the same


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        write_all(descriptor, os.urandom(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
