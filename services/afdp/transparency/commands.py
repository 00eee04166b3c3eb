"""What an operator does to the logs of a deployment: see them, open one, freeze one.

They work on the database that all replicas share, whether replicas run or not; none has to be restarted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from pydantic import ValidationError

from afdp.errors import NotaryError, Unavailable
from afdp.formats.timestamps import format_timestamp
from afdp.messages.signer import SignerServiceClient
from afdp.postgres import Database, open_database
from afdp.rpc import GrpcCaller, open_channel
from afdp.telemetry.logs import configure_logging
from afdp.tls.files import open_tls
from afdp.transparency.config import LogSettings, TransparencySettings
from afdp.transparency.logs import base_url, freeze_log, open_log
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.transparency.signer import GrpcSigner
from afdp.transparency.values import Heads, KnownLog, NewLog


async def show_logs(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Prints every log as it stands: 0, or 2 where the database cannot be read."""
    parser = _parser("logs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    async with _database(settings) as database:
        known = await PostgresCatalogue(database).logs()
        heads = [await PostgresStore(database, each.number).heads() for each in known]
    objects = [_to_object(each, head, settings) for each, head in zip(known, heads, strict=True)]
    if asked.json:
        sys.stdout.buffer.write(orjson.dumps({"logs": objects}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return 0
    for each, shown in zip(known, objects, strict=True):
        print(f"{each.origin}  {each.state.value}  {shown['size']} entries  for {_whom(each)}{_links(each)}")
        print(f"  {shown['base_url']}  {each.identity.vkey}")
    return 0


async def open_further(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Opens a log, and says what follows."""
    parser = _parser("open-log")
    parser.add_argument("origin")
    parser.add_argument("--tenant", action="append", default=[])
    parser.add_argument("--successor-of", default="")
    parser.add_argument("--base-url")
    new = _new(parser.parse_args(arguments))
    async with (
        _database(settings) as database,
        open_tls(settings) as tls,
        open_channel(settings.signer_address, tls=tls, service="signer") as channel,
    ):
        signer = GrpcSigner(SignerServiceClient(GrpcCaller(channel)), settings.signer_timeout_seconds)
        known = await open_log(PostgresCatalogue(database), signer, new)
    print(f"{known.origin} is open, for {_whom(known)}; its key: {known.identity.vkey}")
    if known.waits:
        print(f"it takes over when its predecessor is frozen: afdp log freeze {known.predecessor}")
    print("if the trust root is signed offline, have it signed with this log: afdp trust sign")
    return 0


async def freeze(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Freezes a log, and says what follows."""
    parser = _parser("freeze-log")
    parser.add_argument("origin")
    asked = parser.parse_args(arguments)
    async with _database(settings) as database:
        known = await freeze_log(PostgresCatalogue(database), asked.origin)
        heads = await PostgresStore(database, known.number).heads()
    print(f"{known.origin} is frozen with {heads.tree} entries; what is in it stays served and proven")
    if heads.published < heads.tree:
        print(f"{heads.tree - heads.published} of them wait for their checkpoint, which the service signs")
    if known.successor:
        print(f"{known.successor} goes on")
    else:
        print(
            f"nothing goes on from it: entries of {_whom(known)} are refused until a successor is open: "
            f"afdp log open ORIGIN --successor-of {known.origin}",
            file=sys.stderr,
        )
    return 0


@asynccontextmanager
async def _database(settings: TransparencySettings) -> AsyncIterator[Database]:
    """The database; an error ends the process with a line that says it."""
    configure_logging(SERVICE, "ERROR")
    try:
        async with open_database(settings, SCHEMA, SERVICE, session=SESSION) as database:
            yield database
    except NotaryError as error:
        said = "; ".join(f"{each.field} {each.message}" for each in error.fields)
        print(said or error.message, file=sys.stderr)
        raise SystemExit(3 if isinstance(error, Unavailable) else 2) from None


def _parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m afdp.transparency {command}")


def _new(asked: argparse.Namespace) -> NewLog:
    try:
        return LogSettings(
            origin=asked.origin,
            tenants=tuple(asked.tenant),
            successor_of=asked.successor_of,
            base_url=asked.base_url,
        ).new
    except ValidationError as error:
        for each in error.errors(include_url=False):
            print(f"{each['loc'][0]}: {each['msg']}", file=sys.stderr)
        raise SystemExit(2) from None


def _to_object(known: KnownLog, heads: Heads, settings: TransparencySettings) -> dict[str, object]:
    return {
        "origin": known.origin,
        "state": known.state.value,
        "tenants": list(known.tenants),
        "size": heads.published,
        "base_url": base_url(known, settings.base_url),
        "vkey": str(known.identity.vkey),
        "predecessor": known.predecessor,
        "successor": known.successor,
        "opened_at": known.opened_at and format_timestamp(known.opened_at),
        "frozen_at": known.frozen_at and format_timestamp(known.frozen_at),
    }


def _whom(known: KnownLog) -> str:
    return ", ".join(known.tenants) or "all that have no log of their own"


def _links(known: KnownLog) -> str:
    before = f", after {known.predecessor}" if known.predecessor else ""
    return before + (f", before {known.successor}" if known.successor else "")
