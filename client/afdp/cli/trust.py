"""`afdp trust export`: the keys that a verifier believes, from the notary into a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import click

from afdp.cli.connection import Refused, open_notary
from afdp.cli.options import Unreadable, json_option, url_option
from afdp.cli.output import reasons, say, say_json
from afdp.cli.trust_folder import locked, read_folder, write_folder
from afdp.errors import InvalidArgument
from afdp.formats.repository import ROOT_FILE
from afdp.formats.trust import TrustRoot, read_trust_files
from afdp.formats.trust_changes import taken_back
from afdp.verify.folder import default_trust_folder

# A name of a file that stays in the folder whoever sends it.
_FILE_NAME = re.compile(r"(keys/)?[A-Za-z0-9][A-Za-z0-9._:-]{0,200}")


@click.command(short_help="Write the notary's trust root into a folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="[default: where `verify` looks]")
@click.option("--replace", "replacing", is_flag=True, help="Take it even if it takes back what the old one said.")
@url_option
@json_option
def export(output: Path | None, replacing: bool, url: str, as_json: bool) -> None:
    """Write the notary's trust root into a folder.

    Whoever writes it decides what you will believe: get it over a connection that you trust, and compare what is
    printed with what the notary's operator says. A trust root that is there already is replaced only by one that has
    all of its keys and revocations.

    Where the notary has a repository of signed trust metadata, its root.json comes with it: from then on
    `afdp trust update` follows, and believes no connection.
    """
    folder = output or default_trust_folder()
    with open_notary(url) as notary:
        files = {name: text.encode() for name, text in notary.trust_root().items()}
    root = _read(files)
    with locked(folder):
        if not replacing:
            _require_same_root(folder, files)
            old = read_folder(folder)
            if old is not None and (lost := list(taken_back(old, root))):
                raise Refused(f"{folder} is kept: the notary's trust root takes back {'; '.join(lost)} (see --replace)")
        write_folder(folder, files, forget=replacing)
    _show(folder, root, files, as_json=as_json)


def _read(files: Mapping[str, bytes]) -> TrustRoot:
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise Unreadable(f"the notary's trust root has a file of the name {name!r}, which is not taken")
    try:
        return read_trust_files(files)
    except InvalidArgument as error:
        raise Unreadable(f"the notary's trust root cannot be used: {reasons(error)}") from error


def _require_same_root(folder: Path, files: Mapping[str, bytes]) -> None:
    """A folder that follows a repository follows it to a newer root by signatures, never by a connection."""
    try:
        kept = (folder / ROOT_FILE).read_bytes() if (folder / ROOT_FILE).exists() else None
    except OSError as error:
        raise Unreadable(f"{folder / ROOT_FILE}: {error.strerror}") from error
    if kept is not None and kept != files.get(ROOT_FILE):
        raise Refused(f"{folder} is kept: the notary has another root.json; `afdp trust update` follows by signatures")


def _show(folder: Path, root: TrustRoot, files: Mapping[str, bytes], *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "folder": str(folder),
                "keys": [{"key_id": key.key_id, "hint": key.hint} for key in root.keys],
                "logs": [{"origin": log.origin, "vkey": str(log.vkey)} for log in root.logs],
                "root_sha256": sha256(files[ROOT_FILE]).hexdigest() if ROOT_FILE in files else None,
            }
        )
        return
    for key in root.keys:
        say(f"  key          {key.key_id}  {key.hint}{'  revoked' if key.revoked else ''}")
    for log in root.logs:
        say(f"  log          {log.vkey}")
    if ROOT_FILE in files:
        say(f"  root.json    SHA-256 {sha256(files[ROOT_FILE]).hexdigest()}")
    say(f"  written to   {folder}")
