"""`afdp log follow`: a monitor of somebody's log."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import orjson

from afdp.cli.files import progress, read_document
from afdp.cli.log_options import (
    ending,
    evidence_files,
    fault_object,
    key_options,
    read_key,
    read_witnesses,
    say_key,
    timeout_option,
)
from afdp.cli.options import NOT_GOOD, Unreadable, json_option
from afdp.cli.output import reasons, say
from afdp.errors import InvalidArgument, Unavailable
from afdp.formats.encoding import b64
from afdp.monitor.alerts import Figures, Webhook, write_textfile
from afdp.monitor.follow import Follower, Pass
from afdp.monitor.source import Reading, is_url, open_source
from afdp.monitor.state import load_followed, locked, save_evidence, save_followed
from afdp.monitor.watch import Identity, Match, Watch, fingerprint_in, fingerprint_of
from afdp.urls import refuse_plain
from afdp.verify.tile_files import VKEY


@click.command(short_help="Watch a log: that it only grows, and what it is given.")
@click.argument("url", metavar="URL")
@click.option(
    "--state",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What is remembered of the log; evidence is saved beside it, in FILE.evidence.",
)
@key_options
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--interval", type=click.FloatRange(0.05), default=60.0, show_default=True, metavar="SECONDS")
@click.option("--from-start", is_flag=True, help="Read a log that was never seen from its first entry on.")
@click.option(
    "--key", "keys", multiple=True, metavar="FILE|FINGERPRINT", help="Find entries signed by this key or certificate."
)
@click.option("--identity", metavar="REGEX", help="Find entries whose certificate has a name like this.")
@click.option("--identity-email", metavar="EMAIL", help="Find entries whose certificate has this e-mail address.")
@click.option("--issuer", metavar="REGEX", help="Only where the name was vouched for by one like this.")
@click.option("--exit-on-match", is_flag=True, help="End with 1 once such an entry was found.")
@click.option("--webhook", metavar="URL", help="POST what is found, and what is wrong, as JSON.")
@click.option("--textfile", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Prometheus figures.")
@timeout_option
@json_option
def follow(
    url: str,
    state: Path,
    vkey: str | None,
    origin: str | None,
    witnesses: tuple[str, ...],
    once: bool,
    interval: float,
    from_start: bool,
    keys: tuple[str, ...],
    identity: str | None,
    identity_email: str | None,
    issuer: str | None,
    exit_on_match: bool,
    webhook: str | None,
    textfile: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Watch a log: that it only grows, and what it is given.

    Any tiled log (of Rekor v2 the URL ends in /api/v2). Each checkpoint must go on from all that were seen, every new
    entry is read and found in the signed tree. Without --from-start a log is believed as it stands at the first look.

    Exit: 0 good, 1 the log is not (or, with --exit-on-match, something was found), 2 usage, 3 not reachable, with
    --once; else it is asked again until Ctrl-C. With --json one line for each look, and before it
    lines with `matches` for what is found.
    """
    watch = _watch(keys, identity, identity_email, issuer)
    known = read_witnesses(witnesses)
    _require_url(webhook)
    with ending(), open_source(url, Reading(timeout)) as files, locked(state):
        key, trusted = read_key(files, url, vkey, origin, state)
        telling = _Telling(key.name, state, Webhook(webhook) if webhook else None, textfile, as_json)
        if not as_json:
            say_key(key, trusted, own=trusted.endswith(f"/{VKEY}") and vkey is None)
        follower = Follower(
            source=files,
            vkey=key,
            witnesses=known,
            watch=watch,
            followed=load_followed(state, key),
            from_start=from_start,
            hand_on=telling.found,
            keep=lambda followed: save_followed(state, key, followed),
        )
        status = _look(follower, telling, once=once, interval=interval, exit_on_match=exit_on_match)
    raise click.exceptions.Exit(status)


def _look(follower: Follower, telling: _Telling, *, once: bool, interval: float, exit_on_match: bool) -> int:
    """Looks once, or again and again; the status to end with."""
    with _stopping() as stop:
        while True:
            try:
                with progress("entries", in_bytes=False) as report:
                    done = follower.look(report)
            except Unavailable as error:
                telling.away(follower, reasons(error))
                if once and not (exit_on_match and telling.has_found):
                    raise
            else:
                telling.done(follower, done)
                if done.fault:
                    return NOT_GOOD
            if exit_on_match and telling.has_found:  # also where the log was away before it was read to its end
                return NOT_GOOD
            if once:
                return 0
            if stop.wait(interval):
                return 0


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield stop
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


# --- what is told -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Telling:
    """Says what was found: here, to the webhook, to Prometheus."""

    origin: str
    state: Path
    webhook: Webhook | None
    textfile: Path | None
    as_json: bool
    has_found: bool = False
    figures: Figures | None = None

    def found(self, matches: Sequence[Match]) -> None:
        """Hands entries on; only then is it remembered that they were read."""
        found = {"log": self.origin, "matches": [_match_object(each) for each in matches]}
        if self.webhook:
            self.webhook.tell({"alert": "match", **found})
        if self.as_json:
            _say_line(found)
        else:
            for each in matches:
                say(f"  found        entry {each.index}: {_described(each)}", fg="yellow")
        self.has_found = True

    def away(self, follower: Follower, reason: str) -> None:
        """The log could not be read."""
        self._write(follower, reached=False)
        if self.as_json:
            _say_line({"log": self.origin, "reached": False, "reason": reason})
        else:
            click.echo(f"Error: {reason}", err=True)

    def done(self, follower: Follower, done: Pass) -> None:
        """One look: good or not."""
        evidence = self._save_evidence(done)
        good = done.fault is None
        self._write(follower, reached=True, good=good, unreadable=done.unreadable)
        if self.as_json:
            _say_line({**self._object(done), "evidence": evidence and str(evidence)})
        else:
            self._say(done, evidence)
        if done.fault and self.webhook:
            alert = {"alert": "fault", "log": self.origin, "fault": fault_object(done.fault)}
            notes = {"seen": done.seen and done.seen.note, "served": (done.served or b"").decode("utf-8", "replace")}
            try:
                self.webhook.tell({**alert, **notes, "evidence": evidence and str(evidence)})
            except Unavailable as error:  # the log is not good, and that is what this ends with
                click.echo(f"Error: {reasons(error)}", err=True)

    def _save_evidence(self, done: Pass) -> Path | None:
        if not done.fault:
            return None
        try:
            return save_evidence(self.state, evidence_files(done.fault, done.seen, done.served))
        except OSError as error:
            raise Unreadable(f"{self.state}.evidence: {error.strerror}") from error

    def _write(self, follower: Follower, *, reached: bool, good: bool = True, unreadable: int = 0) -> None:
        if self.textfile is None:
            return
        followed, last = follower.followed, self.figures or Figures(self.origin, False, True, 0, 0, None, {}, 0)
        self.figures = replace(
            last,
            reached=reached,
            good=last.good and good,
            size=followed.head.checkpoint.size if followed else 0,
            read=followed.read if followed else 0,
            verified_at=time.time() if reached and good else last.verified_at,
            matches=followed.matches if followed else {},
            unreadable=last.unreadable + unreadable,
        )
        write_textfile(self.textfile, self.figures)

    def _object(self, done: Pass) -> dict[str, Any]:
        checkpoint = done.head.checkpoint if done.head else None
        return {
            "log": self.origin,
            "reached": True,
            "good": done.fault is None,
            "size": checkpoint and checkpoint.size,
            "root": checkpoint and b64(checkpoint.root),
            "size_before": done.seen and done.seen.checkpoint.size,
            "entries_read": done.read,
            "entries_unreadable": done.unreadable,
            "cosigned": [each.key.name for each in (done.head.cosignatures if done.head else ())],
            "entries_found": done.matches,
            "fault": done.fault and fault_object(done.fault),
        }

    def _say(self, done: Pass, evidence: Path | None) -> None:
        if done.head:
            before = f", {done.seen.checkpoint.size} before" if done.seen else ", seen for the first time"
            say(f"  checkpoint   {done.head.checkpoint.size} entries{before}")
            for each in done.head.cosignatures:
                say(f"  cosigned     by {each.key.name}")
        found = f", {done.matches} found" if done.matches else ""
        unreadable = f", {done.unreadable} of kinds that are not known" if done.unreadable else ""
        say(f"  read         {done.read} entries{found}{unreadable}")
        if done.fault:
            say(f"  {done.fault}", fg="red")
            say(f"  evidence     {evidence}", fg="red")
            say("NOT GOOD", fg="red", bold=True)
        else:
            say("GOOD", fg="green", bold=True)


def _described(match: Match) -> str:
    names = f", {', '.join(match.subjects)}" if match.subjects else ""
    issuer = f" by {match.issuer}" if match.issuer else ""
    return f"{match.watched} (sha256 {match.fingerprint}{names}{issuer})"


def _match_object(match: Match) -> dict[str, Any]:
    return {
        "index": match.index,
        "watched": match.watched,
        "key_sha256": match.fingerprint,
        "subjects": list(match.subjects),
        "issuer": match.issuer,
    }


def _say_line(value: object) -> None:
    click.echo(orjson.dumps(value).decode())


# --- what is looked for -----------------------------------------------------------------------------------------------


def _watch(keys: Sequence[str], identity: str | None, email: str | None, issuer: str | None) -> Watch:
    if issuer and not (identity or email):
        raise click.UsageError("--issuer goes with --identity or --identity-email")
    vouched = _regex("--issuer", issuer) if issuer else None
    identities = [Identity(_regex("--identity", identity), vouched)] if identity else []
    if email:
        identities.append(Identity(re.compile(rf"\A{re.escape(email)}\Z", re.IGNORECASE), vouched))
    return Watch(frozenset(map(_fingerprint, keys)), tuple(identities))


def _fingerprint(given: str) -> str:
    if known := fingerprint_of(given):
        return known
    try:
        return fingerprint_in(read_document(given))
    except InvalidArgument as error:
        raise Unreadable(f"--key {given}: {reasons(error)}") from error


def _regex(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise click.UsageError(f"{option} is not a regular expression: {error}") from error


def _require_url(webhook: str | None) -> None:
    if webhook and not is_url(webhook):
        raise click.UsageError("--webhook must start with http:// or https://")
    try:
        refuse_plain(webhook or "")
    except ValueError as error:
        raise click.UsageError(f"--webhook {error}") from None
