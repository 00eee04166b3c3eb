"""Data keys: what data at rest is encrypted with, each wrapped under the key of the subject it is about.

A *scope* is a tenant and a subject, the person or thing that may have to be erased. Each scope has a key of its own,
its *subject key*, in versions; it never leaves what holds it. A *data key* is 32 fresh bytes for AES-256-GCM, given in
plain once and kept by the caller in its wrapped form only. Once a subject's key is destroyed, nothing that was wrapped
under it opens again, whatever copies there are; and the scope stays barred, so that a late write cannot bring it back.

Knows no gRPC, no Vault and no file.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from afdp.errors import DataLoss, FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound
from afdp.signer.part import Part

logger = logging.getLogger(__name__)

MAX_KEYS = 256
MAX_NAME_BYTES = 512
DATA_KEY_BYTES = 32
_HEADER = 5  # one byte of form, four of version
_LARGEST = 256  # bytes of a wrapped key, generously: that of every holder has 65

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose data: a tenant's subject, or with the subject `*` all that the tenant has about nobody in particular.

    The subject is personal data: no log, no error and no file name has it.
    """

    tenant: str
    subject: str = field(repr=False)

    def to_bytes(self) -> bytes:
        """Bytes that no other scope has."""
        tenant = self.tenant.encode()
        return len(tenant).to_bytes(4, "big") + tenant + self.subject.encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A data key as its holder sealed it, under a version of its scope's key."""

    version: int  # from 1
    body: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped data key, as its caller kept it, and whose it is said to be."""

    scope: Scope
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key. `plain` has 32 bytes, or none where it was only wrapped anew."""

    plain: bytes = field(repr=False)
    wrapped: bytes


class SubjectKeys(Protocol):
    """One technology that holds subjects' keys: `subjectfiles.py` with a key in a file or a token, `vault`.

    Items of one call may be of any scopes. An item that is refused fails alone: `NotFound` where its scope's key was
    destroyed, `DataLoss` where it is not here and was not destroyed, `InvalidArgument` where it is not what was sealed
    for its scope.
    """

    @property
    def form(self) -> int:
        """The first byte of what is wrapped here, 1 to 255: no two holders have the same."""

    async def seal(self, keys: Sequence[tuple[Scope, bytes]]) -> Sequence[Sealed | NotaryError]:
        """Seals data keys, each under the newest version of its scope's key, which is made if there is none.

        Raises:
            Unavailable: the keys cannot be reached.
        """

    async def open(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[bytes | NotaryError]:
        """The data keys that were sealed.

        Raises:
            Unavailable: the keys cannot be reached.
        """

    async def reseal(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[Sealed | NotaryError]:
        """The same data keys, sealed under the newest version of their scope's key.

        Raises:
            Unavailable: the keys cannot be reached.
        """

    async def rotate(self, scope: Scope) -> int:
        """Makes a new version of a scope's key; gives its number.

        Raises:
            NotFound: the key was destroyed, or never was.
            FailedPrecondition: this holder may not rotate.
            Unavailable: the keys cannot be reached.
        """

    async def destroy(self, scope: Scope) -> datetime:
        """Destroys a scope's key, if it has one, and bars the scope; gives when that was done first.

        Once this returns it survives a crash. Cut short, it is finished when it is asked for again.

        Raises:
            FailedPrecondition: this holder may not destroy.
            Unavailable: the keys cannot be reached; the key may be destroyed or not.
        """

    async def status(self) -> Sequence[Part]:
        """How it is, for operators: see `status.py`."""


class DataKeys:
    """Makes, opens and wraps data keys anew, and destroys what opens them."""

    def __init__(self, holder: SubjectKeys) -> None:
        self._holder = holder

    async def generate(self, scopes: Sequence[Scope]) -> list[DataKey | NotaryError]:
        """A fresh data key per scope, in order; a scope that stands twice gets two.

        Raises:
            InvalidArgument: no scope, or too many.
            Unavailable: the keys cannot be reached.
        """
        plains = [secrets.token_bytes(DATA_KEY_BYTES) for _ in _counted("scopes", scopes)]
        fresh = [_refusal(scope) or (scope, plain) for scope, plain in zip(scopes, plains, strict=True)]
        sealed = await _answered("scopes", fresh, self._holder.seal)
        return [
            DataKey(plain, self._wrapped(answer)) if isinstance(answer, Sealed) else answer
            for plain, answer in zip(plains, sealed, strict=True)
        ]

    async def unwrap(self, keys: Sequence[WrappedKey]) -> list[DataKey | NotaryError]:
        """The keys in plain, in order.

        Raises:
            InvalidArgument: no key, or too many.
            Unavailable: the subjects' keys cannot be reached.
        """
        sealed = [self._sealed(key) for key in _counted("keys", keys)]
        plains = await _answered("keys", sealed, self._holder.open)
        return [
            DataKey(plain, key.wrapped) if isinstance(plain, bytes) else plain
            for key, plain in zip(keys, plains, strict=True)
        ]

    async def rewrap(self, keys: Sequence[WrappedKey]) -> list[DataKey | NotaryError]:
        """The same keys, in order, wrapped under the newest versions; what is under the newest already stays as it is.

        Raises:
            InvalidArgument: no key, or too many.
            Unavailable: the subjects' keys cannot be reached.
        """
        sealed = [self._sealed(key) for key in _counted("keys", keys)]
        answers = await _answered("keys", sealed, self._holder.reseal)
        return [DataKey(b"", self._wrapped(answer)) if isinstance(answer, Sealed) else answer for answer in answers]

    async def rotate(self, scope: Scope) -> int:
        """Makes a new version of a scope's key, and gives its number; what older ones wrapped still opens.

        Raises:
            InvalidArgument: the scope is not one.
            NotFound: its key was destroyed, or never was.
            FailedPrecondition: what holds the keys may not rotate.
        """
        _require(scope)
        version = await self._holder.rotate(scope)
        logger.info("a subject's key has a new version", extra={"fields": {"tenant": scope.tenant, "version": version}})
        return version

    async def destroy(self, scope: Scope) -> datetime:
        """Destroys a scope's key for good; gives when. Asked again, it changes nothing and gives the same time.

        A scope that never had a key is barred too: whoever was told that it is erased may rely on it.

        Raises:
            InvalidArgument: the scope is not one.
            FailedPrecondition: what holds the keys may not destroy.
            Unavailable: it is not done, or not wholly: ask again.
        """
        _require(scope)
        destroyed_at = await self._holder.destroy(scope)
        logger.info("a subject's key is destroyed", extra={"fields": {"tenant": scope.tenant, "at": destroyed_at}})
        return destroyed_at

    async def status(self) -> Sequence[Part]:
        """As `SubjectKeys.status`."""
        return await self._holder.status()

    def _wrapped(self, sealed: Sealed) -> bytes:
        return bytes([self._holder.form]) + sealed.version.to_bytes(4, "big") + sealed.body

    def _sealed(self, key: WrappedKey) -> tuple[Scope, Sealed] | NotaryError:
        if (refusal := _refusal(key.scope, "scope.")) is not None:
            return refusal
        if not _HEADER < len(key.wrapped) <= _LARGEST:
            return InvalidArgument.field("wrapped", "is not a wrapped data key")
        if key.wrapped[0] != self._holder.form:
            return FailedPrecondition("the data key was wrapped by another holder than AFDP_DATA_KEYS now names")
        sealed = Sealed(int.from_bytes(key.wrapped[1:_HEADER], "big"), key.wrapped[_HEADER:])
        return (key.scope, sealed) if sealed.version else does_not_open()  # Vault would take version 0 for 1


def does_not_open() -> InvalidArgument:
    """What a holder answers to a key that it did not seal for this scope."""
    return InvalidArgument.field("wrapped", "does not open: it was altered, or is of another tenant or subject")


def destroyed() -> NotFound:
    """What a holder answers about a scope whose key was destroyed."""
    return NotFound("the subject's key was destroyed, and the subject is barred")


def never_was() -> NotFound:
    """What a holder answers about a scope that has no key, where nothing says that it ever had one."""
    return NotFound("the subject has no key")


def lost() -> DataLoss:
    """What a holder answers to what was sealed under a key that it does not have, and that nobody destroyed."""
    return DataLoss("the signer does not have the key of this subject, which nobody destroyed: restore it")


async def _answered(
    name: str, items: Sequence[T | NotaryError], ask: Callable[[Sequence[T]], Awaitable[Sequence[R | NotaryError]]]
) -> list[R | NotaryError]:
    """Asks about the good items in one call. The answers, in the place of the items, name their fields from the top."""
    good = [item for item in items if not isinstance(item, NotaryError)]
    answers = iter(await ask(good) if good else ())
    return [
        _placed(item if isinstance(item, NotaryError) else next(answers), f"{name}[{index}]")
        for index, item in enumerate(items)
    ]


def _placed(answer: R | NotaryError, place: str) -> R | NotaryError:
    if not isinstance(answer, InvalidArgument):
        return answer
    fields = [FieldViolation(f"{place}.{each.field}", each.message) for each in answer.fields]
    return InvalidArgument(answer.message, fields=fields)


def _counted(name: str, items: Sequence[T]) -> Sequence[T]:
    if not 1 <= len(items) <= MAX_KEYS:
        raise InvalidArgument.field(name, f"must be 1 to {MAX_KEYS}")
    return items


def _require(scope: Scope) -> None:
    if (refusal := _refusal(scope, "scope.")) is not None:
        raise refusal


def _refusal(scope: Scope, path: str = "") -> InvalidArgument | None:
    wrong = [
        FieldViolation(path + name, f"must be 1 to {MAX_NAME_BYTES} bytes")
        for name, value in (("tenant", scope.tenant), ("subject", scope.subject))
        if not 1 <= len(value.encode()) <= MAX_NAME_BYTES
    ]
    return InvalidArgument("the request is not valid", fields=wrong) if wrong else None
