"""What every command has: `--url`, `--json`, and how it fails."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from afdp.formats.timestamps import parse_timestamp

DEFAULT_URL = "http://127.0.0.1:3030"

NOT_GOOD, UNREADABLE, UNREACHABLE = 1, 2, 3

F = TypeVar("F", bound=Callable[..., Any])


class Unreadable(click.ClickException):
    """Ends the process: something that was given cannot be read or used."""

    exit_code = UNREADABLE


class Unreachable(click.ClickException):
    """Ends the process: a server does not answer, or not now."""

    exit_code = UNREACHABLE


def _from_root(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A value that was not given to the command may have been given before it."""
    if value is None or value is False:
        root = ctx.find_root()
        if ctx is not root:
            return root.params.get(str(parameter.name))
    return value


def url_option(command: F) -> F:
    """`--url`, before or after the command."""
    return click.option(
        "--url",
        envvar="AFDP_URL",
        metavar="URL",
        callback=_url,
        help=f"The notary.  [env: AFDP_URL; default: {DEFAULT_URL}]",
    )(command)


def json_option(command: F) -> F:
    """`--json`, before or after the command."""
    return click.option("--json", "as_json", is_flag=True, callback=_from_root, help="Answer in JSON.")(command)


def file_option(flag: str, variable: str, text: str) -> Callable[[F], F]:
    """A file of TLS, before the command: kept in the environment, where every client of the process finds it."""

    def keep(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ[variable] = value

    return click.option(
        flag,
        metavar="FILE",
        expose_value=False,
        callback=keep,
        help=f"{text}  [env: {variable}]",
    )


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def moment(text: str | datetime) -> datetime:
    """A point in time as an option's type: RFC 3339, or a date, which is its first moment in UTC."""
    if isinstance(text, datetime):
        return text
    try:
        return parse_timestamp(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}, or a date such as 2026-11-24") from None


def _url(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    source = ctx.get_parameter_source(str(parameter.name))
    root = ctx.find_root()
    if ctx is not root and source is not click.core.ParameterSource.COMMANDLINE:
        return str(root.params[str(parameter.name)])
    url = (value or DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must start with http:// or https://", ctx, parameter)
    return url
