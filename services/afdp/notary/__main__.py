"""The notary process: reads its settings, connects to its peers, serves until it is told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.messages.metadata import MetadataServiceClient
from afdp.messages.signer import SignerServiceClient
from afdp.messages.transparency import TransparencyServiceClient
from afdp.notary.access.checking import identity, policies
from afdp.notary.access.labels import Labels
from afdp.notary.access.opening import opened
from afdp.notary.allowances import Allowances
from afdp.notary.anchors import Anchors
from afdp.notary.audit_command import verify_audit
from afdp.notary.audit_office import AuditOffice
from afdp.notary.audit_sealer import AuditSealer
from afdp.notary.audit_sinks import AuditSinks
from afdp.notary.config import NotarySettings
from afdp.notary.cosignatures import Cosignatures
from afdp.notary.edge import EdgeServicer
from afdp.notary.entries import DEPTH, BatchLimits, EntryDesk, Submitted
from afdp.notary.erasing import Erasing
from afdp.notary.erasure_office import ErasureOffice
from afdp.notary.expiring import Expiring
from afdp.notary.export_lines import forms
from afdp.notary.exporting import Exports
from afdp.notary.external import Pace
from afdp.notary.external_queue import ExternalQueue
from afdp.notary.feed import Feed
from afdp.notary.health import PeerWatch
from afdp.notary.keys import KeyDirectory
from afdp.notary.lifecycle import KeyLifecycle
from afdp.notary.log_events import LogEvents
from afdp.notary.model import Submission
from afdp.notary.outside import OutsideStamps
from afdp.notary.pipeline import Limits, Pipeline, Stages
from afdp.notary.pipeline_rows import PipelineRows
from afdp.notary.queue import FairQueue
from afdp.notary.receipts import ReceiptOffice
from afdp.notary.reconcile_command import reconcile
from afdp.notary.reconcile_schedule import ReconcileSchedule
from afdp.notary.reconciling import Reconciler
from afdp.notary.recovery import Recovery
from afdp.notary.retention_office import RetentionOffice
from afdp.notary.retention_policy import RetentionPolicy
from afdp.notary.service import Notary
from afdp.notary.servicer import NotaryServicer
from afdp.notary.stamp_policy import StampPolicy
from afdp.notary.stamps import ExternalStamps
from afdp.notary.status import Reporting, ServiceStatus
from afdp.notary.tenant_labels import TenantLabels
from afdp.notary.trust import TrustOffice
from afdp.notary.validation import Validator
from afdp.notary.waiting import Waiting
from afdp.notary.watching import Watching
from afdp.notary.witnessed import WitnessedTrees
from afdp.process import run, running
from afdp.rpc import GrpcCaller, open_channel, serve
from afdp.selfcheck import grpc_port_of, peers_of, self_check
from afdp.telemetry import start_telemetry
from afdp.tls.files import open_tls


async def main(settings: NotarySettings) -> None:
    """Serves until it is told to stop."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(start_telemetry("notary", settings))
        tls = await stack.enter_async_context(open_tls(settings))
        addresses = {
            "signer": settings.signer_address,
            "transparency": settings.transparency_address,
            "metadata": settings.metadata_address,
        }
        channels = {
            # Each signer has a memory of its own of what it has signed: one is used for as long as it is there.
            name: await stack.enter_async_context(
                open_channel(address, settings.max_message_bytes, spread=name != "signer", tls=tls, service=name)
            )
            for name, address in addresses.items()
        }
        signer = SignerServiceClient(GrpcCaller(channels["signer"]))
        transparency = TransparencyServiceClient(GrpcCaller(channels["transparency"]))
        metadata = MetadataServiceClient(GrpcCaller(channels["metadata"]))

        keys = KeyDirectory(signer, transparency)
        stamps = ExternalStamps(
            StampPolicy.parse(settings.external_stamps),
            metadata,
            signer,
            settings.external_stamps_in_flight,
            settings.external_stamp_timeout_seconds,
            settings.recovery_interval_seconds,
        )
        external = ExternalQueue(
            settings.main_log,
            settings.more_logs,
            settings.log_away,
            settings.log_backlog_records,
            metadata,
            transparency,
            keys,
            Pace(settings.external_log_in_flight, settings.external_log_timeout_seconds),
            Waiting(metadata, settings.logged_wait_seconds),
        )
        allowances = Allowances(settings.tenant_quotas, TenantLabels(settings.metric_tenants))
        way_in = opened(settings, metadata)
        rows = PipelineRows(way_in.trail.put)
        labels = Labels(settings.classifications, settings.classification_fields, settings.residency_fields)
        retention = RetentionPolicy.read(settings.retention, labels)
        desks = signer, metadata, keys, stamps, external
        stages = Stages(*desks, settings.stage_timeout_seconds, allowances, rows, retention.class_of)
        recovery = Recovery(metadata, stages, settings.recovery_interval_seconds, settings.stage_timeout_seconds)
        grace = timedelta(seconds=settings.reconcile_grace_seconds)
        patience, main_log = settings.stage_timeout_seconds, settings.main_log
        reconciler = Reconciler(metadata, transparency, keys, stages.log, main_log, grace, patience)
        queue = FairQueue[Submission](settings.queue_items, settings.queue_bytes)
        limits = Limits(settings.batch_items, settings.batch_bytes)
        pipeline = Pipeline(queue, stages, limits, recovery.ask)
        entry_queue = FairQueue[Submitted](settings.queue_items, settings.queue_bytes, DEPTH)
        entry_limits = BatchLimits(settings.entry_batch_items, settings.batch_bytes)
        entries = EntryDesk(settings.entry_rules, entry_queue, keys, entry_limits, settings.stage_timeout_seconds)
        peers = PeerWatch(channels)
        lifetime = timedelta(seconds=settings.trust_timestamp_seconds)
        trust = TrustOffice(keys, signer, metadata, lifetime, settings.trust_interval_seconds)
        additions = Anchors(transparency, keys), Cosignatures(transparency, keys), OutsideStamps(trust)
        office = ReceiptOffice(keys, *additions)
        waits = settings.witness_wait_seconds
        rights = way_in.access, way_in.key_rights
        notary = Notary(pipeline, office, keys, metadata, signer, external, waits, *rights, allowances)
        reporting: tuple[Reporting, ...] = trust, stamps, external, AuditSinks(metadata), *way_in.reporting
        status = ServiceStatus(peers, signer, settings.fips, *reporting)
        validator = Validator(notary, trust)
        audit = AuditOffice(metadata, office, way_in.key_rights, way_in.access)
        daily = settings.retention_interval_seconds
        expiring = Expiring(metadata, notary, retention, daily, way_in.trail, settings.operator_tenants[0])
        holds = RetentionOffice(metadata, *rights, expiring)
        labelled = way_in.access.asks_for_labels
        feed = Feed(metadata, office, settings.watch_interval_seconds, with_evidence=labelled)
        watching = Watching(feed, way_in.access, settings.watch_heartbeat_seconds)
        erasing = Erasing(metadata, notary, settings.erasure_interval_seconds, way_in.trail)
        offices = audit, holds, ErasureOffice(metadata, way_in.access, erasing)
        servicer = NotaryServicer(
            notary,
            validator,
            entries,
            trust,
            peers,
            status,
            watching,
            Exports(metadata, way_in.access, forms(office), settings.max_exports),
            settings.stream_in_flight,
            way_in.charges,
            *offices,
        )

        parts = [
            keys.logs.run(),
            pipeline.run(),
            entries.run(),
            recovery.run(),
            ReconcileSchedule(reconciler, settings.reconcile_interval_seconds).run(),
            peers.run(),
            status.run(),
            trust.run(),
            stamps.run(),
            feed.run(),
            WitnessedTrees(transparency, metadata, keys).run(),
        ]
        parts += [external.run(), *way_in.parts]
        sealer = AuditSealer(metadata, notary, settings.audit_seal_seconds, anchors=settings.audit_anchors)
        parts += [sealer.run(), expiring.run(), erasing.run()]
        parts.append(LogEvents(keys.logs, way_in.trail.put, settings.operator_tenants[0]).run())
        if settings.notarise_keys:
            parts.append(KeyLifecycle(keys, notary, settings.key_interval_seconds).run())
        await stack.enter_async_context(running(*parts))
        beside = [EdgeServicer(way_in.trail)]
        await serve(
            servicer, settings, telemetry, peers.check, way_in.admit, tls, relay=True, beside=beside, leave=feed.leave
        )


CHECK = self_check(
    NotarySettings,
    policies,
    identity,
    peers_of("signer", "transparency", "metadata"),
    grpc_port_of("afdp.notary.v1.NotaryService"),
)


if __name__ == "__main__":
    run(NotarySettings, main, {"check": CHECK}, {"reconcile": reconcile, "audit-verify": verify_audit})
