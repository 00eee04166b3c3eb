"""`afdp certs`: certificates for TLS from an authority in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from afdp.certs.names import TRUST_DOMAIN
from afdp.cli.options import Unreadable
from afdp.cli.output import reasons, say, say_json
from afdp.errors import NotaryError

_folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("certs"),
    show_default=True,
    help="The authority's.",
)
_days = click.option("--days", type=click.IntRange(1, 825), help="How long it is valid.  [default: 30]")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except NotaryError as error:
        raise Unreadable(reasons(error)) from None
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from None


@click.command(short_help="Make an authority, and the certificates of a deployment.")
@_folder
@click.option("--domain", default=TRUST_DOMAIN, show_default=True, help="Trust domain of the SPIFFE IDs.")
@click.option("--permit", multiple=True, metavar="DOMAIN", help="What it may issue for besides this machine.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="A further name of every service's certificate.")
@click.option(
    "--store", "stores", multiple=True, metavar="HOST", help="A server that services use, such as a database's."
)
@click.option(
    "--hand-out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Give each service what it needs in DIR/SERVICE, stores in DIR/HOST, and people in DIR/clients.",
)
def init(
    folder: Path,
    domain: str,
    permit: tuple[str, ...],
    names: tuple[str, ...],
    stores: tuple[str, ...],
    hand_out: Path | None,
) -> None:
    """Make an authority in FOLDER, and certificates for the five services and for an admin, an engineer, an analyst.

    What is there stays, and is renewed where it ends within 10 days. The authority can issue for the trust domain, this
    machine's name, the services' own names, and what is permitted: whoever steals its key can be nobody else by name.
    """
    from afdp.certs import deployment
    from afdp.certs.names import Names

    with _told():
        authority = deployment.prepare(folder, domain, permit, Names.parse(names), stores)
        if hand_out is not None:
            deployment.hand_out(authority, hand_out, stores)
        say(f"{authority.file}: give it to whom these services shall believe")


@click.command(short_help="Issue a certificate for a server or a client.")
@click.argument("name")
@click.argument("names", nargs=-1, required=True)
@_folder
@_days
@click.option("--client", is_flag=True, help="It is for a client alone.")
def issue(name: str, names: tuple[str, ...], folder: Path, days: int | None, client: bool) -> None:
    """Issue FOLDER/NAME.pem and FOLDER/NAME-key.pem for NAMES: DNS names, IP addresses, URIs such as SPIFFE IDs."""
    from afdp.certs.authority import LEAF_DAYS, Authority
    from afdp.certs.names import Names

    with _told():
        issued = Authority(folder).issue(name, Names.parse(names), days=days or LEAF_DAYS, server=not client)
        say(str(issued.cert))


@click.command(short_help="Renew certificates, or all that end soon; and the revocation list.")
@click.argument("names", nargs=-1)
@_folder
@_days
@click.option("--ending-within", type=click.IntRange(0), default=10, show_default=True, help="Days, if none is named.")
def renew(names: tuple[str, ...], folder: Path, days: int | None, ending_within: int) -> None:
    """Issue new certificates, with new keys, for whom those of NAMES are for. Services take them as they run."""
    from afdp.certs.authority import LEAF_DAYS, Authority
    from afdp.certs.ending import ending_soon

    with _told():
        authority = Authority(folder)
        authority.renew_list()
        for name in names or ending_soon(authority, ending_within):
            say(str(authority.renew(name, days or LEAF_DAYS).cert))


@click.command(short_help="Put a certificate on the revocation list.")
@click.argument("name")
@_folder
def revoke(name: str, folder: Path) -> None:
    """Revoke FOLDER/NAME.pem for good. Services that have the list refuse it, on connections that stand too."""
    from afdp.certs.authority import Authority

    with _told():
        authority = Authority(folder)
        authority.revoke(name)
        say(str(authority.list_file))


@click.command(short_help="Show what a certificate or a revocation list says.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def inspect(file: Path) -> None:
    """Print FILE's names, serial number and dates as JSON."""
    from afdp.certs import authority

    with _told():
        say_json(authority.inspect(file))
