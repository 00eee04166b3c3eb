"""The transparency process.

`python -m afdp.transparency` serves; `… migrate` brings the database to this release; `… fsck` recomputes the logs;
`… check` looks at what it would stand on; `… logs`, `… open-log` and `… freeze-log` are for who operates several;
`… external-evidence` and `… readmit-external` for who writes to logs of others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from afdp import postgres
from afdp.errors import NotaryError
from afdp.messages.signer import SignerServiceClient
from afdp.postgres import open_database, packaged
from afdp.postgres.check import postgres_of
from afdp.process import run
from afdp.rpc import GrpcCaller, open_channel, serve
from afdp.selfcheck import grpc_port_of, peers_of, self_check
from afdp.telemetry import start_telemetry
from afdp.telemetry.logs import configure_logging
from afdp.transparency import fsck as checking
from afdp.transparency.commands import freeze, open_further, show_logs
from afdp.transparency.config import TransparencySettings
from afdp.transparency.external.commands import readmit_external, show_evidence
from afdp.transparency.external.opening import open_external_logs
from afdp.transparency.http import serving_reads
from afdp.transparency.parts import open_logs
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore
from afdp.transparency.postgres_audit import PostgresAuditBook
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.servicer import TransparencyServicer
from afdp.transparency.values import WrongLog
from afdp.transparency.witnesses import open_witnesses

_PACKAGE = "afdp.transparency"


async def main(settings: TransparencySettings) -> int:
    """Serves until it is told to stop; 2 where the settings belong to another log than the database."""
    try:
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(start_telemetry(SERVICE, settings))
            database = await stack.enter_async_context(
                open_database(settings, SCHEMA, SERVICE, packaged(_PACKAGE), SESSION)
            )
            channel = await stack.enter_async_context(open_channel(settings.signer_address, spread=False))
            client = SignerServiceClient(GrpcCaller(channel))
            witnesses = await stack.enter_async_context(open_witnesses(settings.witnesses))
            logs = await stack.enter_async_context(open_logs(settings, database, client, witnesses))
            await stack.enter_async_context(serving_reads(logs, settings))
            external = await stack.enter_async_context(
                open_external_logs(settings.external_logs, database, settings.external_logs_in_flight)
            )
            await serve(TransparencyServicer(logs, external), settings, telemetry, logs.check)
    except WrongLog as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def migrate(settings: TransparencySettings) -> int:
    """Brings the database to this release and says what was done."""
    configure_logging(SERVICE, "ERROR")
    try:
        applied = await postgres.migrate_database(settings, SCHEMA, SERVICE, packaged(_PACKAGE))
    except NotaryError as error:
        print(error, file=sys.stderr)
        return 1
    for each in applied:
        print(f"applied {each.version:04d}_{each.name}")
    if not applied:
        print("nothing to do")
    return 0


async def fsck(settings: TransparencySettings) -> int:
    """Recomputes the logs in the database: 0 if they are whole, 1 with the first fault, 2 if they cannot be read."""
    configure_logging(SERVICE, "ERROR")
    try:
        async with open_database(settings, SCHEMA, SERVICE, session=SESSION) as database:
            logs = await PostgresCatalogue(database).logs()
            stores = {each.origin: PostgresStore(database, each.number) for each in logs}
            # An empty database is asked, too: it says that it holds no log.
            whole = [await _is_whole(*each) for each in (stores or {"": PostgresStore(database)}).items()]
    except NotaryError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if all(whole) else 1


async def _is_whole(origin: str, store: PostgresStore) -> bool:
    with _progress() as progress:
        report = await checking.check_store(store, progress)
    if report.fault:
        said = f"{report.fault}\n{report.checked} of {report.size} entries were checked before it"
        print(f"{origin}: {said}" if origin else said, file=sys.stderr)
        return False
    print(f"{origin}: {report.size} entries, {report.published} of them published: the log is whole")
    if await PostgresAuditBook(store).forget_fault():
        print("what the self-audit had found is repaired: start the service anew, and it appends again")
    return True


@contextmanager
def _progress() -> Iterator[checking.Progress | None]:
    """A bar on standard error where a person waits, nothing where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("entries")
        yield lambda done, size: bar.update(task, completed=done, total=size)


CHECK = self_check(
    TransparencySettings,
    postgres_of(SCHEMA),
    peers_of("signer"),
    grpc_port_of("afdp.transparency.v1.TransparencyService"),
)


if __name__ == "__main__":
    run(
        TransparencySettings,
        main,
        {"migrate": migrate, "fsck": fsck, "check": CHECK},
        {
            "logs": show_logs,
            "open-log": open_further,
            "freeze-log": freeze,
            "external-evidence": show_evidence,
            "readmit-external": readmit_external,
        },
    )
