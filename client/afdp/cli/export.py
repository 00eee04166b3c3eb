"""`afdp export`: evidence with its receipts, however much; or what one receipt proves, for other tools."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import click

from afdp.cli.connection import open_notary
from afdp.cli.files import progress, read_document, whole_file, write_whole
from afdp.cli.options import NOT_GOOD, Unreadable, json_option, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.cli.search_options import filter_options
from afdp.client.calls import Filters, Form
from afdp.errors import InvalidArgument
from afdp.formats.bundle import LogEntry
from afdp.formats.merkle import ProofError, leaf_hash, verify_inclusion
from afdp.formats.note import Checkpoint, Note, NoteError
from afdp.formats.receipt import Receipt
from afdp.formats.tlog_proof import EXTENSION, TlogProof


@click.command(short_help="Export evidence with its receipts, or the proof of one.")
@click.argument("receipt", metavar="[RECEIPT.json]", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["ndjson", "csv", "tlog-proof"]),
    help="[default: ndjson; of a receipt tlog-proof]",
)
@click.option(
    "-o", "--output", metavar="FILE", help=f"`-` is standard output.  [default: -; of a receipt RECEIPT{EXTENSION}]"
)
@click.option("--after", metavar="RECEIPT_ID", default="", help="Go on behind this receipt, the last of before.")
@filter_options
@url_option
@json_option
def export(
    receipt: str | None, form: str | None, output: str | None, after: str, filters: Filters, url: str, as_json: bool
) -> None:
    """Export evidence with its receipts, all that a search finds; or write what one receipt proves, offline.

    A line of NDJSON has the evidence, its receipt and the bundle: `afdp verify FILE.ndjson` verifies each, offline. CSV
    is for spreadsheets. A FILE is written whole or not at all. With --json the end is one document.

    Of a RECEIPT.json, tlog-proof is C2SP's text file: the entry's place in the log, its inclusion proof, and the log's
    checkpoint with the cosignatures of witnesses. Its line `extra` holds the entry itself, whose leaf hash is what the
    proof begins with. That the proof leads to the checkpoint is checked; whose signatures it has is for `afdp verify`
    to say.

    Exit: 0 written, 1 the proof does not hold, 2 the receipt cannot be read or is not in a log yet, 3 the notary cannot
    be reached.
    """
    if receipt is None:
        if form == "tlog-proof":
            raise click.UsageError("tlog-proof is the form of a receipt: name a RECEIPT.json")
        _export_evidence("csv" if form == "csv" else "ndjson", output or "-", after, filters, url, as_json)
        return
    if form not in (None, "tlog-proof") or after or any(filters.values()):
        raise click.UsageError("a RECEIPT.json is written as tlog-proof, and nothing is looked for")
    _export_proof(receipt, output, as_json)


def _export_evidence(form: Form, file: str, after: str, filters: Filters, url: str, as_json: bool) -> None:
    if file == "-" and as_json:
        raise click.UsageError("--json needs a FILE: -o FILE")
    target = nullcontext(sys.stdout.buffer) if file == "-" else whole_file(Path(file))
    quiet = file == "-" and sys.stdout.isatty()  # the lines themselves show that it goes on
    count = 0 if form == "ndjson" or after else -1  # the head is no record
    with open_notary(url) as notary, target as out, progress("records", shown=not quiet, in_bytes=False) as report:
        for line in notary.export_evidence(form, after=after, **filters):
            out.write(line)
            count += 1
            report(count, None)
        out.flush()
    if as_json:
        say_json({"file": file, "format": form, "records": count})
    else:
        written = "" if file == "-" else f", written to {file}"
        click.echo(f"{count:,} record{'' if count == 1 else 's'}{written}", err=True)


def _export_proof(receipt: str, output: str | None, as_json: bool) -> None:
    entry = _logged(receipt)
    data = _proof(receipt, entry).to_bytes()
    if output == "-" or (output is None and receipt == "-"):
        sys.stdout.buffer.write(data)
        return
    target = Path(output) if output else Path(receipt).with_suffix(EXTENSION)
    write_whole(target, data)
    if as_json:
        said = {"file": str(target), "format": "tlog-proof", "log_index": entry.log_index, "tree_size": entry.tree_size}
        say_json({**said, "leaf_hash": leaf_hash(entry.body).hex()})
        return
    say(f"  entry        {entry.log_index} of {entry.tree_size}")
    say(f"  leaf hash    {leaf_hash(entry.body).hex()}")
    say(f"  proof        {target}")
    say("EXPORTED", fg="green", bold=True)


def _logged(receipt: str) -> LogEntry:
    try:
        entry = Receipt.from_json(read_document(receipt)).bundle.entry
    except InvalidArgument as error:
        raise Unreadable(f"{receipt} is not a receipt: {reasons(error)}") from error
    if entry is None:
        raise Unreadable(
            f"{receipt} is signed and not in a log yet: fetch the receipt again once its state is `logged`"
        )
    return entry


def _proof(receipt: str, entry: LogEntry) -> TlogProof:
    try:
        checkpoint = Checkpoint.parse(Note.parse(entry.checkpoint).text)
        verify_inclusion(entry.log_index, checkpoint.size, leaf_hash(entry.body), entry.hashes, checkpoint.root)
    except (NoteError, ProofError) as error:
        click.echo(f"Error: {receipt}: the receipt's proof does not hold: {error}", err=True)
        raise click.exceptions.Exit(NOT_GOOD) from error
    return TlogProof(entry.log_index, tuple(entry.hashes), entry.checkpoint, extra=entry.body)
