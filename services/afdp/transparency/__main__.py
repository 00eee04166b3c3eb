"""The transparency process.

`python -m afdp.transparency` serves; `… migrate` brings the database to this release; `… fsck` recomputes the logs;
`… check` looks at what it would stand on; `… logs`, `… open-log` and `… freeze-log` are for who operates several;
`… external-evidence` and `… readmit-external` for who writes to logs of others.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
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
from afdp.tls.files import open_tls
from afdp.transparency.commands import freeze, open_further, show_logs
from afdp.transparency.config import TransparencySettings
from afdp.transparency.external.commands import readmit_external, show_evidence
from afdp.transparency.external.opening import open_external_logs
from afdp.transparency.fsck_command import fsck
from afdp.transparency.http import serving_reads
from afdp.transparency.parts import open_logs
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION
from afdp.transparency.servicer import TransparencyServicer
from afdp.transparency.values import WrongLog
from afdp.transparency.witnesses import open_witnesses

_PACKAGE = "afdp.transparency"


async def main(settings: TransparencySettings) -> int:
    """Serves until it is told to stop; 2 where the settings belong to another log than the database."""
    try:
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(start_telemetry(SERVICE, settings))
            tls = await stack.enter_async_context(open_tls(settings))
            database = await stack.enter_async_context(
                open_database(settings, SCHEMA, SERVICE, packaged(_PACKAGE), SESSION)
            )
            channel = await stack.enter_async_context(
                open_channel(settings.signer_address, spread=False, tls=tls, service="signer")
            )
            client = SignerServiceClient(GrpcCaller(channel))
            witnesses = await stack.enter_async_context(open_witnesses(settings.witnesses))
            logs = await stack.enter_async_context(open_logs(settings, database, client, witnesses))
            await stack.enter_async_context(serving_reads(logs, settings, tls))
            external = await stack.enter_async_context(
                open_external_logs(settings.external_logs, database, settings.external_logs_in_flight)
            )
            await serve(TransparencyServicer(logs, external), settings, telemetry, logs.check, tls=tls)
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
        {"migrate": migrate, "check": CHECK},
        {
            "fsck": fsck,
            "logs": show_logs,
            "open-log": open_further,
            "freeze-log": freeze,
            "external-evidence": show_evidence,
            "readmit-external": readmit_external,
        },
    )
