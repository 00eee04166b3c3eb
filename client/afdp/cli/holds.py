"""`afdp holds place`, `release` and `list`, and `afdp retention run`: what must stay, and what goes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from afdp.cli.connection import open_notary
from afdp.cli.options import json_option, moment, url_option
from afdp.cli.output import say, say_json
from afdp.client.values import ExpiredRecords, Hold
from afdp.formats.timestamps import format_timestamp

# --- holds ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Place a hold: what it names stays until it is released.")
@click.option("--case", "case_number", required=True, metavar="NUMBER", help="The case that it is for.")
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@click.option("--artifact", "artifact_hash", default="", metavar="SHA256", help="Evidence of this artifact.")
@click.option("--actor", "actor_id", default="", metavar="ID", help="Evidence of this actor.")
@click.option("--event-type", default="", metavar="TYPE", help="Evidence of this type.")
@click.option("--subject", default="", metavar="NAME", help="Evidence that this one submitted.")
@click.option("--since", type=moment, metavar="T", help="Notarised at or after this.")
@click.option("--until", type=moment, metavar="T", help="Notarised before this.")
@url_option
@json_option
def place(
    case_number: str,
    reason: str,
    artifact_hash: str,
    actor_id: str,
    event_type: str,
    subject: str,
    since: datetime | None,
    until: datetime | None,
    url: str,
    as_json: bool,
) -> None:
    """Place a hold: what it names stays until it is released, also what is notarised later.

    All that is given must hold of a record. Without anything every record of the tenant is held.
    """
    with open_notary(url, hint="See with `afdp holds list` whether it is placed") as notary:
        placed = notary.place_hold(
            case_number,
            reason,
            artifact_hash=artifact_hash,
            actor_id=actor_id,
            event_type=event_type,
            subject=subject,
            start=since,
            end=until,
        )
    if as_json:
        say_json({"hold": _to_object(placed.hold), "records": placed.records})
        return
    say(f"  {_line(placed.hold)}")
    say(f"HELD: {placed.records:,} record{'' if placed.records == 1 else 's'}, and what comes", fg="green", bold=True)


@click.command(short_help="End a hold.")
@click.argument("hold_id", metavar="HOLD_ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@url_option
@json_option
def release(hold_id: str, reason: str, url: str, as_json: bool) -> None:
    """End a hold. It stays on record; what it held goes once its retention is over."""
    with open_notary(url, hint="See with `afdp holds list` whether it is released") as notary:
        released = notary.release_hold(hold_id, reason)
    if as_json:
        say_json({"hold": _to_object(released)})
        return
    say(f"  {_line(released)}")
    say("RELEASED", fg="green", bold=True)


@click.command("list", short_help="List the holds of your tenant.")
@click.option("--all", "include_released", is_flag=True, help="Those too that have been released.")
@url_option
@json_option
def list_holds(include_released: bool, url: str, as_json: bool) -> None:
    """List the holds of your tenant, newest first."""
    found: list[Hold] = []
    with open_notary(url) as notary:
        token = ""
        while True:
            page = notary.list_holds(include_released=include_released, page_size=1000, page_token=token)
            found += page.items
            token = page.next_page_token
            if not token:
                break
    if as_json:
        say_json({"holds": [_to_object(each) for each in found]})
        return
    for each in found:
        say(f"  {_line(each)}", fg="yellow" if each.released_at is None else None)


def _line(hold: Hold) -> str:
    names = ("artifact_hash", "actor_id", "event_type", "subject")
    named = [f"{name} {value}" for name in names if (value := getattr(hold, name))]
    named += [f"since {format_timestamp(hold.start_time)}"] if hold.start_time else []
    named += [f"until {format_timestamp(hold.end_time)}"] if hold.end_time else []
    ended = f"  released by {hold.released_by}: {hold.release_reason}" if hold.released_at else ""
    return f"{hold.hold_id}  {hold.case_number}  {', '.join(named) or 'everything'}  {hold.reason}{ended}"


def _to_object(hold: Hold) -> dict[str, object]:
    return {
        name: format_timestamp(value) if isinstance(value, datetime) else value for name, value in asdict(hold).items()
    }


# --- retention --------------------------------------------------------------------------------------------------------


@click.command(short_help="Let go what is past its retention, or say what would go.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@url_option
@json_option
def run(dry_run: bool, url: str, as_json: bool) -> None:
    """Let go what is past its retention and under no hold, of all tenants, and notarise that it went.

    The notary does so by itself each day. What went is gone for good, and its certificate stays.
    """
    with open_notary(url, hint="What went is on record; run it again") as notary:
        expired = notary.run_retention(dry_run=dry_run)
    if as_json:
        say_json({"dry_run": dry_run, "expired": [asdict(each) for each in expired]})
        return
    for each in expired:
        say(f"  {_went(each)}")
    say("NOTHING IS DUE" if not expired else "DUE" if dry_run else "EXPIRED", fg="green", bold=True)


def _went(each: ExpiredRecords) -> str:
    stays = f"{each.kept:,} kept, {each.held:,} held"
    certificate = f"  certificate {each.certificate}" if each.certificate else ""
    return f"{each.month}  {each.tenant}  {each.records:,} records  {stays}{certificate}"
