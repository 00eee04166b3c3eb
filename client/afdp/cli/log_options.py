"""What the commands on logs share: where a log is, whose key is believed, and how what is wrong ends the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from afdp.cli.files import read_document
from afdp.cli.options import NOT_GOOD, Unreachable, Unreadable
from afdp.cli.output import reasons, say
from afdp.errors import InvalidArgument, NotaryError, Unavailable
from afdp.formats.note import VerifierKey
from afdp.monitor.keys import host_of, read_log_key, read_vkeys
from afdp.monitor.state import vkey_in
from afdp.verify.tile_files import CHECKPOINT, VKEY, BrokenLogError, Fault, Head, TileSource

_INTERRUPTED = 130  # as a shell says it: nothing was found

F = TypeVar("F", bound=Callable[..., Any])


_VKEY = click.option(
    "--vkey",
    metavar="FILE",
    help="The log's key: note verifier key, PEM (Ed25519, ECDSA P-256) or Sigstore trusted root; "
    "by default SOURCE/vkey, which is said.",
)
_ORIGIN = click.option(
    "--origin", metavar="NAME", help="The log's origin, where FILE has several or none; by default the address's host."
)
_WITNESS = click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="VKEY|FILE",
    help="A witness whose cosignature is verified where there is one; more than once for more.",
)


def key_options(command: F) -> F:
    """`--vkey`, `--origin` and `--witness`."""
    return _VKEY(_ORIGIN(_WITNESS(command)))


def timeout_option(command: F) -> F:
    """`--timeout`."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0.1, 3600),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for one file.",
    )(command)


def read_key(
    files: TileSource, source: str, vkey: str | None, origin: str | None, state: Path | None = None
) -> tuple[VerifierKey, str]:
    """The key that a log is checked with, and where it is from: the given one, the one it had before, its own word."""
    if vkey is None and state and (known := vkey_in(state)):
        return known, str(state)
    where = vkey or f"{source.rstrip('/')}/{VKEY}"
    data = files.read(VKEY) if vkey is None else read_document(vkey)
    if data is None:
        raise Unreadable("the log does not say its key (no file `vkey`); name one that you trust with --vkey FILE")
    try:
        served = partial(_served_checkpoint, files)
        return read_log_key(data, origin, likely=host_of(source), served=served), where
    except InvalidArgument as error:
        raise Unreadable(f"{vkey or VKEY}: {reasons(error)}") from error


def origin_and_size(files: TileSource) -> tuple[str, str]:
    """What the log says of itself in the first two lines of its checkpoint; nothing of it has been verified."""
    first, second, *_ = (*_served_checkpoint(files)[:1000].split("\n"), "", "")
    return first, second


def _served_checkpoint(files: TileSource) -> str:
    try:
        return (files.read(CHECKPOINT) or b"").decode("utf-8", "replace")
    except BrokenLogError:
        return ""  # what is wrong with it is said when it is checked


def read_witnesses(given: Sequence[str]) -> list[VerifierKey]:
    """Keys of witnesses, each given itself or as a file of them."""
    keys = []
    for each in given:
        text = each if each.count("+") >= 2 else read_document(each).decode("utf-8", "replace")
        try:
            keys += read_vkeys(text)
        except InvalidArgument as error:
            raise Unreadable(f"--witness {each}: {reasons(error)}") from error
    for key in keys:
        if not key.kind.cosigns:
            raise Unreadable(f"--witness {key}: is a log's key; a witness's key has a cosignature type")
    return keys


def say_key(key: VerifierKey, trusted: str, *, own: bool) -> None:
    """Whose key was believed."""
    say(f"  key          {key} from {trusted}")
    if own:
        say(
            "               the log's own word: compare it with one that you trust, or name that with --vkey",
            fg="yellow",
        )


def fault_object(fault: Fault) -> dict[str, object]:
    """A fault in JSON."""
    return {
        "path": fault.path,
        "offset": fault.offset,
        "entry": fault.entry,
        "reason": fault.reason,
        "expected": fault.expected,
        "found": fault.found,
    }


def evidence_files(fault: Fault, seen: Head | None, served: bytes | None) -> dict[str, bytes]:
    """What shows that a log is not good: the checkpoints, as they were signed, and what is wrong."""
    files = {"fault.json": orjson.dumps(fault_object(fault), option=orjson.OPT_INDENT_2)}
    if seen:
        files["seen.checkpoint"] = seen.note.encode()
    if served:
        files["served.checkpoint"] = served
    return files


class NotSound(click.ClickException):
    """Ends the process: what was checked is not good."""

    exit_code = NOT_GOOD


@contextmanager
def ending() -> Iterator[None]:
    """What cannot be read or reached, or is no log, ends the process with the status it deserves."""
    try:
        yield
    except BrokenLogError as error:
        raise NotSound(str(error)) from error
    except Unavailable as error:
        raise Unreachable(reasons(error)) from error
    except NotaryError as error:
        raise Unreadable(reasons(error)) from error
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED) from None
