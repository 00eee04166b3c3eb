"""The signer service, through gRPC, as the holder of data keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from afdp.errors import Internal, NotaryError
from afdp.items import from_item
from afdp.messages.signer import (
    DataKeyResult,
    DataKeyScope,
    DestroySubjectKeyRequest,
    GenerateDataKeysRequest,
    RewrapDataKeysRequest,
    RotateSubjectKeyRequest,
    SignerServiceClient,
    UnwrapDataKeysRequest,
    WrappedDataKey,
)
from afdp.metadata.record_keys import FreshKey, Scope
from afdp.metadata.subjects import OWN

MAX_KEYS = 256  # in one call

T = TypeVar("T")


class GrpcHolder:
    """Holds the keys of scopes. `timeout` is in seconds, for each call."""

    def __init__(self, client: SignerServiceClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def generate(self, scopes: Sequence[Scope]) -> list[FreshKey | NotaryError]:
        """As `Holder.generate`."""
        found: list[FreshKey | NotaryError] = []
        for some in _batched(scopes):
            request = GenerateDataKeysRequest([_scope(scope) for scope in some])
            answer = await self._client.generate_data_keys(request, timeout=self._timeout)
            keys = _results(answer.results, len(some))
            found += [each if isinstance(each, NotaryError) else FreshKey(*each) for each in keys]
        return found

    async def unwrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """As `Holder.unwrap`."""
        found: list[bytes | NotaryError] = []
        for some in _batched(keys):
            request = UnwrapDataKeysRequest([WrappedDataKey(_scope(scope), wrapped) for scope, wrapped in some])
            answer = await self._client.unwrap_data_keys(request, timeout=self._timeout)
            results = _results(answer.results, len(some))
            found += [each if isinstance(each, NotaryError) else each[0] for each in results]
        return found

    async def rewrap(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        """As `Holder.rewrap`."""
        found: list[bytes | NotaryError] = []
        for some in _batched(keys):
            request = RewrapDataKeysRequest([WrappedDataKey(_scope(scope), wrapped) for scope, wrapped in some])
            answer = await self._client.rewrap_data_keys(request, timeout=self._timeout)
            results = _results(answer.results, len(some))
            found += [each if isinstance(each, NotaryError) else each[1] for each in results]
        return found

    async def rotate(self, scope: Scope) -> int:
        """As `Holder.rotate`."""
        request = RotateSubjectKeyRequest(_scope(scope))
        return (await self._client.rotate_subject_key(request, timeout=self._timeout)).version

    async def destroy(self, scope: Scope) -> datetime:
        """As `Holder.destroy`."""
        answer = await self._client.destroy_subject_key(DestroySubjectKeyRequest(_scope(scope)), timeout=self._timeout)
        if answer.destroyed_at is None:
            raise Internal("the signer does not say when the key was destroyed")
        return answer.destroyed_at


def _scope(scope: Scope) -> DataKeyScope:
    """The signer knows a subject by its blind index, too."""
    return DataKeyScope(scope.tenant, scope.subject.hex() or OWN)


def _batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), MAX_KEYS):
        yield items[start : start + MAX_KEYS]


def _results(results: Sequence[DataKeyResult], count: int) -> list[tuple[bytes, bytes] | NotaryError]:
    if len(results) != count:
        raise Internal("the signer gave another number of keys than it was asked for")
    found: list[tuple[bytes, bytes] | NotaryError] = []
    for each in results:
        if each.key is not None:
            found.append((each.key.plain, each.key.wrapped))
        else:
            found.append(Internal("the signer gave no key") if each.error is None else from_item(each.error))
    return found
