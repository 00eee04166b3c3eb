"""Opens what keeps records and holds: sealed, with the signer behind it, or in plain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from afdp.messages.signer import SignerServiceClient
from afdp.metadata.config import MetadataSettings
from afdp.metadata.erasing import Erasing
from afdp.metadata.key_check import KeyCheck
from afdp.metadata.postgres import PostgresStore
from afdp.metadata.record_keys import Bounds, Holder, RecordKeys
from afdp.metadata.retention import RetentionStore
from afdp.metadata.sealed_retention import SealedRetention
from afdp.metadata.sealed_store import SealedStore
from afdp.metadata.service import Store
from afdp.metadata.signer import GrpcHolder
from afdp.metadata.subjects import Subjects
from afdp.metadata.terms import Terms
from afdp.rpc import GrpcCaller, open_channel
from afdp.tls.files import TlsFiles


@dataclass(frozen=True, slots=True)
class Opened:
    """What the service keeps records and holds in, and erases subjects by."""

    records: Store
    retention: RetentionStore
    erasing: Erasing


@asynccontextmanager
async def open_kept(settings: MetadataSettings, store: PostgresStore, tls: TlsFiles | None) -> AsyncIterator[Opened]:
    """The store, sealed under data keys of the signer, who may be away; in plain where the settings say so."""
    if settings.encryption == "off":
        yield Opened(store, store.retention, Erasing(store.erasures, None))
        return
    async with open_channel(settings.signer_address, spread=False, tls=tls, service="signer") as channel:
        client = SignerServiceClient(GrpcCaller(channel))
        records = sealed(settings, store, GrpcHolder(client, settings.signer_timeout_seconds))
        keys = records.keys
        yield Opened(records, SealedRetention(store.retention, keys), Erasing(store.erasures, keys))


def sealed(settings: MetadataSettings, store: PostgresStore, holder: Holder) -> SealedStore:
    """The store, sealed under data keys of a holder."""
    age = timedelta(hours=settings.data_key_hours).total_seconds()
    bounds = Bounds(settings.data_keys_cached, settings.data_keys_cached_seconds, age=age)
    return SealedStore(
        store,
        RecordKeys(holder, store.shelf, bounds),
        KeyCheck(holder, store.shelf),
        Subjects(settings.subject_path),
        Terms(settings.searchable_metadata),
    )
