"""The metadata process: `python -m afdp.metadata` serves, `… migrate` brings the database to this release."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.metadata.audit_trail import AuditTrail
from afdp.metadata.caching import open_cache
from afdp.metadata.config import MetadataSettings
from afdp.metadata.false_copies import FalseCopies
from afdp.metadata.opening import open_kept
from afdp.metadata.postgres import SCHEMA, migrate_database, open_store
from afdp.metadata.postgres.checking import tenants
from afdp.metadata.retention import Retention
from afdp.metadata.rewrap_command import rewrap
from afdp.metadata.service import Metadata
from afdp.metadata.servicer import MetadataServicer
from afdp.metadata.sinks.checking import audit_sinks
from afdp.metadata.sinks.opening import forwarding
from afdp.postgres.check import postgres_of
from afdp.process import run
from afdp.rpc import serve
from afdp.selfcheck import Finding, grpc_port_of, peers_of, self_check
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
        kept = await stack.enter_async_context(open_kept(settings, store, tls))
        sinks = await stack.enter_async_context(forwarding(settings.audit_sinks, store.sinks))
        trail = AuditTrail(store.audit)
        await stack.enter_async_context(false_copies.told(trail))
        retention = Retention(kept.retention)
        servicer = MetadataServicer(Metadata(kept.records), trail, sinks, retention, kept.erasing)
        await serve(servicer, settings, telemetry, store.check, tls=tls)


async def signer(settings: MetadataSettings) -> Sequence[Finding]:
    """Whether the signer answers, where records are sealed."""
    return await peers_of("signer")(settings) if settings.encryption == "on" else []


CHECK = self_check(
    MetadataSettings,
    postgres_of(SCHEMA),
    tenants,
    signer,
    audit_sinks,
    grpc_port_of("afdp.metadata.v1.MetadataService"),
)


if __name__ == "__main__":
    run(MetadataSettings, main, {"migrate": migrate_database, "check": CHECK}, {"rewrap": rewrap})
