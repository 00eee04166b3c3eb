"""`afdp log fsck`: a whole log, recomputed from its entries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click

from afdp.cli.config import run_service
from afdp.cli.files import progress
from afdp.cli.log_options import (
    ending,
    evidence_files,
    fault_object,
    key_options,
    origin_and_size,
    read_key,
    read_witnesses,
    say_key,
    timeout_option,
)
from afdp.cli.options import NOT_GOOD, Unreadable, json_option
from afdp.cli.output import say, say_json
from afdp.formats.encoding import b64
from afdp.formats.note import VerifierKey
from afdp.formats.timestamps import format_timestamp
from afdp.monitor.parallel import in_processes, in_this_process
from afdp.monitor.source import Reading, open_source
from afdp.monitor.state import load_checked, locked, save_checked, save_evidence
from afdp.verify.fsck import VKEY, Checked, Checking, LogReport, check_log
from afdp.verify.tile_files import Fault, Head, TileSource

_WORTH_PROCESSES = 131_072  # entries: below that starting them takes longer than they save
_BETWEEN_STATES = 2.0  # seconds


@click.command(short_help="Recompute a whole log from its entries and name the first bad byte.")
@click.argument("source", metavar="SOURCE")
@key_options
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keeps how far it has come: goes on from there after an interruption, and when the log has grown.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=None,
    help="Processes.  [default: one for each processor, less the database's]",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Requests at a time, of each process.",
)
@timeout_option
@json_option
def fsck(
    source: str,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    state: Path | None,
    jobs: int | None,
    in_flight: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Recompute a whole log from its entries and name the first bad byte.

    SOURCE is the URL of a tiled log (of Rekor v2 that is …/api/v2), a folder of tiles, or the word `database`: then the
    transparency service on this machine checks its own, by its settings: all its logs, or the one of --origin. Exit: 0
    sound, 1 not sound, 2 cannot be read, 3 not reachable.
    """
    if source == "database":
        if vkey or witnesses:
            raise click.UsageError("the database is checked by the service's own settings, its key and its witnesses")
        raise click.exceptions.Exit(run_service("transparency", "fsck", *_of_database(origin, state, jobs, as_json)))
    known, reading = read_witnesses(witnesses), Reading(timeout, in_flight)
    with ending(), open_source(source, reading) as files, locked(state) if state else nullcontext():
        key, trusted = read_key(files, source, vkey, origin, state)
        since = load_checked(state, key) if state else None
        segments = _in_parts(source, files, reading, jobs or os.cpu_count() or 1, since)
        begun = time.monotonic()
        with progress("entries", in_bytes=False) as told, _keeping(state, key) as keep:
            report = check_log(files, key, told, witnesses=known, since=since, keep=keep, checking=segments)
    done = _Done(source, key, trusted, report, time.monotonic() - begun, None)
    if report.fault and report.contradicts and state:
        done = done._replace(evidence=_save_evidence(state, report.fault, report))
    if as_json:
        say_json(_to_object(done))
    else:
        _show(done, own=trusted.endswith(f"/{VKEY}") and vkey is None)
    if report.fault:
        raise click.exceptions.Exit(NOT_GOOD)


def _of_database(origin: str | None, state: Path | None, jobs: int | None, as_json: bool) -> list[str]:
    """What the service's own command is told."""
    arguments = ["--json"] if as_json else []
    arguments += ["--jobs", str(jobs)] if jobs else []
    arguments += ["--log", origin] if origin else []
    return arguments + (["--state", str(state)] if state else [])


class _Done(NamedTuple):
    source: str
    key: VerifierKey
    trusted: str
    report: LogReport
    seconds: float
    evidence: Path | None

    @property
    def rate(self) -> float:
        """Entries a second."""
        return (self.report.entries - self.report.start) / max(self.seconds, 1e-9)


def _in_parts(source: str, files: TileSource, reading: Reading, jobs: int, since: Checked | None) -> Checking:
    """The one that is worth its start: the log's size is read before it is known whether the log can be believed."""
    size = origin_and_size(files)[1]
    entries = int(size) if size.isdecimal() and len(size) < 20 else 0
    if jobs > 1 and entries - (since.read.size if since else 0) > _WORTH_PROCESSES:
        return partial(in_processes, source, reading, jobs)
    return partial(in_this_process, files)


@contextmanager
def _keeping(state: Path | None, key: VerifierKey) -> Iterator[Callable[[Checked], None]]:
    """Writes what is good now and then, and at the end, however that comes."""
    if state is None:
        yield lambda checked: None
        return
    kept: Checked | None = None
    written = time.monotonic()

    def keep(checked: Checked) -> None:
        nonlocal kept, written
        kept = checked
        if checked.whole or time.monotonic() - written > _BETWEEN_STATES:
            save_checked(state, key, checked)
            kept, written = None, time.monotonic()

    try:
        yield keep
    finally:
        if kept:
            save_checked(state, key, kept)


def _save_evidence(state: Path, fault: Fault, report: LogReport) -> Path:
    try:
        return save_evidence(state, evidence_files(fault, report.contradicts, report.served))
    except OSError as error:
        raise Unreadable(f"{state}.evidence: {error.strerror}") from error


def _show(done: _Done, *, own: bool) -> None:
    report = done.report
    say_key(done.key, done.trusted, own=own)
    if report.checkpoint:
        say(f"  checkpoint   {report.checkpoint.origin}, {report.checkpoint.size} entries, root {_root(report)}")
    for name, when in _cosigned(report.head):
        say(f"  cosigned     by {name}, {when}")
    before = f" beside {report.start} of before" if report.start else ""
    read = report.entries - report.start
    say(f"  read         {read} entries, {report.tiles} tiles{before}, in {done.seconds:.1f} s ({done.rate:,.0f}/s)")
    if report.fault:
        say(f"  {report.fault}", fg="red")
        if done.evidence:
            say(f"  evidence     {done.evidence}", fg="red")
        say("NOT SOUND", fg="red", bold=True)
    else:
        say("SOUND", fg="green", bold=True)


def _to_object(done: _Done) -> dict[str, object]:
    report = done.report
    checkpoint, fault = report.checkpoint, report.fault
    return {
        "source": done.source,
        "vkey": str(done.key),
        "vkey_from": done.trusted,
        "sound": fault is None,
        "origin": checkpoint and checkpoint.origin,
        "size": checkpoint and checkpoint.size,
        "root": checkpoint and _root(report),
        "cosigned": [{"witness": name, "time": when} for name, when in _cosigned(report.head)],
        "entries_before": report.start,
        "entries_read": report.entries - report.start,
        "tiles_read": report.tiles,
        "seconds": round(done.seconds, 3),
        "entries_per_second": round(done.rate),
        "fault": fault and fault_object(fault),
        "evidence": done.evidence and str(done.evidence),
    }


def _cosigned(head: Head | None) -> list[tuple[str, str]]:
    return [
        (each.key.name, format_timestamp(datetime.fromtimestamp(each.time or 0, UTC)))
        for each in (head.cosignatures if head else ())
    ]


def _root(report: LogReport) -> str:
    return b64(report.checkpoint.root) if report.checkpoint else ""
