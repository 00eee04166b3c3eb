"""`afdp keys affected`: what a key version has signed, on the worst day, however much it is."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import click
import orjson

from afdp.cli.connection import open_notary
from afdp.cli.files import Report, progress, whole_file
from afdp.cli.options import json_option, moment, url_option
from afdp.client import NotaryClient
from afdp.client.values import AffectedReceipt
from afdp.formats.timestamps import format_timestamp

_PAGE = 1000  # the most that one answer holds
_COLUMNS = ("receipt_id", "notarized_at", "log_index", "evidence_package_hash")


@click.command(short_help="List every receipt that a key version signed.")
@click.option("--key", "key_id", required=True, metavar="VERSION", help="NAME:VERSION, as `afdp keys list` shows it.")
@click.option("--since", type=moment, metavar="T", help="Only what was notarised at or after this.  [default: all]")
@click.option("--csv", "as_csv", metavar="FILE", help="Export as CSV.")
@click.option("--ndjson", "as_ndjson", metavar="FILE", help="Export as JSON, one receipt a line.")
@url_option
@json_option
def affected(
    key_id: str, since: datetime | None, as_csv: str | None, as_ndjson: str | None, url: str, as_json: bool
) -> None:
    """List every receipt that a key version signed, newest first, however many there are.

    A FILE may be `-`, which is standard output; else it is written whole or not at all. With --json the list is one
    document. Exit: 0 listed, 1 there is no such version, 3 the notary cannot be reached.
    """
    if sum(map(bool, (as_csv, as_ndjson, as_json))) > 1:
        raise click.UsageError("give one of --csv, --ndjson and --json")
    form = _CSV if as_csv else _NDJSON if as_ndjson else _json(key_id, since) if as_json else _TEXT
    file = as_csv or as_ndjson or "-"
    target = nullcontext(sys.stdout.buffer) if file == "-" else whole_file(Path(file))
    quiet = file == "-" and sys.stdout.isatty()  # the list itself shows that it goes on
    with open_notary(url) as notary, target as out, progress("receipts", shown=not quiet, in_bytes=False) as report:
        count = _write(out, form, _pages(notary, key_id, since), report)
    if not as_json:
        begin = f" since {format_timestamp(since)}" if since else ""
        written = "" if file == "-" else f", written to {file}"
        click.echo(f"{count:,} receipt{'' if count == 1 else 's'} signed with {key_id}{begin}{written}", err=True)


def _pages(notary: NotaryClient, key_id: str, since: datetime | None) -> Iterator[tuple[AffectedReceipt, ...]]:
    """Page after page, of which one at a time is held."""
    token = ""
    while True:
        page = notary.affected_receipts(key_id, since=since, page_size=_PAGE, page_token=token)
        yield page.items
        token = page.next_page_token
        if not token:
            return


@dataclass(frozen=True, slots=True)
class _Form:
    """How receipts are written."""

    row: Callable[[AffectedReceipt], bytes]
    head: bytes = b""
    between: bytes = b""
    tail: Callable[[int], bytes] = lambda count: b""


def _write(out: IO[bytes], form: _Form, pages: Iterator[tuple[AffectedReceipt, ...]], report: Report) -> int:
    """Writes all receipts; gives how many they were."""
    out.write(form.head)
    count = 0
    for page in pages:
        rows = form.between.join(map(form.row, page))
        out.write(form.between + rows if count and rows else rows)
        count += len(page)
        report(count, None)
    out.write(form.tail(count))
    out.flush()
    return count


# --- forms ------------------------------------------------------------------------------------------------------------


def _cells(receipt: AffectedReceipt) -> tuple[str, str, str, str]:
    time = format_timestamp(receipt.notarized_at) if receipt.notarized_at else ""
    return receipt.receipt_id, time, str(receipt.log_index), receipt.evidence_package_hash


def _csv_row(cells: tuple[str, ...]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)  # RFC 4180
    return line.getvalue().encode()


def _object(receipt: AffectedReceipt) -> dict[str, object]:
    identifier, time, _, digest = _cells(receipt)
    return dict(zip(_COLUMNS, (identifier, time or None, receipt.log_index, digest), strict=True))


def _text_row(receipt: AffectedReceipt) -> bytes:
    identifier, time, index, digest = _cells(receipt)
    return f"  {identifier}  {time:<27}  entry {index:>9}  sha256 {digest}\n".encode()


def _json(key_id: str, since: datetime | None) -> _Form:
    said = orjson.dumps({"key_id": key_id, "since": format_timestamp(since) if since else None})
    return _Form(
        head=said[:-1] + b',"receipts":[\n',
        row=lambda receipt: orjson.dumps(_object(receipt)),
        between=b",\n",
        tail=lambda count: b'\n],"count":%d}\n' % count,
    )


_CSV = _Form(head=_csv_row(_COLUMNS), row=lambda receipt: _csv_row(_cells(receipt)))
_NDJSON = _Form(row=lambda receipt: orjson.dumps(_object(receipt)) + b"\n")
_TEXT = _Form(row=_text_row)
