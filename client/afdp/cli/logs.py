"""`afdp log list`, `open` and `freeze`: the logs of a deployment, on a machine with the settings of its log service."""

from __future__ import annotations

import click

from afdp.cli.config import run_service
from afdp.cli.options import json_option


@click.command(name="list", short_help="List every log of the deployment.")
@json_option
def list_logs(as_json: bool) -> None:
    """List every log of the deployment: whose entries it takes, whether it takes any, and its size, URL and key.

    Like `open` and `freeze` it reads the database of the transparency service, by the settings of this environment.
    """
    raise click.exceptions.Exit(run_service("transparency", "logs", *(["--json"] if as_json else [])))


@click.command(name="open", short_help="Open a log: of a tenant's own, or one that goes on from another.")
@click.argument("origin", metavar="ORIGIN")
@click.option("--tenant", "tenants", multiple=True, metavar="TENANT", help="Whose entries it takes; may be repeated.")
@click.option("--successor-of", metavar="OLD", help="The log that it goes on from once that one is frozen.")
@click.option("--base-url", metavar="URL", help="Where readers find it; by default /logs/ORIGIN under the first log's.")
def open_log(origin: str, tenants: tuple[str, ...], successor_of: str | None, base_url: str | None) -> None:
    """Open a log: of a tenant's own, or one that goes on from another.

    ORIGIN is its name, a bare host name, for ever, and so is whose entries it takes. A tenant's own log takes its
    entries within seconds; a successor waits until the log before it is frozen. No service is restarted. The signer has
    to sign for the origin: see AFDP_LOG_ORIGINS.
    """
    arguments = [origin, *(part for tenant in tenants for part in ("--tenant", tenant))]
    for option, value in (("--successor-of", successor_of), ("--base-url", base_url)):
        arguments += [option, value] if value else []
    raise click.exceptions.Exit(run_service("transparency", "open-log", *arguments))


@click.command(short_help="Freeze a log for ever: it takes no entries any more.")
@click.argument("origin", metavar="ORIGIN")
def freeze(origin: str) -> None:
    """Freeze a log for ever: it takes no entries any more, and what is in it stays served and proven.

    Its successor takes over at once. Where none is open, entries of its tenants are refused until one is.
    """
    raise click.exceptions.Exit(run_service("transparency", "freeze-log", origin))
