"""`afdp export`: what a receipt proves, in a form that other tools read."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from afdp.cli.files import read_document, write_whole
from afdp.cli.options import NOT_GOOD, Unreadable, json_option
from afdp.cli.output import reasons, say, say_json
from afdp.errors import InvalidArgument
from afdp.formats.bundle import LogEntry
from afdp.formats.merkle import ProofError, leaf_hash, verify_inclusion
from afdp.formats.note import Checkpoint, Note, NoteError
from afdp.formats.receipt import Receipt
from afdp.formats.tlog_proof import EXTENSION, TlogProof


@click.command(short_help="Write what a receipt proves in a form that other tools read, offline.")
@click.argument("receipt", metavar="RECEIPT.json")
@click.option("--format", "form", type=click.Choice(["tlog-proof"]), default="tlog-proof", show_default=True)
@click.option("-o", "--output", metavar="FILE", help=f"`-` is standard output.  [default: RECEIPT{EXTENSION}]")
@json_option
def export(receipt: str, form: str, output: str | None, as_json: bool) -> None:
    """Write what a receipt proves in a form that other tools read, offline.

    tlog-proof is C2SP's text file: the entry's place in the log, its inclusion proof, and the log's checkpoint with the
    cosignatures of witnesses. Its line `extra` holds the entry itself, whose leaf hash is what the proof begins with.

    That the proof leads to the checkpoint is checked; whose signatures it has is for `afdp verify` to say. Exit: 0
    written, 1 the proof does not hold, 2 the receipt cannot be read or is not in a log yet.
    """
    entry = _logged(receipt)
    data = _proof(receipt, entry).to_bytes()
    if output == "-" or (output is None and receipt == "-"):
        sys.stdout.buffer.write(data)
        return
    target = Path(output) if output else Path(receipt).with_suffix(EXTENSION)
    write_whole(target, data)
    if as_json:
        said = {"file": str(target), "format": form, "log_index": entry.log_index, "tree_size": entry.tree_size}
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
