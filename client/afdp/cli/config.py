"""`afdp config show`: what a service would run with, asked of the service itself."""

from __future__ import annotations

import subprocess
import sys

import click

SERVICES = ("gateway", "notary", "signer", "transparency", "metadata")


@click.command(short_help="Print a service's effective settings, secrets masked.")
@click.argument("service", type=click.Choice(SERVICES))
def show(service: str) -> None:
    """Print a service's effective settings as JSON, secrets masked.

    They are those that the service would start with in this environment: AFDP_… variables and the file AFDP_CONFIG.
    """
    raise click.exceptions.Exit(run_service(service, "config"))


def run_service(service: str, *arguments: str) -> int:
    """Runs a service's own command, with our standard streams, and gives its exit status."""
    return subprocess.run([sys.executable, "-m", f"afdp.{service}", *arguments], check=False).returncode
