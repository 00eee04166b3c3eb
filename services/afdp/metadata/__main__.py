"""The metadata process: `python -m afdp.metadata` serves, `… migrate` brings the database to this release."""

from __future__ import annotations

from contextlib import AsyncExitStack

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.metadata.audit_trail import AuditTrail
from afdp.metadata.caching import open_cache
from afdp.metadata.config import MetadataSettings
from afdp.metadata.false_copies import FalseCopies
from afdp.metadata.opening import open_sealed
from afdp.metadata.postgres import SCHEMA, migrate_database, open_store
from afdp.metadata.postgres.checking import tenants
from afdp.metadata.retention import Retention
from afdp.metadata.service import Metadata, Store
from afdp.metadata.servicer import MetadataServicer
from afdp.metadata.sinks.checking import audit_sinks
from afdp.metadata.sinks.opening import forwarding
from afdp.postgres.check import postgres_of
from afdp.process import run
from afdp.rpc import serve
from afdp.selfcheck import grpc_port_of, self_check
from afdp.telemetry import start_telemetry
from afdp.tls.files import open_tls


async def main(settings: MetadataSettings) -> None:
    """Wires the parts and serves."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(start_telemetry("metadata", settings))
        tls = await stack.enter_async_context(open_tls(settings))
        false_copies = FalseCopies()
        cache = await stack.enter_async_context(open_cache(settings, false_copies))
        store = await stack.enter_async_context(open_store(settings, cache))
        kept: Store = store
        if settings.encryption:
            kept = await stack.enter_async_context(open_sealed(settings, store, tls))
        sinks = await stack.enter_async_context(forwarding(settings.audit_sinks, store.sinks))
        trail = AuditTrail(store.audit)
        await stack.enter_async_context(false_copies.told(trail))
        servicer = MetadataServicer(Metadata(kept), trail, sinks, Retention(store.retention))
        await serve(servicer, settings, telemetry, store.check, tls=tls)


CHECK = self_check(
    MetadataSettings,
    postgres_of(SCHEMA),
    tenants,
    audit_sinks,
    grpc_port_of("afdp.metadata.v1.MetadataService"),
)


if __name__ == "__main__":
    run(MetadataSettings, main, {"migrate": migrate_database, "check": CHECK})
