"""`afdp log prove` and `afdp log verify-proof`: what a log proves, as files that are verified offline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import click
import orjson

from afdp.cli.files import progress, read_document, whole_file, write_whole
from afdp.cli.log_options import NotSound, ending, key_options, read_key, read_witnesses, timeout_option
from afdp.cli.options import Unreadable, json_option
from afdp.cli.output import reasons, say, say_json
from afdp.errors import InvalidArgument
from afdp.formats.bundle import LogEntry
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import NoteError, VerifierKey
from afdp.formats.receipt import Receipt
from afdp.formats.tlog_proof import EXTENSION, FIRST_LINE, TlogProof, TlogProofError
from afdp.monitor.keys import read_log_key
from afdp.monitor.source import Reading, open_source
from afdp.verify.log_proofs import (
    COMPLETENESS,
    MAX_LINE_BYTES,
    Completeness,
    CompletenessHeader,
    ConsistencyProof,
    LogProofError,
    entry_lines,
    verify_completeness,
)
from afdp.verify.tile_files import CHECKPOINT, Head, TileSource, read_head, signed_head
from afdp.verify.tree import VerifiedTree

_output = click.option("-o", "--output", metavar="FILE", help="`-` is standard output.")
_TOO_MUCH = 64 * 1024 * 1024

P = TypeVar("P")


@click.command(short_help="Prove that an entry is in a log.")
@click.argument("source", metavar="SOURCE")
@click.option("--receipt", metavar="FILE", help="The entry of this receipt.")
@click.option("--index", type=click.IntRange(0), metavar="N", help="The entry at this place, from 0.")
@click.option("--leaf-hash", metavar="HEX", help="The entry with this leaf hash; the log is searched for it.")
@click.option("--entry", "entry_file", metavar="FILE", help="This entry; the log is searched for it.")
@click.option("--checkpoint", "at", metavar="FILE", help="In the tree of this signed checkpoint.  [default: newest]")
@_output
@key_options
@timeout_option
@json_option
def inclusion(
    source: str,
    receipt: str | None,
    index: int | None,
    leaf_hash: str | None,
    entry_file: str | None,
    at: str | None,
    output: str | None,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Prove that an entry is in a log, as a C2SP tlog-proof, with the entry in it.

    SOURCE is the URL of a tiled log or a folder of tiles. Exit: 0 written, 1 it is not in the log or the log is not
    good, 2 usage, 3 not reachable.
    """
    wanted = _wanted(receipt, index, leaf_hash, entry_file)
    with _log(source, vkey, origin, witnesses, timeout) as log:
        head, tree = log.tree_at(at)
        place = _place(tree, wanted)
        ((_, (entry,)),) = tree.entries(place, place + 1)
        proof, leaf = TlogProof(place, tree.inclusion_proof(place), head.note, extra=entry or None), tree.leaf(place)
    _write(output or f"entry-{place}{EXTENSION}", proof.to_bytes())
    said = {"proof": "inclusion", "index": place, "leaf_hash": leaf.hex()}
    _say({**said, "size": head.checkpoint.size, "log": head.checkpoint.origin}, output, as_json)


@click.command(short_help="Prove that a log's newer tree goes on from its older one.")
@click.argument("source", metavar="SOURCE")
@click.option("--from", "old", required=True, metavar="FILE", help="The older signed checkpoint.")
@click.option("--to", "new", metavar="FILE", help="The newer one.  [default: the log's newest]")
@_output
@key_options
@timeout_option
@json_option
def consistency(
    source: str,
    old: str,
    new: str | None,
    output: str | None,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Prove that a log's newer tree goes on from its older one.

    Exit: 0 written, 1 it does not or the log is not good, 2 usage, 3 not reachable.
    """
    with _log(source, vkey, origin, witnesses, timeout) as log:
        older, (head, tree) = log.given(old), log.tree_at(new)
        tree.require_follows(older.checkpoint)
        proof = ConsistencyProof(older.note, head.note, tree.consistency_proof(older.checkpoint.size))
    sizes = (older.checkpoint.size, head.checkpoint.size)
    _write(output or "consistency-{}-{}.json".format(*sizes), proof.to_bytes())
    said = {"proof": "consistency", "old_size": sizes[0], "new_size": sizes[1]}
    _say({**said, "log": head.checkpoint.origin}, output, as_json)


@click.command(short_help="Prove that these are all entries of a log between two checkpoints.")
@click.argument("source", metavar="SOURCE")
@click.option("--from", "old", metavar="FILE", help="The older signed checkpoint.  [default: the empty log]")
@click.option("--to", "new", metavar="FILE", help="The newer one.  [default: the log's newest]")
@click.option("--bodies", is_flag=True, help="Write the entries themselves, not their leaf hashes.")
@_output
@key_options
@timeout_option
@json_option
def completeness(
    source: str,
    old: str | None,
    new: str | None,
    bodies: bool,
    output: str | None,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Prove that these are all entries of a log between two checkpoints: none is missing, none was added.

    Of a log of a tenant's own these are all entries of this tenant. Exit: 0 written, 1 the log is not good, 2 usage, 3
    not reachable.
    """
    with _log(source, vkey, origin, witnesses, timeout) as log:
        older, (head, tree) = log.given(old) if old else None, log.tree_at(new)
        if older:
            tree.require_follows(older.checkpoint)
        start, end = older.checkpoint.size if older else 0, head.checkpoint.size
        header = CompletenessHeader(older.note if older else None, head.note, tree.frontier(start).hashes, bodies)
        file = output or f"entries-{start}-{end}.proof"
        with _opened(file) as out, progress("entries", in_bytes=False) as report:
            out.write(header.to_line())
            for first, entries in tree.entries(start, end):
                out.writelines(entry_lines(entries, bodies=bodies))
                report(first + len(entries) - start, end - start)
    said = {"proof": "completeness", "old_size": start, "new_size": end, "entries": end - start}
    _say({**said, "log": head.checkpoint.origin}, output, as_json)


@click.command(short_help="Verify what `afdp log prove` wrote, offline.")
@click.argument("proof", metavar="FILE")
@click.option("--vkey", required=True, metavar="FILE", help="The log's key: a vkey, PEM or Sigstore trusted root.")
@click.option("--origin", metavar="NAME", help="The log's origin, where the key's file has several or none.")
@click.option("--witness", "witnesses", multiple=True, metavar="VKEY|FILE", help="A witness whose cosignature counts.")
@click.option(
    "--require-witnesses", type=click.IntRange(0), default=0, metavar="N", help="How many must have cosigned."
)
@click.option("--receipt", "receipts", multiple=True, metavar="FILE", help="A receipt whose entry it must hold.")
@click.option("--leaf-hash", metavar="HEX", help="The leaf hash that it must hold.")
@click.option("--entry", "entry_file", metavar="FILE", help="The entry that it must hold.")
@json_option
def verify_proof(
    proof: str,
    vkey: str,
    origin: str | None,
    witnesses: tuple[str, ...],
    require_witnesses: int,
    receipts: tuple[str, ...],
    leaf_hash: str | None,
    entry_file: str | None,
    as_json: bool,
) -> None:
    """Verify what `afdp log prove` wrote, offline.

    An inclusion proof without an entry in it needs one of --receipt, --leaf-hash and --entry. Exit: 0 it holds, 1 it
    does not, 2 it cannot be read.
    """
    known = read_witnesses(witnesses)
    leaves = _leaves(receipts, leaf_hash, entry_file)
    try:
        key = read_log_key(read_document(vkey), origin, served=partial(_note_in, proof))
        said, head = _verified(proof, key, known, leaves)
    except (TlogProofError, LogProofError) as error:
        raise NotSound(f"{proof}: {error}") from error
    except InvalidArgument as error:
        raise Unreadable(f"{vkey}: {reasons(error)}") from error
    cosigned = [each.key.name for each in head.cosignatures]
    if len(cosigned) < require_witnesses:
        raise NotSound(f"{proof}: {len(cosigned)} of the witnesses named have cosigned, {require_witnesses} must have")
    said = {**said, "log": key.name, "cosigned": cosigned, "holds": True}
    if as_json:
        say_json(said)
        return
    for name, value in said.items():
        if name != "holds" and value != []:
            say(f"  {name.replace('_', ' '):<12} {', '.join(value) if isinstance(value, list) else value}")
    say("HOLDS", fg="green", bold=True)


# --- the log ----------------------------------------------------------------------------------------------------------


class _Log:
    """A log that is asked for proofs."""

    def __init__(self, files: TileSource, key: VerifierKey, witnesses: Sequence[VerifierKey]) -> None:
        self._files = files
        self._key = key
        self._witnesses = witnesses

    def given(self, file: str) -> Head:
        """A signed checkpoint in a file."""
        try:
            return signed_head(read_document(file), self._key, self._witnesses)
        except NoteError as error:
            raise NotSound(f"{file}: {error}") from error

    def tree_at(self, file: str | None) -> tuple[Head, VerifiedTree]:
        """The tree of a signed checkpoint, which the log still goes on from; by default its newest."""
        head = read_head(self._files.read(CHECKPOINT), self._key, self._witnesses)
        tree = VerifiedTree(self._files, head.checkpoint)
        if file is None:
            return head, tree
        older = self.given(file)
        tree.require_follows(older.checkpoint)
        return older, VerifiedTree(self._files, older.checkpoint, served=head.checkpoint.size)


@contextmanager
def _log(source: str, vkey: str | None, origin: str | None, witnesses: Sequence[str], timeout: float) -> Iterator[_Log]:
    with ending(), open_source(source, Reading(timeout)) as files:
        key, _ = read_key(files, source, vkey, origin)
        if vkey is None:
            click.echo(f"the log's own word is believed for its key: {key}", err=True)
        yield _Log(files, key, read_witnesses(witnesses))


def _place(tree: VerifiedTree, wanted: int | bytes | LogEntry) -> int:
    """Where the entry is that is asked for."""
    size = tree.checkpoint.size
    if isinstance(wanted, bytes):
        with progress("entries", in_bytes=False) as report:
            found = tree.find(wanted, report)
        if found is None:
            raise NotSound(f"no entry of {size} has the leaf hash {wanted.hex()}")
        return found
    index = wanted.log_index if isinstance(wanted, LogEntry) else wanted
    if index >= size:
        raise NotSound(f"there is no entry {index} in a tree of {size}")
    if isinstance(wanted, LogEntry) and tree.leaf(index) != leaf_hash(wanted.body):
        raise NotSound(f"entry {index} of {tree.checkpoint.origin} is not that of the receipt")
    return index


# --- what is asked for ------------------------------------------------------------------------------------------------


def _wanted(receipt: str | None, index: int | None, leaf: str | None, entry: str | None) -> int | bytes | LogEntry:
    if sum(each is not None for each in (receipt, index, leaf, entry)) != 1:
        raise click.UsageError("give one of --receipt, --index, --leaf-hash and --entry")
    if receipt is not None:
        return _receipt(receipt)
    if index is not None:
        return index
    return _hash(leaf) if leaf is not None else leaf_hash(read_document(entry or ""))


def _receipt(file: str) -> LogEntry:
    try:
        entry = Receipt.from_json(read_document(file)).bundle.entry
    except InvalidArgument as error:
        raise Unreadable(f"{file} is not a receipt: {reasons(error)}") from error
    if entry is None:
        raise Unreadable(f"{file} is signed and not in a log yet")
    return entry


def _hash(text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 32:
        raise click.UsageError("--leaf-hash must be 64 characters in hex")
    return data


def _leaves(receipts: Sequence[str], leaf: str | None, entry: str | None) -> dict[bytes, str]:
    """Leaf hashes that a proof must hold, each with what it was given as."""
    leaves = {leaf_hash(_receipt(each).body): each for each in receipts}
    if leaf is not None:
        leaves[_hash(leaf)] = leaf
    if entry is not None:
        leaves[leaf_hash(read_document(entry))] = entry
    return leaves


# --- files ------------------------------------------------------------------------------------------------------------


def _write(file: str, data: bytes) -> None:
    if file == "-":
        sys.stdout.buffer.write(data)
    else:
        write_whole(Path(file), data)


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdout.buffer
        return
    with whole_file(Path(file)) as out:
        yield out


def _say(said: dict[str, object], output: str | None, as_json: bool) -> None:
    if output == "-":
        return
    if as_json:
        say_json(said)
        return
    for name, value in said.items():
        say(f"  {name.replace('_', ' '):<12} {value}")
    say("PROVEN", fg="green", bold=True)


def _note_in(file: str) -> str:
    """The checkpoint that a proof is for: tells which of several keys that are trusted is meant."""
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(MAX_LINE_BYTES)
        if data.startswith(FIRST_LINE.encode()):
            note = data.partition(b"\n\n")[2]
        else:
            note = str(
                orjson.loads(data.partition(b"\n")[0] if COMPLETENESS.encode() in data else data)["new"]
            ).encode()
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # what is wrong with it is said when it is verified
    return note.decode("utf-8", "replace")


def _verified(
    file: str, key: VerifierKey, witnesses: Sequence[VerifierKey], leaves: dict[bytes, str]
) -> tuple[dict[str, object], Head]:
    try:
        with Path(file).open("rb") as opened:
            first = opened.readline(MAX_LINE_BYTES)
            if COMPLETENESS.encode() in first:
                lines = iter(lambda: opened.readline(MAX_LINE_BYTES), b"")
                header = _parsed(file, CompletenessHeader.parse, first)
                return _verified_completeness(header, lines, key, witnesses, leaves)
            data = first + opened.read(_TOO_MUCH)
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror}") from error
    if data.startswith(FIRST_LINE.encode()):
        return _verified_inclusion(_parsed(file, TlogProof.parse, data), key, witnesses, leaves)
    old, new = _parsed(file, ConsistencyProof.parse, data).verify(key, witnesses)
    if leaves:
        raise click.UsageError("a consistency proof holds no entries")
    return {"proof": "consistency", "old_size": old.checkpoint.size, "new_size": new.checkpoint.size}, new


def _parsed(file: str, parse: Callable[[bytes], P], data: bytes) -> P:
    """A proof as it stands; a file that is none cannot be read, which says nothing of the log."""
    try:
        return parse(data)
    except (TlogProofError, LogProofError) as error:
        raise Unreadable(f"{file}: {error}") from error


def _verified_completeness(
    header: CompletenessHeader,
    lines: Iterator[bytes],
    key: VerifierKey,
    witnesses: Sequence[VerifierKey],
    leaves: dict[bytes, str],
) -> tuple[dict[str, object], Head]:
    missing = set(leaves)
    found: Completeness = verify_completeness(header, lines, key, witnesses, missing)
    if missing:
        raise LogProofError(f"no entry in it is that of {', '.join(sorted(leaves[each] for each in missing))}")
    old = found.old.checkpoint.size if found.old else 0
    sizes = {"old_size": old, "new_size": found.new.checkpoint.size, "entries": found.entries}
    return {"proof": "completeness", **sizes}, found.new


def _verified_inclusion(
    proof: TlogProof, key: VerifierKey, witnesses: Sequence[VerifierKey], leaves: dict[bytes, str]
) -> tuple[dict[str, object], Head]:
    carried = leaf_hash(proof.extra) if proof.extra is not None else None
    if len(leaves) > 1 or (not leaves and carried is None):
        raise click.UsageError("give one of --receipt, --leaf-hash and --entry: the proof has no entry in it")
    leaf = next(iter(leaves), carried or b"")
    checkpoint, _ = proof.verify(leaf, key, witnesses)
    head = signed_head(proof.checkpoint, key, witnesses)
    said = {"proof": "inclusion", "index": proof.index, "size": checkpoint.size, "leaf_hash": leaf.hex()}
    return said, head
