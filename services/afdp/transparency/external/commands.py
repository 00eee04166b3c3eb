"""What an operator does about logs of others: see what one was refused for, and let it in again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import orjson

from afdp.formats.timestamps import format_timestamp
from afdp.postgres import open_database
from afdp.telemetry.logs import configure_logging
from afdp.transparency.config import TransparencySettings
from afdp.transparency.external.postgres import evidence, readmit
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION


async def show_evidence(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Prints what logs were refused for, both notes of each, as JSON: 1 while one is refused, else 0."""
    argparse.ArgumentParser(prog="python -m afdp.transparency external-evidence").parse_args(arguments)
    configure_logging(SERVICE, "ERROR")
    async with open_database(settings, SCHEMA, SERVICE, session=SESSION) as database:
        rows = await database.run(evidence)
    found = [
        {
            "origin": row["origin"],
            "reason": row["reason"],
            "found_at": format_timestamp(row["found_at"]),
            "known_note": row["known_note"],
            "refused_note": row["refused_note"],
            "refused_now": row["stands"],
        }
        for row in rows
    ]
    sys.stdout.buffer.write(orjson.dumps({"evidence": found}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return 1 if any(row["stands"] for row in rows) else 0


async def readmit_external(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Lets a refused log in again: 0, or 1 where none of this origin is refused. The evidence is kept."""
    parser = argparse.ArgumentParser(prog="python -m afdp.transparency readmit-external")
    parser.add_argument("origin")
    origin = parser.parse_args(arguments).origin
    configure_logging(SERVICE, "ERROR")
    async with open_database(settings, SCHEMA, SERVICE, session=SESSION) as database:
        done = await database.run(lambda connection: readmit(connection, origin))
    if not done:
        print(f"no log of origin {origin} is refused", file=sys.stderr)
        return 1
    print(f"{origin} takes entries again, from the tree that it shows next; the evidence is kept")
    return 0
