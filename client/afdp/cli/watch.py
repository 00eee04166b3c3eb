"""`afdp watch`: receipts as they are made or upgraded."""

from __future__ import annotations

import click
import orjson

from afdp.cli.connection import open_notary
from afdp.cli.options import json_option, url_option
from afdp.cli.output import printable, reasons
from afdp.client.values import WatchedReceipt


@click.command(short_help="Watch receipts as they are made or upgraded.")
@click.option("--cursor", default="", metavar="C", help="Go on from here.  [default: from now on]")
@url_option
@json_option
def watch(cursor: str, url: str, as_json: bool) -> None:
    """Watch receipts as they are made or upgraded, each at least once, until Ctrl-C.

    A connection that breaks is made anew where it was. With --json each line is one receipt with its cursor. Exit: 0
    ended by Ctrl-C, 2 the cursor is none or too old, 3 the notary cannot be reached.
    """
    last = cursor
    try:
        with open_notary(url) as notary:
            for told in notary.watch_receipts(cursor):
                click.echo(_json(told) if as_json else printable(_line(told)))
                last = told.cursor
    except KeyboardInterrupt:
        pass
    finally:
        if last and not as_json:
            click.echo(f"go on with --cursor {last}", err=True)


def _line(told: WatchedReceipt) -> str:
    if told.receipt is None:
        return f"{told.receipt_id}  withheld: {reasons(told.error) if told.error is not None else 'no reason'}"
    receipt = told.receipt
    where = f"entry {receipt.log_index}" if receipt.state != "signed" else "not logged yet"
    return f"{told.receipt_id}  {receipt.state:<9}  {where}  sha256 {receipt.evidence_package_hash}"


def _json(told: WatchedReceipt) -> bytes:
    said = {"cursor": told.cursor, "receipt_id": told.receipt_id}
    if told.receipt is not None:
        return orjson.dumps(said | {"receipt": orjson.loads(told.receipt.to_json())})
    error = told.error
    return orjson.dumps(said | {"error": {"code": error.code, "detail": error.message} if error is not None else None})
