"""Opens the store that seals, with the signer behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from afdp.messages.signer import SignerServiceClient
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.record_keys import Bounds, Holder, RecordKeys
from afdp.metadata.sealed_store import SealedStore
from afdp.metadata.signer import GrpcHolder
from afdp.metadata.subjects import Subjects
from afdp.metadata.terms import Terms
from afdp.rpc import GrpcCaller, open_channel
from afdp.tls.files import TlsFiles


@asynccontextmanager
async def open_sealed(
    settings: MetadataSettings, store: PostgresStore, tls: TlsFiles | None
) -> AsyncIterator[SealedStore]:
    """The store, sealed under data keys of the signer; the signer may be away."""
    async with open_channel(settings.signer_address, spread=False, tls=tls, service="signer") as channel:
        holder = GrpcHolder(SignerServiceClient(GrpcCaller(channel)), settings.signer_timeout_seconds)
        yield sealed(settings, store, holder)


def sealed(settings: MetadataSettings, store: PostgresStore, holder: Holder) -> SealedStore:
    """The store, sealed under data keys of a holder."""
    bounds = Bounds(settings.data_keys_cached, settings.data_keys_cached_seconds)
    return SealedStore(
        store,
        RecordKeys(holder, store.shelf, bounds),
        Subjects(settings.subject_path),
        Terms(settings.searchable_metadata),
    )
