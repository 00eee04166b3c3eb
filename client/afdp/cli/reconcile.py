"""`afdp reconcile`: asked of the notary service on this machine, which can reach records, log and keys."""

from __future__ import annotations

from pathlib import Path

import click

from afdp.cli.config import run_service
from afdp.cli.options import json_option


@click.command(short_help="Show that every record has its log entry and every entry its record.")
@click.option("--check", is_flag=True, help="Name gaps and close none.")
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keeps how far it has come: goes on from there after an interruption.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long a record may wait to be logged.  [default: AFDP_RECONCILE_GRACE_SECONDS]",
)
@json_option
def reconcile(check: bool, state: Path | None, grace: float | None, as_json: bool) -> None:
    """Show that every record has its log entry and every entry of ours its record, and close what a crash has left.

    By the notary's settings on this machine. What contradicts something else is named and never written over. Exit: 0
    no gap is open, 1 some are, 2 it cannot go on, 3 a service is not reachable.
    """
    arguments = ["--check"] if check else []
    arguments += ["--json"] if as_json else []
    arguments += ["--state", str(state)] if state else []
    arguments += ["--grace", str(grace)] if grace is not None else []
    raise click.exceptions.Exit(run_service("notary", "reconcile", *arguments))
