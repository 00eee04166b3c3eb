"""Rotation: subjects' keys get new versions, and what older ones wrapped is wrapped anew, while records go on.

Data keys stay what they are, so no record is touched. A run that was cut short goes on where it was, and one that is
done twice changes nothing more: what is under the newest version stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from afdp.errors import NotaryError, NotFound, ResourceExhausted, Unavailable
from afdp.metadata.record_keys import Holder, Scope, Shelf, raised

PAGE = 256  # keys, or scopes
_AT_ONCE = 4  # rotations
_MOST_NAMED = 1000
_BEFORE_ALL = UUID(int=0)

K = TypeVar("K", UUID, str)


@dataclass(slots=True)
class Progress:
    """How far a run has come: all that another one needs to go on with it.

    Attributes:
        scopes: the tenant and subject, in hex, of the last one that was rotated; None: before the first.
        data_keys: the ID of the last one that was wrapped; empty: before the first.
        index_keys: the tenant of the last one; None: before the first.
        rotated, rewrapped, current, erased: how many were rotated, wrapped anew, under the newest version already, and
            of subjects that were erased.
        refused: what does not open, up to a bound, each in words.
    """

    scopes: tuple[str, str] | None = None
    data_keys: str = ""
    index_keys: str | None = None
    rotated: int = 0
    rewrapped: int = 0
    current: int = 0
    erased: int = 0
    refused: list[str] = field(default_factory=list)


Pause = Callable[[Progress], Awaitable[None]]
"""What is done between two pages."""


class Rewrapping:
    """Goes through all keys."""

    def __init__(self, holder: Holder, shelf: Shelf, page: int = PAGE) -> None:
        self._page = page
        self._holder = holder
        self._shelf = shelf

    async def run(self, progress: Progress, pause: Pause, *, rotate: bool) -> None:
        """Goes on from `progress` to the end.

        Raises:
            Unavailable: the signer, or where keys are kept, is away; `progress` says how far it came.
            FailedPrecondition: what holds the keys may not rotate.
        """
        if rotate:
            await self._rotate_all(progress, pause)
        while keys := await self._shelf.page_of_data_keys(UUID(progress.data_keys or str(_BEFORE_ALL)), self._page):
            wrapped = {name: (key.scope, key.wrapped) for name, key in keys.items() if key.erased is None}
            progress.erased += len(keys) - len(wrapped)
            await self._shelf.replace_data_keys(await self._fresh("data key", wrapped, progress))
            progress.data_keys = str(list(keys)[-1])
            await pause(progress)
        while tenants := await self._shelf.page_of_index_keys(progress.index_keys or "", self._page):
            own = {tenant: (Scope(tenant), wrapped) for tenant, wrapped in tenants.items()}
            await self._shelf.replace_index_keys(await self._fresh("index key of", own, progress))
            progress.index_keys = list(tenants)[-1]
            await pause(progress)

    async def _rotate_all(self, progress: Progress, pause: Pause) -> None:
        while scopes := await self._shelf.page_of_scopes(_scope(progress.scopes), self._page):
            free = asyncio.Semaphore(_AT_ONCE)

            async def rotate(scope: Scope, free: asyncio.Semaphore = free) -> bool:
                async with free:
                    try:
                        await self._holder.rotate(scope)
                    except NotFound:  # it was erased
                        return False
                return True

            progress.rotated += sum(await asyncio.gather(*map(rotate, scopes)))
            progress.scopes = scopes[-1].tenant, scopes[-1].subject.hex()
            await pause(progress)

    async def _fresh(
        self, what: str, keys: Mapping[K, tuple[Scope, bytes]], progress: Progress
    ) -> dict[K, tuple[bytes, bytes]]:
        """What takes the place of what."""
        answers: Sequence[bytes | NotaryError] = await self._holder.rewrap(list(keys.values())) if keys else ()
        fresh: dict[K, tuple[bytes, bytes]] = {}
        for (name, (_, before)), answer in zip(keys.items(), answers, strict=True):
            if isinstance(answer, NotFound):
                progress.erased += 1
            elif isinstance(answer, Unavailable | ResourceExhausted):
                raised(answer)
            elif isinstance(answer, NotaryError):
                if len(progress.refused) < _MOST_NAMED:
                    progress.refused.append(f"{what} {name}: {answer.message}")
            elif answer == before:
                progress.current += 1
            else:
                progress.rewrapped += 1
                fresh[name] = before, answer
        return fresh


def _scope(place: tuple[str, str] | None) -> Scope | None:
    return None if place is None else Scope(place[0], bytes.fromhex(place[1]))
