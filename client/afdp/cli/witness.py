"""`afdp witness`: a witness of transparency logs, by itself."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click

from afdp.cli.options import Unreadable
from afdp.cli.output import reasons, say
from afdp.errors import NotaryError

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")


@click.command(short_help="Make a witness: a key, an empty memory, a configuration.")
@_folder
@click.option("--name", required=True, help="The name of its key, such as witness.example.org.")
@click.option(
    "--log", "logs", multiple=True, metavar="VKEY", help="A log to witness, by its key; more than once for more."
)
@click.option("--listen", metavar="HOST:PORT", help="[default: 127.0.0.1:8090]")
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), help="Encrypts the key with what it holds."
)
def init(folder: Path, name: str, logs: tuple[str, ...], listen: str | None, passphrase_file: Path | None) -> None:
    """Make a witness in DIR and print its key, which logs and verifiers are told.

    DIR gets `witness.yaml`, where logs are added later, `witness.key` and `witness.sqlite`, the memory of what was
    cosigned. A witness that loses its memory must get another key.
    """
    from afdp.witness.config import DEFAULT_LISTEN, log_key
    from afdp.witness.folder import make_folder

    try:
        keys = [log_key(text, f"--log {text}") for text in logs]
        say(str(make_folder(folder, name, listen or DEFAULT_LISTEN, keys, passphrase_file)))
    except NotaryError as error:
        raise Unreadable(reasons(error)) from None
    except OSError as error:
        raise Unreadable(f"{error.filename}: {error.strerror}") from None


@click.command(short_help="Cosign what the logs send, until Ctrl-C.")
@_folder
def run(folder: Path) -> None:
    """Run the witness in DIR. Prints `ready URL` once it serves.

    It listens where `witness.yaml` says, by default on loopback; put TLS before it to let others in.
    """
    from afdp.witness.server import run_witness

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        asyncio.run(run_witness(folder, lambda url: click.echo(f"ready {url}")))
    except NotaryError as error:
        raise Unreadable(reasons(error)) from None


@click.command(short_help="Print a witness's key.")
@_folder
def vkey(folder: Path) -> None:
    """Print the key of the witness in DIR, for the logs' and the verifiers' policies."""
    from afdp.witness.folder import open_vkey

    try:
        say(str(open_vkey(folder)))
    except NotaryError as error:
        raise Unreadable(reasons(error)) from None
