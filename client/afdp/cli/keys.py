"""`afdp keys list`, `rotate` and `revoke`: the keys that sign, and their versions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime

import click

from afdp.cli.connection import open_notary
from afdp.cli.options import json_option, moment, url_option
from afdp.cli.output import say, say_json
from afdp.client import NotaryClient
from afdp.client.values import Key
from afdp.formats.timestamps import format_timestamp

PURPOSES = ("evidence", "timestamp", "trust")
_CURVES = {"PKIX_ECDSA_P256_SHA_256": "P-256", "PKIX_ECDSA_P384_SHA_384": "P-384", "PKIX_ED25519": "Ed25519"}


# --- list -------------------------------------------------------------------------------------------------------------


@click.command("list", short_help="List every version of every key.")
@url_option
@json_option
def list_keys(url: str, as_json: bool) -> None:
    """List every version of every key: what it is for, when it signed, and whether it is revoked."""
    with open_notary(url) as notary:
        keys = notary.list_keys()
    if as_json:
        say_json({"keys": [_to_object(key) for key in keys]})
        return
    width = max((len(key.key_id) for key in keys), default=0)
    for key in keys:
        state, colour = _state(key)
        algorithm = _CURVES.get(key.algorithm, key.algorithm)
        tenants = f"  for {', '.join(key.tenants)}" if key.tenants != ("*",) else ""
        line = f"  {key.key_id:<{width}}  {key.purpose:<9}  {algorithm:<7}  {_span(key):<44}  {state}{tenants}"
        say(line, fg=colour)
        if key.revoked:
            say(f"  {'':<{width}}  → {_revocation(key)}", fg="yellow")


def _state(key: Key) -> tuple[str, str | None]:
    if key.revoked and key.current:
        return "revoked, and not rotated", "red"
    if key.revoked:
        return "revoked", "yellow"
    return ("signs", "green") if key.current else ("verifies", None)


def _revocation(key: Key) -> str:
    revoked = key.revoked
    if revoked is None:
        return ""
    since = revoked.compromised_since
    what = f"compromised since {format_timestamp(since)}" if since else "retired"
    when = f" {format_timestamp(revoked.at)}" if revoked.at else ""
    return f"{what}, revoked{when}: {revoked.reason}"


def _span(key: Key) -> str:
    began = format_timestamp(key.valid_from) if key.valid_from else "?"
    return f"{began} to {format_timestamp(key.valid_until)}" if key.valid_until else f"since {began}"


def _to_object(key: Key) -> dict[str, object]:
    revoked = key.revoked
    return {
        "key_id": key.key_id,
        "purpose": key.purpose,
        "algorithm": key.algorithm,
        "hint": key.hint,
        "public_key_pem": key.public_key_pem,
        "valid_from": _text(key.valid_from),
        "valid_until": _text(key.valid_until),
        "tenants": list(key.tenants),
        "current": key.current,
        "revoked": revoked
        and {
            "at": _text(revoked.at),
            "compromised_since": _text(revoked.compromised_since),
            "reason": revoked.reason,
        },
    }


def _text(time: datetime | None) -> str | None:
    return None if time is None else format_timestamp(time)


# --- rotate -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Make a new version of a key, which signs from now on.")
@click.option("--key", "name", default="", metavar="NAME", help="Which key, without a version.")
@click.option("--purpose", type=click.Choice(PURPOSES), help="The usual key of a purpose.  [default: evidence]")
@url_option
@json_option
def rotate(name: str, purpose: str | None, url: str, as_json: bool) -> None:
    """Make a new version of a key, which signs from now on.

    Older versions verify for ever. Nothing waits for a rotation, and no request fails because of it. The log's key is
    part of the log's identity and does not rotate.
    """
    with open_notary(url, hint="See with `afdp keys list` whether it has rotated") as notary:
        fresh = notary.rotate_key(purpose or "", name)
    if as_json:
        say_json({"key": _to_object(fresh)})
        return
    say(f"  {fresh.key_id}  {fresh.purpose}  {_CURVES.get(fresh.algorithm, fresh.algorithm)}  {_span(fresh)}")
    say("ROTATED", fg="green", bold=True)
    if fresh.purpose == "trust":
        click.echo("Next: have the offline roles delegate to it: afdp trust sign DIR --online-key", err=True)
    else:
        click.echo("Verifiers learn of it from the trust root: afdp trust update, or export.", err=True)


# --- revoke -----------------------------------------------------------------------------------------------------------


@click.command(short_help="Record that a key version is not to be trusted any more.")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why; verifiers will read it.")
@click.option(
    "--compromised-since",
    type=moment,
    metavar="T",
    help="Since when somebody else may have used it.  [default: merely retired]",
)
@click.option("-y", "--yes", is_flag=True, help="Revoke without asking.")
@url_option
@json_option
def revoke(key_id: str, reason: str, compromised_since: datetime | None, yes: bool, url: str, as_json: bool) -> None:
    """Record that a key version is not to be trusted any more. It cannot be undone, only be made stricter.

    KEY_ID is NAME:VERSION, as `afdp keys list` shows it. The version signs nothing from that moment on. Without
    --compromised-since it is merely retired, and what it signed before verifies on; with it, what it signed since then
    verifies only where others have seen it before.
    """
    with open_notary(url, hint="See with `afdp keys list` whether it is revoked") as notary:
        if not yes and sys.stdin.isatty():
            _confirm(notary, key_id, compromised_since)
        revoked = notary.revoke_key(key_id, reason, compromised_since=compromised_since)
    if as_json:
        say_json({"key": _to_object(revoked)})
        return
    say(f"  {revoked.key_id}  {revoked.purpose}  {_revocation(revoked)}")
    say("REVOKED", fg="green", bold=True)
    for number, step in enumerate(_next_steps(revoked), start=1):
        click.echo(f"{number}. {step}", err=True)


def _confirm(notary: NotaryClient, key_id: str, compromised_since: datetime | None) -> None:
    key = next((key for key in notary.list_keys() if key.key_id == key_id), None)
    if key is None:
        return  # the notary says so, in its words
    say(f"  {key.key_id}  {key.purpose}  {_span(key)}  {_state(key)[0]}")
    if key.current:
        say("  It is the version that signs now: until it is rotated, nothing can be signed in its place.", fg="yellow")
    since = f"compromised since {format_timestamp(compromised_since)}" if compromised_since else "retired"
    click.confirm(f"Revoke it as {since}? It cannot be undone", abort=True, err=True)


def _next_steps(key: Key) -> Iterator[str]:
    name, compromised = key.key_id.rpartition(":")[0], key.revoked and key.revoked.compromised_since
    if key.current and key.purpose == "log":
        yield "The log's key does not rotate: the log can grow no more. Open a new log with a key of its own."
    elif key.current:
        yield f"It signs nothing from now on. Make a new version: afdp keys rotate --key {name}"
    else:
        yield "It signed nothing any more; a newer version does."
    yield (
        "Make it binding for verifiers, so that nobody can roll it back: sign it with the offline keys of the trust "
        "repository: afdp trust sign DIR"
    )
    if key.purpose == "evidence":
        since = f" --since {format_timestamp(compromised)}" if compromised else ""
        yield f"See what it signed: afdp keys affected --key {key.key_id}{since}"
