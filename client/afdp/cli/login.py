"""`afdp login`, `logout`, `whoami`: whom the notary is shown, for as long as the login is good."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from afdp.cli.connection import open_notary, reported
from afdp.cli.options import NOT_GOOD, json_option, url_option
from afdp.cli.output import printable, say, say_json
from afdp.formats.timestamps import format_timestamp
from afdp.login.provider import LoginProvider
from afdp.login.store import Login, LoginFile, read_secret
from afdp.urls import check_private_url

DEFAULT_SCOPE = "afdp.notary.read afdp.notary.write"
_SHOWN = ("iss", "sub", "azp", "client_id", "aud", "scope", "scp", "realm_access", "roles", "groups", "acr", "amr")


@click.command(short_help="Log in at an identity provider, for one notary.")
@click.option("--issuer", envvar="AFDP_ISSUER", required=True, metavar="URL", help="Whose tokens.  [env: AFDP_ISSUER]")
@click.option(
    "--client-id", envvar="AFDP_CLIENT_ID", required=True, metavar="ID", help="As which client.  [env: AFDP_CLIENT_ID]"
)
@click.option(
    "--client-secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A client's own secret: it logs in by itself, and nobody is asked.",
)
@click.option("--scope", default=DEFAULT_SCOPE, show_default=True, metavar="SCOPES", help="What to ask for.")
@click.option(
    "--issuer-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Authorities of its certificate, PEM.  [default: the system's]",
)
@url_option
@json_option
def login(
    issuer: str,
    client_id: str,
    client_secret_file: Path | None,
    scope: str,
    issuer_ca: Path | None,
    url: str,
    as_json: bool,
) -> None:
    """Log in at an identity provider, for the notary at --url; further commands then show it the token.

    Without a secret a person agrees in a browser, here or anywhere (RFC 8628). The token is kept in your configuration
    folder, readable by you alone, and renewed when it is due. Exit: 0 logged in, 1 refused, 3 the provider is away.
    """
    try:
        check_private_url(url)
    except ValueError as error:
        raise click.UsageError(f"--url {error}: a token is not sent in the clear") from None
    with reported(), LoginProvider(issuer, client_id, issuer_ca) as provider:
        if client_secret_file is not None:
            tokens = provider.client_tokens(read_secret(client_secret_file), scope)
        else:
            device = provider.device(scope)
            click.echo(printable(f"Open {device.whole_url or device.url}"), err=True)
            click.echo(printable(f"and see that the code there is {device.code}"), err=True)
            tokens = provider.device_tokens(device)
        made = Login(url, issuer, client_id, scope, tokens, _absolute(client_secret_file), _absolute(issuer_ca))
        LoginFile(url).write(made)
    _show(made, as_json=as_json)


@click.command(short_help="Forget the login for a notary.")
@url_option
def logout(url: str) -> None:
    """Forget the login for the notary at --url, and end it at the provider. Exit: 0, also where there was none."""
    with reported():
        file = LoginFile(url)
        kept = file.read()
    file.remove()
    if kept is None:
        say(f"Nobody is logged in for {url}")
        return
    told = True
    if kept.tokens.refresh_token:
        with reported(), LoginProvider(kept.issuer, kept.client_id, Path(kept.ca_file) if kept.ca_file else None) as at:
            told = at.revoke(kept.tokens.refresh_token)
    say(f"Logged out of {url}" + ("" if told else "; the provider could not be told"))


@click.command(short_help="Show who you are for a notary.")
@url_option
@click.option("--offline", is_flag=True, help="Only what is kept here and what its token says: nobody is asked.")
@json_option
def whoami(url: str, offline: bool, as_json: bool) -> None:
    """Ask the notary at --url who you are there, by token or certificate, and what you may do.

    Exit: 0 known there (with --offline: logged in), 1 not, 3 the notary is away.
    """
    if offline:
        _show_kept(url, as_json=as_json)
        return
    with open_notary(url, hint="--offline shows what is kept here.") as notary:
        found = notary.who_am_i()
    if as_json:
        say_json(asdict(found) | {"expires_at": _text(found.expires_at)})
        return
    ends = f", until {_text(found.expires_at)}" if found.expires_at else ""
    say(f"{found.subject or found.method} ({found.method}{ends}), of tenant {found.tenant}, at {url}", fg="green")
    if found.issuer:
        say(f"  issuer: {found.issuer}")
    say(f"  roles: {', '.join(found.roles) or 'none'}")
    if found.scopes is not None:
        say(f"  scopes: {', '.join(found.scopes) or 'none'}")
    for each in found.permissions:
        by = f" ({', '.join(each.policies)})" if each.policies else ""
        say(f"  {'may' if each.allowed else 'may not'} {each.name}{by}")


def _text(time: datetime | None) -> str | None:
    return None if time is None else format_timestamp(time)


def _show_kept(url: str, *, as_json: bool) -> None:
    with reported():
        kept = LoginFile(url).read()
        if kept is not None and kept.due:
            LoginFile(url)()
            kept = LoginFile(url).read()
    if kept is None:
        say(f"Nobody is logged in for {url}")
        raise click.exceptions.Exit(NOT_GOOD)
    _show(kept, as_json=as_json)


def _show(kept: Login, *, as_json: bool) -> None:
    claims = _claims(kept.tokens.access_token)
    shown: dict[str, Any] = {name: claims[name] for name in _SHOWN if name in claims}
    ends = format_timestamp(datetime.fromtimestamp(int(kept.tokens.expires_at), UTC))
    if as_json:
        say_json({"url": kept.url, "issuer": kept.issuer, "client_id": kept.client_id, "expires": ends, "token": shown})
        return
    say(f"Logged in for {kept.url} until {ends}", fg="green")
    say(f"  at {kept.issuer} as client {kept.client_id}")
    for name, value in shown.items():
        say(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}")


def _claims(token: str) -> dict[str, Any]:
    """What a token says, where it is one that can be read."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _absolute(file: Path | None) -> str:
    return "" if file is None else str(file.absolute())
