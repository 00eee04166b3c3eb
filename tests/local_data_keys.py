"""The signer's data keys in this process, as the metadata service asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from afdp.errors import NotaryError, Unavailable
from afdp.metadata.record_keys import FreshKey, Scope
from afdp.signer.datakeys import DataKey, DataKeys, WrappedKey
from afdp.signer.datakeys import Scope as SignerScope
from tests.local_keys import file_data_keys


class LocalHolder:
    """Data keys under subjects' keys in files, by the signer's own code; `away`: as if nobody could be asked."""

    def __init__(self, data_keys: DataKeys) -> None:
        self._data_keys = data_keys
        self.away = False
        self.calls: list[str] = []

    async def generate(self, scopes: Sequence[Scope]) -> list[FreshKey | NotaryError]:
        """As `Holder.generate`."""
        self._ask("generate")
        made = await self._data_keys.generate([_scope(scope) for scope in scopes])
        return [FreshKey(each.plain, each.wrapped) if isinstance(each, DataKey) else each for each in made]

    async def unwrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """As `Holder.unwrap`."""
        self._ask("unwrap")
        opened = await self._data_keys.unwrap([WrappedKey(_scope(scope), wrapped) for scope, wrapped in keys])
        return [each.plain if isinstance(each, DataKey) else each for each in opened]

    async def rewrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """As `Holder.rewrap`."""
        self._ask("rewrap")
        wrapped = await self._data_keys.rewrap([WrappedKey(_scope(scope), wrapped) for scope, wrapped in keys])
        return [each.wrapped if isinstance(each, DataKey) else each for each in wrapped]

    async def rotate(self, scope: Scope) -> int:
        """As `Holder.rotate`."""
        self._ask("rotate")
        return await self._data_keys.rotate(_scope(scope))

    async def destroy(self, scope: Scope) -> datetime:
        """As `Holder.destroy`."""
        self._ask("destroy")
        return await self._data_keys.destroy(_scope(scope))

    def _ask(self, what: str) -> None:
        self.calls.append(what)
        if self.away:
            raise Unavailable("the signer is away")


def _scope(scope: Scope) -> SignerScope:
    return SignerScope(scope.tenant, scope.subject.hex() or "*")


@asynccontextmanager
async def local_holder(folder: Path) -> AsyncIterator[LocalHolder]:
    """A holder with its keys in a folder."""
    async with file_data_keys(folder) as data_keys:
        yield LocalHolder(data_keys)
