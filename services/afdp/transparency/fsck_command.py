"""`python -m afdp.transparency fsck`: every log in the database recomputed, and what was found good kept in a file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.formats.encoding import b64, from_b64
from afdp.formats.merkle import Frontier
from afdp.formats.note import VerifierKey
from afdp.postgres import open_database
from afdp.telemetry.logs import configure_logging
from afdp.transparency import fsck as checking
from afdp.transparency.config import TransparencySettings
from afdp.transparency.fsck import Reader, Report, StoreFault
from afdp.transparency.fsck_processes import reading_in_processes
from afdp.transparency.postgres import SCHEMA, SERVICE, SESSION, PostgresStore
from afdp.transparency.postgres_audit import PostgresAuditBook
from afdp.transparency.postgres_fsck import PostgresKeptCheckpoints
from afdp.transparency.postgres_logs import PostgresCatalogue
from afdp.whole_file import write_whole

_WHOLE, _NOT_WHOLE, _UNREADABLE, _UNREACHABLE = 0, 1, 2, 3
_BETWEEN_STATES = 2.0  # seconds
_WORTH_PROCESSES = 131_072  # entries: below that starting them takes longer than they save
_FORMAT = "afdp-database-fsck/1"


async def fsck(settings: TransparencySettings, arguments: Sequence[str]) -> int:
    """Recomputes the logs in the database: 0 whole, 1 not, 2 it cannot be read, 3 the database is not reachable."""
    asked = _asked(arguments)
    configure_logging(SERVICE, "ERROR")
    try:
        state = _State.load(asked.state) if asked.state else None
        async with open_database(settings, SCHEMA, SERVICE, session=SESSION) as database:
            logs = {each.origin: each.number for each in await PostgresCatalogue(database).logs()}
            if asked.log and asked.log not in logs:
                raise FailedPrecondition(f"the database holds no log {asked.log}; those it holds: {', '.join(logs)}")
            # An empty database is asked, too: it says that it holds no log.
            wanted = {asked.log: logs[asked.log]} if asked.log else logs or {"": 1}
            witnesses = [each.key for each in settings.witnesses]
            found = []
            for origin, number in wanted.items():
                store = PostgresStore(database, number)
                async with _reading(settings, store, asked.jobs, state.edge(origin) if state else None) as reader:
                    found.append(await _checked(origin, store, witnesses, state, reader, asked.jobs))
    except NotaryError as error:
        print(error, file=sys.stderr)
        return _UNREACHABLE if isinstance(error, Unavailable) else _UNREADABLE
    if asked.json:
        answer = orjson.dumps({"logs": [each.to_object() for each in found]}, option=orjson.OPT_INDENT_2)
        print(answer.decode())
    else:
        for each in found:
            each.show()
    return _NOT_WHOLE if any(each.report.fault for each in found) else _WHOLE


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m afdp.transparency fsck")
    parser.add_argument("--json", action="store_true")
    # The database has as much to do as one process that reads.
    parser.add_argument("--jobs", metavar="N", type=_jobs, default=max(1, (os.cpu_count() or 1) - 1), help="processes")
    parser.add_argument("--log", metavar="ORIGIN", help="this log alone")
    parser.add_argument("--state", metavar="FILE", type=Path, help="keeps how far each log was checked")
    return parser.parse_args(arguments)


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("must be 1 to 64")
    return int(text)


@asynccontextmanager
async def _reading(
    settings: TransparencySettings, store: PostgresStore, jobs: int, since: Frontier | None
) -> AsyncIterator[Reader | None]:
    """What reads a log: several processes where they are worth their start."""
    size = (await store.tree()).size if await store.identity() else 0
    if jobs == 1 or size - (since.size if since else 0) <= _WORTH_PROCESSES:
        yield None
        return
    async with reading_in_processes(settings, store.log_id, jobs) as reader:
        yield reader


@dataclass(frozen=True, slots=True)
class _Found:
    origin: str
    report: Report
    seconds: float
    repaired: bool

    @property
    def rate(self) -> float:
        """Entries a second."""
        return (self.report.checked - self.report.start) / max(self.seconds, 1e-9)

    def show(self) -> None:
        """For people: what is whole to standard output, what is not to standard error."""
        report, origin = self.report, f"{self.origin}: " if self.origin else ""
        if report.fault:
            print(f"{origin}{report.fault}", file=sys.stderr)
            print(f"{report.checked} of {report.size} entries were checked before it", file=sys.stderr)
            return
        before = f" after the {report.start} of before" if report.start else ""
        kept = f", with {report.checkpoints} cosigned or stamped checkpoints" if report.checkpoints else ""
        read = f"{report.checked - report.start} read{before} in {self.seconds:.1f} s, {self.rate:,.0f}/s"
        size = f"{report.size} entries, {report.published} of them published"
        print(f"{origin}{size}: the log is whole ({read}{kept})")
        if self.repaired:
            print("what the self-audit had found is repaired: start the service anew, and it appends again")

    def to_object(self) -> dict[str, Any]:
        """For programs."""
        report = self.report
        return {
            "origin": self.origin,
            "sound": report.fault is None,
            "size": report.size,
            "published": report.published,
            "entries_before": report.start,
            "entries_read": report.checked - report.start,
            "checkpoints": report.checkpoints,
            "seconds": round(self.seconds, 3),
            "entries_per_second": round(self.rate),
            "fault": report.fault and _fault_object(report.fault),
        }


async def _checked(
    origin: str,
    store: PostgresStore,
    witnesses: Sequence[VerifierKey],
    state: _State | None,
    reader: Reader | None,
    jobs: int,
) -> _Found:
    begun = time.monotonic()
    with _progress() as progress:
        report = await checking.check_store(
            store,
            progress,
            kept=PostgresKeptCheckpoints(store),
            witnesses=witnesses,
            since=state.edge(origin) if state else None,
            keep=partial(state.keep, origin) if state else None,
            reader=reader,
            in_flight=2 * jobs + 1,
        )
    if state:
        state.save()
    # Only a check of all of it says that what the self-audit had found was repaired.
    whole = report.fault is None and not report.start
    repaired = await PostgresAuditBook(store).forget_fault() if whole and origin else False
    return _Found(origin, report, time.monotonic() - begun, repaired)


def _fault_object(fault: StoreFault) -> dict[str, Any]:
    return {
        "reason": fault.reason,
        "table": fault.table,
        "row": fault.row,
        "column": fault.column,
        "offset": fault.offset,
        "expected": fault.expected,
        "found": fault.found,
        "entry": fault.entry,
    }


class _State:
    """The right edge of each log over what was found good, in a file that is there whole or as it was before."""

    def __init__(self, path: Path, edges: dict[str, str]) -> None:
        self._path = path
        self._edges = edges
        self._written = time.monotonic()

    @classmethod
    def load(cls, path: Path) -> _State:
        """Reads the file; where there is none, nothing was checked yet.

        Raises:
            InvalidArgument: it is damaged, or of another kind.
        """
        try:
            content = orjson.loads(path.read_bytes())
            digest = content.pop("sha256")
        except FileNotFoundError:
            return cls(path, {})
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"{path} is not a state of fsck: {error}") from error
        if content.get("format") != _FORMAT or digest != _digest(content):
            raise InvalidArgument(f"{path} is damaged, or is not a state of fsck on a database")
        return cls(path, content["edges"])

    def edge(self, origin: str) -> Frontier | None:
        """Of a log; None where nothing of it was checked yet."""
        text = self._edges.get(origin)
        return Frontier.from_bytes(from_b64(text)) if text else None

    def keep(self, origin: str, edge: Frontier) -> None:
        """Remembers what is good so far; writes it now and then."""
        self._edges[origin] = b64(edge.to_bytes())
        if time.monotonic() - self._written > _BETWEEN_STATES:
            self.save()

    def save(self) -> None:
        """Writes it.

        Raises:
            FailedPrecondition: it cannot be written.
        """
        content: dict[str, Any] = {"format": _FORMAT, "edges": self._edges}
        whole = {**content, "sha256": _digest(content)}
        try:
            write_whole(self._path, orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise FailedPrecondition(f"{self._path}: {error.strerror}") from error
        self._written = time.monotonic()


def _digest(content: dict[str, Any]) -> str:
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error where a person waits, nothing where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("entries")
        yield lambda done, size: bar.update(task, completed=done, total=size)
