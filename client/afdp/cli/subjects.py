"""`afdp subjects erase` and `list`: whose records nobody can read any more."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from afdp.cli.connection import open_notary
from afdp.cli.options import json_option, url_option
from afdp.cli.output import say, say_json
from afdp.client.values import Erasure
from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.members import Members
from afdp.formats.timestamps import format_timestamp

_HINT = "It is on record, or not; run it again"


@click.command(short_help="Erase a subject: nobody can read its records any more.")
@click.argument("subject", required=False)
@click.option("--reason", metavar="TEXT", help="Why. It stays, so it should name nobody.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Erase anew all that this list has (`afdp subjects list --json`), after a backup was restored.",
)
@url_option
@json_option
def erase(subject: str | None, reason: str | None, replay: Path | None, url: str, as_json: bool) -> None:
    """Erase SUBJECT, such as human:alice: nobody can read its records any more, while their proofs stay.

    What must be kept defers that, which is said; it is done by itself when nothing keeps it any more.

    SUBJECT - is read from the standard input, where no list of processes shows it.
    """
    if (subject is None) is (replay is None):
        raise click.UsageError("give SUBJECT, or --replay FILE, and not both")
    if replay is not None:
        wanted = _replayed(replay)
    else:
        if not reason:
            raise click.UsageError("--reason is missing")
        named = sys.stdin.read().removesuffix("\n") if subject == "-" else subject or ""
        wanted = [(named, "", reason)]
    with open_notary(url, hint=_HINT) as notary:
        told = [notary.erase_subject(name, erasure_id=identifier, reason=why) for name, identifier, why in wanted]
    _say(told, as_json)
    if told and all(each.state == "erased" for each in told):
        say_unless(as_json, "ERASED", "green")
    elif told:
        say_unless(as_json, "DEFERRED" if any(each.state == "deferred" for each in told) else "REQUESTED", "yellow")


@click.command("list", short_help="List erasures that were asked for.")
@url_option
@json_option
def list_erasures(url: str, as_json: bool) -> None:
    """List the erasures of your tenant that were asked for, done or not."""
    found: list[Erasure] = []
    with open_notary(url) as notary:
        token = ""
        while True:
            page = notary.list_erasures(page_size=1000, page_token=token)
            found += page.items
            token = page.next_page_token
            if not token:
                break
    _say(found, as_json)


def say_unless(as_json: bool, word: str, colour: str) -> None:
    """The last word, for people."""
    if not as_json:
        say(word, fg=colour, bold=True)


def _say(erasures: list[Erasure], as_json: bool) -> None:
    if as_json:
        say_json({"erasures": [_to_object(each) for each in erasures]})
        return
    for each in erasures:
        say(f"  {_line(each)}", fg=None if each.state == "erased" else "yellow")


def _line(erasure: Erasure) -> str:
    said = f"{erasure.erasure_id}  {erasure.state}"
    if erasure.erased_at is not None:
        certificate = f"certificate {erasure.certificate}" if erasure.certificate else "its certificate follows"
        return f"{said}  {format_timestamp(erasure.erased_at)}  {_count(erasure.records)}  {certificate}"
    why = []
    if (deferral := erasure.deferral) is not None:
        kept = (
            "for ever" if deferral.for_ever else f"until {format_timestamp(deferral.until)}" if deferral.until else ""
        )
        why += [f"kept {kept} as {', '.join(deferral.classes)}"] if deferral.classes else []
        why += [f"held{': ' if deferral.cases else ''}{', '.join(deferral.cases)}"] if deferral.held else []
        why += [f"{deferral.unfinished:,} not finished"] if deferral.unfinished else []
    return f"{said}  {'; '.join(why)}".rstrip()


def _count(records: int) -> str:
    return f"{records:,} record{'' if records == 1 else 's'}"


def _to_object(erasure: Erasure) -> dict[str, object]:
    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return format_timestamp(value) if isinstance(value, datetime) else value

    return {name: plain(value) for name, value in asdict(erasure).items()}


def _replayed(file: Path) -> list[tuple[str, str, str]]:
    """The IDs and reasons of what was erased, of a list that was kept."""
    try:
        listed = Members(strict_json(file.read_bytes())).objects("erasures")
        return [
            ("", each.string("erasure_id"), each.string("reason"))
            for each in listed
            if each.string("state") == "erased"
        ]
    except InvalidArgument as error:
        raise click.UsageError(f"{file} is no list of erasures: {error}") from None
