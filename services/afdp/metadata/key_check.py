"""Whether each wrapped key beside the records still opens, for whom it says: what a superuser may have altered."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from afdp.errors import DataLoss, FailedPrecondition, InvalidArgument, NotaryError, NotFound
from afdp.metadata.record_keys import Holder, KeptKey, Scope, Shelf
from afdp.metadata.values import Stray

DATA_KEYS, INDEX_KEYS = "data_key", "index_key"

_BEFORE_ALL = UUID(int=0)
_ALTERED = (
    "it does not open: it was altered, is of another tenant or subject, or what opens it is missing at the signer and "
    "has to be restored"
)


class KeyCheck:
    """Goes through the keys page by page, and asks the signer for each."""

    def __init__(self, holder: Holder, shelf: Shelf) -> None:
        self._holder = holder
        self._shelf = shelf

    async def data_keys(self, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """What is amiss with the next data keys, and where they end; an empty end: there are no more.

        Raises:
            InvalidArgument: this is no place among them.
            Unavailable: the signer is away.
        """
        kept = await self._shelf.page_of_data_keys(_place(after), limit)
        answers = await self._opened([(key.scope, key.wrapped) for key in kept.values()])
        found = [
            Stray(str(identifier), why)
            for (identifier, key), answer in zip(kept.items(), answers, strict=True)
            if (why := _amiss(key, answer))
        ]
        return found, [str(list(kept)[-1])] if len(kept) == limit else []

    async def index_keys(self, after: Sequence[str], limit: int) -> tuple[list[Stray], list[str]]:
        """As `data_keys`, of the tenants' index keys."""
        if len(after) > 1:
            raise InvalidArgument.field("after", "must be as it was given")
        kept = await self._shelf.page_of_index_keys(after[0] if after else "", limit)
        answers = await self._opened([(Scope(tenant), wrapped) for tenant, wrapped in kept.items()])
        found = [Stray(tenant, _ALTERED) for tenant, answer in zip(kept, answers, strict=True) if not _opens(answer)]
        return found, [list(kept)[-1]] if len(kept) == limit else []

    async def _opened(self, keys: Sequence[tuple[Scope, bytes]]) -> list[bytes | NotaryError]:
        return await self._holder.unwrap(keys) if keys else []


def _amiss(key: KeptKey, answer: bytes | NotaryError) -> str:
    """Where a subject's key is destroyed nothing opens any more, whether it is known here or not."""
    if key.erased is not None:
        return "its subject is said to be erased, and it opens" if isinstance(answer, bytes) else ""
    return "" if isinstance(answer, NotFound) or _opens(answer) else _ALTERED


def _opens(answer: bytes | NotaryError) -> bool:
    """Raises what says nothing about the key."""
    if isinstance(answer, NotaryError) and not isinstance(
        answer, InvalidArgument | FailedPrecondition | NotFound | DataLoss
    ):
        raise type(answer)(answer.message, retry_after=answer.retry_after)
    return isinstance(answer, bytes)


def _place(after: Sequence[str]) -> UUID:
    try:
        [name] = after or [str(_BEFORE_ALL)]
        return UUID(name)
    except ValueError:
        raise InvalidArgument.field("after", "must be as it was given") from None
