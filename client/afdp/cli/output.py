"""What people see: ticks and colours on a terminal, plain text when piped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
import orjson

from afdp.errors import NotaryError
from afdp.verify.result import Check, Result, Status

_SIGNS = {Status.PASSED: ("✓", "green"), Status.FAILED: ("✗", "red"), Status.ABSENT: ("–", "bright_black")}
_NAME_WIDTH = 12


def say(text: str, **style: object) -> None:
    """A line to standard output; click leaves the colours out where it is no terminal."""
    text, plain = printable(text), "NO_COLOR" in os.environ
    click.echo(text if plain else click.style(text, **style))  # type: ignore[arg-type]  # click's own style names


def say_json(value: object) -> None:
    """One JSON document to standard output."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def printable(text: str) -> str:
    """The text without what a terminal would act on: receipts carry words that strangers chose."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def check_lines(result: Result) -> Iterator[tuple[str, str]]:
    """The lines of a result with the colour of each."""
    for check in result.checks:
        sign, colour = _SIGNS[check.status]
        yield f"  {sign} {check.name:<{_NAME_WIDTH}} {check.detail}", colour
        yield from _advice(check)


def _advice(check: Check) -> Iterator[tuple[str, str]]:
    if check.advice:
        yield f"    {'':<{_NAME_WIDTH}} → {check.advice}", "yellow"


def reasons(error: NotaryError) -> str:
    """An error in a line: each field with what is wrong with it."""
    said = [each.message if each.field == "body" else f"{each.field} {each.message}" for each in error.fields]
    return printable("; ".join(said) or error.message)
