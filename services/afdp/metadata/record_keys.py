"""The keys of records: which one seals, which one opens, and what is remembered of them for a while.

A data key is made by the signer under its scope's key and kept in its wrapped form beside the records; in plain it is
in this process's memory only, for a bounded time. All processes seal with the newest of a scope while it is young.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import uuid_utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import Counter, Gauge

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotaryError, NotFound, Unavailable
from afdp.metadata.blind import IndexKey
from afdp.metadata.sealing import MAX_USES
from afdp.metadata.values import Erased, Seal

MAX_TENANTS = 4096  # whose index keys are remembered
FRESH_SECONDS = 1.0
"""How long it is believed which subjects are being erased. Who erases one waits for longer, before anything is
destroyed: from then on no service seals for it, nor remembers what opens its records."""

_made = Counter("afdp_data_keys_made", "Data keys that the signer made.")
_opened = Counter("afdp_data_keys_opened", "Data keys that the signer opened.")
_held = Gauge("afdp_data_keys_held", "Data keys in memory.")

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Scope:
    """A tenant and the blind index of a subject, 16 bytes; none: the tenant's own key."""

    tenant: str
    subject: bytes = b""


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A data key that was just made: 32 bytes, and its wrapped form."""

    plain: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return "FreshKey()"


class Holder(Protocol):
    """What holds the keys of scopes: the signer (`signer.py`).

    Items of one call are refused one by one: NotFound where the scope's key was destroyed, DataLoss where it is missing
    or damaged, InvalidArgument where a wrapped key was altered or is of another scope.
    """

    async def generate(self, scopes: Sequence[Scope]) -> list[FreshKey | NotaryError]:
        """A fresh data key per scope. Raises Unavailable while nobody can be asked."""

    async def unwrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """Data keys in plain. Raises Unavailable while nobody can be asked."""

    async def rewrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """Data keys wrapped under the newest version of their scope's key. Raises Unavailable."""

    async def rotate(self, scope: Scope) -> int:
        """A new version of a scope's key: its number. Raises NotFound, FailedPrecondition, Unavailable."""

    async def destroy(self, scope: Scope) -> datetime:
        """Destroys a scope's key for good: when. May be repeated. Raises FailedPrecondition, Unavailable."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped data key on its way to where records are kept."""

    id: UUID
    scope: Scope
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A data key as it is kept beside the records; `erased` where its subject was."""

    scope: Scope
    wrapped: bytes
    erased: Erased | None


class Shelf(Protocol):
    """Where wrapped keys are kept: beside the records."""

    async def index_keys(self, tenants: Sequence[str]) -> dict[str, bytes]:
        """The wrapped index keys of those tenants that have one."""

    async def keep_index_keys(self, keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """Keeps index keys, of each tenant the first; gives those that are kept."""

    async def data_keys(self, identifiers: Sequence[UUID]) -> dict[UUID, KeptKey]:
        """Those of the data keys that there are."""

    async def newest_data_keys(self, scopes: Sequence[Scope], age: float) -> dict[Scope, tuple[UUID, bytes]]:
        """Of each scope the newest data key that is not older than so many seconds, and its wrapped form."""

    async def keep_data_keys(self, keys: Sequence[WrappedKey]) -> None:
        """Keeps data keys. Once this returns they survive a crash."""

    async def page_of_data_keys(self, after: UUID, limit: int) -> dict[UUID, KeptKey]:
        """Data keys by ascending ID, from right after one."""

    async def page_of_scopes(self, after: Scope | None, limit: int) -> list[Scope]:
        """Scopes that data keys or index keys are of, in order, from right after one; None: from the first."""

    async def page_of_index_keys(self, after: str, limit: int) -> dict[str, bytes]:
        """Wrapped index keys by ascending tenant, from right after one."""

    async def replace_data_keys(self, keys: Mapping[UUID, tuple[bytes, bytes]]) -> None:
        """Puts newly wrapped data keys, the second of each pair, in the place of the first, where that is there."""

    async def replace_index_keys(self, keys: Mapping[str, tuple[bytes, bytes]]) -> None:
        """As `replace_data_keys`, of tenants' index keys."""

    async def closed(self, seconds: float) -> dict[Scope, bool]:
        """The scopes of subjects that are being erased, or were in the last seconds; whether that is decided."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many data keys are remembered, for how many seconds; how old one may be that seals, and how often it does.

    `uses` counts records of one process that remembers it once: together far from what a key may seal.
    """

    keys: int
    seconds: float
    uses: int = MAX_USES
    age: float = 86_400.0


Opener = AESGCM | Erased | NotaryError
"""What opens a record, or what it must be answered with instead."""


class DataKey:
    """A data key in plain, that seals and opens."""

    __slots__ = ("cipher", "id", "uses")

    def __init__(self, identifier: UUID, plain: bytes) -> None:
        self.id = identifier
        self.cipher = AESGCM(plain)
        self.uses = 0


class RecordKeys:
    """Gives the keys of records, from memory where it can."""

    def __init__(
        self, holder: Holder, shelf: Shelf, bounds: Bounds, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds."""
        self._holder = holder
        self._shelf = shelf
        self._bounds = bounds
        self._making = asyncio.Lock()
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked: float | None = None
        self._closed: Mapping[Scope, bool] = {}
        self._indexes: _Remembered[str, IndexKey] = _Remembered(MAX_TENANTS, bounds.seconds, clock)
        self._sealing: _Remembered[Scope, DataKey] = _Remembered(bounds.keys, bounds.seconds, clock)
        self._opening: _Remembered[UUID, tuple[Scope, DataKey]] = _Remembered(bounds.keys, bounds.seconds, clock)

    async def index_of(self, tenant: str) -> IndexKey:
        """The index key of one tenant. Raises what stands in its way."""
        return raised((await self.indexes([tenant]))[tenant])

    async def indexes(self, tenants: Iterable[str]) -> dict[str, IndexKey | NotaryError]:
        """The index key of each tenant; one that had none gets one."""
        found: dict[str, IndexKey | NotaryError] = {}
        missing = []
        for tenant in tenants:
            known = self._indexes.get(tenant)
            if known is None:
                missing.append(tenant)
            else:
                found[tenant] = known
        if missing:
            async with self._making:
                for tenant, plain in (await self._index_keys(missing)).items():
                    found[tenant] = plain if isinstance(plain, NotaryError) else IndexKey(plain)
                    if isinstance(key := found[tenant], IndexKey):
                        self._indexes.put(tenant, key)
        return found

    async def sealing(self, scopes: Iterable[Scope]) -> dict[Scope, DataKey | NotaryError]:
        """The key that seals for each scope, for one record more for each time that the scope stands there.

        Raises Unavailable where it cannot be told which subjects are being erased.
        """
        await self._look()
        found: dict[Scope, DataKey | NotaryError] = {}
        for scope in scopes:
            if scope in self._closed:
                found[scope] = shut(decided=self._closed[scope])
                continue
            key = found.get(scope) or self._usable(scope)
            if isinstance(key, DataKey):
                key.uses += 1
                found[scope] = key
            else:
                found.setdefault(scope, _NOT_YET)
        if missing := [scope for scope, key in found.items() if key is _NOT_YET]:
            async with self._making:
                found |= await self._fresh(missing)
        return found

    async def opening(self, seals: Iterable[Seal]) -> dict[UUID, Opener]:
        """What opens records, by the ID of the data key: of how the records are sealed.

        Raises Unavailable where it cannot be told which subjects are being erased.
        """
        await self._look()
        found: dict[UUID, Opener] = {}
        missing: dict[UUID, str] = {}
        for seal in seals:
            if seal.data_key in found or seal.data_key in missing:
                continue
            known = self._opening.get(seal.data_key)
            if known is None:
                missing[seal.data_key] = seal.tenant
            else:
                found[seal.data_key] = known[1].cipher if known[0].tenant == seal.tenant else _damaged(seal.data_key)
        if missing:
            found |= await self._open(missing)
        return found

    async def destroy(self, scope: Scope) -> None:
        """Destroys what opens a scope's data keys, for good. May be repeated.

        Raises:
            FailedPrecondition: its holder may not destroy.
            Unavailable: it is not done, or not wholly: ask again.
        """
        await self._holder.destroy(scope)
        self.forget(scope)

    async def is_destroyed(self, kept: KeptKey) -> bool:
        """Whether what opens a data key was destroyed. Raises Unavailable."""
        [answer] = await self._holder.unwrap([(kept.scope, kept.wrapped)])
        return isinstance(answer, NotFound)

    def forget(self, scope: Scope) -> None:
        """Drops the keys of a scope from memory."""
        self._sealing.drop(lambda known, _: known == scope)
        self._opening.drop(lambda _, known: known[0] == scope)
        _held.set(len(self._opening))

    def forget_all(self) -> None:
        """Drops all data keys from memory."""
        self._sealing.drop(lambda *_: True)
        self._opening.drop(lambda *_: True)
        _held.set(0)

    async def _look(self) -> None:
        """Sees to it that nothing is remembered of subjects that are being erased, as of a moment ago."""
        if self._is_fresh():
            return
        async with self._looking:
            if self._is_fresh():
                return
            now = self._clock()  # before it is asked: what is answered is no older
            # As long as one that remembers their keys may have slept over it.
            closed = await self._shelf.closed(self._bounds.seconds + _OVERSLEPT)
            for scope in closed.keys() - self._closed.keys():
                self.forget(scope)
            self._closed, self._looked = closed, now

    def _is_fresh(self) -> bool:
        return self._looked is not None and self._clock() < self._looked + FRESH_SECONDS

    def _usable(self, scope: Scope) -> DataKey | None:
        key = self._sealing.get(scope)
        return key if key is not None and key.uses < self._bounds.uses else None

    async def _fresh(self, scopes: Sequence[Scope]) -> dict[Scope, DataKey | NotaryError]:
        """New data keys, made in one call and kept before anything is sealed with them."""
        found: dict[Scope, DataKey | NotaryError] = {}
        wanted = []
        for scope in scopes:  # another batch may have had it made while this one waited
            key = self._usable(scope)
            if key is None:
                wanted.append(scope)
            else:
                found[scope] = key
        if unknown := [scope for scope in wanted if self._sealing.get(scope) is None]:  # others are used up
            found |= await self._young(unknown)
        wanted = [scope for scope in wanted if scope not in found]
        if not wanted:
            return found
        try:
            made = await self._holder.generate(wanted)
        except NotaryError as error:
            return found | dict.fromkeys(wanted, error)
        fresh: list[WrappedKey] = []
        for scope, answer in zip(wanted, made, strict=True):
            if isinstance(answer, FreshKey):
                found[scope] = new = DataKey(UUID(bytes=uuid_utils.uuid7().bytes), answer.plain)
                fresh.append(WrappedKey(new.id, scope, answer.wrapped))
            else:
                found[scope] = _barred() if isinstance(answer, NotFound) else _in_own_words(answer)
        if fresh:
            await self._shelf.keep_data_keys(fresh)
            _made.inc(len(fresh))
        for each in fresh:
            if isinstance(ready := found[each.scope], DataKey):
                ready.uses += 1
                if each.scope in self._closed:  # since it was asked for
                    found[each.scope] = shut(decided=self._closed[each.scope])
                    continue
                self._sealing.put(each.scope, ready)
                self._opening.put(ready.id, (each.scope, ready))
        _held.set(len(self._opening))
        return found

    async def _young(self, scopes: Sequence[Scope]) -> dict[Scope, DataKey | NotaryError]:
        """Data keys on record that are young enough to seal with; none where one does not open."""
        kept = await self._shelf.newest_data_keys(scopes, self._bounds.age)
        if not kept:
            return {}
        try:
            answers = await self._holder.unwrap([(scope, wrapped) for scope, (_, wrapped) in kept.items()])
        except NotaryError as error:
            return dict.fromkeys(kept, error)
        found: dict[Scope, DataKey | NotaryError] = {}
        for (scope, (identifier, _)), answer in zip(kept.items(), answers, strict=True):
            if isinstance(answer, NotFound):
                found[scope] = _barred()
            elif isinstance(answer, DataLoss):  # a new key would stand in the way of the one that is to be restored
                found[scope] = _damaged(identifier)
            elif not isinstance(answer, NotaryError):
                found[scope] = key = DataKey(identifier, answer)
                key.uses = 1
                if scope in self._closed:  # since it was asked for
                    found[scope] = shut(decided=self._closed[scope])
                    continue
                self._sealing.put(scope, key)
                self._opening.put(identifier, (scope, key))
        _opened.inc(len(kept))
        _held.set(len(self._opening))
        return found

    async def _open(self, missing: Mapping[UUID, str]) -> dict[UUID, Opener]:
        """Keys that are not in memory, each with the tenant whose it must be."""
        kept = await self._shelf.data_keys(list(missing))
        found: dict[UUID, Opener] = {}
        closed: dict[UUID, KeptKey] = {}
        for identifier, tenant in missing.items():
            key = kept.get(identifier)
            if key is None or key.scope.tenant != tenant:
                found[identifier] = _damaged(identifier)
            elif key.erased is not None:
                found[identifier] = key.erased
            else:
                closed[identifier] = key
        return found | await self._unwrapped(closed)

    async def _unwrapped(self, closed: Mapping[UUID, KeptKey]) -> dict[UUID, Opener]:
        if not closed:
            return {}
        try:
            answers = await self._holder.unwrap([(key.scope, key.wrapped) for key in closed.values()])
        except NotaryError as error:
            return dict.fromkeys(closed, error)
        found: dict[UUID, Opener] = {}
        for (identifier, kept), answer in zip(closed.items(), answers, strict=True):
            if isinstance(answer, NotFound):  # the database is of before the erasure
                found[identifier] = Erased()
            elif isinstance(answer, NotaryError):
                altered = isinstance(answer, InvalidArgument | FailedPrecondition | DataLoss)
                found[identifier] = _damaged(identifier) if altered else answer
            else:
                key = DataKey(identifier, answer)
                if kept.scope not in self._closed:
                    self._opening.put(identifier, (kept.scope, key))
                found[identifier] = key.cipher
        _opened.inc(len(closed))
        _held.set(len(self._opening))
        return found

    async def _index_keys(self, tenants: Sequence[str]) -> dict[str, bytes | NotaryError]:
        """Index keys in plain: as they are kept, or new ones."""
        kept = await self._shelf.index_keys(tenants)
        if new := [tenant for tenant in tenants if tenant not in kept]:
            try:
                made = await self._holder.generate([Scope(tenant) for tenant in new])
            except NotaryError as error:
                return dict.fromkeys(tenants, error)
            refused = {
                tenant: answer for tenant, answer in zip(new, made, strict=True) if isinstance(answer, NotaryError)
            }
            wrapped = {
                tenant: answer.wrapped for tenant, answer in zip(new, made, strict=True) if isinstance(answer, FreshKey)
            }
            kept |= await self._shelf.keep_index_keys(wrapped)
        else:
            refused = {}
        return {**refused, **await self._opened_index_keys(kept)}

    async def _opened_index_keys(self, kept: Mapping[str, bytes]) -> dict[str, bytes | NotaryError]:
        try:
            plains = await self._holder.unwrap([(Scope(tenant), wrapped) for tenant, wrapped in kept.items()])
        except NotaryError as error:
            return dict.fromkeys(kept, error)
        damaged = DataLoss(f"the tenant's index key does not open: {_WHY_NOT}")
        return {
            tenant: damaged if isinstance(plain, _DAMAGED) else plain
            for tenant, plain in zip(kept, plains, strict=True)
        }


def raised(value: V | NotaryError) -> V:
    """The value; an error is raised, as a new one, since a traceback grows with each raise."""
    if isinstance(value, NotaryError):
        raise type(value)(value.message, retry_after=value.retry_after)
    return value


def shut(*, decided: bool) -> NotaryError:
    """Why nothing is sealed for a subject whose erasure is closing, or decided."""
    return _barred() if decided else _closing()


def _barred() -> FailedPrecondition:
    return FailedPrecondition("the subject of this evidence was erased, and nothing is kept about it any more")


def _closing() -> Unavailable:
    return Unavailable("the subject of this evidence may be erased at this moment", retry_after=5.0)


def _in_own_words(error: NotaryError) -> NotaryError:
    """The signer says in its log which file is damaged; callers need not know where it lies."""
    return (
        DataLoss("the key of this evidence's subject is damaged: the signer says how")
        if isinstance(error, DataLoss)
        else error
    )


def _damaged(identifier: UUID) -> DataLoss:
    return DataLoss(f"data key {identifier} does not open: {_WHY_NOT}")


_DAMAGED = InvalidArgument, FailedPrecondition, NotFound, DataLoss
_WHY_NOT = (
    "it was altered, is of another tenant or subject, was wrapped by another holder (the signer's AFDP_DATA_KEYS), "
    "or what opens it is missing there and has to be restored"
)
_NOT_YET = NotaryError("not asked yet")
_OVERSLEPT = 60.0  # seconds


class _Remembered(Generic[K, V]):
    """At most so many values, each for so many seconds after it was put here; what was not used for longest goes."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        if found[0] < self._clock():
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return found[1]

    def put(self, key: K, value: V) -> None:
        self._values[key] = self._clock() + self._seconds, value
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, which: Callable[[K, V], bool]) -> None:
        for key in [key for key, (_, value) in self._values.items() if which(key, value)]:
            del self._values[key]
