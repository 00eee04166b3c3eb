"""`python -m afdp.notary reconcile`: the whole of records and logs gone through once, from here and now."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import uuid_utils

from afdp.audit.rows import INTENT, OUTCOME, write_row
from afdp.errors import DeadlineExceeded, NotaryError, Unavailable
from afdp.messages.metadata import MetadataServiceClient, RecordAuditRowsRequest
from afdp.notary.command_peers import open_peers
from afdp.notary.config import NotarySettings
from afdp.notary.keys import KeyDirectory
from afdp.notary.pipeline import Prepared, Stages
from afdp.notary.pipeline_rows import PipelineRows
from afdp.notary.reconcile_state import load_progress, save_progress
from afdp.notary.reconciling import Progress, Reconciler
from afdp.rpc import GrpcCaller, open_channel
from afdp.telemetry.logs import configure_logging
from afdp.tls.files import open_tls

_CLEAN, _GAPS, _UNREADABLE, _UNREACHABLE = 0, 1, 2, 3
_BETWEEN_STATES = 2.0  # seconds


async def reconcile(settings: NotarySettings, arguments: Sequence[str]) -> int:
    """Names each gap and closes what can be: 0 none is open, 1 some are, 2 it cannot go on, 3 a peer is away."""
    asked = _asked(arguments)
    configure_logging("notary", "ERROR")
    began = time.monotonic()
    try:
        progress = load_progress(asked.state) if asked.state else Progress()
        await _through(settings, asked, progress)
    except NotaryError as error:
        print(error, file=sys.stderr)
        return _UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else _UNREADABLE
    if asked.state:
        asked.state.unlink(missing_ok=True)  # the next run is a new one
    _say(progress, time.monotonic() - began, as_json=asked.json)
    return _GAPS if progress.open else _CLEAN


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m afdp.notary reconcile")
    parser.add_argument("--check", action="store_true", help="name gaps and close none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--state", metavar="FILE", type=Path, help="keeps how far it has come, to go on after an end")
    parser.add_argument("--grace", metavar="SECONDS", type=float, help="how long a record may wait to be logged")
    return parser.parse_args(arguments)


async def _through(settings: NotarySettings, asked: argparse.Namespace, progress: Progress) -> None:
    async with AsyncExitStack() as stack:
        reconciler = await open_reconciler(settings, asked.grace, stack)
        if not asked.check:
            await stack.enter_async_context(_on_record(settings))
        written = time.monotonic()

        async def keep(progress: Progress) -> None:
            nonlocal written
            if asked.state and time.monotonic() - written > _BETWEEN_STATES:
                await asyncio.to_thread(save_progress, asked.state, progress)
                written = time.monotonic()

        try:
            await reconciler.run(progress, keep, close=not asked.check)
        except (NotaryError, asyncio.CancelledError):
            if asked.state:
                save_progress(asked.state, progress)
            raise


async def open_reconciler(settings: NotarySettings, grace: float | None, stack: AsyncExitStack) -> Reconciler:
    """One that speaks to the peers as the service does, for as long as `stack` is open.

    Args:
        settings: those of the service.
        grace: how long a record may wait to be logged, in seconds; None: as the settings say.
        stack: closes its connections.
    """
    peers = await open_peers(settings, stack)
    signer, log, records = peers.signer, peers.log, peers.records
    keys, timeout = KeyDirectory(signer, log), settings.stage_timeout_seconds
    rows = PipelineRows(subject="reconcile-command")
    stages = Stages(signer, records, keys, _NoStamps(), _NoQueue(), timeout, rows=rows)
    patience = timedelta(seconds=settings.reconcile_grace_seconds if grace is None else grace)
    return Reconciler(records, log, keys, stages.log, settings.main_log, patience, timeout)


@asynccontextmanager
async def _on_record(settings: NotarySettings) -> AsyncIterator[None]:
    """That gaps are about to be closed, and then whether all was gone through.

    Raises:
        Unavailable: it cannot be put on record, and so is not done.
    """
    act = {"act": str(uuid_utils.uuid7()), "step": "act", "rpc": "Reconcile", "permission": "records.admin"}
    who = {"issuer": "afdp-notary", "subject": "reconcile-command", "method": "service"}
    row = {**act, **who, "tenant": settings.operator_tenants[0]}
    async with (
        open_tls(settings) as tls,
        open_channel(settings.metadata_address, settings.max_message_bytes, tls=tls, service="metadata") as channel,
    ):
        records = MetadataServiceClient(GrpcCaller(channel))

        async def put(phase: str, result: str) -> None:
            told = write_row({**row, "phase": phase, "result": result, "time": datetime.now(UTC)})
            await records.record_audit_rows(RecordAuditRowsRequest([told]), timeout=settings.stage_timeout_seconds)

        await put(INTENT, "allow")
        try:
            yield
        except BaseException:
            with suppress(NotaryError):
                await put(OUTCOME, "error")
            raise
        await put(OUTCOME, "allow")


class _NoStamps:
    """What is finished here was prepared before: whatever is to be stamped outside waits for that already."""

    def asks_for(self, tenant: str, event_type: str) -> bool:
        return False

    def ask(self) -> None: ...


class _NoQueue:
    """What waits for logs of others is the business of the notaries that run."""

    main = ""
    more: tuple[str, ...] = ()

    def wait(self, waiting: Sequence[Prepared]) -> None: ...

    def ask(self) -> None: ...


def _say(progress: Progress, seconds: float, *, as_json: bool) -> None:
    entries = sum(progress.entries.values())
    if as_json:
        answer = {
            "clean": not progress.open,
            "records": progress.records,
            "entries": entries,
            "entries_of_strangers": progress.strangers,
            "copies": progress.copies,
            "on_the_way": progress.on_the_way,
            "found": dict(progress.found),
            "closed": {kind: number for kind, number in progress.closed.items() if number},
            "gaps": [
                {"kind": gap.kind, "subject": gap.subject, "why": gap.why, "closed": gap.closed}
                for gap in progress.gaps
            ],
            "seconds": round(seconds, 3),
        }
        print(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
        return
    for gap in progress.gaps:
        mark, where = ("closed", sys.stdout) if gap.closed else (gap.kind.value, sys.stderr)
        print(f"{mark}: {gap.subject}: {gap.why}", file=where)
    if progress.found.total() > len(progress.gaps):
        print(f"and {progress.found.total() - len(progress.gaps)} more", file=sys.stderr)
    strangers = f", {progress.strangers} of them by strangers" if progress.strangers else ""
    waits = f"; {progress.on_the_way} records are on their way" if progress.on_the_way else ""
    closed = f", {progress.closed.total()} closed" if progress.closed.total() else ""
    seen = f"{progress.records} records, {entries} entries{strangers}"
    print(f"{seen}: {progress.open} gaps are open{closed}{waits} ({seconds:.1f} s)")
