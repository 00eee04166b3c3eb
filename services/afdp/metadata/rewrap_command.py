"""`python -m afdp.metadata rewrap`: all wrapped keys beside the records under the newest versions of their keys."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import orjson
import uuid_utils

from afdp.audit.rows import INTENT, OUTCOME, write_row
from afdp.errors import DeadlineExceeded, InvalidArgument, NotaryError, Unavailable
from afdp.messages.signer import SignerServiceClient
from afdp.metadata.audit_trail import AuditStore, NewRow
from afdp.metadata.config import MetadataSettings
from afdp.metadata.postgres.audit import PostgresAudit
from afdp.metadata.postgres.migrating import SCHEMA, SERVICE
from afdp.metadata.postgres.roles import WRITER
from afdp.metadata.postgres.seals import PostgresShelf
from afdp.metadata.rewrapping import Progress, Rewrapping
from afdp.metadata.signer import GrpcHolder
from afdp.postgres import open_database
from afdp.rpc import GrpcCaller, open_channel
from afdp.telemetry.logs import configure_logging
from afdp.tls.files import open_tls
from afdp.whole_file import write_whole

_DONE, _REFUSED, _CANNOT, _UNREACHABLE = 0, 1, 2, 3


async def rewrap(settings: MetadataSettings, arguments: Sequence[str]) -> int:
    """Wraps keys anew: 0 all are, 1 some do not open, 2 it cannot go on, 3 a peer is away."""
    asked = _asked(arguments)
    configure_logging("metadata", "ERROR")
    began = time.monotonic()
    try:
        progress = _load(asked.state)
        await _through(settings, asked, progress)
    except NotaryError as error:
        print(error, file=sys.stderr)
        return _UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else _CANNOT
    if asked.state:
        asked.state.unlink(missing_ok=True)  # the next run is a new one
    _say(progress, time.monotonic() - began, as_json=asked.json)
    return _REFUSED if progress.refused else _DONE


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m afdp.metadata rewrap")
    parser.add_argument(
        "--rotate", action="store_true", help="first make a new version of each tenant's and subject's key"
    )
    parser.add_argument("--state", metavar="FILE", type=Path, help="keeps how far it has come, to go on after an end")
    parser.add_argument("--tenant", default="default", help="whose audit trail has it: one of AFDP_OPERATOR_TENANTS")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


async def _through(settings: MetadataSettings, asked: argparse.Namespace, progress: Progress) -> None:
    async with AsyncExitStack() as stack:
        tls = await stack.enter_async_context(open_tls(settings))
        channel = await stack.enter_async_context(
            open_channel(settings.signer_address, spread=False, tls=tls, service="signer")
        )
        few = settings.model_copy(update={"database_pool_min": 1, "database_pool_max": 2})
        database = await stack.enter_async_context(open_database(few, SCHEMA, SERVICE, session=WRITER))
        holder = GrpcHolder(SignerServiceClient(GrpcCaller(channel)), settings.signer_timeout_seconds)
        audit = PostgresAudit(database, database, settings.max_message_bytes)
        await stack.enter_async_context(_on_record(audit, asked.tenant))

        async def keep(progress: Progress) -> None:
            if asked.state:
                await asyncio.to_thread(write_whole, asked.state, orjson.dumps(asdict(progress)))

        await Rewrapping(holder, PostgresShelf(database)).run(progress, keep, rotate=asked.rotate)


@asynccontextmanager
async def _on_record(audit: AuditStore, tenant: str) -> AsyncIterator[None]:
    """That keys are about to be wrapped anew, and then whether all were.

    Raises:
        Unavailable: it cannot be put on record, and so is not done.
    """
    act = {"act": str(uuid_utils.uuid7()), "step": "act", "rpc": "RewrapDataKeys", "permission": "keys.admin"}
    row = {**act, "issuer": "afdp-metadata", "subject": "rewrap-command", "method": "service", "tenant": tenant}

    async def put(phase: str, result: str) -> None:
        told = write_row({**row, "phase": phase, "result": result, "time": datetime.now(UTC)})
        await audit.add_rows([NewRow.read(told)])

    await put(INTENT, "allow")
    try:
        yield
    except BaseException:
        with suppress(NotaryError):
            await put(OUTCOME, "error")
        raise
    await put(OUTCOME, "allow")


def _load(file: Path | None) -> Progress:
    if file is None or not file.exists():
        return Progress()
    try:
        content = orjson.loads(file.read_bytes())
        scopes = content.pop("scopes")
        return Progress(scopes=scopes and (str(scopes[0]), str(scopes[1])), **content)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError):
        raise InvalidArgument(f"{file} is not the state of a run: remove it to begin anew") from None


def _say(progress: Progress, seconds: float, *, as_json: bool) -> None:
    counts = {name: getattr(progress, name) for name in ("rotated", "rewrapped", "current", "erased")}
    if as_json:
        print(orjson.dumps({**counts, "refused": progress.refused, "seconds": round(seconds, 3)}).decode())
        return
    for each in progress.refused:
        print(each, file=sys.stderr)
    print(", ".join(f"{number} {name}" for name, number in counts.items()) + f" ({seconds:.1f} s)")
