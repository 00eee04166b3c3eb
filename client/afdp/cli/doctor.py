"""`afdp doctor`: is everything as it should be, and what is to be done where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from afdp.cli.checkup import Finding, installed_services, of_running_stack, of_services, of_settings
from afdp.cli.config import SERVICES
from afdp.cli.options import NOT_GOOD, UNREACHABLE, json_option, url_option
from afdp.cli.output import say, say_json
from afdp.client.errors import NotConnected


@click.command(short_help="Check a stack, running or not, and say what to do for each thing that is wrong.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Of a stack of `afdp dev` that does not run: its folder, its keys, this machine.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    type=click.Choice(SERVICES),
    help="A service that is to run here, by the settings of this environment; may be repeated.",
)
@url_option
@json_option
def doctor(data_dir: Path | None, services: Sequence[str], url: str, as_json: bool) -> None:
    """Check a stack, and say what to do for each thing that is wrong.

    Without options it is the running stack at --url: its services and what they stand on, keys, clock, certificates,
    log and trust root, and the settings of this environment. With --service or --data-dir it is what would be found at
    a start: settings, permissions, keys, PostgreSQL, Vault or token, peers, ports, clock, disk; nothing is changed.

    Exit: 0 all is good, 1 something is wrong, 3 nobody answers.
    """
    if data_dir and services:
        raise click.UsageError("give one of --data-dir and --service")
    unreachable = ""
    if data_dir:
        from afdp.cli.folder import of_folder  # the embedded servers, which only this needs

        findings = of_folder(data_dir)
    elif services:
        findings = of_services(list(dict.fromkeys(services)))
    else:
        findings, unreachable = _running(url)
    _show(findings, as_json=as_json)
    if unreachable:
        raise click.exceptions.Exit(UNREACHABLE)
    if not all(finding.good for finding in findings):
        raise click.exceptions.Exit(NOT_GOOD)


def _running(url: str) -> tuple[list[Finding], str]:
    """What is found, and why nothing was, where nobody answers."""
    settings = of_settings(installed_services())
    try:
        return [*of_running_stack(url), *settings], ""
    except NotConnected as error:
        remedy = "start it (`afdp dev`, or your deployment), or name its URL with --url or AFDP_URL"
        return [Finding("gateway", "service", False, error.message, remedy), *settings], error.message


def _show(findings: Sequence[Finding], *, as_json: bool) -> None:
    wrong = [finding for finding in findings if not finding.good]
    if as_json:
        say_json({"good": not wrong, "findings": [asdict(finding) for finding in findings]})
        return
    for area in dict.fromkeys(finding.area for finding in findings):
        say(area, bold=True)
        _show_area([finding for finding in findings if finding.area == area])
    if wrong:
        say(f"{len(wrong)} THING{'' if len(wrong) == 1 else 'S'} WRONG", fg="red", bold=True)
    else:
        say("GOOD", fg="green", bold=True)


def _show_area(findings: Sequence[Finding]) -> None:
    width = max(len(each.name) for each in findings)
    for each in findings:
        sign, colour = ("✓", "green") if each.good else ("✗", "red")
        say(f"  {sign} {each.name:<{width}}  {each.detail}", fg=colour)
        if each.remedy:
            say(f"    {'':<{width}}  → {each.remedy}", fg="yellow")
