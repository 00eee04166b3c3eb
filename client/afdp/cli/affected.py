"""`afdp keys affected`: what a key version has signed, on the worst day, however much it is."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import click
import orjson

from afdp.cli.connection import Refused, open_notary
from afdp.cli.files import Report, progress, whole_file
from afdp.cli.options import json_option, moment, url_option
from afdp.cli.output import printable
from afdp.client import NotaryClient
from afdp.formats.timestamps import format_timestamp

_PAGE = 10_000  # the most that one answer holds
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


def _pages(notary: NotaryClient, key_id: str, since: datetime | None) -> Iterator[list[bytes]]:
    """The lines of page after page; while one is written the next is on its way, and no more than these are held."""

    def fetch(after: str) -> list[bytes]:
        return notary.export_affected(key_id, since=since, page_size=_PAGE, after=after).splitlines(keepends=True)

    with ThreadPoolExecutor(1) as ahead:
        lines = fetch("")
        while len(lines) >= _PAGE:
            following = ahead.submit(fetch, lines[-1].partition(b",")[0].decode())
            yield lines
            lines = following.result()
        yield lines


@dataclass(frozen=True, slots=True)
class _Form:
    """How lines of CSV are written."""

    rows: Callable[[Sequence[bytes]], bytes]
    head: bytes = b""
    between: bytes = b""
    tail: Callable[[int], bytes] = lambda count: b""


def _write(out: IO[bytes], form: _Form, pages: Iterator[list[bytes]], report: Report) -> int:
    """Writes all receipts; gives how many they were."""
    out.write(form.head)
    count = 0
    for lines in pages:
        rows = form.rows(lines)
        out.write(form.between + rows if count and rows else rows)
        count += len(lines)
        report(count, None)
    out.write(form.tail(count))
    out.flush()
    return count


# --- forms ------------------------------------------------------------------------------------------------------------


def _cells(lines: Sequence[bytes]) -> Iterator[list[str]]:
    for cells in csv.reader(line.decode("utf-8", "replace") for line in lines):
        if len(cells) != len(_COLUMNS) or not (cells[2].isdecimal() or not cells[2]):
            raise Refused("the notary gave a line that is not one of its export")
        yield cells


def _objects(lines: Sequence[bytes]) -> Iterator[bytes]:
    for identifier, time, index, digest in _cells(lines):
        values = (identifier, time, int(index) if index else None, digest)
        yield orjson.dumps(dict(zip(_COLUMNS, values, strict=True)))


def _text(lines: Sequence[bytes]) -> bytes:
    rows = (
        f"  {identifier}  {time:<27}  {f'entry {index:>9}' if index else 'not logged yet '}  sha256 {digest}"
        for identifier, time, index, digest in _cells(lines)
    )
    return "".join(f"{printable(row)}\n" for row in rows).encode()


def _json(key_id: str, since: datetime | None) -> _Form:
    said = orjson.dumps({"key_id": key_id, "since": format_timestamp(since) if since else None})
    return _Form(
        head=said[:-1] + b',"receipts":[\n',
        rows=lambda lines: b",\n".join(_objects(lines)),
        between=b",\n",
        tail=lambda count: b'\n],"count":%d}\n' % count,
    )


_CSV = _Form(head=",".join(_COLUMNS).encode() + b"\r\n", rows=b"".join)
_NDJSON = _Form(rows=lambda lines: b"".join(each + b"\n" for each in _objects(lines)))
_TEXT = _Form(rows=_text)
